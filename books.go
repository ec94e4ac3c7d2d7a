package failover

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LossReport lists the writes that an outage has put at risk: the place that serves
// now may not have them, because replication is asynchronous. They are at risk, and
// not lost; to learn which of them are lost, if any, look at that place, as
// [LossReport.Verify] does.
//
// A report is made when the traffic leaves an endpoint, and when an outage ends at
// the same endpoint: a failover can keep the address. What was acknowledged within
// RPO before the outage is listed. Microsoft's failovers between datacenters aim at
// a few seconds (the default of [Config.RPO]); the emergency response of self-service
// disaster recovery can lose up to 15 minutes, and shows the administrator the time
// of the last sync. [Transport.WritesSince] of that time lists exactly what came
// after it.
//
// A report, its lists included, must not be changed. It does not change either: a
// write that was under way and ends later makes a new version of the report, which
// [EventLossGrown] and [Status] have.
type LossReport struct {
	// Time is when the report was made.
	Time time.Time
	// From is the endpoint that the writes were sent to, and To where the traffic
	// goes since: From itself if the outage ended without a switch.
	From, To Endpoint
	// Reason for the switch, or for the end of the outage, in a few words.
	Reason string
	// URL is the origin that Verify reads from: the primary's, which stands for
	// whatever endpoint is active.
	URL string
	// LastSuccess is when From last answered a request in good health before the
	// outage, zero if it never did.
	LastSuccess time.Time
	// RPO is the [Config.RPO] that the report was made with.
	RPO time.Duration
	// AtRisk are the writes that From acknowledged within RPO before
	// LastSuccess, or later. The last success is the anchor, and not the time of
	// the switch, because to detect an outage takes longer than the RPO. A
	// $batch that failed half way is listed here, too: see [OutcomePartial].
	AtRisk []Write
	// Unknown are the writes to From that ended without a definite answer, and that
	// the service may still have carried out within that time: those given up on no
	// more than 10 minutes and RPO before LastSuccess, and without a limit for
	// Finance and Operations, where a call may run for any length of time.
	Unknown []Write
	// Truncated: more writes may belong here than the ledger had room for, or are
	// of a time before the Transport was made.
	Truncated bool

	// verified is the result of the last Verify, for the status page.
	verified *atomic.Pointer[Verification]
	// account has the report, nil if it was not made by a Transport.
	account *account
}

// Moved reports whether the traffic has moved to the other endpoint.
func (r *LossReport) Moved() bool { return r.From != r.To }

// maxRun is how long after a write to Dataverse was given up on it may be carried
// out. The documented limit is 2 minutes
// (https://learn.microsoft.com/power-apps/developer/data-platform/analyze-performance),
// but imports and waits for locks have taken 5.
const maxRun = 10 * time.Minute

const (
	// maxReports is how many reports are kept.
	maxReports = 16
	// maxRiskLines bounds the log lines about the writes of one report.
	maxRiskLines = 100
	// growthInterval is the time between two events about reports that grow.
	growthInterval = time.Second
	// guardTime is how long a record that was created just before an outage is
	// guarded against updates that would create it anew. Copies lag by 15 minutes at
	// the most. A program that repairs by upserts later on is not to be kept from it.
	guardTime = time.Hour
)

// books are what a Transport knows of the writes of its organization: the ledger,
// the reports made of it, and the guards of the records that the reports say may be gone.
//
// No acknowledged write is missing from a report. A report is made for the epoch
// that is about to begin, which a write reads as it is entered in the ledger: a
// write of an earlier epoch is either entered before the report goes through the
// ledger, or knows that it has to add itself to the report.
type books struct {
	ledger  *ledger // nil: nothing is kept, so that every report is truncated
	url     string  // see LossReport
	rpo     time.Duration
	maxRun  time.Duration // never: no limit
	started time.Time
	epoch   atomic.Uint64 // of the last report
	// guarding: records are guarded. While it is false, no request asks which.
	guarding atomic.Bool

	// mu guards what follows. It may be locked under Transport.mu; nothing but the
	// lock of a slot is locked under it, and it is never held over I/O or callbacks.
	mu       sync.Mutex
	accounts []*account       // the last ones, oldest first
	guarded  map[string]guard // by recordKey
	telling  bool             // somebody tells of the accounts that have grown
}

// account is a report that may still grow. Guarded by books.mu but for logged.
type account struct {
	books           *books
	epoch           uint64 // the one that began with the report
	latest          *LossReport
	atRisk, unknown []Write // of latest, with room to grow
	untold          int     // writes added since the last event about it
	last            Write   // that was added

	logged logged
}

// add adds a write to the report: a new version of it, which shares its memory with
// the earlier ones.
func (a *account) add(w Write) {
	r := *a.latest
	if w.Outcome == OutcomeUnknown {
		a.unknown = append(a.unknown, w)
		r.Unknown = slices.Clip(a.unknown)
	} else {
		a.atRisk = append(a.atRisk, w)
		r.AtRisk = slices.Clip(a.atRisk)
	}
	a.latest = &r
	a.untold, a.last = a.untold+1, w
}

