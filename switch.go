package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// This file holds the one rule of switching. The alternate's own answer is the
// arbiter of whether a failover happened: nobody announces one, and in normal
// times the alternate does not serve.

// outcome of a probe.
type outcome uint8

const (
	pending outcome = iota
	passed
	failed
	// inconclusive: the endpoint answered, but with something that proves
	// neither that it serves nor that it does not (403, 404, a bare 401).
	inconclusive
)

// verdict of a decision.
type verdict uint8

const (
	undecided verdict = iota
	stay              // a false alarm: the active endpoint answers
	move              // the other endpoint has taken over
	down              // neither endpoint serves
)

// judge applies the rule to what the probes have shown so far. definitive: the
// active endpoint has said itself that it does not serve.
func judge(definitive bool, active, other outcome) verdict {
	switch {
	case other == passed && (definitive || active == failed):
		return move
	case active == pending || (definitive || active == failed) && other == pending:
		return undecided
	case active == failed:
		return down
	default:
		return stay
	}
}

// decision is one run of the rule, shared by all callers that met the outage.
type decision struct {
	generation uint64             // that it is about
	done       chan struct{}      // closed when the verdict has taken effect
	cancel     context.CancelFunc // ends it: there is nothing left to decide
	// definitive is guarded by Transport.mu.
	definitive bool
}

// hold is the memory of a decision that changed nothing, so that a storm of
// failing requests does not become a storm of probes. Stronger evidence than
// the decision had overrides it.
type hold struct {
	until      time.Time
	definitive bool
	growth     *backoff.ExponentialBackOff
}

// extend starts or prolongs the hold.
func (h *hold) extend(definitive bool) {
	if h.growth == nil {
		h.growth = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
			backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0))
	}
	if time.Since(h.until) > time.Minute { // long quiet
		h.growth.Reset()
	}
	h.until, h.definitive = time.Now().Add(h.growth.NextBackOff()), definitive
}

// covers reports whether a decision on such evidence would only repeat the last.
func (h *hold) covers(definitive bool) bool {
	return time.Now().Before(h.until) && (h.definitive || !definitive)
}

// count takes note of a fault that an attempt made under st has met. It
// returns the decision that the fault has led to, or nil.
func (t *Transport) count(st *state, f *Fault) *decision {
	e := &t.endpoints[f.Endpoint]
	e.record(f)
	if !f.counted() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.state.Load()
	if now.generation != st.generation || now.closed {
		return nil // old news from before a switch
	}
	wasClosed := e.breaker.state() == StateClosed
	if !e.fault(f) {
		return nil
	}
	if wasClosed {
		t.emit(Event{Kind: EventTripped, From: f.Endpoint, To: f.Endpoint, Reason: t.tripReason(f), Fault: f})
	}
	return t.decide(now, f)
}

// tripReason says why fault f has opened the breaker.
func (t *Transport) tripReason(f *Fault) string {
	switch {
	case f.Definitive:
		return fmt.Sprintf("the %v says that it does not serve", f.Endpoint)
	case f.RetryAfter > 0:
		return fmt.Sprintf("the %v asks to be left alone for %v", f.Endpoint, f.RetryAfter)
	default:
		return fmt.Sprintf("%d faults in a row", t.cfg.FailureThreshold)
	}
}

// decide starts a decision or joins the one under way. mu is held.
func (t *Transport) decide(st *state, f *Fault) *decision {
	if t.decision != nil && t.decision.generation == st.generation {
		t.decision.definitive = t.decision.definitive || f.Definitive
		return t.decision
	}
	if st.down != nil || st.pinned || t.hold.covers(f.Definitive) {
		return nil
	}
	ctx, cancel := context.WithCancel(t.ctx)
	d := &decision{generation: st.generation, done: make(chan struct{}), cancel: cancel, definitive: f.Definitive}
	t.decision = d
	t.wg.Go(func() {
		defer close(d.done)
		defer cancel()
		t.settle(ctx, st, d, f)
	})
	return d
}

