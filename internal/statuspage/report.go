package statuspage

import (
	"maps"
	"slices"
	"time"
)

// Report is what to show, in the form of its JSON. Its maker bounds the texts and redacts
// secrets; the page escapes them. [Report.Judge] sets Situation, Level, Summary, Advice and
// Findings.
type Report struct {
	Time          time.Time `json:"time"`
	Started       time.Time `json:"started"`
	Situation     string    `json:"situation"`
	Level         string    `json:"level"`
	Summary       string    `json:"summary"`
	Advice        string    `json:"advice"`
	Findings      []Finding `json:"findings"`
	Organization  string    `json:"organization"`
	Process       Process   `json:"process"`
	Ready         bool      `json:"ready"`
	Active        string    `json:"active"`
	Since         time.Time `json:"since"`
	ActiveSeconds float64   `json:"activeSeconds"`
	Generation    uint64    `json:"generation"`
	Pinned        bool      `json:"pinned"`
	Down          bool      `json:"down"`
	Latched       bool      `json:"latched"`
	Closed        bool      `json:"closed"`
	Primary       Endpoint  `json:"primary"`
	// Alternate is nil for an organization with one address.
	Alternate *Endpoint `json:"alternate,omitempty"`
	Fleet     *Fleet    `json:"fleet,omitempty"`
	// Loss is the newest of Losses, which are in order, newest first.
	Loss      *Loss   `json:"loss,omitempty"`
	Losses    []Loss  `json:"losses"`
	Verifying bool    `json:"verifying"`
	Events    []Event `json:"events"`

	// What the texts depend on but the report does not show.
	ManualFailback bool   `json:"-"`
	FailsFast      bool   `json:"-"` // while down
	Latch          int    `json:"-"` // switches within an hour that latch
	Runbook        string `json:"-"` // address of docs/operations.md
	RecordFull     bool   `json:"-"` // there were earlier events
	// Control: the page links to the actions, which are below the path Mount: empty, or a path
	// element and a slash.
	Control bool   `json:"-"`
	Mount   string `json:"-"`
}

// Process describes the process that made the report.
type Process struct {
	Instance string `json:"instance"`
	Host     string `json:"host"`
	PID      int    `json:"pid"`
	Program  string `json:"program"`
	Version  string `json:"version,omitempty"` // of the program
	Library  string `json:"library,omitempty"` // version of this module
	Go       string `json:"go"`
}

// Endpoint is what is known of one endpoint.
type Endpoint struct {
	Name        string            `json:"-"`
	URL         string            `json:"url"`
	Active      bool              `json:"active"`
	Breaker     string            `json:"breaker"`
	LastSuccess time.Time         `json:"lastSuccess,omitzero"`
	LastFault   *Fault            `json:"lastFault,omitempty"`
	Faults      map[string]uint64 `json:"faults"`
	Recent      Recent            `json:"recent"`
	Probe       *Probe            `json:"probe,omitempty"`
}

// Recent counts the attempts of the last minutes.
type Recent struct {
	Minutes         int            `json:"minutes"`
	Succeeded       int            `json:"succeeded"`
	Faults          map[string]int `json:"faults"`
	InDoubt         int            `json:"inDoubt"`
	RefusedSwitches int            `json:"refusedSwitches"`
}

// Attempts returns the number of attempts that tell something about the endpoint, the
// credentials or the load. An answer of class application is a success.
func (r *Recent) Attempts() int { return r.Succeeded + r.Auth() + r.Throttled() + r.Failed() }

// Auth, Throttled and Failed return the numbers of faults by class. Failed are the ones that
// count towards the circuit breaker.
func (r *Recent) Auth() int      { return r.Faults["auth"] }
func (r *Recent) Throttled() int { return r.Faults["throttled"] }
func (r *Recent) Failed() int    { return r.Faults["transient"] + r.Faults["unavailable"] }

// Probe is the last probe of an endpoint.
type Probe struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"` // ProbePassed, ProbeFailed or ProbeInconclusive
	Error  string    `json:"error,omitempty"`
	Fault  *Fault    `json:"-"` // behind Error
}

// Results of a probe.
const (
	ProbePassed       = "passed"
	ProbeFailed       = "failed"
	ProbeInconclusive = "inconclusive"
)

