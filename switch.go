package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// This file answers the questions of the rule: it probes both endpoints and carries out the
// verdict. Nothing announces a failover, and normally the alternate does not serve, so the
// alternate's answer shows whether one has happened.

// A question is one round of probes of both endpoints, shared by all calls whose faults led
// to it.
type question struct {
	number uint64
	st     *state // at the time of the question
	fault  *Fault // that raised it
	// since is when the evidence began; a later healthy answer proves that the endpoint serves.
	since    time.Time
	loud     bool               // report it even if the traffic stays. Guarded by Transport.mu.
	cancel   context.CancelFunc // stops the probes: there is nothing left to decide
	done     chan struct{}      // closed once the verdict has taken effect or was set aside
	toSwitch bool               // an early question's verdict: switch. Valid once done is closed.
}

// count records a fault that an attempt under st met. Own: the caller's own deadline has
// passed. It returns the question that the fault raised or joined, or nil, and whether the
// next attempt should wait for the verdict.
func (t *Transport) count(st *state, f *Fault, own bool) (q *question, decides bool) {
	e := &t.endpoints[f.Endpoint]
	e.record(f)
	if !f.counted() {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rule.Epoch != st.epoch || t.rule.Closed || t.state.Load().active != f.Endpoint || e.knows(f) {
		return nil, false // outdated, from the endpoint that a redirect named, or about one kind of request
	}
	wasClosed := e.breaker.state() == StateClosed
	tripped := e.fault(f)
	if tripped && wasClosed {
		t.emit(Event{Kind: EventTripped, From: f.Endpoint, To: f.Endpoint, Reason: t.tripReason(f), Fault: f})
	}
	kind := evidenceOf(f)
	loud := tripped || kind == rule.TimedOut && !own
	decides = loud || f.RetryAfter > 0 // this endpoint must not be asked before then; the other one may serve
	q = t.seeLocked(rule.Evidence{Kinds: kind, Decides: decides}, f, time.Now())
	if q != nil && loud {
		q.loud = true
	}
	return q, decides
}

// evidenceOf returns the kind of evidence of a fault that counts.
func evidenceOf(f *Fault) rule.Kind {
	switch {
	case f.Definitive:
		return rule.Fenced
	case f.Err != nil && f.Timeout():
		return rule.TimedOut
	case f.Status == 0:
		return rule.Unreachable
	default:
		return rule.Answered
	}
}

// tripReason returns why f has opened the circuit breaker.
func (t *Transport) tripReason(f *Fault) string {
	if f.Definitive {
		return fmt.Sprintf("the %v says that it does not serve", f.Endpoint)
	}
	return fmt.Sprintf("%d faults in a row", t.cfg.FailureThreshold)
}

// seeLocked passes evidence against the active endpoint to the rule, and starts a question if
// the rule asks for one. It returns the question under way, or nil.
func (t *Transport) seeLocked(e rule.Evidence, f *Fault, since time.Time) *question {
	now := time.Now()
	switch t.rule.See(now, t.rule.Epoch, e) {
	case rule.Ignore:
		if _, ok := t.rule.Kept(now); ok {
			return t.question // whose verdict was to switch
		}
		return nil
	case rule.Join:
		return t.question
	}
	t.endpoints[t.rule.Active].suspect.Store(true) // from now on, its successes are recorded
	number, _ := t.rule.Question()
	ctx, cancel := context.WithCancel(t.ctx)
	q := &question{number: number, st: t.state.Load(), fault: f, since: since, cancel: cancel, done: make(chan struct{})}
	t.question = q
	t.wg.Go(func() {
		defer close(q.done)
		defer cancel()
		t.decide(ctx, q)
	})
	return q
}

// definite reports whether the evidence of q includes a fence by now.
func (t *Transport) definite(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	number, evidence := t.rule.Question()
	return number == q.number && evidence.Definite()
}

// decide answers a question and carries out the verdict.
func (t *Transport) decide(ctx context.Context, q *question) {
	definite := func() bool { return t.definite(q) }
	found, ok := t.keptFindings(q)
	if !ok {
		found = t.probeBoth(ctx, q.st.active, q.since, definite)
	}
	if ctx.Err() != nil {
		return // canceled probes prove nothing
	}
	if found.Active == rule.Failed && found.Other != rule.Passed {
		t.reportFailure(q.st.active, 1)
	}
	p := t.poolAfter(found)
	t.mu.Lock()
	_, evidence := t.rule.Question()
	if found.Active == rule.Passed {
		t.endpoints[q.st.active].explain(q.fault)
	}
	verdict, renewed := t.rule.Conclude(time.Now(), q.number, found.Findings, t.holdLocked())
	switch verdict {
	case rule.GoDown:
		t.downLocked(found.faults)
	case rule.Stay:
		why := found.whyStay(q.st.active)
		if renewed {
			t.renewLocked(p, why, t.suspectMoveLocked(evidence, found), q)
		} else if evidence.Kinds != rule.Slow {
			t.endpoints[q.st.active].reset()
			t.refusedLocked(q, why)
		}
	case rule.Undecided:
		if kept, ok := t.rule.Kept(time.Now()); ok && kept == found.Findings { // q was early
			t.found, q.toSwitch = &found, true
		}
	}
	t.unlock()
	if verdict == rule.Switch {
		t.proposeSwitch(ctx, q, found)
	}
}

// keptFindings returns the findings of an early question, if they answer q.
func (t *Transport) keptFindings(q *question) (findings, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.rule.Kept(time.Now())
	_, evidence := t.rule.Question()
	if !ok || !evidence.Decides {
		return findings{}, false
	}
	return *t.found, true
}

// suspectMoveLocked returns what suggests that the organization was moved behind its address:
// the kind of evidence, or a new IP address. It states what was seen and draws no conclusion,
// because name servers rotate their answers.
func (t *Transport) suspectMoveLocked(e rule.Evidence, found findings) string {
	switch seen := found.addresses; {
	case e.Definite():
		return "it has said that it does not serve" + seen
	case seen != "":
		return "its name resolves to other addresses" + seen
	case e.Kinds&rule.TimedOut != 0:
		return "requests to it got no answer"
	default:
		return ""
	}
}

// refusedLocked reports that the traffic stays, if q is loud.
func (t *Transport) refusedLocked(q *question, why string) {
	if !q.loud {
		return
	}
	at := q.st.active
	to := at.other()
	if t.org.Alternate == nil {
		to = at
	}
	t.emit(Event{Kind: EventSwitchRefused, From: at, To: to, Reason: why, Fault: q.fault})
}

// proposeSwitch makes the switch on which q has decided. If that is refused, the rule holds
// further evidence for a while.
func (t *Transport) proposeSwitch(ctx context.Context, q *question, found findings) {
	from, to := q.st.active, q.st.active.other()
	m := switchover{to: to, reason: fmt.Sprintf("the %v does not serve, the %v passes its probe", from, to), fault: q.fault}
	m.provisional, m.abandon = found.Other == rule.PassedWeakly, found.Active == rule.Failed
	var refusal error
	for {
		fenced := t.definite(q)
		if m.alone, refusal = t.reportFailure(from, t.quorum(to, fenced)); refusal == nil {
			refusal = t.propose(ctx, q.st, m, t.rule.Window(fenced))
		}
		if refusal == nil || t.definite(q) == fenced { // there is no stronger evidence by now
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	number, _ := t.rule.Question()
	if refusal != nil && number == q.number && t.rule.Epoch == q.st.epoch && !t.rule.Pinned {
		t.rule.Refuse(time.Now(), q.number, t.holdLocked())
		q.loud = true
		t.refusedLocked(q, refusal.Error())
	}
}

// propose switches to an endpoint that has passed its probe, unless the state has changed,
// there were too many switches within window, or Config.ConfirmSwitch refuses. It returns the
// reason if it does not switch.
func (t *Transport) propose(ctx context.Context, st *state, m switchover, window time.Duration) error {
	if err := cmp.Or(t.frozen(m), t.maySwitch(st, window)); err != nil {
		return err
	}
	if err := t.confirm(ctx, st.active, m); err != nil {
		return fmt.Errorf("not confirmed: %w", redacted(err))
	}
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if err := t.maySwitchLocked(st, window); err != nil {
		return err
	}
	t.switchLocked(m, p, func(now time.Time) bool { return t.rule.SwitchTo(now, rule.Side(m.to), m.provisional) })
	return nil
}

// errOvertaken: the state has changed.
var errOvertaken = rule.ErrOvertaken

func (t *Transport) maySwitch(st *state, window time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.maySwitchLocked(st, window)
}

func (t *Transport) maySwitchLocked(st *state, window time.Duration) error {
	err := t.rule.MaySwitch(time.Now(), rule.View{Epoch: st.epoch, Down: st.down}, window)
	if err != rule.ErrLatched {
		return err
	}
	within := "an hour"
	if window == fenceDamping {
		within = "a minute"
	}
	return fmt.Errorf("latched after %d switches within %s", maxSwitches, within)
}

// confirmTimeout bounds Config.ConfirmSwitch.
const confirmTimeout = 30 * time.Second

// confirm asks Config.ConfirmSwitch, if there is one.
func (t *Transport) confirm(ctx context.Context, from Endpoint, m switchover) error {
	if t.cfg.ConfirmSwitch == nil {
		return nil
	}
	proposal := Switch{From: from, To: m.to, Reason: m.reason, Fault: m.fault, Loss: t.proposedLoss(from, m.to, m.reason)}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return t.outsource(ctx, "ConfirmSwitch", func() error { return t.cfg.ConfirmSwitch(ctx, proposal) })
}

// outsource calls a function of the program's own and waits until it returns or ctx ends. A
// panic counts as its failure and is logged with name.
func (t *Transport) outsource(ctx context.Context, name string, f func() error) error {
	answer := make(chan error, 1)
	if !t.spawn(func() {
		err := errPanicked
		defer func() { answer <- err }()
		t.protect(name, func() {
			returned := realError(f())
			if returned != nil { // its methods may panic: better here than where the error is used
				_, _ = returned.Error(), isTimeout(returned)
			}
			err = returned
		})
	}) {
		return ErrClosed
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// findings are the results of probing both endpoints.
type findings struct {
	rule.Findings
	faults    [2]*Fault // by endpoint
	slow      bool      // the active endpoint answers requests, but not its probe
	addresses string    // of the active endpoint, see addresses.see
}

// whyStay returns the reason for staying at the active endpoint.
func (f *findings) whyStay(active Endpoint) string {
	switch fault := f.faults[active]; {
	case f.slow:
		return fmt.Sprintf("the %v answers requests", active)
	case fault != nil:
		return fmt.Sprintf("the probe of the %v is inconclusive: %v", active, fault)
	default:
		return fmt.Sprintf("the %v answers its probe", active)
	}
}

// probeBoth probes both endpoints at the same time until the rule has a verdict. A healthy
// answer of the active endpoint after since proves that it serves.
func (t *Transport) probeBoth(ctx context.Context, active Endpoint, since time.Time, definite func() bool) (found findings) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	type result struct {
		endpoint Endpoint
		probed   probed
	}
	results := make(chan result, 2)
	asked := []Endpoint{Primary, Alternate}
	if t.org.Alternate == nil {
		asked = asked[:1]
		found.Other = rule.Failed
	}
	for _, e := range asked {
		t.wg.Go(func() { results <- result{e, t.probe(ctx, e)} })
	}
	for range asked {
		r := <-results
		if ctx.Err() != nil {
			return found
		}
		outcome, fault := r.probed.outcome()
		found.faults[r.endpoint] = fault
		if r.endpoint != active {
			found.Other = t.weigh(outcome)
		} else {
			found.Active, found.Reached, found.addresses = outcome, r.probed.reached(), r.probed.moved
			if outcome == rule.Failed && r.probed.timedOut() && t.succeededSince(active, began) {
				found.Active, found.slow = rule.Inconclusive, true // it is only slow
				found.addresses = t.endpoints[active].addresses.news(time.Now())
				found.Reached = found.addresses != "" // requests have reached it at a new address
			}
			found.NewAddress = found.addresses != ""
		}
		found.Alive = t.succeededSince(active, since)
		if rule.Judge(definite(), found.Findings) != rule.Undecided {
			break
		}
	}
	return found
}

// weigh is rule.Weigh.
func (t *Transport) weigh(outcome rule.Outcome) rule.Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rule.Weigh(time.Now(), outcome)
}

// succeededSince reports whether an endpoint has given a request a complete healthy answer,
// including the body, after since.
func (t *Transport) succeededSince(e Endpoint, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endpoints[e].lastWhole > since.Sub(t.started)
}

// probed is the result of a probe.
type probed struct {
	err   error
	weak  bool   // it passed, but only with a 401 or 429
	moved string // see addresses.see
}

// outcome returns the outcome, and the fault unless the probe passed. A fault that does not
// count is inconclusive; every other error is a failure.
func (p *probed) outcome() (rule.Outcome, *Fault) {
	if p.err == nil {
		if p.weak {
			return rule.PassedWeakly, nil
		}
		return rule.Passed, nil
	}
	f := p.fault()
	if f == nil {
		f = &Fault{Class: ClassUnavailable, Err: p.err}
		if errors.Is(p.err, context.DeadlineExceeded) {
			f.Class = ClassTransient
		}
	}
	if f.counted() {
		return rule.Failed, f
	}
	return rule.Inconclusive, f
}

// reached reports whether there was an answer over a new connection.
func (p *probed) reached() bool {
	outcome, f := p.outcome()
	return outcome == rule.Passed || outcome == rule.PassedWeakly || outcome == rule.Inconclusive && f.Status != 0
}

// timedOut reports whether there was no answer in time.
func (p *probed) timedOut() bool {
	if f := p.fault(); f != nil {
		return f.Status == 0 && f.Timeout()
	}
	return isTimeout(p.err)
}

// fault returns the fault that the probe met, or nil if there is none or the error is another.
func (p *probed) fault() (f *Fault) {
	errors.As(p.err, &f)
	return f
}

// closesIdle is a RoundTripper that can close its idle connections.
type closesIdle interface {
	http.RoundTripper
	CloseIdleConnections()
}
