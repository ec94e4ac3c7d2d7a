package failover

import (
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/message"
)

// maxRun is how long after the end of its attempt a write in doubt may still be carried out by
// Dataverse. The documented limit is 2 minutes
// (https://learn.microsoft.com/power-apps/developer/data-platform/analyze-performance), but
// imports and waits for locks have taken 5.
const maxRun = 10 * time.Minute

const (
	// maxReports is how many reports are kept. maxGuards is how many records of earlier
	// reports stay guarded when a new report adds its own.
	maxReports = 16
	maxGuards  = 1 << 16
	// maxRiskLines is how many log lines list the writes of one report.
	maxRiskLines = 100
	// growthInterval is the minimum time between two rounds of events about reports that grow.
	growthInterval = time.Second
	// guardTime is how long a record that was created just before an outage is guarded against
	// updates that would create it again. Copies lag by up to 15 minutes, and a program may
	// later repair its data by upserts.
	guardTime = time.Hour
)

// books are what a Transport knows of the writes of its organization: the ledger, the reports
// made from it, and the guards of records that may be gone according to the reports.
//
// No acknowledged write is missing from a report. A report is made for the epoch that is about
// to begin, and a write reads that epoch when it is entered in the ledger. So a write of an
// earlier epoch is either entered before the report reads the ledger, or finds that it must add
// itself to the report.
type books struct {
	ledger  *ledger // nil: writes are not kept, and every report is truncated
	url     string  // see LossReport
	rpo     time.Duration
	maxRun  time.Duration // never: no limit
	started time.Time
	epoch   atomic.Uint64 // of the last report
	// guarding: there are guards. While it is false, requests need not look for one.
	guarding atomic.Bool

	// mu guards what follows. It may be locked under Transport.mu; nothing but the
	// lock of a slot is locked under it, and it is never held over I/O or callbacks.
	mu        sync.Mutex
	accounts  []*account       // the last ones, oldest first
	guarded   map[string]guard // by recordKey
	reporting bool             // a goroutine reports growth
	dropped   []growth         // unreported growth of accounts that were dropped
	sent      *underway        // the writes under way
}

// underway is a write that was sent to an endpoint and is not in the ledger yet. All attempts of
// a call at that endpoint share one. books.mu guards the second group of fields.
type underway struct {
	req     *http.Request // the caller's
	label   string
	at      Endpoint
	earlier *underway // of the same call, at the other endpoint
	kept    bool      // it is in books.sent; only its call changes that

	idle       bool // no attempt waits for an answer, and the last one is not recorded yet
	prev, next *underway
	listed     []listed
}

// listed is where a report lists a write that is under way.
type listed struct {
	account *account
	index   int // in account.waiting
}

// A guard keeps updates from creating a record that may be gone.
type guard struct {
	epoch uint64 // since which writes go to the copy that may lack the record
	until time.Time
}

// open prepares the books of a Transport.
func (b *books) open(cfg *Config, org *Org, started time.Time) {
	b.url, b.rpo, b.maxRun, b.started = org.Primary.String(), cfg.RPO, maxRun, started
	if isFinOps(org.Primary.Hostname()) {
		b.maxRun = never
	}
	if cfg.LedgerSize > 0 {
		b.ledger = &ledger{size: cfg.LedgerSize}
	}
}

// keeps reports whether writes are kept.
func (b *books) keeps() bool { return b.ledger != nil }

// begin records that a write is being sent.
func (b *books) begin(u *underway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u.idle = false
	if u.kept {
		return
	}
	if u.kept, u.prev, u.next = true, nil, b.sent; u.next != nil {
		u.next.prev = u
	}
	b.sent = u
}

// end records that an attempt has ended, and removes it from the reports that list it as under
// way. They list it again once it is recorded.
func (b *books) end(u *underway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range u.listed {
		l.account.waiting[l.index], l.account.changed = Write{}, true
	}
	u.idle, u.listed = true, nil
}