// Fault is a fault without the message of the service, which may quote record data.
type Fault struct {
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

// Event is one event on record.
type Event struct {
	Kind       string    `json:"kind"`
	Time       time.Time `json:"time"`
	Generation uint64    `json:"generation"`
	From       string    `json:"from"`
	To         string    `json:"to"`
	Reason     string    `json:"reason,omitempty"`
	Fault      *Fault    `json:"fault,omitempty"`
	Error      string    `json:"error,omitempty"`
}

// Fleet is what is known of the fleet, with the record read last.
type Fleet struct {
	Member     string    `json:"member"`
	Apart      bool      `json:"apart"`
	Active     string    `json:"active"`
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since,omitzero"`
	Reason     string    `json:"reason,omitempty"`
	By         string    `json:"by,omitempty"`
	Loaded     time.Time `json:"loaded,omitzero"`
	Failed     string    `json:"failed,omitempty"`
	// Frozen is the reason, empty unless the fleet is frozen.
	Frozen string `json:"frozen,omitempty"`
	// Witnesses are the first few of WitnessCount.
	Witnesses    []string `json:"witnesses"`
	WitnessCount int      `json:"witnessCount"`
	Error        string   `json:"error,omitempty"`
}

// MoreWitnesses returns how many witnesses are not named.
func (f *Fleet) MoreWitnesses() int { return max(0, f.WitnessCount-len(f.Witnesses)) }

// Loss is a loss report.
type Loss struct {
	Time        time.Time `json:"time,omitzero"`
	From        string    `json:"from"`
	To          string    `json:"to"` // From if there was no switch
	Reason      string    `json:"reason,omitempty"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	RPOSeconds  float64   `json:"rpoSeconds"`
	Truncated   bool      `json:"truncated"`
	AtRisk      []Write   `json:"atRisk"`
	Unknown     []Write   `json:"unknown"`
}

// Write is a write, with its state at the endpoint that serves now.
type Write struct {
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	EntityID  string    `json:"entityId,omitempty"`
	RequestID string    `json:"requestId,omitempty"`
	Label     string    `json:"label,omitempty"`
	Status    int       `json:"status,omitempty"`
	State     string    `json:"state"` // one of the constants below
}

// States of a write.
const (
	NotVerified = "not verified"
	Present     = "present"
	Missing     = "missing"
	Unreadable  = "unreadable"
)

// Count returns how many writes of the report are in a state.
func (l *Loss) Count(state string) (n int) {
	for _, list := range [][]Write{l.AtRisk, l.Unknown} {
		for i := range list {
			if list[i].State == state {
				n++
			}
		}
	}
	return n
}

// Writes returns how many writes the report lists.
func (l *Loss) Writes() int { return len(l.AtRisk) + len(l.Unknown) }

// frozen reports whether the fleet is frozen.
func (r *Report) frozen() bool { return r.Fleet != nil && r.Fleet.Frozen != "" }

// side returns the active endpoint and the other one, which is nil if the
// organization has one address.
func (r *Report) side() (active, other *Endpoint) {
	if r.Alternate != nil && r.Alternate.Active {
		return r.Alternate, &r.Primary
	}
	return &r.Primary, r.Alternate
}

// Failing reports whether the endpoint has failed and not passed a probe since, Recovering
// whether it has failed and passed its last probe. A circuit breaker becomes half-open with time
// alone, so its state does not distinguish the two.
func (e *Endpoint) Failing() bool    { return e.tripped() && !e.passed() }
func (e *Endpoint) Recovering() bool { return e.tripped() && e.passed() }

// NotServing reports whether only the last probe of an endpoint has failed, which is normal for
// a standby.
func (e *Endpoint) NotServing() bool {
	return !e.tripped() && e.Probe != nil && e.Probe.Result == ProbeFailed
}

func (e *Endpoint) tripped() bool { return e.Breaker != "closed" }
func (e *Endpoint) passed() bool  { return e.Probe != nil && e.Probe.Result == ProbePassed }
func (e *Endpoint) fenced() bool {
	return e.Probe != nil && e.Probe.Fault != nil && e.Probe.Fault.Definitive
}

// unreachable reports whether the last probe could not be sent at all.
func (e *Endpoint) unreachable() bool {
	return e.Probe != nil && e.Probe.Fault != nil && e.Probe.Fault.Delivery == "not sent"
}

// BreakerNote explains the state of the circuit breaker.
func (e *Endpoint) BreakerNote() string {
	switch {
	case e.Breaker == "open":
		return "it has failed"
	case e.Breaker == "half-open":
		return "it has failed; good probes will close it"
	case e.Active && !e.NotServing():
		return "no faults in a row"
	case !e.Active && e.fenced():
		return "no faults in a row, but the endpoint says that it does not serve, as a standby does"
	case e.NotServing():
		return "no faults in a row, but it did not pass its last probe"
	case e.passed():
		return "no faults in a row, and it passed its last probe"
	default:
		return "no faults in a row; whether it serves is unknown"
	}
}

// FaultCount is the number of faults of a class.
type FaultCount struct {
	Class  string
	Number uint64
}

// Counts returns the numbers of faults that are not zero, by class.
func (e *Endpoint) Counts() []FaultCount {
	var counts []FaultCount
	for _, class := range slices.Sorted(maps.Keys(e.Faults)) {
		if n := e.Faults[class]; n > 0 {
			counts = append(counts, FaultCount{class, n})
		}
	}
	return counts
}

// Detail returns what an event says beyond its kind.
func (e *Event) Detail() string {
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
func (e *Event) Which() string {
	if e.From != e.To {
		return e.From + " to " + e.To
	}
	return e.To
}

// Mark returns the shape that the event has in the timeline.
func (e *Event) Mark() Glyph { return glyphOf(e.Kind, e.To) }
