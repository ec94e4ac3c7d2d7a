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

// This file keeps a Transport in step with its fleet. A Transport switches by
// its own rule, at once, and tells the fleet afterwards; the others follow if
// the endpoint serves them too. So the store is never waited for, with one
// exception: a quorum has to be asked for before the switch.
//
// No clock is trusted but one's own. Times in a record are differences to the
// store's clock at the moment they are read; how old a record is, and whether it
// changes too often, is what a Transport has seen itself.

// fleet is the Transport's place in its fleet.
type fleet struct {
	store        Shared
	organization string
	member       string          // this process: one witness, however many Transports
	claimant     string          // this Transport: what takes turns at probes
	calls        atomic.Int64    // of the store that are under way
	wake         chan struct{}   // capacity 1: there is something to tell or to ask
	word         <-chan struct{} // of changes, nil for none

	// Guarded by Transport.mu:
	status   FleetStatus
	known    Record // the last one that the state here was in step with, its times by the clock here
	untold   bool   // a switch was made here that the record does not know of
	alone    bool   // without the quorum that it takes
	insisted bool   // by hand: the record is to follow, whatever it says
	reason   string // of that switch
	// refused is the generation of the last record that was not followed, so
	// that this is said once.
	refused uint64
	changes []time.Time // when the generation of the record was last seen to change

	unread    error         // of the last load
	unwritten error         // of the last write
	goodSince time.Time     // the store, which counts as lost, answers well
	foundIn   time.Duration // after so long it counts as found

	asked   [2]uint64 // Questions and Recoveries as they were seen last
	looking bool      // that is being answered
	// A fleet asks itself at most once in firstPace. What asks more often is no fleet, and
	// is not answered before answerAfter.
	answerAfter time.Time
	askAfter    time.Time // and pace: the others are not asked again before
	pace        interface {
		NextBackOff() time.Duration
		Reset()
	}
	witnessed time.Time // until when this process counts as a witness of status.Failed
	holds     string    // the topic of which this Transport may have the turn
}

const (
	// fleetPoll is the time between two looks at the record, should word of a
	// change be missed.
	fleetPoll = time.Minute
	// fleetRetry is the first such time while something is unsettled; it
	// grows to fleetPoll, or to lostPoll while the store counts as lost.
	fleetRetry = time.Second
	lostPoll   = 2 * time.Second
	// fleetTimeout bounds every use of the store, and the probe that New waits for.
	fleetTimeout = time.Second
	// foundAfter is how long a store that was lost has to answer well, each time
	// within half of fleetTimeout, before it counts as found. It doubles, up to maxFound,
	// whenever the store fails again before that.
	foundAfter = 15 * time.Second
	maxFound   = 2 * time.Minute
	// maxChanges of the generation within fenceDamping are as many as a fleet makes by
	// contradicting itself.
	maxChanges = 4
	// followSpread is over which followers probe, lest they meet the service's own
	// limits. Who meets a fault meanwhile asks for itself, at once.
	followSpread = 800 * time.Millisecond
)

// thisProcess is the name of the process in its fleet.
var thisProcess = sync.OnceValue(func() string { return processName(os.Hostname()) })

// processName names the process: for people by the host name and the process id, and for
// uniqueness by a random rest.
func processName(host string, err error) string {
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s/%d/%s", redact.Line(host, 128), os.Getpid(), rand.Text()[:6])
}

var claimants atomic.Uint64

// join makes the Transport part of its fleet: it starts out where the fleet is.
func (t *Transport) join() {
	member := thisProcess()
	t.fleet = &fleet{
		store: t.cfg.Shared, organization: t.org.key(), wake: make(chan struct{}, 1),
		member: member, claimant: fmt.Sprintf("%s#%d", member, claimants.Add(1)),
		status: FleetStatus{Member: member}, pace: intervals(firstPace, lastPace, 2),
	}
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	t.fleet.word, _ = useStore(ctx, t, func() (<-chan struct{}, error) { return t.fleet.store.Changes(t.ctx, t.fleet.organization), nil })
	settled := t.sync(true)
	t.wg.Go(func() { t.keepInStep(settled) })
}

// keepInStep looks at the record whenever it may have changed, or something is
// to be told, until the Transport is closed.
func (t *Transport) keepInStep(settled bool) {
	retry, poll := intervals(fleetRetry, fleetPoll, 2), intervals(fleetPoll, fleetPoll, 1)
	for {
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
		case _, ok := <-t.fleet.word:
			if retry.Reset(); !ok { // against the rules of Shared
				t.fleet.word = nil
			}
		case <-t.fleet.wake:
		case <-time.After(wait):
		}
		settled = t.sync(false)
	}
}

