package failover

import (
	"cmp"
	"fmt"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// statusReport is what StatusHandler shows, in the form of its JSON. All texts
// in it are bounded and free of secrets; the page escapes them.
type statusReport struct {
	Time          time.Time      `json:"time"`
	Started       time.Time      `json:"started"`
	Situation     string         `json:"situation"`
	Summary       string         `json:"summary"`
	Advice        string         `json:"advice"`
	Ready         bool           `json:"ready"`
	Active        string         `json:"active"`
	Since         time.Time      `json:"since"`
	ActiveSeconds float64        `json:"activeSeconds"`
	Generation    uint64         `json:"generation"`
	Pinned        bool           `json:"pinned"`
	Down          bool           `json:"down"`
	Latched       bool           `json:"latched"`
	Closed        bool           `json:"closed"`
	Primary       statusEndpoint `json:"primary"`
	Alternate     statusEndpoint `json:"alternate"`
	Fleet         *statusFleet   `json:"fleet,omitempty"`
	Loss          *statusLoss    `json:"loss,omitempty"`
	Events        []statusEvent  `json:"events"`

	// Level of alarm, for the page: "ok", "warn", "bad" or "off".
	Level string `json:"-"`
}

type statusEndpoint struct {
	Name        string            `json:"-"`
	URL         string            `json:"url"`
	Active      bool              `json:"active"`
	Breaker     string            `json:"breaker"`
	LastSuccess time.Time         `json:"lastSuccess,omitzero"`
	LastFault   *statusFault      `json:"lastFault,omitempty"`
	Faults      map[string]uint64 `json:"faults"`
	Probe       *statusProbe      `json:"probe,omitempty"`
}

type statusProbe struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"`
	Error  string    `json:"error,omitempty"`
}

const probePassed = "passed"

// statusFault leaves out Fault.Message, which may quote record data.
type statusFault struct {
	Time              time.Time `json:"time,omitzero"`
	Class             string    `json:"class"`
	Definitive        bool      `json:"definitive"`
	Delivery          string    `json:"delivery"`
	Status            int       `json:"status,omitempty"`
	Code              string    `json:"code,omitempty"`
	RequestID         string    `json:"requestId,omitempty"`
	RetryAfterSeconds float64   `json:"retryAfterSeconds,omitempty"`
	Text              string    `json:"text"`
}

type statusEvent struct {
	Kind       string       `json:"kind"`
	Time       time.Time    `json:"time"`
	Generation uint64       `json:"generation"`
	From       string       `json:"from"`
	To         string       `json:"to"`
	Reason     string       `json:"reason,omitempty"`
	Fault      *statusFault `json:"fault,omitempty"`
	Error      string       `json:"error,omitempty"`

	Mark glyph `json:"-"`
}

// statusFleet is what is known of the fleet, with the record read last.
type statusFleet struct {
	Member     string    `json:"member"`
	Apart      bool      `json:"apart"`
	Active     string    `json:"active"`
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since,omitzero"`
	Reason     string    `json:"reason,omitempty"`
	By         string    `json:"by,omitempty"`
	Loaded     time.Time `json:"loaded,omitzero"`
	Failed     string    `json:"failed,omitempty"`
	Witnesses  []string  `json:"witnesses"`
	Error      string    `json:"error,omitempty"`
}

// statusLoss are the writes that a switch has put at risk.
type statusLoss struct {
	From        string        `json:"from"`
	LastSuccess time.Time     `json:"lastSuccess,omitzero"`
	RPOSeconds  float64       `json:"rpoSeconds"`
	Truncated   bool          `json:"truncated"`
	AtRisk      []statusWrite `json:"atRisk"`
	Unknown     []statusWrite `json:"unknown"`
}

// statusWrite is a write with what is known of it at the other side: "not
// verified", "present", "missing" or "unreadable".
type statusWrite struct {
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	EntityID  string    `json:"entityId,omitempty"`
	RequestID string    `json:"requestId,omitempty"`
	Label     string    `json:"label,omitempty"`
	Status    int       `json:"status,omitempty"`
	State     string    `json:"state"`
}

