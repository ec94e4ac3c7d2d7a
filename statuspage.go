package failover

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover/internal/redact"
	"github.com/d365failover/failover/internal/rule"
	"github.com/d365failover/failover/internal/statuspage"
)

// StatusHandler returns a handler that shows [Transport.Status]: as a page for people, which
// reloads itself every 10 seconds, or as JSON if the query has format=json or the Accept
// header prefers application/json to text/html. It answers GET and HEAD, always with 200;
// for a status code that depends on the state use [Transport.ReadyHandler].
//
//	mux.Handle("/debug/failover", transport.StatusHandler())
//
// The page has no script and loads nothing. It shows no credentials, query strings, bodies or
// messages of the service, but it names the organization and its records, and authenticates
// nobody: mount it where you would mount net/http/pprof.
//
// The JSON is one object. Times are RFC 3339 in UTC, durations are numbers of seconds whose
// names end in Seconds, and enumerations are the words of their String methods. What does not
// exist (the last fault of an endpoint that had none, the status of a fault without a
// response) is left out. Fields may be added.
//
//	time, started       of this answer, and of New
//	situation, level,   name, level, summary and advice of the most serious
//	summary, advice     finding
//	findings            objects, the most serious first. There is always one with the
//	                    name "closed", "down", "pinned", "latched", "tripped",
//	                    "failed over" or "healthy"; the others are
//	                    "unauthorized", "throttled", "failing",
//	                    "switches refused", "writes missing", "writes at risk",
//	                    "writes to look up", "writes in doubt", "frozen" and
//	                    "fleet".
//	                    level is "off" (closed), "bad", "warn" or "ok"; summary
//	                    and advice are for people, and their wording may change;
//	                    cause is the likely cause, "us", "Microsoft", "either" or
//	                    "none", and why is the reason for that; runbook is the
//	                    URL of what to do about it
//	organization        the host of the primary
//	process             instance (the name of the member of a fleet), host, pid,
//	                    program and its version, library (the version of this
//	                    module) and go
//	ready               whether Ready returns nil
//	active              endpoint, "primary" or "alternate"
//	since               when it became active
//	activeSeconds       how long ago that is
//	generation          number of switches
//	pinned, down,       booleans, see Status
//	latched, closed
//	primary, alternate  objects with url, active, breaker, lastSuccess,
//	                    lastFault, faults (number by class, of every class),
//	                    recent (the attempts of the last minutes: succeeded,
//	                    faults by class, inDoubt, refusedSwitches) and probe, the
//	                    last one: time, result ("passed", "failed" or
//	                    "inconclusive"), error. An organization with one address
//	                    has no alternate
//	fleet               with Config.Shared, what is known of the fleet: member,
//	                    apart, active, generation, since, reason, by and frozen
//	                    (the reason, left out unless frozen) of the record,
//	                    loaded, failed, witnesses, witnessCount, error
//	loss                the writes that the last outage put at risk: time of the
//	                    report, from and to (the same if there was no switch),
//	                    reason, lastSuccess, rpoSeconds, truncated, atRisk,
//	                    unknown
//	losses              the last 16 reports of this kind, newest first
//	verifying           whether verify of [Transport.ControlHandler] is running
//	events              objects, oldest first, with kind, time, generation,
//	                    from, to, reason, fault, error
//
// A fault is an object with time (of a last fault), class, definitive, delivery, status, code,
// requestId, retryAfterSeconds and text. The writes of atRisk and unknown have
// time, method, path, entityId, requestId, label, status, and state: "not
// verified", "present", "missing" or "unreadable".
func (t *Transport) StatusHandler() http.Handler {
	page := statuspage.NewPage()
	return readOnly(func(w http.ResponseWriter, r *http.Request) { show(w, r, page, t.report()) })
}

// show answers with the report, as a page or as JSON.
func show(w http.ResponseWriter, r *http.Request, page *statuspage.Page, report *statuspage.Report) {
	if statuspage.WantsJSON(r) {
		respondJSON(w, http.StatusOK, report)
		return
	}
	body, policy, err := page.Draw(report)
	respondPage(w, http.StatusOK, body, policy, err)
}

// respondPage answers with a page, or with the error that prevents it.
func respondPage(w http.ResponseWriter, status int, body []byte, policy string, err error) {
	if err != nil {
		http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "same-origin") // do not tell the runbook's site the address of the page
	respond(w, status, "text/html; charset=utf-8", body)
}

// respondJSON answers with v.
func respondJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
		return
	}
	respond(w, status, "application/json", append(body, '\n'))
}

