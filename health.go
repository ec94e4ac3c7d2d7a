package failover

import (
	"errors"
	"hash/maphash"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/d365failover/failover/internal/message"
)

// State is the state of an endpoint's circuit breaker.
type State uint8

const (
	// StateClosed: the endpoint is healthy, or nothing is known about it.
	StateClosed State = iota
	// StateHalfOpen: the endpoint failed a while ago. [Config.Rise] passed probes in a row (or
	// healthy answers, at the active endpoint) close the breaker; a failure opens it.
	StateHalfOpen
	// StateOpen: the endpoint has failed.
	StateOpen
)

// String returns "closed", "half-open" or "open".
func (s State) String() string {
	switch s {
	case StateHalfOpen:
		return "half-open"
	case StateOpen:
		return "open"
	default:
		return "closed"
	}
}

// endpoint is the health of one endpoint. The atomics are read by every request, addresses has
// a lock of its own, and Transport.mu guards the rest.
type endpoint struct {
	anchor
	// suspect: the breaker has faults that a success must clear. While it is false, successes
	// need not touch the breaker.
	suspect   atomic.Bool
	lastFault atomic.Pointer[pastFault]
	recent    recent
	addresses addresses

	breaker breaker
	// fenced: the endpoint has answered with a fence; only an authorized answer proves that it
	// serves again.
	fenced    bool
	lastProbe *pastProbe // nil: none
	explained *explained // nil: none
	// lastWhole is the time of the last success whose body ended, since Transport.started,
	// while there is a question about the endpoint.
	lastWhole time.Duration
}

// pastProbe is when a probe ended, and why it failed, if it did.
type pastProbe struct {
	at  time.Time
	err error
}

// explained is the last fault of the service that a passed probe has shown to be no outage,
// and how long it does not count. An action that always fails says nothing about the rest of
// the endpoint.
type explained struct {
	subject uint64 // see subjectOf
	until   time.Time
}

// explainTime is how long a passed probe explains a fault.
const explainTime = 10 * time.Minute

// subjectSeed keeps callers from choosing paths whose faults are confused.
var subjectSeed = maphash.MakeSeed()

// subjectOf identifies what req asked of the service, and how the service answered.
func subjectOf(req *http.Request, f *Fault) uint64 {
	return max(1, maphash.Comparable(subjectSeed, [4]string{req.Method, message.Target(req.URL).Path, f.Code, strconv.Itoa(f.Status)}))
}

// explain records that a passed probe has shown f to be no outage.
func (e *endpoint) explain(f *Fault) {
	if f != nil && f.subject != 0 {
		e.explained = &explained{f.subject, time.Now().Add(explainTime)}
	}
}

// knows reports whether a probe has explained f.
func (e *endpoint) knows(f *Fault) bool {
	return e.explained != nil && f.subject == e.explained.subject && time.Now().Before(e.explained.until)
}

// succeeded records that the service gave a healthy answer at now, a time since
// Transport.started. A page of a front end is no such answer.
func (e *endpoint) succeeded(now time.Duration) {
	if e.anchor.succeeded(now) {
		e.recent.succeeded.add(time.Now())
	}
}

// record keeps the fault of a request for Status.
func (e *endpoint) record(f *Fault) {
	e.recent.fault(f.Class)
	e.lastFault.Store(&pastFault{f, time.Now()})
}

// pastFault is a fault and its time.
type pastFault struct {
	*Fault
	at time.Time
}

// fault counts f and reports whether the breaker is open now.
func (e *endpoint) fault(f *Fault) (open bool) {
	e.suspect.Store(true)
	e.anchor.hold()
	if f.Definitive {
		e.fenced = true
	}
	return e.breaker.fault(f.Definitive)
}

// success clears the recorded faults.
func (e *endpoint) success() {
	e.breaker.success()
	if closed := e.breaker.state() == StateClosed; closed {
		e.suspect.Store(false)
		e.anchor.release()
	}
}

// reset forgets all faults.
func (e *endpoint) reset() {
	e.breaker.reset()
	e.suspect.Store(false)
	e.anchor.release()
	e.addresses.settle()
}

// trip opens the breaker. The endpoint then has to pass Rise probes.
func (e *endpoint) trip() {
	e.suspect.Store(true)
	e.breaker.fault(true)
}

// status returns a snapshot.
func (e *endpoint) status(u *url.URL, started time.Time) EndpointStatus {
	s := EndpointStatus{
		State: e.breaker.state(), Faults: e.recent.faults(),
		Recent: e.recent.status(time.Now()),
	}
	if u != nil { // nil: an organization with one address has no alternate
		s.URL = u.String()
	}
	if e.lastProbe != nil {
		s.LastProbe, s.ProbeError = e.lastProbe.at, e.lastProbe.err
	}
	if last := e.lastFault.Load(); last != nil {
		s.LastFault, s.LastFaultTime = last.Fault, last.at
	}
	if at := e.lastSuccess.Load(); at != 0 {
		s.LastSuccess = started.Add(time.Duration(at))
	}
	return s
}