// logged is how many writes of a report the log has been told of. Only the
// dispatching goroutine uses it.
type logged struct{ atRisk, unknown, lines int }

// guard of a record: an update must not create it anew.
type guard struct {
	epoch uint64 // from which on writes reach the place where it may be missing
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

// record enters a write that has ended. It reports whether a report has grown by
// that, and somebody has to tell of it.
func (b *books) record(w *endedWrite) (tell bool) {
	if b.ledger != nil {
		if ended := b.ledger.record(w, &b.epoch); ended > w.began {
			tell = b.late(w, ended)
		}
	}
	if b.guarding.Load() && w.Outcome == OutcomeAcknowledged {
		// It was there to be written, or is there now.
		if full := w.addressed(); full.Entity != "" {
			b.unguard(w.began, recordKey(full.Entity))
		}
	}
	return tell
}

// late adds a write to the reports that were made while it was under way.
func (b *books) late(w *endedWrite, ended uint64) (tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		if a.latest.From != w.Endpoint || a.epoch <= w.began || a.epoch > ended {
			continue
		}
		full := w.addressed()
		a.add(full)
		b.guardLocked(&full, a.epoch)
		tell = !b.telling
	}
	b.telling = b.telling || tell
	return tell
}

// report makes the report of an outage that ends with a new epoch: the traffic leaves
// an endpoint, or goes on at the same one. It is to be called before the state with
// that epoch is published, so that the guards are there before the first request.
func (b *books) report(from, to Endpoint, epoch uint64, anchor time.Time, reason string) *LossReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch.Store(epoch)
	r := b.draft(from, to, anchor, reason, epoch)
	a := &account{books: b, epoch: epoch, latest: r, atRisk: r.AtRisk, unknown: r.Unknown}
	r.account, r.AtRisk, r.Unknown = a, slices.Clip(r.AtRisk), slices.Clip(r.Unknown)
	if len(b.accounts) == maxReports {
		b.accounts = b.accounts[1:]
	}
	b.accounts = append(b.accounts, a)
	b.expireLocked(r.Time)
	for i := range r.AtRisk {
		b.guardLocked(&r.AtRisk[i], epoch)
	}
	return r
}

// draft lists the writes to an endpoint that an outage has put at risk, but for those
// that add themselves to the report of an epoch. For epoch 0 there are none.
func (b *books) draft(from, to Endpoint, anchor time.Time, reason string, epoch uint64) *LossReport {
	r := b.newReport(from, to, anchor)
	r.Reason, r.RPO = reason, b.rpo
	b.list(r, anchor.Add(-b.rpo), from, func(e *ledgerEntry) bool { return e.began >= epoch || e.ended < epoch })
	return r
}

// since lists the writes to both endpoints from a time on.
func (b *books) since(from time.Time, active Endpoint) *LossReport {
	r := b.newReport(active, active, from)
	r.Reason = "asked for"
	for _, at := range []Endpoint{Primary, Alternate} {
		b.list(r, from, at, func(*ledgerEntry) bool { return true })
	}
	r.Truncated = r.Truncated || from.Before(b.started)
	return r
}

func (b *books) newReport(from, to Endpoint, anchor time.Time) *LossReport {
	return &LossReport{
		Time: time.Now(), From: from, To: to, URL: b.url, LastSuccess: anchor,
		verified: new(atomic.Pointer[Verification]), account: &account{books: b},
	}
}

// list adds the writes to an endpoint since a time to r, if they belong there.
func (b *books) list(r *LossReport, since time.Time, at Endpoint, belongs func(*ledgerEntry) bool) {
	if b.ledger == nil {
		r.Truncated = true
		return
	}
	var sinceUnknown time.Time // they may have been carried out later
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
		list = append(list, a.latest)
	}
	return list
}

// growth is how a report has grown.
type growth struct {
	report *LossReport
	by     int
	last   Write
}

// grown returns the growth of the reports since it was last called. If there is none,
// nobody tells of it any more.
func (b *books) grown() (list []growth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		if a.untold > 0 {
			list = append(list, growth{a.latest, a.untold, a.last})
			a.untold = 0
		}
	}
	b.telling = len(list) > 0
	return list
}

// guardLocked guards the record that w has created by POST, which a report of an
// epoch says may be gone. (Who creates by PUT or PATCH means to create.)
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

// guards reports whether req is an update that must not create its record, because
// that was created just before an outage and may be gone. Without a condition the
// service would create it anew, with nothing in it but the update (an upsert); with
// If-Match: * it answers 404. A condition of the caller's own is left alone.
func (b *books) guards(req *http.Request) bool {
	if !b.guarding.Load() || req.Method != http.MethodPatch {
		return false
	}
	for key := range req.Header {
		if strings.EqualFold(key, "If-Match") || strings.EqualFold(key, "If-None-Match") {
			return false
		}
	}
	path := withParens(req.URL.EscapedPath())
	record, _ := recordIn(path)
	if record == "" || record != path {
		return false
	}
	b.mu.Lock() // which waits for a report that is being made
	defer b.mu.Unlock()
	g, ok := b.guarded[recordKey(record)]
	if ok && !time.Now().Before(g.until) {
		b.expireLocked(g.until)
		return false
	}
	return ok
}

