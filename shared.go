package failover

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// Shared is the store of a fleet: the Transports of many processes keep in it what they know
// of an organization, so that they switch together; see [Config.Shared]. Package failoverredis
// implements it with Redis; package sharedtest has the tests that every implementation must
// pass.
//
// The store is advisory: no request waits for it unless [Config.Quorum] is set. Every call has
// a deadline, and while calls fail, each Transport decides on its own. A Transport follows the
// record only to an endpoint that passes its own probe.
//
// The methods are called concurrently. The organization is the primary's host in lower case,
// with the port if it is not the scheme's default: "contoso.api.crm.dynamics.com".
type Shared interface {
	// Load returns the record of an organization, or the zero Record if there is none, and
	// the time of the store's clock, to which the times in a record refer.
	Load(ctx context.Context, organization string) (Record, time.Time, error)

	// CompareAndSwap replaces the record by next if the record has the given version (0 if
	// there is no record), and reports whether it did.
	CompareAndSwap(ctx context.Context, organization string, version uint64, next Record) (bool, error)

	// Changes returns a channel that receives a value soon after any member has swapped the
	// record. Values may be merged, lost or spurious, because the Transport also polls the
	// record. The channel may be nil and must not be closed. It is not used after ctx has
	// ended; the store then releases the channel's resources.
	Changes(ctx context.Context, organization string) <-chan struct{}

	// Claim adds a member to the holders of a topic if there is a place, renews its claim, or
	// withdraws it, and returns the holders after that. Its cost must not depend on the
	// number of holders.
	Claim(ctx context.Context, organization string, c Claim) (Holders, error)
}

// Claim is a lease on a topic, such as the turn to probe. See [Shared].
type Claim struct {
	// Topic and Member are up to 256 bytes of text.
	Topic, Member string
	// TTL is how long the claim lasts by the store's clock, at most [MaxClaim]. Zero or less
	// withdraws the claim.
	TTL time.Duration
	// Places is the maximum number of holders of the topic: a new claim is refused when
	// there are that many, a renewal is not. 0: no maximum.
	Places int
}

// MaxClaim is the longest time that a claim lasts. A store drops a claim that ends later than
// that by its clock, because the clock was ahead when the claim was made.
const MaxClaim = 5 * time.Minute

// MaxHolders is how many holders of a topic a store names.
const MaxHolders = 8

// Holders are the members with a valid claim on a topic.
type Holders struct {
	// Count is the number of all holders.
	Count int
	// Names are the holders with the oldest claims, oldest first, at most [MaxHolders], each
	// of up to 256 bytes. Renewing a claim keeps its position.
	Names []string
}

// Record is what a fleet knows of an organization. A store keeps its times to the nanosecond
// and its texts, which are UTF-8, unchanged. The texts hold no credentials.
type Record struct {
	// Version changes with every swap; see [Shared.CompareAndSwap]. 0: there is no record.
	Version uint64

	// Active is the endpoint to which the fleet switched last.
	Active Endpoint
	// Generation grows by one with every switch of the fleet and with nothing else; a record
	// that a store had lost is restored with the generation that it had. The maximum is
	// followed by 1. Of two generations, the newer one is ahead by less than half of the
	// range. It is not [Status.Generation]. 0: there was no switch.
	Generation uint64
	// Since is when the switch was made, and Earlier are the times of the switches within an
	// hour before it, oldest first, which count for dwell and latch. All are of the store's
	// clock.
	Since   time.Time
	Earlier []time.Time
	// Reason of the switch, and the member it was made by: host name, process id and a
	// random suffix.
	Reason, By string

	// Questions changes when a member asks the others to probe their active endpoint, and
	// Recoveries when a member that was down finds that an endpoint serves again.
	Questions, Recoveries uint64
	// Risen is how many probes of the primary have passed in a row since the switch, by any
	// member.
	Risen uint64
	// Frozen is why automatic switches are disabled in all members, "" if they are enabled.
	// See [Transport.Freeze].
	Frozen string
}

// FleetStatus is what a [Transport] knows of its fleet.
type FleetStatus struct {
	// Member is the name of this process in records and claims.
	Member string
	// Record is the record that was read last, and Loaded is when that was.
	Record Record
	Loaded time.Time
	// Err is why the store counts as lost, nil if it does not. The store counts as lost from
	// its first error until it has worked for 15 seconds without another; that time doubles
	// with every further error, up to two minutes.
	Err error
	// Apart: the fleet's endpoint is not active here, because it does not pass its probe,
	// the Transport is pinned, ConfirmSwitch refused, the Transport switched without a
	// quorum, or the record cannot be written.
	Apart bool
	// Witnesses are the first [MaxHolders] of the WitnessCount members that have seen the
	// endpoint Failed fail within the last minute, this one included; none if this one has
	// not. If there is only one, suspect its network first.
	Failed       Endpoint
	Witnesses    []string
	WitnessCount int
}

// The following uses the store: it reads and writes the record, and decides whether the store
// counts as lost.

