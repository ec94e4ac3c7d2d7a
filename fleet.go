package failover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	random "math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// This file keeps a Transport in step with its fleet. A Transport switches at once, by its own
// rule, and announces the switch afterwards; the others follow if the endpoint serves them, too.
// So a switch never waits for the store, except for a quorum.
//
// A Transport trusts no clock but its own. On reading a record, it converts the times in it by
// their differences to the store's clock; how often the record changes is what it has seen
// itself.

// fleet is the state of a Transport as a member of its fleet.
type fleet struct {
	store        Shared
	organization string
	member       string          // this process, which is one witness, however many Transports it has
	claimant     string          // this Transport, which takes turns at probes
	calls        atomic.Int64    // calls of the store under way
	wake         chan struct{}   // capacity 1: wakes keepInStep
	changed      <-chan struct{} // Shared.Changes, or nil

	// Guarded by Transport.mu:
	status   FleetStatus
	known    Record // the last one that this Transport was in step with, its times by the own clock
	untold   bool   // a switch of this Transport must be announced
	alone    bool   // that switch was made without the required quorum
	insisted bool   // that switch was made by hand, and replaces whatever the record says
	reason   string // of that switch
	// refused is the generation of the last record that was not followed, which is reported
	// once.
	refused uint64
	changes []time.Time // when the generation of the record was last seen to change

	readErr      error         // of the last load
	writeErr     error         // of the last write
	workingSince time.Time     // since when a lost store works
	mustWorkFor  time.Duration // how long it must work until it counts as found

	asked     [2]uint64 // Questions and Recoveries as seen last
	answering bool      // they are being answered
	// Members raise a question at most once in firstPace. More frequent ones are not genuine,
	// and are not answered before answerAfter.
	answerAfter time.Time
	askAfter    time.Time // when this Transport may ask the others again; pace is the interval
	pace        interface {
		NextBackOff() time.Duration
		Reset()
	}
	witnessed time.Time // until when this process counts as a witness of status.Failed
	holds     string    // the topic of which this Transport may have the turn
}

const (
	// fleetPoll is the interval at which the record is read even without news of a change.
	fleetPoll = time.Minute
	// fleetRetry is the first interval while the Transport is not in step; it grows to
	// fleetPoll, or to lostPoll while the store counts as lost.
	fleetRetry = time.Second
	lostPoll   = 2 * time.Second
	// changePause is the least time between two looks at the record because of changes, and
	// between two tries to change it: a store may notify when it is read, or never swap.
	changePause = 50 * time.Millisecond
	// fleetTimeout bounds each call of the store, and the probe that New waits for.
	fleetTimeout = time.Second
	// foundAfter is how long a lost store must work, with each call within half of
	// fleetTimeout, before it counts as found. It doubles, up to maxFound, with every failure
	// before that.
	foundAfter = 15 * time.Second
	maxFound   = 2 * time.Minute
	// maxChanges changes of the generation within fenceDamping mean that members contradict
	// each other.
	maxChanges = 4
	// followSpread is the time over which followers spread their probes, so that they do not
	// exceed the service's limits. A member that meets a fault probes at once.
	followSpread = 800 * time.Millisecond
)

// thisProcess returns the name of this process in its fleets.
var thisProcess = sync.OnceValue(func() string { return processName(os.Hostname()) })

// processName returns a unique name: host name, process id and a random suffix.
func processName(host string, err error) string {
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s/%d/%s", redact.Line(host, 128), os.Getpid(), rand.Text()[:6])
}

var claimants atomic.Uint64

// join makes the Transport a member of its fleet, starting at the fleet's endpoint.
func (t *Transport) join() {
	member := thisProcess()
	t.fleet = &fleet{
		store: t.cfg.Shared, organization: t.org.key(), wake: make(chan struct{}, 1),
		member: member, claimant: fmt.Sprintf("%s#%d", member, claimants.Add(1)),
		status: FleetStatus{Member: member}, pace: intervals(firstPace, lastPace, 2),
	}
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	t.fleet.changed, _ = useStore(ctx, t, func() (<-chan struct{}, error) { return t.fleet.store.Changes(t.ctx, t.fleet.organization), nil })
	settled := t.sync(true)
	t.wg.Go(func() { t.keepInStep(settled) })
}