// forget records that a write is no longer under way.
func (b *books) forget(u *underway) {
	if !u.kept {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked(u)
}

func (b *books) forgetLocked(u *underway) {
	if u.next != nil {
		u.next.prev = u.prev
	}
	if u.prev != nil {
		u.prev.next = u.next
	} else {
		b.sent = u.next
	}
	u.kept = false
}

// waitingLocked lists the writes under way to an endpoint. For an account, it omits those that
// are idle, which are added once they are recorded.
func (b *books) waitingLocked(at Endpoint, now time.Time, a *account) (list []Write) {
	for u := b.sent; u != nil; u = u.next {
		if u.at != at || a != nil && u.idle {
			continue
		}
		w := describe(u.req, nil, now, "", u.label)
		w.Endpoint, w.Outcome = at, OutcomeUnknown
		if a != nil {
			u.listed = append(u.listed, listed{a, len(list)})
		}
		list = append(list, w.addressed())
	}
	return list
}

// record enters a write that has ended. Tell: a report has grown, and the caller must start
// reportGrowth.
func (b *books) record(w *endedWrite) (tell bool) {
	if b.ledger != nil {
		if ended := b.enter(w); ended > w.began {
			tell = b.addToLossReport(w, ended)
		}
	}
	if b.guarding.Load() && w.Outcome == OutcomeAcknowledged {
		b.unguard(w.began, recordKey(w.addressed().Entity)) // the record exists
	}
	return tell
}

// recordWrite enters a write that has just ended.
func (t *Transport) recordWrite(w *endedWrite) {
	if t.books.record(w) {
		t.mu.Lock()
		if !t.state.Load().closed {
			t.wg.Go(t.reportGrowth)
		}
		t.mu.Unlock()
	}
	if t.cfg.OnWrite != nil {
		t.writes.put(t, w.addressed())
	}
}

// enter enters a write in the ledger, and returns the epoch at that time. In the same step, the
// write is no longer under way, so that concurrent lists contain it once.
func (b *books) enter(w *endedWrite) (ended uint64) {
	if w.underway == nil || !w.underway.kept {
		return b.ledger.record(w, &b.epoch)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked(w.underway)
	return b.ledger.record(w, &b.epoch)
}

// addToLossReport adds a write that has ended to the reports that were made while it was under
// way.
func (b *books) addToLossReport(w *endedWrite, ended uint64) (tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		if a.latest.From != w.Endpoint || a.epoch <= w.began || a.epoch > ended {
			continue
		}
		full := w.addressed()
		a.add(full)
		b.guardLocked(&full, a.epoch)
		tell = !b.reporting
	}
	b.reporting = b.reporting || tell
	return tell
}

// report makes the report of an outage that ends with a new epoch, by a switch or at the same
// endpoint. The caller publishes the state with that epoch afterwards, so that the guards exist
// before the first request.
func (b *books) report(from, to Endpoint, epoch uint64, anchor time.Time, reason string) *LossReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch.Store(epoch)
	r := b.newReport(from, to, anchor)
	r.Reason, r.RPO = reason, b.rpo
	b.list(r, anchor.Add(-b.rpo), from, func(e *ledgerEntry) bool { return e.ended < epoch })
	a := r.account
	a.epoch, a.latest, a.atRisk, a.unknown, a.changed = epoch, r, r.AtRisk, r.Unknown, true
	a.waiting = b.waitingLocked(from, r.Time, a)
	r = a.version()
	if len(b.accounts) == maxReports {
		b.forgetReportLocked()
	}
	b.accounts = append(b.accounts, a)
	b.expireLocked(r.Time)
	b.boundGuardsLocked()
	for i := range r.AtRisk {
		b.guardLocked(&r.AtRisk[i], epoch)
	}
	return r
}

// forgetReportLocked drops a report to make room for another. The many reports of a brown-out do
// not displace the one of a switch, nor do empty reports displace those with writes.
func (b *books) forgetReportLocked() {
	i := mostFrequent(b.accounts, func(a **account) (kind int) {
		if (*a).latest.Moved() {
			kind = 1
		}
		if len((*a).atRisk)+len((*a).unknown)+len((*a).waiting) > 0 {
			kind += 2
		}
		return kind
	})
	old := b.accounts[i]
	b.dropped = append(b.dropped, old.grown()...)
	b.accounts = slices.Delete(slices.Clone(b.accounts), i, i+1)
	for u := b.sent; u != nil; u = u.next { // these may be under way for long
		u.listed = slices.DeleteFunc(u.listed, func(l listed) bool { return l.account == old })
	}
}

// draft lists the writes that would be at risk if the traffic left an endpoint now.
func (b *books) draft(from, to Endpoint, anchor time.Time, reason string) *LossReport {
	r := b.newReport(from, to, anchor)
	r.Reason, r.RPO = reason, b.rpo
	b.listAll(r, anchor.Add(-b.rpo), from)
	return r
}

// since lists the writes to both endpoints at from or later.
func (b *books) since(from time.Time, active Endpoint) *LossReport {
	r := b.newReport(active, active, from)
	b.listAll(r, from, Primary, Alternate)
	r.Truncated = r.Truncated || from.Before(b.started)
	return r
}