// statusReport returns the report of this moment, and the timeline that goes
// with it.
func (t *Transport) statusReport() (*statusReport, *timeline) {
	s, now := t.Status(), time.Now()
	return newStatusReport(&s, &t.cfg, t.started, now), newTimeline(&s, t.started, now)
}

func newStatusReport(s *Status, cfg *Config, started, now time.Time) *statusReport {
	r := &statusReport{
		Time: now.UTC(), Started: started.UTC(),
		Ready:  !s.Closed && !s.Down,
		Active: s.Active.String(), Since: s.Since.UTC(), ActiveSeconds: inSeconds(now.Sub(s.Since)),
		Generation: s.Generation, Pinned: s.Pinned, Down: s.Down, Latched: s.Latched, Closed: s.Closed,
		Primary:   endpointView(Primary, &s.Primary, s.Active),
		Alternate: endpointView(Alternate, &s.Alternate, s.Active),
		Fleet:     fleetView(s.Fleet),
		Loss:      lossView(s.Loss),
		Events:    make([]statusEvent, 0, len(s.Events)),
	}
	for i := range s.Events {
		r.Events = append(r.Events, eventView(&s.Events[i]))
	}
	r.assess(s, cfg, now)
	r.assessFleet(s)
	if r.Loss != nil && len(r.Loss.AtRisk)+len(r.Loss.Unknown) > 0 {
		r.Advice += " Check the writes at risk."
	}
	return r
}

func endpointView(e Endpoint, s *EndpointStatus, active Endpoint) statusEndpoint {
	v := statusEndpoint{
		Name: e.String(), URL: s.URL, Active: e == active, Breaker: s.State.String(),
		LastSuccess: s.LastSuccess.UTC(), LastFault: faultView(s.LastFault, s.LastFaultTime), Faults: make(map[string]uint64),
	}
	for c := range ClassLocal + 1 {
		v.Faults[c.String()] = s.Faults[c]
	}
	if s.LastProbe.IsZero() {
		return v
	}
	v.Probe = &statusProbe{Time: s.LastProbe.UTC(), Result: probePassed}
	if s.ProbeError != nil {
		v.Probe.Error = boundedText(s.ProbeError)
		v.Probe.Result = "failed"
		if o, _ := probeOutcome(e, s.ProbeError); o == inconclusive {
			v.Probe.Result = "inconclusive"
		}
	}
	return v
}

// boundedText returns the text of an error that may be of anybody's making.
func boundedText(err error) string { return redact.Line(redact.Error(err), maxFaultText) }

// faultView puts a fault into the form of the report; the zero time means that
// it goes without saying.
func faultView(f *Fault, at time.Time) *statusFault {
	if f == nil {
		return nil
	}
	return &statusFault{
		Time: at.UTC(), Class: f.Class.String(), Definitive: f.Definitive, Delivery: f.Delivery.String(),
		Status: f.Status, Code: redact.Line(f.Code, maxCodeWord), RequestID: redact.Line(f.RequestID, maxRequestText),
		RetryAfterSeconds: inSeconds(f.RetryAfter), Text: f.Error(),
	}
}

func eventView(e *Event) statusEvent {
	v := statusEvent{
		Kind: e.Kind.String(), Time: e.Time.UTC(), Generation: e.Generation, From: e.From.String(), To: e.To.String(),
		Reason: redact.Line(redact.Text(e.Reason), maxFaultText), Fault: faultView(e.Fault, time.Time{}), Mark: glyphOf(e),
	}
	if e.Err != nil {
		v.Error = boundedText(e.Err)
	}
	return v
}