// keepInStep calls sync whenever the record may have changed, or the Transport has something to
// announce, until Close.
func (t *Transport) keepInStep(settled bool) {
	retry, poll := intervals(fleetRetry, fleetPoll, 2), intervals(fleetPoll, fleetPoll, 1)
	for looked := time.Now(); ; looked = time.Now() {
		t.mu.Lock()
		lost := t.fleet.status.Err != nil
		t.mu.Unlock()
		var wait time.Duration
		switch {
		case lost:
			wait = min(retry.NextBackOff(), lostPoll+random.N(lostPoll/4))
		case settled:
			retry.Reset()
			wait = poll.NextBackOff()
		default:
			wait = retry.NextBackOff()
		}
		select {
		case <-t.ctx.Done():
			return
		case _, ok := <-t.fleet.changed:
			if retry.Reset(); !ok { // closed, which Shared forbids
				t.fleet.changed = nil
			}
			if early := changePause - time.Since(looked); early > 0 {
				sleep(t.ctx, early)
			}
		case <-t.fleet.wake:
		case <-time.After(wait):
		}
		settled = t.sync(false)
	}
}

// older reports whether generation a is older than b. 0 is older than any other.
func older(a, b uint64) bool { return a != b && (a == 0 || b != 0 && int64(a-b) < 0) }

// after returns what comes after a version or a generation.
func after(n uint64) uint64 { return max(n+1, 1) }

// step is what to do to be in step with the fleet.
type step uint8

const (
	rest    step = iota
	tell         // announce a switch of this Transport
	restore      // write back a record that the store has lost
	follow       // follow a switch of the fleet
)

// sync brings the Transport and its fleet in step, as far as possible now, and reports whether
// nothing is left to do.
func (t *Transport) sync(joining bool) (settled bool) {
	rec, clock, err := t.load()
	if err != nil {
		return false
	}
	if joining {
		t.fleet.asked = [2]uint64{rec.Questions, rec.Recoveries}
	}
	ctx := t.ctx
	st, next := t.nextStep(rec, clock)
	switch {
	case joining:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, fleetTimeout)
		defer cancel()
	case next == follow:
		sleep(t.ctx, random.N(followSpread))
		if len(t.fleet.changed) > 0 { // the fleet may have switched again
			if rec, clock, err = t.load(); err != nil {
				return false
			}
			st, next = t.nextStep(rec, clock)
		}
	}
	switch next {
	case tell:
		settled = t.announce(st, rec, clock)
	case restore:
		settled = t.restore(rec, clock)
	case follow:
		settled = t.followTo(ctx, st, rec, clock)
	default:
		settled = true
	}
	t.tryWriting()
	t.answer(rec)
	return t.renewWitness() && settled
}

// nextStep returns what to do about a record, and the state for which that holds. The newer
// generation wins. A store whose generation is older than the Transport's has lost data; the
// record is restored with the generation that it had.
func (t *Transport) nextStep(rec Record, clock time.Time) (*state, step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, st := t.fleet, t.state.Load()
	forgotten := older(rec.Generation, f.known.Generation) || rec.Version == 0 && f.known.Version != 0
	switch {
	case st.closed:
		return st, rest
	case rec.Active == st.active && !forgotten: // in step, whoever switched first
		here := rec.in(clock)
		if rec.Generation != f.known.Generation {
			t.rememberLocked(here.switches())
		}
		f.known, f.untold, f.alone, f.insisted = here, false, false, false
		return st, rest
	case forgotten && !f.untold && !f.insisted:
		return st, restore
	case st.pinned:
		return st, rest
	case f.insisted || f.untold && !older(f.known.Generation, rec.Generation):
		return st, tell
	default:
		if older(f.known.Generation, rec.Generation) {
			// A member has newer evidence than the last fence here.
			t.endpoints[rec.Active].fenced = false
		}
		return st, follow
	}
}

// disputed reports whether the record changes so often that it is better left alone: members
// that see the endpoints differently would correct each other forever.
func (t *Transport) disputed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.fleet.changes
	return len(c) == maxChanges && time.Since(c[0]) < fenceDamping
}

