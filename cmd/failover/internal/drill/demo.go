package drill

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/failovertest"
)

// demo is a drill of a simulated organization.
func demo(ctx context.Context, o options, stdout, stderr io.Writer) (*Record, []string, error) {
	fmt.Fprint(stdout, console.Wrap("A demonstration with a simulated organization on this machine: its region fails, an administrator "+
		"starts the emergency response, and later the switch back. Nothing is sent to other machines. It takes 30 seconds.", ""), "\n")
	return simulate(ctx, o, failovertest.Start, stdout, stderr)
}

// Times of the demonstration, in intervals between samples.
const (
	demoLength   = 27
	demoFails    = 6.4 // when the region fails
	demoDowntime = 7
	demoLag      = 4 // of replication
	demoReturns  = 18.6
	demoReturn   = 2 // downtime of the switch back
)

// simulated returns a simulated organization as a target.
func simulated(org *failovertest.Org, timeout time.Duration) target {
	base := org.Transport()
	n := &network.Network{
		Dial: base.DialContext, DialTLS: base.DialTLSContext,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, nil }, // its name is not in DNS
	}
	if base.TLSClientConfig != nil {
		n.Roots = base.TLSClientConfig.RootCAs
	}
	return target{
		endpoint: &url.URL{Scheme: "https", Host: org.Primary().Host()}, network: n, timeout: timeout,
		source: func(_ context.Context, audience string) (string, error) {
			return org.Token(strings.TrimPrefix(audience, "https://")), nil
		},
	}
}

// simulate runs a drill of an organization that start starts.
func simulate(ctx context.Context, o options, start func(*failovertest.Config) *failovertest.Org, stdout, stderr io.Writer) (*Record, []string, error) {
	intervals := func(n float64) time.Duration { return time.Duration(n * float64(o.interval)) }
	org := start(&failovertest.Config{OneAddress: true, Lag: intervals(demoLag)})
	defer org.Close()
	o.target = simulated(org, o.timeout)
	o.set, o.column, o.duration = "accounts", "name", 0
	story := func(ctx context.Context, l *live) (account []Move) {
		tell := func(what string, report *failovertest.RecoveryReport) {
			if report != nil && !report.Served.IsZero() {
				account = append(account, Move{What: what, Stopped: report.Stopped.UTC(), Served: report.Served.UTC(),
					LastSync: report.LastSync.UTC(), Lost: len(report.Lost)})
			}
		}
		began := time.Now()
		// until waits for a time of the demonstration. On a slow machine, it also waits until
		// the watch has seen that the organization serves since then, for up to a minute.
		until := func(n float64, since time.Time) bool {
			ok := pause(ctx, intervals(n)-time.Since(began))
			for late := time.Now().Add(time.Minute); ok && !l.servedSince(since) && time.Now().Before(late); {
				ok = pause(ctx, intervals(0.1))
			}
			return ok
		}
		if !until(demoFails, began) {
			return account
		}
		l.say("simulation", "Simulation: the region fails, and an emergency response moves the organization to the other region")
		report := org.EmergencyResponse(&failovertest.Recovery{Downtime: intervals(demoDowntime), During: failovertest.ServerBusy()})
		tell("emergency response", report)
		l.say("simulation", "Simulation: the organization has moved, and its name leads to the other region")
		if report == nil || !until(demoReturns, report.Served) {
			return account
		}
		l.say("simulation", "Simulation: the administrator switches back")
		report = org.SwitchBack(&failovertest.Recovery{Downtime: intervals(demoReturn), Old: failovertest.Refuse()})
		tell("switch back", report)
		if report != nil {
			until(demoLength, report.Served)
		}
		return account
	}
	return run(ctx, o, story, stdout, stderr)
}
