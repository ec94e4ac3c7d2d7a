package failover

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
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

// fleet is the Transport's place in its fleet.
type fleet struct {
	store        Shared
	organization string
	member       string        // this process: one witness, however many Transports
	claimant     string        // this Transport: what takes turns at fail-back probes
	wake         chan struct{} // capacity 1: there is something to tell or to ask

	// Guarded by Transport.mu:
	status   FleetStatus
	synced   uint64 // generation of the last record that the state here is in step with
	newest   uint64 // generation of the newest record that was read
	untold   bool   // a switch was made here that the record does not know of
	insisted bool   // by hand: the record is to follow, whatever it says
	reason   string // of that switch
	failed   error  // of the last write to the store
	// refused is the generation of the last record that was not followed, so
	// that this is said once.
	refused   uint64
	witnessed time.Time // until when this process counts as a witness of status.Failed
	claimed   bool      // a claim on the fail-back may last
	rounds    int       // of probes, since it is this Transport's turn
}

const (
	// fleetPoll is the time between two looks at the record, should word of a
	// change be missed.
	fleetPoll = time.Minute
	// fleetRetry is the first such time while something is unsettled; it
	// grows to fleetPoll.
	fleetRetry = time.Second
	// fleetTimeout bounds every use of the store.
	fleetTimeout = time.Second
	// witnessTime is how long a process counts as a witness of an outage.
	witnessTime = time.Minute
	// turnRounds is how many rounds of probes end a turn, if Config.Rise does not
	// ask for more: a Transport may be the only one that does not reach the
	// primary, or that is not to go back.
	turnRounds = 6
	// maxWitnesses is how many Status names.
	maxWitnesses = 64
	// maxClaim bounds a claim on the fail-back, lest a dead member keep it.
	maxClaim = 10 * time.Minute
)

// Topics of claims.
const (
	failbackTopic = "fail-back"
	outageTopic   = "outage of the " // and the endpoint
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
		status: FleetStatus{Member: member},
	}
	changes := t.fleet.store.Changes(t.ctx, t.fleet.organization)
	settled := t.sync()
	t.wg.Go(func() { t.keepInStep(changes, settled) })
}

// keepInStep looks at the record whenever it may have changed, or something is
// to be told, until the Transport is closed.
func (t *Transport) keepInStep(changes <-chan struct{}, settled bool) {
	retry, poll := intervals(fleetRetry, fleetPoll, 2), intervals(fleetPoll, fleetPoll, 1)
	for {
		wait := retry
		if settled {
			retry.Reset()
			wait = poll
		}
		select {
		case <-t.ctx.Done():
			return
		case _, ok := <-changes:
			if retry.Reset(); !ok { // against the rules of Shared
				changes = nil
			}
		case <-t.fleet.wake:
		case <-time.After(wait.NextBackOff()):
		}
		settled = t.sync()
	}
}

// step is what it takes to be in step with the fleet.
type step uint8

const (
	rest   step = iota
	tell        // the fleet of a switch that was made here
	follow      // a switch of the fleet
)

// sync brings the Transport and its fleet in step as far as that can be done
// now, and reports whether nothing is left to do.
func (t *Transport) sync() (settled bool) {
	rec, clock, err := t.load()
	if err != nil {
		return false
	}
	switch st, next := t.nextStep(rec, clock); next {
	case tell:
		settled = t.publish(st, rec, clock)
	case follow:
		settled = t.followTo(st, rec, clock)
	default:
		settled = true
	}
	t.tryWriting()
	return t.renewWitness() && settled
}

// nextStep returns what is to be done about a record, and the state that this
// holds for. The newer generation counts. A store that knows of an older one than
// the Transport does has lost its memory, of which those remind it who agreed.
func (t *Transport) nextStep(rec Record, clock time.Time) (*state, step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, st := t.fleet, t.state.Load()
	switch {
	case st.closed:
		return st, rest
	case rec.Active == st.active: // in step, whoever moved first
		forgotten := rec.Generation < f.synced && f.synced == f.newest
		if rec.Generation > f.synced {
			t.rememberLocked(rec.in(clock).switches())
		}
		f.untold, f.insisted = false, false
		if forgotten && !st.pinned {
			return st, tell
		}
		f.synced = rec.Generation
		return st, rest
	case st.pinned:
		return st, rest
	case f.insisted || rec.Generation <= f.synced && f.untold:
		return st, tell
	case rec.Generation < f.newest:
		if f.synced == f.newest {
			return st, tell
		}
		return st, rest // this one was apart, and has nothing to say
	default:
		return st, follow
	}
}

