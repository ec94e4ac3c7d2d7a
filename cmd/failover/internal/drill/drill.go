// Package drill is the subcommand drill: it watches an organization while it fails over, and
// measures for how long it did not serve, and which writes it lost.
package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/cmd/failover/internal/console"
	"github.com/d365failover/failover/cmd/failover/internal/dr"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

const about = `
Watches a Dynamics 365 organization every second while it fails over, both with
new connections and with one that it keeps open. Start the drill, the emergency
response or the switch back in the Power Platform admin center. Ctrl-C ends the
watch; the command then writes a report for people (HTML) and for programs
(JSON), with the recovery time (RTO).

With -heartbeat it also measures the recovery point (RPO): it writes a marker
record every second, reads all of them back afterwards, and then deletes them
unless -keep is set. Use an entity set whose records trigger nothing, such as a
table made for this. The caller must be permitted to create, read and delete its
records.

    failover drill -demo
    failover drill https://contoso.crm4.dynamics.com \
        -heartbeat contoso_heartbeats -heartbeat-column contoso_name

Requests go to the organization and the sign-in service, and with -environment
to Microsoft's administration API. The exit status is 0 if a report was written
and the organization served in the end, 1 if it did not serve in the end, and 2
if the drill failed or the command line is wrong.
`

// options are set by the command line.
type options struct {
	target
	interval, duration time.Duration // duration 0: until ctx or the story ends
	set, column        string
	keep               bool
	environment        string
	admin              *dr.Client
	out                string // path of the report, without its extension
	always             time.Duration
	version            string
}

var (
	setForm    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	errNothing = errors.New("nothing was watched")
)

// Main runs the subcommand and returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := console.NewCommand("drill", "URL", about, stdout, stderr)
	asDemo := c.Bool("demo", false, "watch a simulated organization for 30 s, without URL")
	set := c.String("heartbeat", "", "`entity set` in which to write a record every second, such as contoso_heartbeats")
	column := c.String("heartbeat-column", "name", "text `column` for the marker, for at least 60 characters")
	keep := c.Bool("keep", false, "do not delete the records of -heartbeat")
	environment := c.String("environment", "", "`ID` of the environment, to show the stages of Microsoft's administration API in the timeline")
	alternate := c.String("alternate", "", "`URL` of the alternate address, to watch it, too: the figures are then for programs that use both")
	duration := c.Duration("for", 0, "end the watch after this `time` (default: Ctrl-C ends it)")
	timeout := c.Duration("timeout", 10*time.Second, "maximum `time` for each answer")
	how := signin.Flag(c.FlagSet)
	out := c.String("out", "", "`path` of the report without its extension (default failover-drill-TIME)")
	operands, status, ok := c.Parse(args)
	if !ok {
		return status
	}
	o := options{interval: time.Second, duration: *duration, set: *set, column: *column, keep: *keep, environment: *environment,
		out: *out, always: 10 * time.Second, version: version()}
	if o.out == "" {
		o.out = "failover-drill-" + time.Now().UTC().Format("20060102-150405")
	}
	o.timeout = *timeout
	switch {
	case *asDemo && len(operands) > 0:
		return c.Mistake("-demo takes no URL: it simulates an organization")
	case *asDemo:
		o.always = o.interval / 2 // each second
		return finish(c, stdout)(demo(ctx, o, stdout, stderr))
	case len(operands) != 1:
		return c.Mistake("give one URL, the address of the organization, or -demo")
	case *set != "" && (!setForm.MatchString(*set) || !setForm.MatchString(*column)):
		return c.Mistake("-heartbeat and -heartbeat-column must be names such as contoso_heartbeats and contoso_name")
	case *timeout < time.Second:
		return c.Mistake("-timeout must be at least 1s")
	}
	var err error
	if o.endpoint, o.second, err = network.Endpoints(operands[0], cmp.Or(*alternate, failover.NoAlternate)); err != nil {
		return c.Mistake("%v", err)
	}
	if *set != "" && network.FinanceAndOperations(o.endpoint.Hostname()) {
		return c.Mistake("-heartbeat needs Dataverse: give the URL of the Dataverse environment that is linked to this organization")
	}
	if o.source, err = signin.New(*how, o.endpoint.Hostname()); err != nil {
		return c.Mistake("%v", err)
	}
	if *set != "" && o.source == nil {
		return c.Mistake("-heartbeat needs a sign-in: omit -sign-in none")
	}
	o.network = network.System()
	if *environment != "" {
		if err := dr.CheckID(*environment); err != nil {
			return c.Mistake("%v", err)
		}
		o.admin = dr.NewClient(o.network.Transport(), o.source)
	}
	fmt.Fprint(stdout, console.Wrap(fmt.Sprintf("Watching %s every second. Press Ctrl-C to end the watch and write the report. %s",
		o.endpoint, dr.WhereToAct), ""), "\n")
	return finish(c, stdout)(run(ctx, o, nil, stdout, stderr))
}

// finish prints the result and returns the exit status.
func finish(c *console.Command, stdout io.Writer) func(*Record, []string, error) int {
	return func(r *Record, files []string, err error) int {
		if err != nil {
			return c.Fail(err)
		}
		r.print(stdout)
		for _, file := range files {
			fmt.Fprintln(stdout, "Report    "+file)
		}
		if worst := r.worst(r.judged()); worst != nil && !worst.over() {
			return console.Failed
		}
		return console.OK
	}
}

// version returns the version of this program.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// aftermath is the maximum time for reading back and reporting after the watch.
const aftermath = 15 * time.Minute