// A breaker judges one endpoint by its faults. Closed, it opens after threshold faults in a
// row or one conclusive fault. Open, it becomes half-open after a while, and closes after rise
// successes in a row. Not safe for concurrent use.
type breaker struct {
	cb              *gobreaker.CircuitBreaker[struct{}] // nil until there is a fault
	threshold, rise uint32
	timeout         time.Duration // until it becomes half-open
	conclusive      bool          // the current fault trips by itself
}

func newBreaker(threshold, rise int, probeInterval time.Duration) breaker {
	return breaker{
		threshold: uint32(min(threshold, math.MaxInt32)), rise: uint32(min(rise, math.MaxInt32)),
		// It must be half-open by the time of the next probe, whatever the jitter.
		timeout: max(1, min(probeInterval, time.Minute)/2),
	}
}

var errFault = errors.New("fault")

// fault counts one fault and reports whether the breaker is open now.
func (b *breaker) fault(conclusive bool) (open bool) {
	if b.cb == nil {
		b.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
			MaxRequests: b.rise, Timeout: b.timeout,
			ReadyToTrip: func(c gobreaker.Counts) bool { return b.conclusive || c.ConsecutiveFailures >= b.threshold },
		})
	}
	b.conclusive = conclusive
	b.cb.Execute(func() (struct{}, error) { return struct{}{}, errFault })
	return b.state() == StateOpen
}

// success counts one success.
func (b *breaker) success() {
	if b.cb != nil {
		b.cb.Execute(func() (struct{}, error) { return struct{}{}, nil })
	}
}

// reset closes the breaker.
func (b *breaker) reset() { b.cb = nil }

func (b *breaker) state() State {
	if b.cb == nil {
		return StateClosed
	}
	switch b.cb.State() {
	case gobreaker.StateOpen:
		return StateOpen
	case gobreaker.StateHalfOpen:
		return StateHalfOpen
	default:
		return StateClosed
	}
}

// RecentTime is the period that [Recent] covers: the current minute and the four before it.
const RecentTime = recentMinutes * time.Minute

const recentMinutes = 5

// Recent counts the results of the attempts at an endpoint within [RecentTime].
type Recent struct {
	// Succeeded counts attempts with a healthy answer, at most one per millisecond: above
	// some hundred requests per second the number is too low. An answer of
	// [ClassApplication] is a healthy one here.
	Succeeded int
	// Faults counts attempts with a fault, by class. Classes without any are left out.
	Faults map[Class]int
	// InDoubt counts writes in doubt.
	InDoubt int
	// RefusedSwitches counts switches away from the endpoint that were refused.
	RefusedSwitches int
}

// recent is what an endpoint counts for its status.
type recent struct {
	succeeded recentCount
	made      atomic.Pointer[trouble] // nil until there is trouble
}

// trouble has the counts that a healthy endpoint does not need.
type trouble struct {
	inDoubt, refused recentCount
	faults           [ClassLocal + 1]struct { // by class
		recent recentCount
		all    atomic.Uint64
	}
}

// trouble returns the counts, and makes them when they are first needed.
func (r *recent) trouble() *trouble {
	if r.made.Load() == nil {
		r.made.CompareAndSwap(nil, new(trouble))
	}
	return r.made.Load()
}

// fault counts a fault.
func (r *recent) fault(c Class) {
	n := &r.trouble().faults[min(c, ClassLocal)]
	n.all.Add(1)
	n.recent.add(time.Now())
}

// faults returns the total by class.
func (r *recent) faults() map[Class]uint64 {
	all := make(map[Class]uint64)
	if t := r.made.Load(); t != nil {
		for class := range t.faults {
			if n := t.faults[class].all.Load(); n > 0 {
				all[Class(class)] = n
			}
		}
	}
	return all
}

// status returns the recent counts at a time.
func (r *recent) status(now time.Time) Recent {
	s := Recent{Succeeded: r.succeeded.sum(now), Faults: make(map[Class]int)}
	t := r.made.Load()
	if t == nil {
		return s
	}
	s.InDoubt, s.RefusedSwitches = t.inDoubt.sum(now), t.refused.sum(now)
	for class := range t.faults {
		if n := t.faults[class].recent.sum(now); n > 0 {
			s.Faults[Class(class)] = n
		}
	}
	return s
}

// A recentCount counts by the minute. It is a ring of words, each with its minute in the upper
// half and the number in the lower one, so that an outdated word can be replaced and
// incremented in one step, without a lock.
type recentCount [recentMinutes]atomic.Uint64

// minuteOf returns the minutes since 1970, in 32 bits, which last for 8,000 years.
func minuteOf(t time.Time) uint64 { return uint64(t.Unix()/60) & (1<<32 - 1) }

func (c *recentCount) add(now time.Time) {
	minute := minuteOf(now)
	word := &c[minute%recentMinutes]
	for {
		old := word.Load()
		next := old + 1
		if old>>32 != minute {
			next = minute<<32 | 1
		} else if uint32(next) == 0 {
			return // the count is full
		}
		if word.CompareAndSwap(old, next) {
			return
		}
	}
}

func (c *recentCount) sum(now time.Time) (n int) {
	minute := minuteOf(now)
	for i := range c {
		word := c[i].Load()
		if age := minute - word>>32; age < recentMinutes { // nor from a minute in the future
			n += int(uint32(word))
		}
	}
	return n
}