// load reads the record and keeps it for Status.
func (t *Transport) load() (Record, time.Time, error) {
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	rec, clock, err := t.fleet.store.Load(ctx, t.fleet.organization)
	if err == nil && (rec.Active > Alternate || rec.Generation > math.MaxInt64) {
		err = errors.New("failover: the fleet's record makes no sense")
	}
	t.loaded(err)
	if err != nil {
		return Record{}, clock, err
	}
	rec.Reason, rec.By = redact.Line(redact.Text(rec.Reason), maxErrorText), redact.Line(rec.By, maxErrorText)
	rec.Earlier = slices.Clone(rec.Earlier[max(0, len(rec.Earlier)-maxSwitches):])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.status.Record, t.fleet.status.Loaded = rec, time.Now()
	t.fleet.newest = max(t.fleet.newest, rec.Generation)
	return rec, clock, nil
}

// loaded takes note of how reading the store ended, and wrote of how writing did.
// A store that can be read but not be written to does not answer.
func (t *Transport) loaded(err error) { t.used(func(f *fleet) error { return cmp.Or(err, f.failed) }) }

func (t *Transport) wrote(err error) {
	t.used(func(f *fleet) error { f.failed = err; return err })
}

// used keeps the error that a use of the store leaves it with.
func (t *Transport) used(outcome func(*fleet) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return // the end of the Transport proves nothing
	}
	was, err, active := t.fleet.status.Err, forShow(outcome(t.fleet)), t.state.Load().active
	t.fleet.status.Err = err
	if err != nil && was == nil {
		t.emit(Event{Kind: EventFleetLost, From: active, To: active, Reason: "the shared store does not answer", Err: err})
	}
	if err == nil && was != nil {
		t.emit(Event{Kind: EventFleetFound, From: active, To: active, Reason: "the shared store answers again"})
	}
}

// in returns the record with its times by the clock of this process, none of
// them in the future, given the time by the store's clock.
func (r Record) in(clock time.Time) Record {
	now := time.Now()
	translate := func(at time.Time) time.Time { return now.Add(min(0, at.Sub(clock))) }
	r.Since = translate(r.Since)
	r.Earlier = slices.Clone(r.Earlier)
	for i, at := range r.Earlier {
		r.Earlier[i] = translate(at)
	}
	slices.SortFunc(r.Earlier, time.Time.Compare)
	return r
}

// switches returns the times of all switches of a record.
func (r Record) switches() []time.Time {
	if r.Generation == 0 {
		return nil
	}
	return append(slices.Clone(r.Earlier), r.Since)
}

// publish tells the fleet where this Transport is. Rec is the record that this
// is to replace.
func (t *Transport) publish(st *state, rec Record, clock time.Time) (told bool) {
	f := t.fleet
	t.mu.Lock()
	offset := time.Until(clock)
	next := Record{
		Active: st.active, Generation: max(rec.Generation, f.newest) + 1,
		Since: st.since.Add(offset).UTC(), Reason: cmp.Or(f.reason, "the record was lost"), By: f.member,
	}
	moves := t.rule.Moves()
	for _, at := range moves[:max(0, len(moves)-1)] {
		next.Earlier = append(next.Earlier, at.Add(offset).UTC())
	}
	t.mu.Unlock()

	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	swapped, err := f.store.CompareAndSwap(ctx, f.organization, rec.Generation, next)
	t.wrote(err)
	if err != nil || !swapped {
		return false // look again: somebody else has moved
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.synced, f.newest = next.Generation, next.Generation
	f.status.Record, f.status.Loaded = next, time.Now()
	f.insisted = false
	now := t.state.Load()
	f.untold = now.active != st.active && !now.pinned
	return !f.untold
}

// followTo moves the traffic to where the fleet is, if that passes its probe. If the
// endpoint itself says that it does not serve, and the one that is active here
// passes, the record is out of date, and is corrected.
func (t *Transport) followTo(st *state, found Record, clock time.Time) (settled bool) {
	rec := found.in(clock)
	err := t.runProbe(t.ctx, rec.Active)
	var fence *Fault
	if errors.As(err, &fence) && fence.Definitive && t.runProbe(t.ctx, st.active) == nil {
		t.mu.Lock()
		t.fleet.reason = fmt.Sprintf("the %v says that it does not serve", rec.Active)
		t.mu.Unlock()
		return t.publish(st, found, clock)
	}
	if err == nil {
		t.mu.Lock()
		t.rememberLocked(rec.Earlier) // before the one that is to follow
		t.mu.Unlock()
		reason := fmt.Sprintf("the fleet is at the %v: %s (%s)", rec.Active, rec.Reason, rec.By)
		err = t.propose(t.ctx, st, move{to: rec.Active, reason: reason}, 0)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fleet
	switch {
	case err == nil:
		f.synced = rec.Generation
		if t.state.Load().generation == st.generation+1 { // and has not moved on
			f.untold, f.insisted = false, false
			t.rememberLocked(rec.switches())
		}
	case err != errOvertaken && f.refused != rec.Generation:
		f.refused = rec.Generation
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: rec.Active, Err: forShow(err), Reason: fmt.Sprintf(
			"the fleet is at the %v (%s), which is not followed", rec.Active, rec.By)})
	}
	return err == nil
}