// fleetView puts what is known of the fleet into the form of the report; nil if
// there is none.
func fleetView(s *FleetStatus) *statusFleet {
	if s == nil {
		return nil
	}
	v := &statusFleet{
		Member: s.Member, Apart: s.Apart, Active: s.Record.Active.String(), Generation: s.Record.Generation, Since: s.Record.Since.UTC(),
		Reason: redact.Line(redact.Text(s.Record.Reason), maxFaultText), By: s.Record.By, Loaded: s.Loaded.UTC(),
		Witnesses: append([]string{}, s.Witnesses...),
	}
	if len(s.Witnesses) > 0 {
		v.Failed = s.Failed.String()
	}
	if s.Err != nil {
		v.Error = boundedText(s.Err)
	}
	return v
}

// lossView puts the writes at risk into the form of the report, in which no
// list is null; nil if there are none to report.
func lossView(r *LossReport) *statusLoss {
	if r == nil {
		return nil
	}
	states := make(map[Write]string)
	if v := r.verification(); v != nil {
		for state, writes := range map[string][]Write{"present": v.Present, "missing": v.Missing, "unreadable": v.Unreadable} {
			for _, w := range writes {
				states[w] = state
			}
		}
	}
	view := func(writes []Write) []statusWrite {
		list := make([]statusWrite, 0, len(writes))
		for _, w := range writes {
			list = append(list, statusWrite{
				Time: w.Time.UTC(), Method: w.Method, Path: w.Path, EntityID: w.EntityID, RequestID: w.RequestID,
				Label: w.Label, Status: w.Status, State: cmp.Or(states[w], "not verified"),
			})
		}
		return list
	}
	return &statusLoss{
		From: r.From.String(), LastSuccess: r.LastSuccess.UTC(), RPOSeconds: inSeconds(r.RPO), Truncated: r.Truncated,
		AtRisk: view(r.AtRisk), Unknown: view(r.Unknown),
	}
}

// inSeconds returns d to the millisecond.
func inSeconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// Failing reports whether the endpoint has failed and shows no sign of life,
// Recovering whether it has failed and passed its last probe. A breaker gets
// half-open by time alone, so its state does not tell the two apart.
func (e *statusEndpoint) Failing() bool    { return e.Breaker != StateClosed.String() && !e.passed() }
func (e *statusEndpoint) Recovering() bool { return e.Breaker != StateClosed.String() && e.passed() }

func (e *statusEndpoint) passed() bool { return e.Probe != nil && e.Probe.Result == probePassed }

// faultCount is how many faults of a class there were.
type faultCount struct {
	Class  string
	Number uint64
}

// Counts returns the numbers of faults that are not zero, by class.
func (e *statusEndpoint) Counts() []faultCount {
	var counts []faultCount
	for c := range ClassLocal + 1 {
		if n := e.Faults[c.String()]; n > 0 {
			counts = append(counts, faultCount{c.String(), n})
		}
	}
	return counts
}

// Detail says of an event what its kind does not.
func (e *statusEvent) Detail() string {
	switch {
	case e.Reason == "" && e.Fault != nil:
		return e.Fault.Text
	case e.Reason == "":
		return e.Error
	case e.Fault != nil && e.Fault.Text != e.Reason:
		return e.Reason + "; " + e.Fault.Text
	default:
		return e.Reason
	}
}

// Which names the endpoints of an event.
func (e *statusEvent) Which() string {
	if e.From != e.To {
		return e.From + " to " + e.To
	}
	return e.To
}

