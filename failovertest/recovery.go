package failovertest

import "time"

// A Recovery says how [Org.Drill], [Org.EmergencyResponse] and
// [Org.SwitchBack] carry the organization to its other region. The zero value,
// and a nil *Recovery, are the defaults: the organization moves in no time and
// the old datacenter answers with the fence.
type Recovery struct {
	// Downtime is how long neither datacenter serves, from the moment the old
	// one stops until the new one serves. Default: none.
	Downtime time.Duration
	// Old is how the datacenter that is left fails, from the moment it stops
	// until the organization returns to it. Default: it answers with the
	// fence. [Refuse] resets its connections, [BlackHole] leaves them open and
	// silent, [Status] and [ServerBusy] answer on them. Where there is an Old,
	// it replaces failures of [Datacenter.Fail] and its like, and so does During.
	Old Failure
	// During is how both datacenters fail during Downtime. Default: the old
	// one as Old says, and the new one answers with the fence.
	During Failure
	// NameAfter is when the host name leads to the new datacenter, counted
	// from the moment the old one stops. Connections that exist then stay where
	// they are. Default: when the new datacenter serves. Negative: at once.
	NameAfter time.Duration
	// Flicker is how long after that every second new connection still leads
	// to the old datacenter, as it does while resolvers disagree. Default: none.
	Flicker time.Duration
}

// A RecoveryReport says what happened when the organization moved behind its
// own address. A time is zero if [Org.Close] came first.
type RecoveryReport struct {
	Stopped   time.Time // the old datacenter served no more
	NameMoved time.Time // new connections lead to the new datacenter
	Served    time.Time // the new datacenter served
	// LastSync is the time of the last synchronization, which an administrator
	// is shown before an emergency response: writes up to it are at the new
	// datacenter, later ones are lost. It is Stopped if nothing can be lost.
	LastSync time.Time
	// Lost are the writes that are missing at the new datacenter, oldest first.
	Lost []LostWrite
}

// A LostWrite is a write that an emergency response lost.
type LostWrite struct {
	Time      time.Time
	EntitySet string
	ID        string // of the record
	Op        string // "create", "update" or "delete"
}

// Drill does what an administrator's disaster recovery drill does: the
// organization moves to the datacenter of its other region, [Org.Secondary],
// behind its own address. Connections that exist keep leading to the old
// datacenter; new ones lead to the new datacenter, which has every write. Drill
// takes [Recovery.Downtime], and [Recovery.NameAfter] if that is longer. A nil
// Recovery means the defaults.
//
// Drill does nothing and returns nil if the organization is not at its primary
// datacenter or is closed. Calls of Drill, [Org.EmergencyResponse] and
// [Org.SwitchBack] at the same time are carried out one after the other.
func (o *Org) Drill(r *Recovery) *RecoveryReport {
	return o.recover(o.primary, o.secondary, r, false)
}

// EmergencyResponse is [Org.Drill] in an emergency: the organization moves at
// its last synchronization, so writes of the last [Config.Lag] are lost. See
// [Org.CutReplication] for a disaster that came before the response. The old
// datacenter keeps the lost writes, for [Datacenter.Lookup], until
// [Org.SwitchBack].
func (o *Org) EmergencyResponse(r *Recovery) *RecoveryReport {
	return o.recover(o.primary, o.secondary, r, true)
}

// SwitchBack moves the organization back to its primary datacenter, as
// [Org.Drill] moves it away: the name with it, and no write is lost; what an
// emergency response lost stays lost. It heals no [Failure] of
// [Datacenter.Fail]. SwitchBack does nothing and returns nil if the organization
// is not at [Org.Secondary] or is closed.
func (o *Org) SwitchBack(r *Recovery) *RecoveryReport {
	return o.recover(o.secondary, o.primary, r, false)
}

// CutReplication stops replication now, as a disaster does: a write of the
// last [Config.Lag], or a later one, does not reach the other datacenters
// however long it is until a failover or an emergency response, and is lost
// with it. Moving the organization starts replication again, and a move that
// loses nothing makes up for what was missed.
func (o *Org) CutReplication() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.replicate()
	if o.cut.IsZero() {
		o.cut = time.Now()
	}
}

// recover moves the organization and the name behind which it is.
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

// leave makes from stop and to the active datacenter, which does not serve
// yet. It returns nil if from is not active.
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

// lost returns what is reported of changes that were not replicated.
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

// until waits for a time. It returns false if the organization is closed first.
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
