// Package check is the subcommand check: it finds out whether a failover of an organization
// would work from this machine.
package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

const about = `
Checks whether a failover of a Dynamics 365 organization would work from this
machine, for the user that runs it. It checks what a failover depends on at
each endpoint: name, connection, certificate, HTTP version, token, organization
and failover policy. URL is the address of the organization, such as
https://contoso.crm4.dynamics.com.

It changes nothing. Requests go to the endpoints of the organization, to the
name servers of this machine and to the sign-in service.

The exit status is 0 if a failover would work, 1 if it would not, and 2 if that
cannot be determined. -json prints all findings, for scheduled jobs.

    failover check https://contoso.crm4.dynamics.com
    failover check -json -sign-in none https://contoso.crm4.dynamics.com
`

// Report is what check has found. It is what -json prints.
type Report struct {
	Time         time.Time `json:"time"`
	Machine      string    `json:"machine"`
	Organization string    `json:"organization"`
	Verdict      Verdict   `json:"verdict"`
	Endpoints    []*Facts  `json:"endpoints"`

	judgements []*judgement
}

// options are set by the command line, or by tests.
type options struct {
	primary, alternate *url.URL // alternate may be nil
	network            *network.Network
	source             signin.Source // may be nil
	now                func() time.Time
	timeout            time.Duration // of one step
	probe              time.Duration // of the library's probes
	say                func(string)
}

// Main runs the subcommand and returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := console.NewCommand("check", "URL", about, stdout, stderr)
	alternate := c.String("alternate", "", "`URL` of the alternate endpoint, or \"none\" (default: by Microsoft's rule, the "+
		"organization's name with --s added)")
	how := signin.Flag(c.FlagSet)
	timeout := c.Duration("timeout", 15*time.Second, "maximum `time` for each step")
	probe := c.Duration("probe-timeout", 5*time.Second, "Config.ProbeTimeout of the programs that would fail over: slower endpoints fail the probe")
	asJSON := c.Bool("json", false, "print everything as JSON")
	operands, status, ok := c.Parse(args)
	switch {
	case !ok:
		return status
	case len(operands) != 1:
		return c.Mistake("give one URL, the address of the organization")
	}
	o := options{network: network.System(), now: time.Now, timeout: *timeout, probe: *probe}
	var err error
	if o.primary, o.alternate, err = network.Endpoints(operands[0], *alternate); err != nil {
		return c.Mistake("%v", err)
	}
	if o.source, err = signin.New(*how, o.primary.Hostname()); err != nil {
		return c.Mistake("%v", err)
	}
	progress := console.NewProgress(stderr)
	o.say = func(step string) { progress.Show("checking: %s", step) }
	report := run(ctx, o)
	progress.End()
	if ctx.Err() != nil {
		return c.Fail(fmt.Errorf("interrupted"))
	}
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		if err := out.Encode(report); err != nil {
			return c.Fail(err)
		}
		return report.Verdict.Exit()
	}
	report.print(stdout)
	return report.Verdict.Exit()
}

// run surveys both endpoints at the same time and judges the facts.
func run(ctx context.Context, o options) *Report {
	machine, _ := os.Hostname()
	r := &Report{Time: o.now().UTC().Truncate(time.Second), Machine: machine, Organization: o.primary.String()}
	endpoints := []*url.URL{o.primary}
	audiences := []string{signin.AudienceOf(o.primary)}
	if o.alternate != nil {
		endpoints = append(endpoints, o.alternate)
		audiences = append(audiences, signin.AudienceOf(o.alternate))
	}
	var (
		mu sync.Mutex // guards the progress
		wg sync.WaitGroup
	)
	r.Endpoints = make([]*Facts, len(endpoints))
	for i, endpoint := range endpoints {
		name := [...]string{"primary", "alternate"}[i]
		wg.Go(func() {
			s := &survey{network: o.network, source: o.source, audiences: audiences, now: o.now, timeout: o.timeout,
				say: func(step string) {
					mu.Lock()
					defer mu.Unlock()
					o.say(step + " of " + endpoint.Host)
				}}
			r.Endpoints[i] = s.run(ctx, name, endpoint)
		})
	}
	wg.Wait()
	r.judgements = []*judgement{judge(r.Endpoints[0], o.probe)}
	var alternate *judgement
	if len(endpoints) > 1 {
		alternate = judge(r.Endpoints[1], o.probe)
		r.judgements = append(r.judgements, alternate)
	}
	r.Verdict = decide(r.judgements[0], alternate)
	return r
}

// shown is how many things to fix are listed; the rest is in the table.
const shown = 3

// print prints the verdict and the table.
func (r *Report) print(out io.Writer) {
	fmt.Fprintf(out, "%s\n", console.Wrap("Would a failover work from "+r.Machine+"? "+strings.ToUpper(r.Verdict.Answer), ""))
	fmt.Fprint(out, console.Wrap(r.Verdict.Summary, ""))
	for i, mend := range r.Verdict.Mend[:min(shown, len(r.Verdict.Mend))] {
		fmt.Fprintln(out, console.Cell(fmt.Sprintf("%d. ", i+1), mend, console.Width))
	}
	if more := len(r.Verdict.Mend) - shown; more > 0 {
		fmt.Fprintf(out, "   ... and %d more: see the table and -json.\n", more)
	}
	fmt.Fprintln(out)
	width, header := 67, []string{"", "primary\n" + r.judgements[0].host}
	if len(r.judgements) > 1 {
		width, header = 32, append(header, "alternate\n"+r.judgements[1].host)
	}
	t := console.Table(out, header, 8, width, width)
	for _, check := range []string{"name", "proxy", "TCP", "TLS", "HTTP", "clock", "audience", "WhoAmI", "policy"} {
		row := []string{check}
		for _, j := range r.judgements {
			row = append(row, j.cell(check, width))
		}
		console.Append(t, row...)
	}
	t.Render()
	fmt.Fprintln(out, "\n✓ good   · note   ! works, with a drawback   ? cannot tell   ✗ wrong")
}

// cell returns the findings of a check as the text of a cell.
func (j *judgement) cell(check string, width int) string {
	var lines []string
	for _, f := range j.findings {
		if f.check == check && f.text != "" {
			lines = append(lines, console.Cell(marks[f.level]+" ", f.text, width))
		}
	}
	if lines == nil {
		return "- not reached"
	}
	return strings.Join(lines, "\n")
}