// maxStoreCalls bounds the calls of a store under way. A Transport makes a few at a time; if
// there are more, the store does not return.
const maxStoreCalls = 16

var errStoreHangs = errors.New("failover: earlier calls of the store have not returned")

// useStore calls the store, and waits no longer than ctx lasts.
func useStore[T any](ctx context.Context, t *Transport, call func() (T, error)) (result T, err error) {
	if t.fleet.calls.Load() >= maxStoreCalls {
		return result, errStoreHangs
	}
	results := make(chan T, 1)
	err = t.outsource(ctx, "Shared", func() error {
		t.fleet.calls.Add(1)
		defer t.fleet.calls.Add(-1)
		result, err := call()
		if err == nil {
			results <- result
		}
		return err
	})
	if err == nil {
		result = <-results
	}
	return result, err
}

// loaded is the result of Shared.Load.
type loaded struct {
	record Record
	clock  time.Time
}

// load reads the record and keeps it for Status.
func (t *Transport) load() (Record, time.Time, error) {
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	began := time.Now()
	found, err := useStore(ctx, t, func() (l loaded, err error) {
		l.record, l.clock, err = t.fleet.store.Load(ctx, t.fleet.organization)
		return l, err
	})
	rec, clock := found.record, found.clock
	if err == nil && rec.Active > Alternate {
		err = errors.New("failover: the fleet's record is invalid")
	}
	t.noteRead(began, err)
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

// see keeps a record for Status, and records when its generation changed, twice if a change was
// missed. Transport.mu is held.
func (f *fleet) see(rec Record) {
	if more := rec.Generation - f.status.Record.Generation; !f.status.Loaded.IsZero() {
		f.changes = append(f.changes, slices.Repeat([]time.Time{time.Now()}, int(min(more, 2)))...)
		f.changes = f.changes[max(0, len(f.changes)-maxChanges):]
	}
	f.status.Record, f.status.Loaded = rec, time.Now()
}

// swap replaces rec by next.
func (t *Transport) swap(rec, next Record) (swapped bool) {
	next.Version = after(rec.Version)
	ctx, cancel := context.WithTimeout(t.ctx, fleetTimeout)
	defer cancel()
	began := time.Now()
	swapped, err := useStore(ctx, t, func() (bool, error) {
		return t.fleet.store.CompareAndSwap(ctx, t.fleet.organization, rec.Version, next)
	})
	t.noteWrite(began, err)
	if !swapped {
		return false // another member was first
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.see(next)
	return true
}

// amend changes the record, unless change returns false, and reports whether it did.
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

// failing returns the error of the last load or else of the last write. While there is one, the
// Transport decides on its own. Transport.mu is held.
func (f *fleet) failing() error { return cmp.Or(f.readErr, f.writeErr) }

// noteRead and noteWrite record the results of reading and writing the store.
func (t *Transport) noteRead(began time.Time, err error) {
	t.noteStoreResult(began, &t.fleet.readErr, err)
}
func (t *Transport) noteWrite(began time.Time, err error) {
	t.noteStoreResult(began, &t.fleet.writeErr, err)
}

// noteStoreResult records the result of a call of the store. The first error loses the store.
// One answer does not find it again, because a store in trouble still gives some.
func (t *Transport) noteStoreResult(began time.Time, outcome *error, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return // Close has ended the call
	}
	f, now, active := t.fleet, time.Now(), t.state.Load().active
	*outcome = err
	failing, was := f.failing(), f.status.Err
	switch {
	case failing != nil:
		if !f.workingSince.IsZero() {
			f.mustWorkFor = min(2*f.mustWorkFor, maxFound)
		}
		f.status.Err, f.workingSince = redacted(failing), time.Time{}
		if was == nil {
			f.mustWorkFor = foundAfter
			t.emit(Event{Kind: EventFleetLost, From: active, To: active, Reason: "the fleet's store failed", Err: f.status.Err})
			f.wakeUp()
		}
	case was == nil:
	case now.Sub(began) > fleetTimeout/2:
		f.workingSince = time.Time{}
	case f.workingSince.IsZero():
		f.workingSince = now
	case now.Sub(f.workingSince) >= f.mustWorkFor:
		f.status.Err, f.workingSince = nil, time.Time{}
		t.emit(Event{Kind: EventFleetFound, From: active, To: active, Reason: "the fleet's store works again"})
	}
}

// tryWriting writes to a store that counts as lost, to find out whether that works again.
func (t *Transport) tryWriting() {
	t.mu.Lock()
	lost := t.fleet.status.Err != nil
	t.mu.Unlock()
	if lost {
		t.claim(t.ctx, Claim{Topic: writingTopic, Member: t.fleet.member, TTL: time.Second})
	}
}

// in converts the times of a record from the store's clock, which shows clock now, to the clock
// of this process. None is in the future: earlier switches more than a minute ahead are dropped.
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

// switches returns the times of all switches in a record.
func (r Record) switches() []time.Time {
	if r.Generation == 0 {
		return nil
	}
	return append(slices.Clone(r.Earlier), r.Since)
}
