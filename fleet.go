package failover

import (
	"cmp"
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

	failing   error     // why the Transport is on its own: that of the last use of the store
	unwritten error     // that of the last write
	goodSince time.Time // the store, which counts as lost, answers well

	asked    [2]uint64 // Questions and Recoveries as they were seen last
	looking  bool      // that is being answered
	askAfter time.Time // and pace: the others are not asked again before
	pace     interface {
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
	// fleetTimeout bounds every use of the store, and what New waits for in all.
	fleetTimeout = time.Second
	// foundAfter is how long a store that was lost has to answer well, each time
	// within half of fleetTimeout, before it counts as found.
	foundAfter = 15 * time.Second
	// maxChanges of the generation within fenceDamping are as many as a fleet makes by
	// contradicting itself.
	maxChanges = 4
	// followSpread is over which followers probe, lest they meet the service's own
	// limits. Who meets a fault meanwhile asks for itself, at once.
	followSpread = 800 * time.Millisecond
)

// thisProcess is the name of the process in its fleet: for people the host name
// and the process id, for uniqueness a random rest.
var thisProcess = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s/%d/%s", redact.Line(host, 128), os.Getpid(), rand.Text()[:6])
})

var claimants atomic.Uint64

// join makes the Transport part of its fleet: it starts out where the fleet is.
func (t *Transport) join() {
	member := thisProcess()
	t.fleet = &fleet{
		store: t.cfg.Shared, organization: t.org.key(), wake: make(chan struct{}, 1),
		member: member, claimant: fmt.Sprintf("%s#%d", member, claimants.Add(1)),
		status: FleetStatus{Member: member}, pace: intervals(firstPace, lastPace, 2),
	}
	t.fleet.word = t.fleet.store.Changes(t.ctx, t.fleet.organization)
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	settled := t.sync(ctx, true)
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
		settled = t.sync(t.ctx, false)
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
func (t *Transport) sync(ctx context.Context, joining bool) (settled bool) {
	rec, clock, err := t.load(ctx)
	if err != nil {
		return false
	}
	if joining {
		t.fleet.asked = [2]uint64{rec.Questions, rec.Recoveries}
	}
	switch st, next := t.nextStep(rec, clock); next {
	case tell:
		settled = t.tell(st, rec, clock)
	case restore:
		settled = t.restore(rec, clock)
	case follow:
		if !joining {
			t.pause(random.N(followSpread))
		}
		if len(t.fleet.word) == 0 { // else look again: the fleet may be elsewhere by now
			settled = t.followTo(ctx, st, rec, clock)
		}
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

// load reads the record and keeps it for Status.
func (t *Transport) load(ctx context.Context) (Record, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetTimeout)
	defer cancel()
	began := time.Now()
	rec, clock, err := t.fleet.store.Load(ctx, t.fleet.organization)
	if err == nil && rec.Active > Alternate {
		err = errors.New("failover: the fleet's record makes no sense")
	}
	t.loaded(began, err)
	if err != nil {
		return Record{}, clock, err
	}
	rec.Reason, rec.By = redact.Line(redact.Text(rec.Reason), maxErrorText), redact.Line(rec.By, maxErrorText)
	rec.Frozen = redact.Line(redact.Text(rec.Frozen), maxErrorText)
	rec.Earlier = slices.Clone(rec.Earlier[max(0, len(rec.Earlier)-maxSwitches):])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.see(rec)
	return rec, clock, nil
}

// see keeps a record for Status, and takes note of a change of its generation; of one
// that was missed as well.
// Transport.mu is held.
func (f *fleet) see(rec Record) {
	if more := rec.Generation - f.status.Record.Generation; more != 0 && !f.status.Loaded.IsZero() {
		f.changes = append(f.changes, slices.Repeat([]time.Time{time.Now()}, int(min(more, 2)))...)
		f.changes = f.changes[max(0, len(f.changes)-maxChanges):]
	}
	f.status.Record, f.status.Loaded = rec, time.Now()
}

// disputed reports whether the record changes so often that it is left as it is:
// members that see the endpoints differently would correct each other for ever.
func (t *Transport) disputed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.fleet.changes
	return len(c) == maxChanges && time.Since(c[0]) < fenceDamping
}

// swap puts next in the place of rec.
func (t *Transport) swap(rec, next Record) (swapped bool) {
	next.Version = after(rec.Version)
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	began := time.Now()
	swapped, err := t.fleet.store.CompareAndSwap(ctx, t.fleet.organization, rec.Version, next)
	t.wrote(began, err)
	if err != nil || !swapped {
		return false // look again: somebody else was first
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.see(next)
	return true
}

// amend changes the record, unless change returns false, and reports whether that was
// done.
func (t *Transport) amend(change func(*Record) bool) bool {
	for range 3 {
		rec, _, err := t.load(t.ctx)
		next := rec
		if err != nil || !change(&next) {
			return false
		}
		if t.swap(rec, next) {
			return true
		}
	}
	return false
}

// loaded takes note of how reading the store ended, and wrote of how writing did.
// A store that can be read but not be written to does not answer.
func (t *Transport) loaded(began time.Time, err error) {
	t.used(began, func(f *fleet) error { return cmp.Or(err, f.unwritten) })
}

func (t *Transport) wrote(began time.Time, err error) {
	t.used(began, func(f *fleet) error { f.unwritten = err; return err })
}

// used takes note of a use of the store. An error loses it; that it is found takes
// more than an answer, for a store in trouble gives some now and then.
func (t *Transport) used(began time.Time, outcome func(*fleet) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return // the end of the Transport proves nothing
	}
	f, now, active := t.fleet, time.Now(), t.state.Load().active
	f.failing = outcome(f)
	was := f.status.Err
	switch {
	case f.failing != nil:
		f.status.Err, f.goodSince = forShow(f.failing), time.Time{}
		if was == nil {
			t.emit(Event{Kind: EventFleetLost, From: active, To: active, Reason: "the shared store does not answer", Err: f.status.Err})
			f.rouse()
		}
	case was == nil:
	case now.Sub(began) > fleetTimeout/2:
		f.goodSince = time.Time{}
	case f.goodSince.IsZero():
		f.goodSince = now
	case now.Sub(f.goodSince) >= foundAfter:
		f.status.Err = nil
		t.emit(Event{Kind: EventFleetFound, From: active, To: active, Reason: "the shared store answers again"})
	}
}

// tryWriting finds out whether a store that counts as lost can be written to.
func (t *Transport) tryWriting() {
	t.mu.Lock()
	lost := t.fleet.status.Err != nil
	t.mu.Unlock()
	if lost {
		t.claim(t.ctx, Claim{Topic: writingTopic, Member: t.fleet.member, TTL: time.Second})
	}
}

// in returns the record with its times by the clock of this process, none of
// them in the future, given the time by the store's clock. Earlier switches that are
// yet to come are none.
func (r Record) in(clock time.Time) Record {
	now := time.Now()
	translate := func(at time.Time) time.Time { return now.Add(min(0, at.Sub(clock))) }
	r.Since = translate(r.Since)
	r.Earlier = slices.DeleteFunc(slices.Clone(r.Earlier), func(at time.Time) bool { return at.Sub(clock) > time.Minute })
	for i, at := range r.Earlier {
		r.Earlier[i] = translate(at)
	}
	slices.SortFunc(r.Earlier, time.Time.Compare)
	return r
}

// out is the inverse of in.
func (r Record) out(clock time.Time) Record {
	translate := func(at time.Time) time.Time { return clock.Add(-time.Since(at)).UTC() }
	r.Since = translate(r.Since)
	r.Earlier = slices.Clone(r.Earlier)
	for i, at := range r.Earlier {
		r.Earlier[i] = translate(at)
	}
	return r
}

// switches returns the times of all switches of a record.
func (r Record) switches() []time.Time {
	if r.Generation == 0 {
		return nil
	}
	return append(slices.Clone(r.Earlier), r.Since)
}

// tell tells the fleet where this Transport is. A switch that was made without the
// quorum that it takes, because the store did not answer, is told only once the quorum
// is there; if the fleet's endpoint serves here after all, it is taken back.
func (t *Transport) tell(st *state, rec Record, clock time.Time) (told bool) {
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
	generation := rec.Generation
	if older(generation, f.known.Generation) {
		generation = f.known.Generation
	}
	here := Record{
		Version: after(rec.Version), Active: st.active, Generation: after(generation), Since: st.since, Reason: f.reason, By: f.member,
		Questions: rec.Questions, Recoveries: rec.Recoveries, Frozen: rec.Frozen,
	}
	moves := t.rule.Moves()
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
		err = t.propose(ctx, st, move{to: rec.Active, reason: reason, follows: true}, 0)
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
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: rec.Active, Err: forShow(err), Reason: fmt.Sprintf(
			"the fleet is at the %v (%s), which is not followed", rec.Active, rec.By)})
	}
	return err == nil
}

// moved takes note of a switch. mu is held.
func (f *fleet) moved(m move, pinned bool) {
	switch {
	case f == nil:
	case m.follows:
		f.untold, f.alone, f.insisted = false, false, false
	default:
		f.alone = m.alone
		if !pinned && !m.provisional && !m.takesBack { // a pin is this process's own; weak evidence is nobody else's
			f.tell(m.reason)
		}
	}
}

// tell has the fleet told of a switch. Transport.mu is held.
func (f *fleet) tell(reason string) {
	if f == nil {
		return
	}
	f.untold, f.reason = true, reason
	f.rouse()
}

// insist has the fleet told where the Transport is, whatever the record that was
// read last says: a hand has decided. Transport.mu is held.
func (f *fleet) insist(reason string) {
	if f == nil {
		return
	}
	f.insisted = true
	f.tell(reason)
}

// rouse has the fleet's goroutine look again. A nil fleet has none.
func (f *fleet) rouse() {
	if f == nil {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