// settle probes both endpoints and carries the verdict out.
func (t *Transport) settle(ctx context.Context, st *state, d *decision, f *Fault) {
	definitive := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return d.definitive
	}
	v, faults := t.consult(ctx, st.active, definitive)
	refusal := error(nil)
	switch v {
	case move:
		to := st.active.other()
		reason := fmt.Sprintf("the %v does not serve, the %v passes its probe", st.active, to)
		for {
			fenced, memory := definitive(), damping
			if fenced { // the service itself sends the traffic away
				memory = fenceDamping
			}
			if refusal = t.witness(st.active, t.quorum(to, fenced)); refusal == nil {
				refusal = t.propose(ctx, st, to, reason, f, memory)
			}
			if refusal == nil || definitive() == fenced { // no stronger evidence has come meanwhile
				break
			}
		}
	case down:
		t.witness(st.active, 1)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.decision == d {
		t.decision = nil
	}
	if t.state.Load() != st {
		return // moved, by this decision or by hand, or closed
	}
	switch v {
	case move:
		t.stayPut(st, d, f, refusal)
	case down:
		t.goDown(faults)
	default:
		t.endpoints[st.active].reset()
		t.stayPut(st, d, f, fmt.Errorf("the %v answers its probe", st.active))
	}
}

// stayPut keeps the traffic where it is, for the time of the hold. mu is held.
func (t *Transport) stayPut(st *state, d *decision, f *Fault, why error) {
	t.hold.extend(d.definitive)
	t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: st.active.other(), Reason: why.Error(), Fault: f})
}

// propose moves the traffic to an endpoint that has passed its probe, unless the
// state has changed, there were too many switches within memory, or
// Config.ConfirmSwitch objects. It returns why it did not.
func (t *Transport) propose(ctx context.Context, st *state, to Endpoint, reason string, f *Fault, memory time.Duration) error {
	t.mu.Lock()
	latched, overtaken := t.latched(memory), t.state.Load() != st
	t.mu.Unlock()
	if overtaken {
		return errOvertaken
	}
	if latched {
		within := "an hour"
		if memory == fenceDamping {
			within = "a minute"
		}
		return fmt.Errorf("latched after %d switches within %s", maxSwitches, within)
	}
	if err := t.confirm(ctx, st.active, to, reason, f); err != nil {
		return fmt.Errorf("not confirmed: %w", forShow(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() != st {
		return errOvertaken
	}
	t.moveTo(to, reason, f)
	return nil
}

var errOvertaken = errors.New("overtaken by another change")

// confirmTimeout bounds Config.ConfirmSwitch.
const confirmTimeout = 30 * time.Second

// confirm asks Config.ConfirmSwitch, if there is one.
func (t *Transport) confirm(ctx context.Context, from, to Endpoint, reason string, f *Fault) error {
	if t.cfg.ConfirmSwitch == nil {
		return nil
	}
	proposal := Switch{From: from, To: to, Reason: reason, Fault: f, Loss: t.proposedLoss(from, to, reason)}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	answer := make(chan error, 1)
	t.wg.Go(func() { answer <- t.cfg.ConfirmSwitch(ctx, proposal) })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// consult probes both endpoints at the same time until the rule has a verdict,
// and returns it with the faults of the probes by endpoint.
func (t *Transport) consult(ctx context.Context, active Endpoint, definitive func() bool) (verdict, [2]*Fault) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		endpoint Endpoint
		err      error
	}
	results := make(chan result, 2)
	for _, e := range []Endpoint{Primary, Alternate} {
		t.wg.Go(func() { results <- result{e, t.runProbe(ctx, e)} })
	}
	var outcomes [2]outcome
	var faults [2]*Fault
	for range outcomes {
		r := <-results
		if ctx.Err() != nil {
			return undecided, faults // what probes say that were ended is no evidence
		}
		outcomes[r.endpoint], faults[r.endpoint] = probeOutcome(r.endpoint, r.err)
		if v := judge(definitive(), outcomes[active], outcomes[active.other()]); v != undecided {
			return v, faults
		}
	}
	return stay, faults
}

// probeOutcome reads the result of a probe. A fault that does not count says
// that something answers, but not what; every other error is a failure.
func probeOutcome(e Endpoint, err error) (outcome, *Fault) {
	if err == nil {
		return passed, nil
	}
	var f *Fault
	if !errors.As(err, &f) {
		f = &Fault{Class: ClassUnavailable, Err: err}
	}
	found := *f
	found.Endpoint = e
	if found.counted() {
		return failed, &found
	}
	return inconclusive, &found
}
