package failover

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// This file uses the store of a fleet: it reads and writes the record, and finds out
// whether the store is lost.

// load reads the record and keeps it for Status.
func (t *Transport) load() (Record, time.Time, error) {
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
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
		rec, _, err := t.load()
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

// failing returns why the Transport is on its own, nil if it is not: the store has to
// be read and to be written to. Transport.mu is held.
func (f *fleet) failing() error { return cmp.Or(f.unread, f.unwritten) }

// loaded takes note of how reading the store ended, and wrote of how writing did.
func (t *Transport) loaded(began time.Time, err error) { t.used(began, &t.fleet.unread, err) }
func (t *Transport) wrote(began time.Time, err error)  { t.used(began, &t.fleet.unwritten, err) }

// used takes note of a use of the store. An error loses it; that it is found takes
// more than an answer, for a store in trouble gives some now and then.
func (t *Transport) used(began time.Time, outcome *error, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return // the end of the Transport proves nothing
	}
	f, now, active := t.fleet, time.Now(), t.state.Load().active
	*outcome = err
	failing, was := f.failing(), f.status.Err
	switch {
	case failing != nil:
		if !f.goodSince.IsZero() {
			f.foundIn = min(2*f.foundIn, maxFound)
		}
		f.status.Err, f.goodSince = forShow(failing), time.Time{}
		if was == nil {
			f.foundIn = foundAfter
			t.emit(Event{Kind: EventFleetLost, From: active, To: active, Reason: "the shared store does not answer", Err: f.status.Err})
			f.rouse()
		}
	case was == nil:
	case now.Sub(began) > fleetTimeout/2:
		f.goodSince = time.Time{}
	case f.goodSince.IsZero():
		f.goodSince = now
	case now.Sub(f.goodSince) >= f.foundIn:
		f.status.Err, f.goodSince = nil, time.Time{}
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
