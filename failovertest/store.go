package failovertest

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxTombstones is how many deletions an entity set keeps for delta links.
const maxTombstones = 4096

// row is a record. A row in a table is never changed, only replaced.
type row struct {
	id      string
	seq     int64 // order of creation
	version int64 // of its last change, what its ETag shows
	created time.Time
	changed time.Time
	attrs   map[string]any
	links   map[string][]string // by navigation property: "contacts(id)"
}

// clone returns a copy whose attributes and links may be changed.
func (r *row) clone() *row {
	c := *r
	c.attrs = maps.Clone(r.attrs)
	c.links = maps.Clone(r.links)
	return &c
}

// table is an entity set.
type table struct {
	rows    map[string]*row
	deleted map[string]int64 // version of the deletion, by id
}

// replica is the data of one datacenter.
type replica struct {
	tables  map[string]*table
	seq     int64
	version int64 // of the newest change
}

// change is one write, as it is replicated.
type change struct {
	at      time.Time
	set, id string
	row     *row // nil: deleted
	prev    *row // nil: there was none
	version int64
}

func newReplica() *replica { return &replica{tables: make(map[string]*table)} }

// table returns the entity set, which it creates if necessary.
func (r *replica) table(set string) *table {
	t := r.tables[set]
	if t == nil {
		t = &table{rows: make(map[string]*row), deleted: make(map[string]int64)}
		r.tables[set] = t
	}
	return t
}

// row returns the record or nil.
func (r *replica) row(set, id string) *row {
	if t := r.tables[set]; t != nil {
		return t.rows[id]
	}
	return nil
}

// sorted returns the records of an entity set in the order of their creation.
func (r *replica) sorted(set string) []*row {
	t := r.tables[set]
	if t == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(t.rows), func(a, b *row) int { return cmp.Compare(a.seq, b.seq) })
}

// apply carries out a change.
func (r *replica) apply(c change) {
	t := r.table(c.set)
	r.version = max(r.version, c.version)
	if c.row != nil {
		r.seq = max(r.seq, c.row.seq)
		t.rows[c.id] = c.row
		delete(t.deleted, c.id)
		return
	}
	delete(t.rows, c.id)
	t.deleted[c.id] = c.version
	if len(t.deleted) > maxTombstones {
		clear(t.deleted)
	}
}

// undo reverts changes, the last one first.
func (r *replica) undo(changes []change) {
	for _, c := range slices.Backward(changes) {
		t := r.table(c.set)
		if c.prev != nil {
			t.rows[c.id] = c.prev
		} else {
			delete(t.rows, c.id)
		}
		delete(t.deleted, c.id)
		r.version = c.version - 1
	}
}

// clone returns an independent copy.
func (r *replica) clone() *replica {
	c := &replica{tables: make(map[string]*table, len(r.tables)), seq: r.seq, version: r.version}
	for set, t := range r.tables {
		c.tables[set] = &table{rows: maps.Clone(t.rows), deleted: maps.Clone(t.deleted)}
	}
	return c
}

// commit stores next at d as the record id, or deletes the record if next is nil, and queues
// the change for replication. It sets the identity, version and times of next. The caller
// holds o.mu.
func (o *Org) commit(d *Datacenter, set, id string, next *row) {
	prev := d.data.row(set, id)
	now := time.Now()
	c := change{at: now, set: set, id: id, row: next, prev: prev, version: d.data.version + 1}
	if next != nil {
		next.id, next.version, next.changed = id, c.version, now
		if prev == nil {
			next.seq, next.created = d.data.seq+1, now
		} else {
			next.seq, next.created = prev.seq, prev.created
		}
	}
	d.data.apply(c)
	if d == o.active {
		o.pending = append(o.pending, c)
	}
}

// replicate applies the changes that are old enough to the datacenters that are not active,
// except to a stale one, which has writes of its own; it gets a copy of everything when the
// organization returns to it. The caller holds o.mu.
func (o *Org) replicate() {
	now := time.Now()
	if !o.cut.IsZero() {
		now = o.cut
	}
	n := 0
	for n < len(o.pending) && !o.pending[n].at.Add(o.cfg.Lag).After(now) {
		n++
	}
	o.carry(n)
}

// drain replicates all changes, whatever their age. The caller holds o.mu.
func (o *Org) drain() { o.carry(len(o.pending)) }

// carry replicates the n oldest changes. The caller holds o.mu.
func (o *Org) carry(n int) {
	for _, d := range o.all {
		if d == o.active || d.stale {
			continue
		}
		for _, c := range o.pending[:n] {
			d.data.apply(c)
		}
	}
	o.pending = slices.Delete(o.pending, 0, n)
}

// Rows returns the records of an entity set that the datacenter has now, whether it serves
// or not, in the order of their creation.
func (d *Datacenter) Rows(entitySet string) []map[string]any {
	d.org.mu.Lock()
	defer d.org.mu.Unlock()
	d.org.replicate()
	var rows []map[string]any
	for _, r := range d.data.sorted(entitySet) {
		rows = append(rows, r.record(entitySet))
	}
	return rows
}

// Lookup returns the record with the given id if the datacenter has it now, whether it
// serves or not.
func (d *Datacenter) Lookup(entitySet, id string) (record map[string]any, ok bool) {
	d.org.mu.Lock()
	defer d.org.mu.Unlock()
	d.org.replicate()
	if !isFinanceSet(entitySet) {
		id = strings.ToLower(id)
	}
	r := d.data.row(entitySet, id)
	if r == nil {
		return nil, false
	}
	return r.record(entitySet), true
}

// record returns the record as the Web API shows it, without annotations.
func (r *row) record(set string) map[string]any {
	m := maps.Clone(r.attrs)
	if m == nil {
		m = make(map[string]any)
	}
	if isFinanceSet(set) {
		return m
	}
	m[primaryKey(set)] = r.id
	m["createdon"] = r.created.UTC().Format(time.RFC3339)
	m["modifiedon"] = r.changed.UTC().Format(time.RFC3339)
	return m
}

// primaryKey returns the name of an entity set's id attribute.
func primaryKey(set string) string { return singular(set) + "id" }

// singular returns the logical name of an entity set: "opportunity" of
// "opportunities".
func singular(set string) string {
	if s, ok := strings.CutSuffix(set, "ies"); ok {
		return s + "y"
	}
	for _, suffix := range []string{"sses", "xes", "ches", "shes"} {
		if strings.HasSuffix(set, suffix) {
			return strings.TrimSuffix(set, "es")
		}
	}
	return strings.TrimSuffix(set, "s")
}

// plural returns the entity set of a logical name.
func plural(name string) string {
	if s, ok := strings.CutSuffix(name, "y"); ok {
		return s + "ies"
	}
	for _, suffix := range []string{"ss", "x", "ch", "sh"} {
		if strings.HasSuffix(name, suffix) {
			return name + "es"
		}
	}
	return name + "s"
}