// Ready returns nil unless the Transport is down or closed, whichever endpoint is active. The
// error is [ErrUnavailable] with the faults of the last probes (errors.As finds the first as
// a [*Fault]), or [ErrClosed]. Ready sends nothing: a Transport is ready before its first
// request.
func (t *Transport) Ready() error {
	st := t.state.Load()
	if st.closed {
		return ErrClosed
	}
	if !st.down {
		return nil
	}
	faults, _ := t.downInfo()
	err := ErrUnavailable
	for _, f := range faults {
		if f != nil {
			err = fmt.Errorf("%w; %v: %w", err, f.Endpoint, f)
		}
	}
	return err
}

// ReadyHandler returns a handler for readiness probes such as those of Kubernetes: "ok" with
// status 200 if [Transport.Ready] returns nil, otherwise the error's text with status 503. It
// answers GET and HEAD.
//
//	mux.Handle("/readyz", transport.ReadyHandler())
//
// Do not use it as a liveness probe: restarting a program does not bring an organization
// back.
func (t *Transport) ReadyHandler() http.Handler {
	return readOnly(func(w http.ResponseWriter, _ *http.Request) {
		status, text := http.StatusOK, "ok"
		if err := t.Ready(); err != nil {
			status, text = http.StatusServiceUnavailable, err.Error()
		}
		respond(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
	})
}

// readOnly passes only GET and HEAD to h.
func readOnly(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
			return
		}
		h(w, r)
	})
}

// respond writes a response. For HEAD, net/http omits the body.
func respond(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body)
}

// report returns a report of the present status.
func (t *Transport) report() *statuspage.Report {
	s := t.Status()
	r := newReport(&s, &t.cfg, t.started, time.Now())
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Verifying = t.verifying != nil
	return r
}

func newReport(s *Status, cfg *Config, started, now time.Time) *statuspage.Report {
	r := &statuspage.Report{
		Time: now.UTC(), Started: started.UTC(),
		Process: processView(s.Fleet),
		Ready:   !s.Closed && !s.Down,
		Active:  s.Active.String(), Since: s.Since.UTC(), ActiveSeconds: inSeconds(now.Sub(s.Since)),
		Generation: s.Generation, Pinned: s.Pinned, Down: s.Down, Latched: s.Latched, Closed: s.Closed,
		Primary: *endpointView(Primary, &s.Primary, s.Active),
		Fleet:   fleetView(s.Fleet),
		Losses:  make([]statuspage.Loss, 0, len(s.Losses)),
		Events:  make([]statuspage.Event, 0, len(s.Events)),

		ManualFailback: cfg.ManualFailback || cfg.ProbeInterval == never,
		FailsFast:      cfg.FailFast && !cfg.WaitForUp,
		Latch:          maxSwitches,
		Runbook:        cmp.Or(cfg.Runbook, defaultRunbook),
		RecordFull:     len(s.Events) == maxRecent,
	}
	_, r.Organization, _ = strings.Cut(s.Primary.URL, "://")
	if s.Alternate.URL != "" {
		r.Alternate = endpointView(Alternate, &s.Alternate, s.Active)
	}
	for _, loss := range slices.Backward(s.Losses) {
		r.Losses = append(r.Losses, lossView(loss))
	}
	if len(r.Losses) > 0 {
		r.Loss = &r.Losses[0]
	}
	for i := range s.Events {
		r.Events = append(r.Events, eventView(&s.Events[i]))
	}
	r.Judge()
	return r
}

// defaultRunbook is the runbook of this module.
const defaultRunbook = "https://github.com/d365failover/failover/blob/main/docs/operations.md"

// process holds what does not change while the program runs.
var process = sync.OnceValue(func() statuspage.Process {
	host, _ := os.Hostname()
	build, _ := debug.ReadBuildInfo()
	return processOf(host, os.Args, os.Getpid(), build)
})

// processOf describes a process. Build is nil if it is unknown.
func processOf(host string, args []string, pid int, build *debug.BuildInfo) statuspage.Process {
	p := statuspage.Process{Host: redact.Line(host, maxCodeWord), PID: pid, Program: redact.Line(filepath.Base(args[0]), maxCodeWord), Go: runtime.Version()}
	p.Instance = fmt.Sprintf("%s/%d", p.Host, p.PID)
	if build == nil {
		return p
	}
	p.Version = build.Main.Version
	for _, m := range append(build.Deps, &build.Main) {
		if m.Path == module {
			p.Library = m.Version
		}
	}
	return p
}

// module is the path of this module.
const module = "github.com/d365failover/failover"

// processView describes this process, by its name in the fleet if there is one.
func processView(fleet *FleetStatus) statuspage.Process {
	p := process()
	if fleet != nil {
		p.Instance = fleet.Member
	}
	return p
}