// older reports whether generation a is older than b. None is older than any.
func older(a, b uint64) bool { return a != b && (a == 0 || b != 0 && int64(a-b) < 0) }

// after returns what comes after a version or a generation.
func after(n uint64) uint64 { return max(n+1, 1) }

// step is what it takes to be in step with the fleet.
type step uint8

const (
	rest    step = iota
	tell         // the fleet of a switch that was made here
	restore      // what the store has lost
	follow       // a switch of the fleet
)

// sync brings the Transport and its fleet in step as far as that can be done
// now, and reports whether nothing is left to do.
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
		t.pause(random.N(followSpread))
		if len(t.fleet.word) > 0 { // the fleet may be elsewhere by now
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

// nextStep returns what is to be done about a record, and the state that this
// holds for. The newer generation counts. A store that knows of an older one than
// the Transport does has lost its memory; what is restored is not newer than it was.
func (t *Transport) nextStep(rec Record, clock time.Time) (*state, step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, st := t.fleet, t.state.Load()
	forgotten := older(rec.Generation, f.known.Generation) || rec.Version == 0 && f.known.Version != 0
	switch {
	case st.closed:
		return st, rest
	case rec.Active == st.active && !forgotten: // in step, whoever moved first
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
			// One of the fleet has seen more there than this one's last fence.
			t.endpoints[rec.Active].fenced = false
		}
		return st, follow
	}
}

// pause waits, unless the Transport is closed.
func (t *Transport) pause(d time.Duration) {
	select {
	case <-t.ctx.Done():
	case <-time.After(d):
	}
}

// disputed reports whether the record changes so often that it is left as it is:
// members that see the endpoints differently would correct each other for ever.
func (t *Transport) disputed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.fleet.changes
	return len(c) == maxChanges && time.Since(c[0]) < fenceDamping
}

// announce tells the fleet where this Transport is. A switch that was made without the
// quorum that it takes, because the store did not answer, is told only once the quorum
// is there; if the fleet's endpoint serves here after all, it is taken back.
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

// publish writes a record of a switch. Rec is the one that this is to replace.
func (t *Transport) publish(st *state, rec Record, clock time.Time) (told bool) {
	f := t.fleet
	t.mu.Lock()
	if t.state.Load().active != st.active { // it has moved on
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
	moves := t.rule.Switches()
	here.Earlier = slices.Clone(moves[:max(0, len(moves)-1)])
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

// restore writes the record anew that the store has lost.
func (t *Transport) restore(rec Record, clock time.Time) bool {
	t.mu.Lock()
	next := t.fleet.known.out(clock)
	t.mu.Unlock()
	next.Questions, next.Recoveries = rec.Questions, rec.Recoveries
	return !t.disputed() && t.swap(rec, next)
}

// followTo moves the traffic to where the fleet is, if that passes its probe; for that
// something answers is enough, since one of the fleet has seen more. If the
// endpoint itself says that it does not serve, and the one that is active here
// passes, the record is out of date, and is corrected.
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
		t.rememberLocked(rec.Earlier) // before the one that is to follow
		t.mu.Unlock()
		reason := fmt.Sprintf("the fleet is at the %v: %s (%s)", rec.Active, rec.Reason, rec.By)
		err = t.propose(ctx, st, switchover{to: rec.Active, reason: reason, follows: true}, 0)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		f.known = rec
		if t.state.Load().generation == st.generation+1 { // and has not moved on
			t.rememberLocked(rec.switches())
		}
	case err != errOvertaken && f.refused != rec.Generation:
		f.refused = rec.Generation
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: rec.Active, Err: redacted(err), Reason: fmt.Sprintf(
			"the fleet is at the %v (%s), which is not followed", rec.Active, rec.By)})
	}
	return err == nil
}

// noteSwitch takes note of a switch. mu is held.
func (f *fleet) noteSwitch(m switchover, pinned bool) {
	switch {
	case f == nil:
	case m.follows:
		f.untold, f.alone, f.insisted = false, false, false
	default:
		f.alone = m.alone
		if !pinned && !m.provisional && !m.undoes { // a pin is this process's own; weak evidence is nobody else's
			f.announce(m.reason)
		}
	}
}

// announce has the fleet told of a switch. Transport.mu is held.
func (f *fleet) announce(reason string) {
	if f == nil {
		return
	}
	f.untold, f.reason = true, reason
	f.wakeUp()
}

// override has the fleet told where the Transport is, whatever the record that was
// read last says: a hand has decided. Transport.mu is held.
func (f *fleet) override(reason string) {
	if f == nil {
		return
	}
	f.insisted = true
	f.announce(reason)
}

// wakeUp has the fleet's goroutine look again. A nil fleet has none.
func (f *fleet) wakeUp() {
	if f == nil {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