// unguard ends the guards of records that were found where writes of the given epoch
// go.
func (b *books) unguard(epoch uint64, keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		if g, ok := b.guarded[key]; ok && g.epoch <= epoch {
			delete(b.guarded, key)
		}
	}
	b.guarding.Store(len(b.guarded) > 0)
}

// expireLocked ends the guards whose time is over.
func (b *books) expireLocked(now time.Time) {
	for key, g := range b.guarded {
		if !now.Before(g.until) {
			delete(b.guarded, key)
		}
	}
	b.guarding.Store(len(b.guarded) > 0)
}

// recordWrite enters a write that has just ended.
func (t *Transport) recordWrite(w *endedWrite) {
	if t.books.record(w) {
		t.mu.Lock()
		if !t.state.Load().closed {
			t.wg.Go(t.tellGrowth)
		}
		t.mu.Unlock()
	}
	if t.cfg.OnWrite != nil {
		t.queueWrite(w.addressed())
	}
}

// reportLossLocked makes the report of a switch (from and to differ) or of the end of
// an outage at one endpoint. It is to be called before the state with the epoch, which
// is a new one, is published, and before the endpoint's faults are forgotten: its
// anchor is released. Its report goes into the event.
func (t *Transport) reportLossLocked(from, to Endpoint, epoch uint64, reason string) *LossReport {
	at := &t.endpoints[from].anchor
	r := t.books.report(from, to, epoch, at.time(t.started), reason)
	at.release()
	return r
}

// proposedLoss lists what would be at risk if the traffic left an endpoint now.
func (t *Transport) proposedLoss(from, to Endpoint, reason string) *LossReport {
	t.mu.Lock()
	anchor := t.endpoints[from].anchor.time(t.started)
	t.mu.Unlock()
	return t.books.draft(from, to, anchor, reason, 0)
}

// WritesSince lists the writes, to either endpoint, that ended at from or later, and
// those of which nobody knows whether they were carried out after from. It is for a
// loss that the Transport cannot know the extent of: an administrator who starts an
// emergency response of self-service disaster recovery is shown the time of the last
// sync, and what was acknowledged later is lost. A write that was carried out before
// from and acknowledged after it is listed as well, so that for the time of the last
// sync the list has everything that is lost. The clocks of the service and of this
// machine may differ: take a few seconds off.
//
// From and To of the report are the active endpoint. The report is truncated if
// the ledger had no room for all of that time ([Config.LedgerSize]), or the Transport is
// younger than from. Status does not show it.
func (t *Transport) WritesSince(from time.Time) *LossReport {
	return t.books.since(from, t.state.Load().active)
}

// tellGrowth tells of reports that have grown, once a second at the most.
func (t *Transport) tellGrowth() {
	for {
		t.mu.Lock()
		all := t.books.grown()
		for _, g := range all {
			r := g.report
			t.emit(Event{Kind: EventLossGrown, From: r.From, To: r.To, Loss: r, Reason: g.String()})
		}
		t.mu.Unlock()
		if len(all) == 0 {
			return
		}
		timer := time.NewTimer(growthInterval)
		err := wait(t.ctx, timer.C)
		timer.Stop()
		if err != nil {
			return
		}
	}
}

func (g *growth) String() string {
	when := "the traffic moved"
	if !g.report.Moved() {
		when = "the outage ended"
	}
	if g.by > 1 {
		return fmt.Sprintf("%d writes were under way at the %v when %s", g.by, g.report.From, when)
	}
	return fmt.Sprintf("%s %s was under way at the %v when %s", g.last.Method, g.last.Path, g.report.From, when)
}

// logLoss writes a line for each write of a report that has none yet, as long as the
// report has not had too many.
func (t *Transport) logLoss(r *LossReport) {
	if r == nil || r.account == nil || !t.cfg.Logger.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	a := r.account
	writes := slices.Concat(r.AtRisk[a.logged.atRisk:], r.Unknown[a.logged.unknown:])
	a.logged.atRisk, a.logged.unknown = len(r.AtRisk), len(r.Unknown)
	lines := writes[:min(len(writes), maxRiskLines-a.logged.lines)]
	a.logged.lines += len(lines)
	ctx, host := context.Background(), slog.String("organization", t.org.Primary.Host)
	for _, w := range lines {
		t.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "failover: write at risk", host,
			slog.String("at", w.Endpoint.String()), slog.String("outcome", w.Outcome.String()), slog.Time("ended", w.Time),
			slog.String("method", w.Method), slog.String("path", w.Path), slog.String("id", w.EntityID),
			slog.String("request_id", w.RequestID), slog.String("label", w.Label), slog.Int("status", w.Status))
	}
	if more := len(writes) - len(lines); more > 0 {
		t.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "failover: more writes at risk", host, slog.Int("more", more),
			slog.Int("at_risk", len(r.AtRisk)), slog.Int("unknown", len(r.Unknown)))
	}
}