// announce announces a switch of this Transport. One that was made without the required quorum,
// because the store did not answer, is announced only once there is a quorum. If the fleet's
// endpoint passes its probe by then, the Transport returns to it instead.
func (t *Transport) announce(st *state, rec Record, clock time.Time) (told bool) {
	t.mu.Lock()
	alone := t.fleet.alone && !t.fleet.insisted
	t.mu.Unlock()
	if !alone || rec.Active == st.active {
		return t.publish(st, rec, clock)
	}
	if t.followTo(t.ctx, st, rec, clock) {
		return true
	}
	alone, err := t.testify(rec.Active, t.cfg.Quorum)
	return err == nil && !alone && t.publish(st, rec, clock)
}

// publish replaces rec by the record of a switch of this Transport.
func (t *Transport) publish(st *state, rec Record, clock time.Time) (told bool) {
	f := t.fleet
	t.mu.Lock()
	if t.state.Load().active != st.active { // there was another switch
		t.mu.Unlock()
		return false
	}
	generation := rec.Generation
	if older(generation, f.known.Generation) {
		generation = f.known.Generation
	}
	here := Record{
		Version: after(rec.Version), Active: st.active, Generation: after(generation), Since: st.since, Reason: f.reason, By: f.member,
		Questions: rec.Questions, Recoveries: rec.Recoveries, Frozen: rec.Frozen,
	}
	switches := t.rule.Switches()
	here.Earlier = slices.Clone(switches[:max(0, len(switches)-1)])
	t.mu.Unlock()
	if !t.swap(rec, here.out(clock)) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.known, f.insisted = here, false
	now := t.state.Load()
	f.untold = now.active != st.active && !now.pinned
	return !f.untold
}

// restore writes back the record that the store has lost.
func (t *Transport) restore(rec Record, clock time.Time) bool {
	t.mu.Lock()
	next := t.fleet.known.out(clock)
	t.mu.Unlock()
	next.Questions, next.Recoveries = rec.Questions, rec.Recoveries
	return !t.disputed() && t.swap(rec, next)
}

// followTo switches to the fleet's endpoint if that passes its probe, even weakly, because a
// member has seen more. If the probe meets a fence and the active endpoint passes, the record is
// outdated, and followTo corrects it.
func (t *Transport) followTo(ctx context.Context, st *state, found Record, clock time.Time) (settled bool) {
	rec, f := found.in(clock), t.fleet
	err := t.runProbe(ctx, rec.Active)
	var fence *Fault
	if errors.As(err, &fence) && fence.Definitive && !t.disputed() && t.runProbe(ctx, st.active) == nil {
		t.mu.Lock()
		t.endpoints[rec.Active].fenced = true
		f.reason = fmt.Sprintf("the %v says that it does not serve", rec.Active)
		t.mu.Unlock()
		return t.publish(st, found, clock)
	}
	if err == nil {
		t.mu.Lock()
		t.rememberLocked(rec.Earlier)
		t.mu.Unlock()
		reason := fmt.Sprintf("the fleet is at the %v: %s (%s)", rec.Active, rec.Reason, rec.By)
		err = t.propose(ctx, st, switchover{to: rec.Active, reason: reason, follows: true}, 0)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		f.known = rec
		if t.state.Load().generation == st.generation+1 { // there was no other switch
			t.rememberLocked(rec.switches())
		}
	case err != errOvertaken && f.refused != rec.Generation:
		f.refused = rec.Generation
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: rec.Active, Err: redacted(err), Reason: fmt.Sprintf(
			"the fleet is at the %v (%s), which is not followed", rec.Active, rec.By)})
	}
	return err == nil
}

// noteSwitch records a switch of this Transport, and announces it if the fleet should follow.
// Transport.mu is held.
func (f *fleet) noteSwitch(m switchover, pinned bool) {
	switch {
	case f == nil:
	case m.follows:
		f.untold, f.alone, f.insisted = false, false, false
	default:
		f.alone = m.alone
		if !pinned && !m.provisional && !m.undoes { // a pin is for this Transport only, and weak evidence is not enough for others
			f.announce(m.reason)
		}
	}
}

// announce makes the fleet's goroutine announce a switch. Transport.mu is held.
func (f *fleet) announce(reason string) {
	if f == nil {
		return
	}
	f.untold, f.reason = true, reason
	f.wakeUp()
}

// override is announce for a switch by hand, which replaces whatever the record says.
// Transport.mu is held.
func (f *fleet) override(reason string) {
	if f == nil {
		return
	}
	f.insisted = true
	f.announce(reason)
}

// wakeUp makes the fleet's goroutine call sync. A nil fleet has none.
func (f *fleet) wakeUp() {
	if f == nil {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