func endpointView(e Endpoint, s *EndpointStatus, active Endpoint) *statuspage.Endpoint {
	v := &statuspage.Endpoint{
		Name: e.String(), URL: s.URL, Active: e == active, Breaker: s.State.String(),
		LastSuccess: s.LastSuccess.UTC(), LastFault: faultView(s.LastFault, s.LastFaultTime), Faults: make(map[string]uint64),
		Recent: recentView(&s.Recent),
	}
	for c := range ClassLocal + 1 {
		v.Faults[c.String()] = s.Faults[c]
	}
	if s.LastProbe.IsZero() {
		return v
	}
	v.Probe = &statuspage.Probe{Time: s.LastProbe.UTC(), Result: statuspage.ProbePassed}
	if s.ProbeError != nil {
		v.Probe.Error = boundedText(s.ProbeError)
		v.Probe.Result = statuspage.ProbeFailed
		found := probed{err: s.ProbeError}
		o, f := found.outcome()
		if o == rule.Inconclusive {
			v.Probe.Result = statuspage.ProbeInconclusive
		}
		v.Probe.Fault = faultView(f, time.Time{})
	}
	return v
}

func recentView(s *Recent) statuspage.Recent {
	v := statuspage.Recent{
		Minutes: int(RecentTime.Minutes()), Succeeded: s.Succeeded, InDoubt: s.InDoubt, RefusedSwitches: s.RefusedSwitches,
		Faults: make(map[string]int, len(s.Faults)),
	}
	for c, n := range s.Faults {
		v.Faults[c.String()] = n
	}
	return v
}

// boundedText returns the text of an error, redacted and bounded.
func boundedText(err error) string { return redact.Line(redact.Error(err), maxFaultText) }

// faultView converts a fault. The zero time is omitted.
func faultView(f *Fault, at time.Time) *statuspage.Fault {
	if f == nil {
		return nil
	}
	return &statuspage.Fault{
		Time: at.UTC(), Class: f.Class.String(), Definitive: f.Definitive, Delivery: f.Delivery.String(),
		Status: f.Status, Code: redact.Line(f.Code, maxCodeWord), RequestID: redact.Line(f.RequestID, maxRequestText),
		RetryAfterSeconds: inSeconds(f.RetryAfter), Text: f.Error(),
	}
}

func eventView(e *Event) statuspage.Event {
	v := statuspage.Event{
		Kind: e.Kind.String(), Time: e.Time.UTC(), Generation: e.Generation, From: e.From.String(), To: e.To.String(),
		Reason: redact.Line(redact.Text(e.Reason), maxFaultText), Fault: faultView(e.Fault, time.Time{}),
	}
	if e.Err != nil {
		v.Error = boundedText(e.Err)
	}
	return v
}

// fleetView converts a FleetStatus; nil if there is none.
func fleetView(s *FleetStatus) *statuspage.Fleet {
	if s == nil {
		return nil
	}
	v := &statuspage.Fleet{
		Member: s.Member, Apart: s.Apart, Active: s.Record.Active.String(), Generation: s.Record.Generation, Since: s.Record.Since.UTC(),
		Reason: redact.Line(redact.Text(s.Record.Reason), maxFaultText), By: s.Record.By, Loaded: s.Loaded.UTC(),
		Frozen:    redact.Line(redact.Text(s.Record.Frozen), maxFaultText),
		Witnesses: append([]string{}, s.Witnesses...), WitnessCount: s.WitnessCount,
	}
	if len(s.Witnesses) > 0 {
		v.Failed = s.Failed.String()
	}
	if s.Err != nil {
		v.Error = boundedText(s.Err)
	}
	return v
}

// lossView converts a loss report. Its lists are never null.
func lossView(r *LossReport) statuspage.Loss {
	states := r.verification().lists()
	words := [...]string{effectUnclear: statuspage.Unreadable, effectSeen: statuspage.Present, effectNotSeen: statuspage.Missing}
	view := func(writes []Write) []statuspage.Write {
		list := make([]statuspage.Write, 0, len(writes))
		for _, w := range writes {
			state := statuspage.NotVerified
			if e, known := states[w]; known {
				state = words[e]
			}
			list = append(list, statuspage.Write{
				Time: w.Time.UTC(), Method: w.Method, Path: w.Path, EntityID: w.EntityID, RequestID: w.RequestID,
				Label: w.Label, Status: w.Status, State: state,
			})
		}
		return list
	}
	return statuspage.Loss{
		Time: r.Time.UTC(), From: r.From.String(), To: r.To.String(), Reason: redact.Line(redact.Text(r.Reason), maxFaultText), LastSuccess: r.LastSuccess.UTC(), RPOSeconds: inSeconds(r.RPO), Truncated: r.Truncated,
		AtRisk: view(r.AtRisk), Unknown: view(r.Unknown),
	}
}

// inSeconds returns d in seconds, to the millisecond.
func inSeconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
