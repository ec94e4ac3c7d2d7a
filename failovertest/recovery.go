package failovertest

import "time"

// A Recovery configures how [Org.Drill], [Org.EmergencyResponse] and [Org.SwitchBack] move the
// organization to its other region. The zero value of every field is its default, and so is
// a nil *Recovery: the organization moves in no time, and the old datacenter answers with
// the fence.
type Recovery struct {
	// Downtime is the time from when the old datacenter stops serving until the new one
	// serves. Default: none.
	Downtime time.Duration
	// Old is how the old datacenter fails from when it stops serving until the organization
	// returns to it: [Refuse] resets its connections, [BlackHole] leaves them open and
	// silent, [Status] and [ServerBusy] answer on them. Like During, it replaces the
	// failures of [Datacenter.Fail] and similar methods. Default: it answers with the fence.
	Old Failure
	// During is how both datacenters fail during Downtime. Default: the old one as Old says,
	// and the new one answers with the fence.
	During Failure
	// NameAfter is when new connections to the host name start to lead to the new
	// datacenter, counted from when the old one stops serving. Open connections stay where
	// they are. Default: when the new datacenter serves. Negative: at once.
	NameAfter time.Duration
	// Flicker is how long after that every second new connection still leads to the old
	// datacenter, as while resolvers disagree. Default: none.
	Flicker time.Duration
}

// A RecoveryReport describes how the organization moved behind its own address. A time is
// zero if [Org.Close] came first.
type RecoveryReport struct {
	Stopped   time.Time // when the old datacenter stopped serving
	NameMoved time.Time // when new connections started to lead to the new datacenter
	Served    time.Time // when the new datacenter started serving
	// LastSync is the time of the last synchronization, which Microsoft shows to an
	// administrator before an emergency response: the new datacenter has the writes up to
	// it, and later ones are lost. It is Stopped if nothing can be lost.
	LastSync time.Time
	// Lost are the writes that the new datacenter lacks, oldest first.
	Lost []LostWrite
}

// A LostWrite is a write that an emergency response lost.
type LostWrite struct {
	Time      time.Time
	EntitySet string
	ID        string // of the record
	Op        string // "create", "update" or "delete"
}

// Drill moves the organization to the datacenter of its other region, [Org.Secondary],
// behind its own address, as an administrator's disaster recovery drill does. Open
// connections keep leading to the old datacenter. New ones lead to the new datacenter, which
// has every write. Drill takes [Recovery.Downtime], or [Recovery.NameAfter] if that is
// longer. A nil Recovery means the defaults.
//
// Drill does nothing and returns nil if the organization is not at its primary datacenter or
// is closed. Concurrent calls of Drill, [Org.EmergencyResponse] and [Org.SwitchBack] run one
// after the other.
func (o *Org) Drill(r *Recovery) *RecoveryReport {
	return o.recover(o.primary, o.secondary, r, false)
}

// EmergencyResponse is [Org.Drill] in an emergency: the organization moves in its state at
// the last synchronization, so the writes of the last [Config.Lag] are lost. See
// [Org.CutReplication] for a disaster some time before the response. The old datacenter
// keeps the lost writes, for [Datacenter.Lookup], until [Org.SwitchBack].
func (o *Org) EmergencyResponse(r *Recovery) *RecoveryReport {
	return o.recover(o.primary, o.secondary, r, true)
}

// SwitchBack moves the organization and its host name back to the primary datacenter, as
// [Org.Drill] moves it away. It loses no write; what an emergency response lost stays lost.
// It heals no failure of [Datacenter.Fail]. SwitchBack does nothing and returns nil if the
// organization is not at [Org.Secondary] or is closed.
func (o *Org) SwitchBack(r *Recovery) *RecoveryReport {
	return o.recover(o.secondary, o.primary, r, false)
}

// CutReplication stops replication now, as a disaster does: the writes of the last
// [Config.Lag] and later ones do not reach the other datacenters, and the next
// [Org.FailOver] or [Org.EmergencyResponse] loses them, however much later it is. Moving the
// organization starts replication again; a move that loses nothing replicates everything
// first.
func (o *Org) CutReplication() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.replicate()
	if o.cut.IsZero() {
		o.cut = time.Now()
	}
}

// recover moves the organization and its host name.
func (o *Org) recover(from, to *Datacenter, cfg *Recovery, lossy bool) *RecoveryReport {
	select {
	case o.moving <- struct{}{}:
		defer func() { <-o.moving }()
	case <-o.closing:
		return nil
	}
	var r Recovery
	if cfg != nil {
		r = *cfg
	}
	report := o.leave(from, to, lossy)
	if report == nil {
		return nil
	}
	served := report.Stopped.Add(r.Downtime)
	moved := report.Stopped.Add(r.NameAfter)
	if r.NameAfter == 0 {
		moved = served
	}
	old := r.Old
	if r.During.kind != none {
		old = r.During
	}
	from.suspend(old)
	to.suspend(r.During)
	serve := func() bool {
		if !o.until(served) {
			return false
		}
		to.suspend(Failure{})
		to.setFenced(false)
		report.Served = time.Now()
		from.suspend(r.Old)
		return true
	}
	move := func() bool {
		if !o.until(moved) {
			return false
		}
		report.NameMoved = o.lead(to, r.Flicker)
		return true
	}
	first, second := serve, move
	if moved.Before(served) {
		first, second = move, serve
	}
	_ = first() && second()
	return report
}

// leave stops from and makes to the active datacenter, which does not serve yet. It returns
// nil if from is not active.
func (o *Org) leave(from, to *Datacenter, lossy bool) *RecoveryReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active != from {
		return nil
	}
	now := time.Now()
	report := &RecoveryReport{Stopped: now, LastSync: now}
	if lossy {
		o.replicate()
		if !o.cut.IsZero() {
			report.LastSync = o.cut
		}
		report.LastSync = report.LastSync.Add(-o.cfg.Lag)
		report.Lost = lost(o.pending)
		from.stale = true
	} else {
		o.drain()
		if to.stale {
			to.data, to.stale = from.data.clone(), false
		}
	}
	o.activate(to)
	to.fenced = true
	return report
}

// lost returns the report of changes that were not replicated.
func lost(changes []change) []LostWrite {
	var list []LostWrite
	for _, c := range changes {
		op := "update"
		switch {
		case c.row == nil:
			op = "delete"
		case c.prev == nil:
			op = "create"
		}
		list = append(list, LostWrite{Time: c.at, EntitySet: c.set, ID: c.id, Op: op})
	}
	return list
}

// until waits until t. It returns false if the organization is closed first.
func (o *Org) until(t time.Time) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-o.closing:
		return false
	}
}

// lead makes the primary's host name lead to d, and returns when that was.
func (o *Org) lead(d *Datacenter, flicker time.Duration) time.Time {
	o.netMu.Lock()
	defer o.netMu.Unlock()
	now := time.Now()
	o.behind, o.before = d, o.behind
	o.flickers, o.newDials = now.Add(flicker), 0
	return now
}

// resolve returns the datacenter to which a new connection to host leads, or
// nil if there is none.
func (o *Org) resolve(host string) *Datacenter {
	switch {
	case o.alternate != nil && o.alternate.answersTo(host):
		return o.alternate
	case !o.primary.answersTo(host):
		return nil
	}
	o.netMu.Lock()
	defer o.netMu.Unlock()
	if time.Now().Before(o.flickers) {
		if o.newDials++; o.newDials%2 == 0 {
			return o.before
		}
	}
	return o.behind
}