// run watches until ctx or the duration ends, measures, and writes the report. The story, if
// there is one, runs beside the watch, and run waits for it. Without a duration, the watch ends
// with the story.
func run(ctx context.Context, o options, story func(context.Context, *live) []Move, stdout, stderr io.Writer) (*Record, []string, error) {
	machine, _ := os.Hostname()
	r := &Record{Organization: o.endpoint.String(), Machine: machine, Version: o.version, Started: time.Now().UTC(),
		Interval: o.interval.Seconds(), Timeout: o.timeout.Seconds(), Simulated: story != nil}
	if o.second != nil {
		r.Alternate = o.second.String()
	}
	// Create the files first: it is too late after the watch to find out that it fails.
	files, err := reserve(o.out)
	if err != nil {
		return nil, nil, err
	}
	l := newLive(stdout, o.interval, o.always)
	var h *heart
	if o.set != "" {
		h = &heart{target: &o.target, set: o.set, column: o.column, run: "failover drill " + newID(), at: func() *url.URL {
			if l.alternate() {
				return o.second
			}
			return o.endpoint
		}}
	}
	if err := o.prepare(ctx, h); err != nil {
		files.remove()
		return nil, nil, err
	}
	l.begin(o.set != "")
	watch, cancel := context.WithCancel(ctx)
	if o.duration > 0 {
		watch, cancel = context.WithTimeout(ctx, o.duration)
	}
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { o.target.watch(watch, o.interval, l.note) })
	wg.Go(func() { every(watch, o.interval, func(int) { l.tick() }) })
	if h != nil {
		wg.Go(func() { h.beat(watch, o.interval, l.noteBeat) })
	}
	if story != nil {
		wg.Go(func() {
			r.Account = story(watch, l)
			if o.duration == 0 {
				cancel()
			}
		})
	}
	wg.Go(func() { o.place(watch, l) })
	if o.admin != nil {
		wg.Go(func() { (&stages{client: o.admin, id: o.environment, since: r.Started}).follow(watch, l) })
	}
	defer context.AfterFunc(ctx, func() {
		l.say("note", "Interrupted: the watch ends, and the report follows. Ctrl-C again ends without a report")
	})()
	wg.Wait()
	r.Ended = time.Now().UTC()
	r.Samples, r.Events = l.end()

	// Ctrl-C has ended ctx; a second one ends the process.
	after, cancelAfter := context.WithTimeout(context.WithoutCancel(ctx), aftermath)
	defer cancelAfter()
	if len(r.Samples) == 0 {
		files.remove()
		return nil, nil, errNothing
	}
	progress := console.NewProgress(stderr)
	if h != nil {
		r.Heartbeat = h.readBack(after, o.keep, progress.Show)
	}
	if o.admin != nil {
		progress.Show("reading the stages from the administration API")
		r.readOperations(after, o.admin, o.environment)
	}
	progress.End()
	r.conclude()
	if err := files.write(r); err != nil {
		return nil, nil, err
	}
	return r, files.paths(), nil
}

// prepare returns an error if the watch would be useless, because there is no token or
// heartbeats cannot be written.
func (o *options) prepare(ctx context.Context, h *heart) error {
	if o.source != nil {
		if _, err := o.source(ctx, signin.AudienceOf(o.endpoint)); err != nil {
			return fmt.Errorf("no token for %s: %w", o.endpoint.Host, err)
		}
	}
	if h == nil || o.keep {
		return nil
	}
	return h.rehearse(ctx)
}

// place reports where the organization is, by the host of its scale group. The host is in the
// redirect_uri of the sign-in page to which an anonymous request for the web site is
// redirected.
func (t *target) place(ctx context.Context, l *live) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.endpoint.JoinPath("/").String(), nil)
	if err != nil {
		return
	}
	client := t.fresh()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	location, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		return
	}
	if back, err := url.Parse(location.Query().Get("redirect_uri")); err == nil && strings.Contains(back.Hostname(), "--") {
		l.say("note", "The organization is hosted at "+back.Hostname())
	}
}

// print prints the result.
func (r *Record) print(out io.Writer) {
	figure := func(v *float64) string {
		if v == nil {
			return "not measured"
		}
		return console.Duration(seconds(*v))
	}
	fmt.Fprintf(out, "\nRTO       %s\nRPO       %s\n", figure(r.Result.RTO), figure(r.Result.RPO))
	fmt.Fprintln(out, console.Cell("          ", r.Result.Summary, console.Width))
	for _, m := range r.Account {
		fmt.Fprintln(out, console.Cell("Simulator ", m.String(), console.Width))
	}
	if r.OperationsError != "" {
		fmt.Fprintln(out, console.Cell("Stages    ", "not read: "+r.OperationsError, console.Width))
	}
	if r.Heartbeat != nil && r.Heartbeat.Left > 0 {
		fmt.Fprintln(out, console.Cell("Left      ", fmt.Sprintf("%s in %s whose %s begins with %q", console.Plural(r.Heartbeat.Left, "record"),
			r.Heartbeat.EntitySet, r.Heartbeat.Column, r.Heartbeat.Run), console.Width))
	}
}

// String describes the move.
func (m Move) String() string {
	text := fmt.Sprintf("%s: did not serve for %s from %s UTC", m.What, console.Duration(m.Served.Sub(m.Stopped)), m.Stopped.Format(time.TimeOnly))
	if m.Lost > 0 {
		text += fmt.Sprintf(", and lost the writes of the last %s, %d of them", console.Duration(m.Stopped.Sub(m.LastSync)), m.Lost)
	}
	return text
}
