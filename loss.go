package failover

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// LossReport lists the writes that an outage has put at risk: the place that serves now
// may not have them, because replication is asynchronous. They are at risk, not lost. To
// find out which are lost, if any, look for them there, as [LossReport.Verify] does.
//
// A report is made when the traffic leaves an endpoint, and when an outage ends at the
// same endpoint, because a failover can keep the address. It lists what was acknowledged
// within RPO before the outage. Failovers between zones of a region lose next to nothing;
// the emergency response of self-service disaster recovery can lose up to 15 minutes,
// and shows the administrator the time of the last sync. [Transport.WritesSince] of that
// time lists exactly what came after it.
//
// A record that a listed POST has created may be gone. An update of it without a condition
// would then create it anew, with nothing in it but the update. To prevent that, the
// Transport adds If-Match: * to such updates: for an hour, or until Verify has found the
// record or the program has written it anew. The service answers 404 if the record is
// gone. Conditions that the caller sets are left alone; to create the record again, use
// POST, PUT, or PATCH with If-None-Match: *.
//
// A report and its lists must not be changed. They do not change by themselves either: a
// write that was under way and ends later makes a new version of the report, which
// [EventLossGrown] and [Status] have.
type LossReport struct {
	// Time is when the report was made.
	Time time.Time
	// From is the endpoint to which the writes were sent, and To the one to which the
	// traffic has gone since: From itself if the outage ended without a switch.
	From, To Endpoint
	// Reason for the switch, or for the end of the outage, in a few words.
	Reason string
	// URL is the origin that Verify reads from: the primary's, which stands for
	// whatever endpoint is active.
	URL string
	// LastSuccess is when From last answered a request in good health before the
	// outage, zero if it never did.
	LastSuccess time.Time
	// RPO is the [Config.RPO] with which the report was made.
	RPO time.Duration
	// AtRisk are the writes that From acknowledged within RPO before
	// LastSuccess, or later. The window is anchored at the last success rather than at
	// the switch because detecting an outage takes longer than the RPO. A $batch
	// that failed halfway is listed here too: see [OutcomePartial].
	AtRisk []Write
	// Unknown are the writes to From that ended without a definite answer, and that the
	// service may still have carried out within that time: those that ended no more
	// than 10 minutes and RPO before LastSuccess, or at any time for Finance and
	// Operations, where a call may run for any length of time. They are followed by
	// those that were under way when the report was made; these go on waiting for
	// their answers, which later versions of the report include.
	Unknown []Write
	// Truncated: more writes may belong here than the ledger had room for, or are
	// of a time before the Transport was made.
	Truncated bool

	// verified is the result of the last Verify, for the status page.
	verified *atomic.Pointer[Verification]
	// settled is how many of Unknown have ended; the others were under way.
	settled int
	// account has the report, nil if it was not made by a Transport.
	account *account
}

// Moved reports whether the traffic has moved to the other endpoint.
func (r *LossReport) Moved() bool { return r.From != r.To }

// account is a report that may still grow. Guarded by books.mu but for logged.
type account struct {
	books           *books
	epoch           uint64 // the one that began with the report
	latest          *LossReport
	changed         bool    // since latest was made
	atRisk, unknown []Write // of latest, with room to grow
	waiting         []Write // that were under way; without a method: ended
	untold          int     // writes added since the last event about it
	last            Write   // that was added

	logged logged
}

// add adds a write that has ended to the report.
func (a *account) add(w Write) {
	if w.Outcome == OutcomeUnknown {
		a.unknown = append(a.unknown, w)
	} else {
		a.atRisk = append(a.atRisk, w)
	}
	a.changed = true
	a.untold, a.last = a.untold+1, w
}

// version returns the report as it is now. Versions share memory, up to their length.
func (a *account) version() *LossReport {
	if !a.changed {
		return a.latest
	}
	r := *a.latest
	r.AtRisk, r.Unknown, r.settled = slices.Clip(a.atRisk), slices.Clip(a.unknown), len(a.unknown)
	for _, w := range a.waiting {
		if w.Method != "" {
			r.Unknown = append(r.Unknown, w)
		}
	}
	a.latest, a.changed = &r, false
	return a.latest
}

// logged is how many writes of a report the log has been told of. Only the
// dispatching goroutine uses it.
type logged struct {
	atRisk, unknown, lines int
	waiting                bool
}

// growth is how a report has grown.
type growth struct {
	report *LossReport
	by     int
	last   Write
}

// grown returns the growth of the report since it was last called, if there is any.
func (a *account) grown() []growth {
	if a.untold == 0 {
		return nil
	}
	g := growth{a.version(), a.untold, a.last}
	a.untold = 0
	return []growth{g}
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
		t.writes.put(t, w.addressed())
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
	return t.books.draft(from, to, anchor, reason)
}

// WritesSince lists the writes, to either endpoint, that were acknowledged at from or later,
// and those that may have been carried out then, although no answer says so. It is for a loss
// whose extent the Transport cannot know: an administrator who starts an emergency response
// of self-service disaster recovery is shown the time of the last sync, and what was carried
// out later is lost. A write that was carried out before from and acknowledged after it is
// listed as well, so the list for the time of the last sync contains everything that is
// lost. The clocks of the service and of this machine may differ: subtract a few seconds.
//
// From and To of the report are the active endpoint. The report is truncated if the ledger had
// no room for all of that time ([Config.LedgerSize]), or the Transport is younger than from.
// It is not among the reports of [Status].
func (t *Transport) WritesSince(from time.Time) *LossReport {
	return t.books.since(from, t.state.Load().active)
}

// tellGrowth tells of reports that have grown, at most once a second.
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
	writes := slices.Concat(r.AtRisk[a.logged.atRisk:], r.Unknown[a.logged.unknown:r.settled])
	if !a.logged.waiting {
		writes = append(writes, r.Unknown[r.settled:]...)
	}
	a.logged.atRisk, a.logged.unknown, a.logged.waiting = len(r.AtRisk), r.settled, true
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
