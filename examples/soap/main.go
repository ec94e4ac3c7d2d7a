// Command soap demonstrates package failover below a SOAP library: a client of the organization
// service, made with github.com/hooklift/gowsdl, keeps working while the organization's region
// fails and recovers.
//
//	go run ./examples/soap
//
// needs only Go. Package failovertest simulates the organization on this machine, with real TLS.
// The program examples/odata does the same with the Web API, and also with real organizations.
//
// The exit status is 1 if a call failed or an account is missing in the end, and 2 if the flags
// are wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/timeline"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// shortest is the shortest simulation: each scene needs some calls.
const shortest = 3 * time.Second

// run is main with its environment as parameters. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("soap", flag.ContinueOnError)
	flags.SetOutput(stderr)
	duration := flags.Duration("duration", 10*time.Second, "length of the run")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if flags.NArg() > 0 || *duration < shortest {
		fmt.Fprintf(stderr, "soap: the simulation takes at least %v, and there are no arguments besides flags\n", shortest)
		return 2
	}
	org := failovertest.Start(nil)
	defer org.Close()
	return simulate(ctx, org, *duration, stdout, stderr)
}

// simulate uses an organization that fails over and back meanwhile, and returns the exit status.
func simulate(ctx context.Context, org *failovertest.Org, duration time.Duration, stdout, stderr io.Writer) int {
	addresses, err := failover.ParseOrg(org.URL())
	if err != nil {
		fmt.Fprintln(stderr, "soap:", err)
		return 1
	}
	line := timeline.New(stdout, addresses)

	// A program needs only this to survive failovers: the SOAP library gets the http.Client
	// that Wrap returns.
	hc, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{
		Base:      org.Transport(), // dials the simulator, trusts its certificates
		Authorize: org.Authorize,
		// Reads the failover policy in the WSDL of the service, like the .NET SDK.
		Probe: failover.ProbeWSDL,
		// A real outage takes hours, this one seconds. Outside a demonstration, keep the
		// defaults: 10 s to 60 s, 5 min, 5 s.
		ProbeInterval:    time.Second,
		MaxProbeInterval: time.Second,
		MinDwell:         2 * time.Second,
		RPO:              time.Second,
		OnEvent:          line.OnEvent,
		Logger:           slog.New(slog.DiscardHandler), // the timeline shows the same
	})
	if err != nil {
		fmt.Fprintln(stderr, "soap:", err)
		return 1
	}
	defer transport.Close()

	var doubts atomic.Int64
	client := NewClient(hc, org.URL())
	client.OnCall = line.Call
	client.OnDoubt = func(operation string) {
		doubts.Add(1)
		line.Say("doubt", operation+": the answer was lost; the program, not the Transport, sends it again")
	}
	work := &traffic{client: client, pace: 250 * time.Millisecond, failed: line.Failed}

	fmt.Fprintf(stdout, "%d workers make SOAP calls for %v: WhoAmI, Create, RetrieveMultiple, Update, Retrieve.\n"+
		"The organization is simulated on this machine, and its region fails and recovers meanwhile.\n", workers, duration)
	fmt.Fprintf(stdout, "\n  primary    %s\n  alternate  %s\n\n", addresses.Primary, addresses.Alternate)
	line.Begin(500 * time.Millisecond)
	playing, cancel := context.WithCancel(ctx)
	var outage sync.WaitGroup
	outage.Go(func() { line.Play(playing, duration, scenes(org)) })
	work.run(ctx, duration)
	cancel()
	outage.Wait()
	sum := line.End()

	sum.Print(stdout)
	timeline.Item(stdout, "writes in doubt", doubts.Load(), "the program sent them again, which is safe here")
	work.client = NewClient(hc, org.URL()) // reading back is not part of the traffic
	if !work.confirm(ctx, stdout) || sum.Failures > 0 {
		return 1
	}
	return 0
}

// scenes are the outage of a region, and the loss of one answer. In a real outage, Microsoft takes
// minutes to move an organization. Until then neither endpoint serves, and calls fail with
// failover.ErrUnavailable; the simulation omits that time. It also omits the writes that a real
// outage loses (see examples/odata).
func scenes(org *failovertest.Org) []timeline.Scene {
	return []timeline.Scene{
		{Percent: 25, Text: "the primary's region is lost; the alternate takes over", Happen: func() {
			org.Disaster(failovertest.Refuse())
		}},
		{Percent: 50, Text: "the primary's region is back, but the organization is not yet", Happen: org.Primary().Heal},
		{Percent: 65, Text: "the organization is moved back to the primary", Happen: org.FailBack},
		{Percent: 80, Text: "the next Create will be carried out, but its connection reset", Happen: func() {
			var done atomic.Bool
			org.Primary().FailWhen(func(r *http.Request) bool {
				return strings.HasSuffix(r.Header.Get("SOAPAction"), `/Create"`) && done.CompareAndSwap(false, true)
			}, failovertest.Reset(failovertest.AfterApply))
		}},
	}
}