// listAll adds the writes to the endpoints since a time to r, followed by those under way.
func (b *books) listAll(r *LossReport, since time.Time, to ...Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, at := range to {
		b.list(r, since, at, func(*ledgerEntry) bool { return true })
	}
	for _, at := range to {
		r.Unknown = append(r.Unknown, b.waitingLocked(at, r.Time, nil)...)
	}
}

func (b *books) newReport(from, to Endpoint, anchor time.Time) *LossReport {
	return &LossReport{
		Time: time.Now(), From: from, To: to, URL: b.url, LastSuccess: anchor,
		verified: new(atomic.Pointer[Verification]), account: &account{books: b},
	}
}

// list adds the writes to an endpoint since a time to r, if belongs allows it.
func (b *books) list(r *LossReport, since time.Time, at Endpoint, belongs func(*ledgerEntry) bool) {
	if b.ledger == nil {
		r.Truncated = true
		return
	}
	var sinceUnknown time.Time // writes in doubt may have been carried out later than they ended
	if b.maxRun != never {
		sinceUnknown = since.Add(-b.maxRun)
	}
	b.ledger.each(func(e *ledgerEntry) {
		switch unknown := e.outcome == OutcomeUnknown; {
		case e.at != at || !belongs(e):
		case unknown && !e.time.Before(sinceUnknown):
			r.Unknown = append(r.Unknown, e.write())
		case !unknown && !e.time.Before(since):
			r.AtRisk = append(r.AtRisk, e.write())
		}
	})
	r.Truncated = r.Truncated || b.ledger.hasDropped(at, false, since) || b.ledger.hasDropped(at, true, sinceUnknown)
	slices.SortStableFunc(r.AtRisk, byTime)
	slices.SortStableFunc(r.Unknown, byTime)
}

func byTime(a, b Write) int { return a.Time.Compare(b.Time) }

// reports returns the latest version of each report, oldest first.
func (b *books) reports() []*LossReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*LossReport
	for _, a := range b.accounts {
		list = append(list, a.version())
	}
	return list
}

// grown returns the growth of the reports since the last call. If there is none, the goroutine
// that reports growth must return.
func (b *books) grown() (list []growth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, b.dropped = b.dropped, nil
	for _, a := range b.accounts {
		list = append(list, a.grown()...)
	}
	b.reporting = len(list) > 0
	return list
}

// guardLocked guards the record that w, in the report of an epoch, has created by POST. (A
// program that creates records by PUT or PATCH means to create them again.)
func (b *books) guardLocked(w *Write, epoch uint64) {
	if w.Method != http.MethodPost || w.Entity == "" || w.Outcome != OutcomeAcknowledged || !w.creates() {
		return
	}
	if b.guarded == nil {
		b.guarded = make(map[string]guard)
	}
	b.guarded[recordKey(w.Entity)] = guard{epoch: epoch, until: time.Now().Add(guardTime)}
	b.guarding.Store(true)
}

// boundGuardsLocked drops the guards of the earliest reports if there are too many.
func (b *books) boundGuardsLocked() {
	for len(b.guarded) > maxGuards {
		first := uint64(math.MaxUint64)
		for _, g := range b.guarded {
			first = min(first, g.epoch)
		}
		maps.DeleteFunc(b.guarded, func(_ string, g guard) bool { return g.epoch == first })
	}
}

// guards reports whether req updates a guarded record and has no condition. Such an update is an
// upsert: if the record is gone, the service would create it again, with only the updated
// columns. With If-Match: * it answers 404 instead.
func (b *books) guards(req *http.Request) bool {
	if !b.guarding.Load() || req.Method != http.MethodPatch {
		return false
	}
	for key := range req.Header {
		if strings.EqualFold(key, "If-Match") || strings.EqualFold(key, "If-None-Match") {
			return false
		}
	}
	path := withParens(message.Target(req.URL).EscapedPath())
	record, _ := recordIn(path)
	if record != path {
		return false
	}
	b.mu.Lock() // waits for a report that is being made
	defer b.mu.Unlock()
	g, ok := b.guarded[recordKey(record)]
	if ok && !time.Now().Before(g.until) {
		b.expireLocked(g.until)
		return false
	}
	return ok
}

// unguard drops the guards of records that exist where writes of the given epoch go.
func (b *books) unguard(epoch uint64, keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		if b.guarded[key].epoch <= epoch {
			delete(b.guarded, key)
		}
	}
	b.guarding.Store(len(b.guarded) > 0)
}

// expireLocked drops the guards whose time is over.
func (b *books) expireLocked(now time.Time) {
	maps.DeleteFunc(b.guarded, func(_ string, g guard) bool { return !now.Before(g.until) })
	b.guarding.Store(len(b.guarded) > 0)
}