// tellFleet has the fleet told of a switch. mu is held.
func (t *Transport) tellFleet(reason string) {
	if t.fleet == nil {
		return
	}
	t.fleet.untold, t.fleet.reason = true, reason
	t.fleet.rouse()
}

// insist has the fleet told where the Transport is, whatever the record that was
// read last says: a hand has decided. mu is held.
func (t *Transport) insist(reason string) {
	if t.fleet == nil {
		return
	}
	t.fleet.insisted = true
	t.tellFleet(reason)
}

// quorum returns how many processes it takes for a move to an endpoint. To go home
// takes no more than one, nor does to leave an endpoint that says itself that it
// does not serve.
func (t *Transport) quorum(to Endpoint, fenced bool) int {
	if to == Primary || fenced {
		return 1
	}
	return t.cfg.Quorum
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

// witness tells the fleet that this process has seen an endpoint fail.
// It returns an error while fewer than quorum processes have seen it, and nil at
// once if one is enough.
func (t *Transport) witness(at Endpoint, quorum int) error {
	if t.fleet == nil {
		return nil
	}
	t.mu.Lock()
	t.fleet.witnessed, t.fleet.status.Failed = time.Now().Add(witnessTime), at
	lost := t.fleet.status.Err != nil
	t.mu.Unlock()
	if quorum <= 1 || lost {
		t.fleet.rouse()
		return nil
	}
	seen, err := t.claim(t.ctx, outageTopic+at.String(), t.fleet.member, witnessTime)
	t.fleet.rouse()
	if err == nil && len(seen) < quorum {
		return fmt.Errorf("seen by %d of the %d processes that it takes", len(seen), quorum)
	}
	return nil
}

// renewWitness brings the list of witnesses up to date. It reports whether
// there is nothing to see.
func (t *Transport) renewWitness() (quiet bool) {
	t.mu.Lock()
	at, left := t.fleet.status.Failed, time.Until(t.fleet.witnessed)
	t.mu.Unlock()
	var seen []string
	if left > 0 {
		seen, _ = t.claim(t.ctx, outageTopic+at.String(), t.fleet.member, left)
		seen = slices.Clone(seen[:min(len(seen), maxWitnesses)])
		for i := range seen {
			seen[i] = redact.Line(seen[i], maxErrorText)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.status.Witnesses = seen
	return left <= 0
}

// leads reports whether it is this Transport's turn to probe for the fail-back:
// that of the one who has waited for longest.
func (t *Transport) leads() bool {
	if t.fleet == nil {
		return true
	}
	t.mu.Lock()
	lost := t.fleet.status.Err != nil
	t.fleet.claimed = true
	t.mu.Unlock()
	if lost {
		return true
	}
	ttl := 2 * min(t.cfg.MaxProbeInterval, maxClaim/2)
	turns, err := t.claim(t.ctx, failbackTopic, t.fleet.claimant, ttl)
	return err != nil || len(turns) == 0 || turns[0] == t.fleet.claimant
}

// endRound takes note of a round of probes for the fail-back, which may have been
// the last of the turn. To wait for the dwell a turn may last longer.
func (t *Transport) endRound(st *state, good bool) {
	if t.fleet == nil {
		return
	}
	limit := max(turnRounds, 2*t.cfg.Rise)
	t.mu.Lock()
	if good && time.Now().Before(t.rule.DwellUntil()) {
		limit *= 10
	}
	t.fleet.rounds++
	over := t.fleet.rounds >= limit
	t.mu.Unlock()
	if over {
		t.yieldFailback()
	}
}

// yieldFailback lets another Transport have its turn. It works after Close as
// well.
func (t *Transport) yieldFailback() {
	if t.fleet == nil {
		return
	}
	t.mu.Lock()
	claimed := t.fleet.claimed && t.fleet.status.Err == nil
	t.fleet.claimed, t.fleet.rounds = false, 0
	t.mu.Unlock()
	if claimed {
		t.claim(context.WithoutCancel(t.ctx), failbackTopic, t.fleet.claimant, 0)
	}
}

// claim claims a topic in the store.
func (t *Transport) claim(ctx context.Context, topic, member string, ttl time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetTimeout)
	defer cancel()
	members, err := t.fleet.store.Claim(ctx, t.fleet.organization, topic, member, ttl)
	t.wrote(err)
	return members, err
}

// tryWriting finds out whether a store that has refused to be written to still
// does: by withdrawing a claim that will be made again.
func (t *Transport) tryWriting() {
	t.mu.Lock()
	failed := t.fleet.failed
	t.mu.Unlock()
	if failed != nil {
		t.claim(t.ctx, failbackTopic, t.fleet.claimant, 0)
	}
}