// assess finds the gravest situation that applies, and says what it means and
// what there is to do.
func (r *statusReport) assess(s *Status, cfg *Config, now time.Time) {
	active, other := s.Active, s.Active.other()
	side := [2]*EndpointStatus{&s.Primary, &s.Alternate}[active]
	since := sinceWords(s.Since, now)
	say := func(situation, level, summary, advice string) {
		r.Situation, r.Level, r.Summary, r.Advice = situation, level, summary, advice
	}
	switch {
	case r.Closed:
		say("closed", "off", "Closed: this Transport sends nothing any more.",
			"If this program should be serving, restart it; nothing here recovers by itself.")
	case s.Down:
		r.assessDown(s, cfg, now)
	case s.Pinned && side.ProbeError != nil:
		say("pinned", "bad", fmt.Sprintf("Pinned to the %v, which does not pass its probe.", active),
			fmt.Sprintf("Call Unpin to let the Transport find the endpoint that serves, or pin the %v.", other))
	case s.Pinned:
		say("pinned", "warn", fmt.Sprintf("Pinned: traffic stays at the %v%s.", active, sinceWords(last(s.Events, EventPinned), now)),
			"There are no automatic moves until somebody calls Unpin. Both endpoints are probed all the same.")
	case s.Latched && side.State != StateClosed:
		say("latched", "bad", fmt.Sprintf("Latched at the %v, which is failing: %d switches within an hour.", active, maxSwitches),
			fmt.Sprintf("Find out which endpoint serves. If it is the %v, move there with Switch.", other))
	case s.Latched:
		say("latched", "warn", fmt.Sprintf("Latched: traffic stays at the %v after %d switches within an hour.", active, maxSwitches),
			fmt.Sprintf("Find out why the endpoints come and go. Then wait for the hour to pass, or move to the %v with Switch.", other))
	case side.State != StateClosed:
		r.assessTripped(s)
	case active == Alternate && (cfg.ManualFailback || cfg.ProbeInterval == never):
		say("failed over", "warn", "Failed over: traffic has gone to the alternate"+since+".",
			"Going back is up to you: call Switch when the primary passes its probe.")
	case active == Alternate:
		say("failed over", "warn", "Failed over: traffic has gone to the alternate"+since+".",
			"Traffic returns by itself when the primary keeps passing its probe.")
	default:
		say("healthy", "ok", "Healthy: traffic has gone to the primary"+since+".", "Nothing to do.")
	}
}

// assessFleet adds to the advice what the fleet knows better.
func (r *statusReport) assessFleet(s *Status) {
	switch f := s.Fleet; {
	case f == nil || s.Closed:
	case f.Err != nil:
		r.Advice += " The fleet's store does not answer: this process is on its own."
	case len(f.Witnesses) == 1:
		r.Advice += fmt.Sprintf(" No other process of the fleet has seen the %v fail: look at the network of this one first.", f.Failed)
	case f.Apart:
		r.Advice += fmt.Sprintf(" The fleet is at the %v.", f.Record.Active)
	}
}

func (r *statusReport) assessDown(s *Status, cfg *Config, now time.Time) {
	r.Situation, r.Level = "down", "bad"
	r.Summary = "Down: neither endpoint serves the organization" + sinceWords(last(s.Events, EventDown), now) + "."
	r.Advice = "Check Microsoft's service health and this machine's network. "
	if cfg.PassThrough {
		r.Advice += fmt.Sprintf("Requests are sent to the %v all the same; both endpoints are probed every few seconds.", s.Active)
	} else {
		r.Advice += "Requests fail at once; both endpoints are probed every few seconds, and the first that passes gets the traffic."
	}
}

func (r *statusReport) assessTripped(s *Status) {
	r.Situation, r.Level = "tripped", "bad"
	r.Summary = fmt.Sprintf("Tripped: the %v is failing, and traffic still goes there.", s.Active)
	r.Advice = fmt.Sprintf("Traffic moves by itself if the %v proves to serve.", s.Active.other())
	tripped, refused := last(s.Events, EventTripped), last(s.Events, EventSwitchRefused)
	if refused.IsZero() || refused.Before(tripped) {
		return
	}
	for i := range r.Events {
		if e := &r.Events[i]; e.Time.Equal(refused) && e.Kind == EventSwitchRefused.String() {
			r.Advice = fmt.Sprintf("The move to the %v was refused: %s. If that does not change, move with Switch.", s.Active.other(), e.Reason)
		}
	}
}

// last returns when an event of a kind last happened, zero if none is on record.
func last(events []Event, kind EventKind) time.Time {
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Kind == kind {
			return events[i].Time
		}
	}
	return time.Time{}
}

// sinceWords returns " since 03:12 UTC (2 h 11 min)", "" for the zero time.
func sinceWords(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" since %s UTC (%s)", clock(t, now, "15:04"), inWords(now.Sub(t)))
}
