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

// This file asks both endpoints what the rule wants to know, and proposes what it
// decides. Nobody announces a failover, and in normal times the alternate does not
// serve: its own answer is the arbiter.

// question is one asking of both endpoints, shared by all callers that met the trouble.
type question struct {
	number uint64
	st     *state // that it is about
	fault  *Fault // that has raised it
	// since is when what raised it began: a healthy answer after that is proof of life.
	since  time.Time
	loud   bool               // a false alarm is worth telling of. Guarded by Transport.mu.
	cancel context.CancelFunc // ends it: there is nothing left to decide
	done   chan struct{}      // closed when the verdict has taken effect, or was put aside
	move   bool               // the traffic is to move. Valid once done is closed.
}

// count takes note of a fault that an attempt made under st has met. Own: it is the
// caller's own deadline that has passed. It returns the question that the fault has
// led to, or nil, and whether the answer decides on the fault: then the next attempt
// should wait for it.
func (t *Transport) count(st *state, f *Fault, own bool) (q *question, decides bool) {
	e := &t.endpoints[f.Endpoint]
	e.record(f)
	if !f.counted() {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rule.Epoch != st.epoch || t.rule.Closed || t.state.Load().active != f.Endpoint || e.knows(f) {
		return nil, false // old news from before a judgement, of where a redirect has led, or of one request
	}
	wasClosed := e.breaker.state() == StateClosed
	tripped := e.fault(f)
	if tripped && wasClosed {
		t.emit(Event{Kind: EventTripped, From: f.Endpoint, To: f.Endpoint, Reason: t.tripReason(f), Fault: f})
	}
	kind := evidenceOf(f)
	loud := tripped || kind == rule.TimedOut && !own
	decides = loud || f.RetryAfter > 0 // it is not to be repeated before: the other endpoint may serve
	q = t.seeLocked(rule.Evidence{Kinds: kind, Decides: decides}, f, time.Now())
	if q != nil && loud {
		q.loud = true
	}
	return q, decides
}

// evidenceOf returns what kind of evidence a counted fault is.
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

// tripReason says why fault f has opened the breaker.
func (t *Transport) tripReason(f *Fault) string {
	switch {
	case f.Definitive:
		return fmt.Sprintf("the %v says that it does not serve", f.Endpoint)
	default:
		return fmt.Sprintf("%d faults in a row", t.cfg.FailureThreshold)
	}
}

// seeLocked shows evidence against the active endpoint to the rule, and asks what it
// wants to know. It returns the question under way, nil if there is none.
func (t *Transport) seeLocked(e rule.Evidence, f *Fault, since time.Time) *question {
	now := time.Now()
	switch t.rule.See(now, t.rule.Epoch, e) {
	case rule.Ignore:
		if _, ok := t.rule.Kept(now); ok {
			return t.question // which has found that the traffic is to move
		}
		return nil
	case rule.Join:
		return t.question
	}
	t.endpoints[t.rule.Active].suspect.Store(true) // its successes are evidence now
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

// definite reports whether the active endpoint has said itself, by now, that it does
// not serve.
func (t *Transport) definite(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	number, evidence := t.rule.Question()
	return number == q.number && evidence.Definite()
}

// decide answers a question and carries the verdict out.
func (t *Transport) decide(ctx context.Context, q *question) {
	definite := func() bool { return t.definite(q) }
	found, ok := t.keptFindings(q)
	if !ok {
		found = t.probeBoth(ctx, q.st.active, q.since, definite)
	}
	if ctx.Err() != nil {
		return // what probes say that were ended is no evidence
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
			t.renewLocked(p, why, t.movedBehindLocked(evidence, found), q)
		} else if evidence.Kinds != rule.Slow {
			t.endpoints[q.st.active].reset()
			t.refusedLocked(q, why)
		}
	case rule.Undecided:
		if kept, ok := t.rule.Kept(time.Now()); ok && kept == found.Findings { // an early question
			t.found, q.move = &found, true
		}
	}
	t.unlock()
	if verdict == rule.Move {
		t.proposeMove(ctx, q, found)
	}
}

// keptFindings returns what an early question has found, if that answers q.
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

// movedBehindLocked says what speaks for a failover that has kept the address: the kind
// of the trouble, or another address behind the name. It is what was seen, and no
// conclusion: the answers of name servers rotate.
func (t *Transport) movedBehindLocked(e rule.Evidence, found findings) string {
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

// refusedLocked tells that the traffic stays where it is, if that is worth telling.
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

// proposeMove moves the traffic as a question has decided, or holds the evidence if
// that is refused.
func (t *Transport) proposeMove(ctx context.Context, q *question, found findings) {
	from, to := q.st.active, q.st.active.other()
	m := move{to: to, reason: fmt.Sprintf("the %v does not serve, the %v passes its probe", from, to), fault: q.fault}
	m.provisional, m.abandon = found.Other == rule.PassedWeakly, found.Active == rule.Failed
	var refusal error
	for {
		fenced := t.definite(q)
		if m.alone, refusal = t.reportFailure(from, t.quorum(to, fenced)); refusal == nil {
			refusal = t.propose(ctx, q.st, m, t.rule.Memory(fenced))
		}
		if refusal == nil || t.definite(q) == fenced { // no stronger evidence has come meanwhile
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

// propose moves the traffic to an endpoint that has passed its probe, unless the
// state has changed, there were too many switches within memory, or
// Config.ConfirmSwitch objects. It returns why it did not.
func (t *Transport) propose(ctx context.Context, st *state, m move, memory time.Duration) error {
	if err := cmp.Or(t.frozen(m), t.mayMove(st, memory)); err != nil {
		return err
	}
	if err := t.confirm(ctx, st.active, m); err != nil {
		return fmt.Errorf("not confirmed: %w", redacted(err))
	}
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if err := t.mayMoveLocked(st, memory); err != nil {
		return err
	}
	t.moveLocked(m, p, func(now time.Time) bool { return t.rule.MoveTo(now, rule.Side(m.to), m.provisional) })
	return nil
}

// errOvertaken: something else has changed where traffic goes.
var errOvertaken = rule.ErrOvertaken

func (t *Transport) mayMove(st *state, memory time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mayMoveLocked(st, memory)
}

func (t *Transport) mayMoveLocked(st *state, memory time.Duration) error {
	err := t.rule.MayMove(time.Now(), rule.View{Epoch: st.epoch, Down: st.down}, memory)
	if err != rule.ErrLatched {
		return err
	}
	within := "an hour"
	if memory == fenceDamping {
		within = "a minute"
	}
	return fmt.Errorf("latched after %d switches within %s", maxSwitches, within)
}

// confirmTimeout bounds Config.ConfirmSwitch.
const confirmTimeout = 30 * time.Second

// confirm asks Config.ConfirmSwitch, if there is one.
func (t *Transport) confirm(ctx context.Context, from Endpoint, m move) error {
	if t.cfg.ConfirmSwitch == nil {
		return nil
	}
	proposal := Switch{From: from, To: m.to, Reason: m.reason, Fault: m.fault, Loss: t.proposedLoss(from, m.to, m.reason)}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return t.outsource(ctx, "ConfirmSwitch", func() error { return t.cfg.ConfirmSwitch(ctx, proposal) })
}

// outsource calls a function of the program's own and waits for its end or that of
// ctx. A function that panics has failed; the log says which it was.
func (t *Transport) outsource(ctx context.Context, name string, f func() error) error {
	answer := make(chan error, 1)
	if !t.spawn(func() {
		err := errPanicked
		defer func() { answer <- err }()
		t.protect(name, func() {
			returned := realError(f())
			if returned != nil { // which may panic: here, and not where the error is judged and shown
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

// findings are what the probes of both endpoints have found.
type findings struct {
	rule.Findings
	faults    [2]*Fault // by endpoint
	slow      bool      // the active endpoint answers requests, and not its probe
	addresses string    // of the active endpoint, see addresses.see
}

// whyStay says what the traffic stays at the active endpoint for.
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

// probeBoth probes both endpoints at the same time until the rule has a verdict. Since
// is from when on a healthy answer of the active endpoint is proof of life.
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
				found.Active, found.slow = rule.Inconclusive, true // and not dead
				found.addresses = t.endpoints[active].addresses.news(time.Now())
				found.Reached = found.addresses != "" // the traffic has been there
			}
			found.Moved = found.addresses != ""
		}
		found.Alive = t.succeededSince(active, since)
		if rule.Judge(definite(), found.Findings) != rule.Undecided {
			break
		}
	}
	return found
}

// weigh returns what the outcome of a probe of the endpoint that is not active is worth.
func (t *Transport) weigh(outcome rule.Outcome) rule.Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rule.Weigh(time.Now(), outcome)
}

// succeededSince reports whether an endpoint has given a request a healthy answer,
// its body included, since a time.
func (t *Transport) succeededSince(e Endpoint, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endpoints[e].lastWhole > since.Sub(t.started)
}

// probed is the result of a probe.
type probed struct {
	err   error
	weak  bool   // it passed, by no more than a 401 or 429
	moved string // see addresses.see
}

// outcome reads the result. A fault that does not count says that something answers,
// but not what, or that this machine is in trouble; every other error is a failure.
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

// reached reports whether a new connection has led to an answer.
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

// fault returns the fault that the probe has failed with, nil if it is another error.
func (p *probed) fault() (f *Fault) {
	errors.As(p.err, &f)
	return f
}

// closesIdle is what a RoundTripper can do that lets go of its connections.
type closesIdle interface {
	http.RoundTripper
	CloseIdleConnections()
}
