// Package dr is the subcommand dr: it shows what Microsoft's administration APIs say about the
// disaster recovery of an environment.
package dr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

// WhereToAct says where to start the operations that this program only observes.
const WhereToAct = "Start a drill, an emergency response or the switch back in the Power Platform admin center " +
	"(https://admin.powerplatform.microsoft.com): choose the environment, then Disaster recovery. This program starts none of " +
	"them; it only reads."

const about = `
Shows what Microsoft's administration APIs say about the disaster recovery of an
environment: whether it is on, where the environment runs, the time up to which
the other region has all data, and the operations with their stages and times.
It only reads: start a drill, an emergency response or the switch back in the
Power Platform admin center.

The caller needs the permission EnvironmentManagement.Environments.Read. The
ID of the environment is on its page in the admin center. Requests go to
api.powerplatform.com, api.bap.microsoft.com and the sign-in service.

The exit status is 0 if disaster recovery is on, 1 if it is off, and 2 if that
cannot be determined.

    failover dr -environment 00000000-0000-0000-0000-000000000000
`

// Report is the result of dr, and what -json prints. Unknown has the reason for each field that
// could not be read, by its name in JSON.
type Report struct {
	Time             time.Time         `json:"time"`
	EnvironmentID    string            `json:"environmentId"`
	Environment      *Environment      `json:"environment,omitempty"`
	DisasterRecovery string            `json:"disasterRecovery,omitempty"`
	LastSync         *time.Time        `json:"lastSync,omitempty"`
	Operations       []Operation       `json:"operations,omitempty"`
	Unknown          map[string]string `json:"unknown,omitempty"`
}

// Exit returns the exit status.
func (r *Report) Exit() int {
	switch strings.ToLower(r.DisasterRecovery) {
	case "enabled":
		return console.OK
	case "disabled":
		return console.Failed
	}
	return console.Unknown
}

var idForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,99}$`)

// CheckID returns an error if id cannot be the ID of an environment.
func CheckID(id string) error {
	if !idForm.MatchString(id) {
		return errors.New("-environment: give the ID of an environment, such as 00000000-0000-0000-0000-000000000000; it is on its page in the admin center")
	}
	return nil
}

// Main runs the subcommand and returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return command(ctx, args, stdout, stderr, network.System().Transport(), signin.New)
}

// command is Main with the network and the sign-in given.
func command(ctx context.Context, args []string, stdout, stderr io.Writer, transport http.RoundTripper,
	signIn func(how, host string) (signin.Source, error)) int {
	c := console.NewCommand("dr", "-environment ID", about, stdout, stderr)
	id := c.String("environment", "", "`ID` of the environment")
	how := signin.Flag(c.FlagSet)
	limit := c.Int("operations", 5, "`number` of operations to show, newest first")
	patience := c.Duration("timeout", 3*time.Minute, "maximum `time`; reading the last synchronization can take minutes")
	asJSON := c.Bool("json", false, "print everything as JSON")
	operands, status, ok := c.Parse(args)
	if !ok {
		return status
	}
	if len(operands) > 0 {
		return c.Mistake("there is nothing to give but flags")
	}
	if err := CheckID(*id); err != nil {
		return c.Mistake("%v", err)
	}
	if *limit < 1 || *limit > 100 {
		return c.Mistake("-operations must be between 1 and 100")
	}
	source, err := signIn(*how, "")
	if err != nil {
		return c.Mistake("%v", err)
	}
	progress := console.NewProgress(stderr)
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	report := Read(ctx, NewClient(transport, source), *id, *limit, progress.Show)
	progress.End()
	if errors.Is(ctx.Err(), context.Canceled) {
		return c.Fail(errors.New("interrupted"))
	}
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(report); err != nil {
			return c.Fail(err)
		}
		return report.Exit()
	}
	report.print(stdout)
	return report.Exit()
}

// Read reads everything at the same time. It calls say, one call at a time, with what it is
// still waiting for.
func Read(ctx context.Context, c *Client, id string, limit int, say func(format string, args ...any)) *Report {
	r := &Report{Time: time.Now().UTC().Truncate(time.Second), EnvironmentID: id, Unknown: make(map[string]string)}
	var (
		mu      sync.Mutex // guards r and waiting, and serializes the calls of say
		wg      sync.WaitGroup
		waiting = []string{"environment", "disasterRecovery", "operations", "lastSync"}
	)
	read := func(what string, get func() (set func(), err error)) {
		wg.Go(func() {
			set, err := get()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Unknown[what] = err.Error()
			} else {
				set()
			}
			var left []string
			for _, w := range waiting {
				if w != what {
					left = append(left, w)
				}
			}
			waiting = left
			say("waiting for %s (the last synchronization can take minutes)", strings.Join(waiting, ", "))
		})
	}
	read("environment", func() (func(), error) {
		e, err := c.Environment(ctx, id)
		return func() { r.Environment = &e }, err
	})
	read("disasterRecovery", func() (func(), error) {
		enabled, err := c.Enabled(ctx, id)
		return func() { r.DisasterRecovery = enabled }, err
	})
	read("operations", func() (func(), error) {
		operations, err := c.Operations(ctx, id, limit, time.Time{})
		return func() { r.Operations = operations }, err
	})
	read("lastSync", func() (func(), error) {
		sync, err := c.LastSync(ctx, id)
		return func() { r.LastSync = &sync }, err
	})
	wg.Wait()
	return r
}

// clock is the layout of times in the output.
const clock = "2006-01-02 15:04:05"

func (r *Report) print(out io.Writer) {
	line := func(label, value string) {
		fmt.Fprintln(out, console.Cell(fmt.Sprintf("%-19s", label), value, console.Width))
	}
	known := func(what, value string) string {
		if why := r.Unknown[what]; why != "" {
			return "unknown: " + why
		}
		if value == "" {
			return "unknown: the API does not say"
		}
		return value
	}
	var e Environment
	if r.Environment != nil {
		e = *r.Environment
	}
	name := e.DisplayName
	if name == "" {
		name = e.DomainName
	}
	line("Environment", strings.TrimSpace(name+" "+r.EnvironmentID))
	line("address", known("environment", e.URL))
	if r.Environment != nil {
		if e.FinOps != nil && e.FinOps.URL != "" {
			line("", e.FinOps.URL)
		}
		line("runs in", known("environment", strings.Trim(e.AzureRegion+", "+e.Geo, ", ")))
		line("state", known("environment", e.State))
		if e.AdminMode != "" {
			line("admin mode", e.AdminMode)
		}
	}
	line("Disaster recovery", known("disasterRecovery", strings.ToLower(r.DisasterRecovery)))
	if r.LastSync != nil {
		line("Last sync", fmt.Sprintf("%s UTC, %s ago: an emergency response now would lose later writes",
			r.LastSync.UTC().Format(clock), console.Duration(r.Time.Sub(*r.LastSync))))
	} else {
		line("Last sync", known("lastSync", ""))
	}
	fmt.Fprintln(out)
	switch {
	case r.Unknown["operations"] != "":
		line("Operations", "unknown: "+r.Unknown["operations"])
	case len(r.Operations) == 0:
		line("Operations", "none")
	default:
		r.printOperations(out)
	}
	fmt.Fprintln(out)
	fmt.Fprint(out, console.Wrap(WhereToAct, ""))
	if r.Exit() == console.Unknown {
		fmt.Fprint(out, "\n"+console.Wrap("The environment's page in the admin center shows whether disaster recovery is on.", ""))
	}
}

func (r *Report) printOperations(out io.Writer) {
	t := console.Table(out, []string{"operation", "status", "started (UTC)", "took"}, 26, 12, 19, 12)
	row := func(indent, name, status string, start, end *time.Time) {
		started, took := "unknown", "-"
		if start != nil {
			started = start.UTC().Format(clock)
			switch {
			case end != nil:
				took = console.Duration(end.Sub(*start))
			case status == "InProgress":
				took = console.Duration(r.Time.Sub(*start)) + " so far"
			}
		}
		console.Append(t, console.Cell(indent, name, 26), console.Cell("", status, 12), started, console.Cell("", took, 12))
	}
	for _, o := range r.Operations {
		row("", o.Name, o.Status, o.StartTime, o.EndTime)
		for _, s := range o.Stages {
			row("  ", s.Name, s.Status, s.StartTime, s.EndTime)
		}
	}
	t.Render()
	fmt.Fprint(out, console.Wrap("The names of operations and stages are the API's. Microsoft does not document which of them a failover has.", ""))
}
