package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Verification sorts the writes of a [LossReport] by what reading their records has shown.
// Each list is in order of time. It describes the endpoint that was read, at that time; what
// other programs have done to a record since the write is not known.
type Verification struct {
	// Present: the effect of the write is there. A record that it created exists; a record
	// that it deleted does not.
	Present []Write
	// Missing: the effect of the write is not there. The record that it created or changed
	// does not exist, or the one that it deleted does, and no later write of the report
	// explains that.
	Missing []Write
	// Unreadable: reading does not tell. These are changes of a record that exists (its
	// versions cannot be told apart), writes that do not name a record by id (creates
	// without an answer, alternate keys, $batch, SOAP), records of elastic tables (which
	// can be read only with their partition), records that could not be read, and the rest
	// if Verify ended early.
	Unreadable []Write
}

// Verify reads the record of every listed write through client and sorts the writes by what
// that shows. The client's transport should be the [Transport] of the report, so that the
// reads go to the active endpoint, and it must authorize requests by itself, as through
// [Config.Authorize]. A nil client means [http.DefaultClient].
//
// Verify reads each record once. It sends only GETs, one at a time, at most ten per second,
// and follows no redirects. When throttled, it waits as long as the service asks, up to 5
// minutes, and tries a record up to three times. It ends early if ctx ends, three reads in a
// row get no answer, the organization is down, the credentials are refused, or throttling
// persists; it then returns that as an error along with what it knows. A single unreadable
// record does not make Verify fail. [Transport.StatusHandler] shows the result of the last
// Verify; a record that this has not read keeps the result of an earlier one.
//
// Records that were found lose the protection described at [LossReport]. A nil report
// (which [Status.Loss] is until something is at risk) lists nothing: Verify reads nothing
// and returns no error.
func (r *LossReport) Verify(ctx context.Context, client *http.Client) (Verification, error) {
	if r == nil {
		return Verification{}, nil
	}
	var epoch uint64
	if r.account != nil {
		epoch = r.account.books.epoch.Load()
	}
	writes := slices.Concat(r.AtRisk, r.Unknown)
	slices.SortStableFunc(writes, byTime)
	records := make(map[string]*listedRecord)
	var order []*listedRecord
	for _, w := range writes {
		if !strings.HasPrefix(w.Entity, "/") {
			continue
		}
		rec := records[recordKey(w.Entity)]
		if rec == nil {
			rec = &listedRecord{path: w.Entity}
			records[recordKey(w.Entity)], order = rec, append(order, rec)
		}
		if w.deletes() {
			rec.deleted = w.Time
		} else {
			rec.written = w.Time
		}
	}
	err := readRecords(ctx, client, r.URL, order)
	var v, shown Verification
	earlier := r.verification().lists()
	for _, w := range writes {
		rec := records[recordKey(w.Entity)]
		list := rec.effect(w)
		*v.list(list) = append(*v.list(list), w)
		if rec != nil && rec.presence == notRead {
			before, known := earlier[w]
			if list = before; !known && err != nil {
				continue // Verify did not reach it
			}
		}
		*shown.list(list) = append(*shown.list(list), w)
	}
	if r.verified != nil {
		r.verified.Store(&shown)
	}
	if r.account != nil {
		var found []string
		for key, rec := range records {
			if rec.presence == exists {
				found = append(found, key)
			}
		}
		r.account.books.unguard(epoch, found...)
	}
	return v, err
}

// list returns the list for an effect.
func (v *Verification) list(e effect) *[]Write {
	switch e {
	case effectSeen:
		return &v.Present
	case effectNotSeen:
		return &v.Missing
	default:
		return &v.Unreadable
	}
}

// lists returns the list that contains each write. A nil Verification has none.
func (v *Verification) lists() map[Write]effect {
	on := make(map[Write]effect)
	for e := range effectNotSeen + 1 {
		if v == nil {
			break
		}
		for _, w := range *v.list(e) {
			on[w] = e
		}
	}
	return on
}

// verification returns the result of Verify for the status page, nil if it was not called.
func (r *LossReport) verification() *Verification {
	if r.verified == nil {
		return nil
	}
	return r.verified.Load()
}

// presence is whether a record exists.
type presence uint8

const (
	notRead presence = iota
	exists
	gone
)

// effect is whether the effect of a write is there.
type effect uint8

const (
	effectUnclear effect = iota
	effectSeen
	effectNotSeen
)

// listedRecord is the record of writes in a report.
type listedRecord struct {
	path     string
	presence presence
	// deleted is the time of the last write in the report that deletes it, and written that
	// of the last one that creates or changes it.
	deleted, written time.Time
}

// effect returns the effect of a write of the record. A nil record was not read.
func (rec *listedRecord) effect(w Write) effect {
	switch {
	case rec == nil || rec.presence == notRead:
		return effectUnclear
	case w.deletes() && rec.presence == gone, w.creates() && rec.presence == exists:
		return effectSeen
	case w.deletes() && rec.written.Before(w.Time), rec.presence == gone && rec.deleted.Before(w.Time):
		return effectNotSeen
	default:
		return effectUnclear
	}
}

const (
	verifyInterval = 100 * time.Millisecond // between two reads
	verifyTries    = 3                      // of a throttled read
	verifySilence  = 3                      // reads in a row without an answer that end Verify
)

// readRecords reads which of the records exist at an origin.
func readRecords(ctx context.Context, client *http.Client, origin string, records []*listedRecord) error {
	if len(records) == 0 {
		return nil
	}
	base, err := parseOrigin(origin, true)
	if err != nil {
		return fmt.Errorf("failover: URL of the loss report %w", err)
	}
	client = withoutRedirects(client)
	pace := time.NewTicker(verifyInterval)
	defer pace.Stop()
	silent := 0 // reads in a row without an answer
	for i, rec := range records {
		if i > 0 {
			err = wait(ctx, pace.C)
		}
		if err == nil {
			rec.presence, err = readRecord(ctx, client, base.scheme+"://"+base.host+rec.path)
		}
		var none *noAnswer
		if silent++; !errors.As(err, &none) {
			silent = 0
		} else if silent < verifySilence && ctx.Err() == nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrClosed) {
			err = nil // other records may be readable
		}
		if err != nil {
			return fmt.Errorf("failover: verify: %w", err)
		}
	}
	return nil
}

// wait waits for c, or returns the error of ctx if that ends first.
func wait(ctx context.Context, c <-chan time.Time) error {
	select {
	case <-c:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noAnswer is the error of a read that got no answer.
type noAnswer struct{ error }

func (e *noAnswer) Unwrap() error { return e.error }

// readRecord reads whether the record at an address exists. An error means that other records
// cannot be read either.
func readRecord(ctx context.Context, client *http.Client, address string) (presence, error) {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return notRead, nil // not a URL: the report is not from this package
		}
		req.Header.Set("Accept", "application/json")
		req.Header.Set("OData-Version", "4.0")
		req.Header.Set("OData-MaxVersion", "4.0")
		resp, err := client.Do(req)
		if err != nil {
			return notRead, &noAnswer{err}
		}
		f := Classify(resp, nil)
		discard(resp)
		switch {
		case f == nil && resp.StatusCode == http.StatusOK:
			return exists, nil
		case f == nil:
			return notRead, nil
		case f.Class == ClassApplication && f.Status == http.StatusNotFound && resp.Header.Get("OData-Version") != "" && !hasSessionToken(resp):
			return gone, nil // the service itself says so: a front end would not send OData-Version
		case f.Class == ClassAuth && f.Status != http.StatusForbidden:
			return notRead, f
		case f.Class != ClassThrottled:
			return notRead, nil
		case try == verifyTries:
			return notRead, f
		}
		if !sleep(ctx, max(f.RetryAfter, time.Second)) {
			return notRead, ctx.Err()
		}
	}
}

// LossReport lists the writes that an outage has put at risk: the copy that serves now may
// lack them, because replication is asynchronous. They are at risk, not lost. To find out
// which are lost, if any, look for them there, as [LossReport.Verify] does.
//
// The Transport makes a report when the traffic leaves an endpoint, and when an outage ends
// at the same endpoint, because a failover can keep the address. The report lists what was
// acknowledged within RPO before the outage. The emergency response of self-service disaster
// recovery can lose more, up to 15 minutes, and shows the administrator the time of the last
// sync: [Transport.WritesSince] of that time lists what came after it.
//
// A record that a listed POST has created may be gone. An update of it without a condition
// would then create it again, with only the updated columns. To protect against that, the
// Transport adds If-Match: * to such updates, for an hour, or until Verify has found the
// record or the program has written it again. The service then answers 404 if the record is
// gone. Conditions that the caller sets are left alone; to create the record again, use
// POST, PUT, or PATCH with If-None-Match: *.
//
// A report and its lists must not be changed, and never change. A write that was under way
// and ends later leads to a new version of the report, in [EventLossGrown] and [Status].
type LossReport struct {
	// Time is when the report was made.
	Time time.Time
	// From is the endpoint to which the writes were sent, and To the one that became active
	// afterwards: From itself if the outage ended without a switch.
	From, To Endpoint
	// Reason for the switch, or for the end of the outage, in a few words.
	Reason string
	// URL is the origin that Verify reads from: the primary's, which stands for
	// whatever endpoint is active.
	URL string
	// LastSuccess is when From gave its last healthy answer to a request before the outage,
	// zero if it never did.
	LastSuccess time.Time
	// RPO is the [Config.RPO] that applied.
	RPO time.Duration
	// AtRisk are the writes that From acknowledged within RPO before
	// LastSuccess, or later. The window is anchored at the last success rather than at
	// the switch because detecting an outage takes longer than the RPO. A $batch
	// that failed halfway is listed here too: see [OutcomePartial].
	AtRisk []Write
	// Unknown are the writes to From in doubt that the service may have carried out within
	// that window: those that ended no more than 10 minutes and RPO before LastSuccess, or
	// at any time for Finance and Operations, where a call may run for any length of time.
	// They are followed by the writes that were under way when the report was made, whose
	// outcomes later versions of the report include.
	Unknown []Write
	// Truncated: writes may be missing from the report, because the ledger had no room for
	// them, or because they were made before the Transport was.
	Truncated bool

	// verified is what is known from Verify, for the status page.
	verified *atomic.Pointer[Verification]
	// settled is how many of Unknown have ended; the others were under way.
	settled int
	// account updates the report; nil if no Transport made it.
	account *account
}

// Moved reports whether the traffic switched to the other endpoint.
func (r *LossReport) Moved() bool { return r.From != r.To }

// account is a report that may still grow. books.mu guards it, except for logged.
type account struct {
	books           *books
	epoch           uint64 // that began with the report
	latest          *LossReport
	changed         bool    // since latest was made
	atRisk, unknown []Write // of latest, with capacity to grow
	waiting         []Write // under way when the report was made; without a Method: ended
	untold          int     // writes added since the last event
	last            Write   // the last one that was added

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

// version returns the report as it is now. Versions share the memory of their lists.
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

// logged is how many writes of a report were logged. Only the goroutine that calls logLoss uses
// it.
type logged struct {
	atRisk, unknown, lines int
	waiting                bool
}

// growth is the writes that were added to a report.
type growth struct {
	report *LossReport
	by     int
	last   Write
}

// grown returns the growth of the report since the last call, if there is any.
func (a *account) grown() []growth {
	if a.untold == 0 {
		return nil
	}
	g := growth{a.version(), a.untold, a.last}
	a.untold = 0
	return []growth{g}
}

// reportLossLocked makes the report of a switch, or, if from and to are the same, of the end of
// an outage. It must be called before the state with the new epoch is published, and before the
// endpoint is reset, which releases its anchor.
func (t *Transport) reportLossLocked(from, to Endpoint, epoch uint64, reason string) *LossReport {
	at := &t.endpoints[from].anchor
	r := t.books.report(from, to, epoch, at.time(t.started), reason)
	at.release()
	return r
}

// proposedLoss lists the writes that would be at risk if the traffic left an endpoint now.
func (t *Transport) proposedLoss(from, to Endpoint, reason string) *LossReport {
	t.mu.Lock()
	anchor := t.endpoints[from].anchor.time(t.started)
	t.mu.Unlock()
	return t.books.draft(from, to, anchor, reason)
}

// WritesSince lists the writes, to either endpoint, that were acknowledged at from or later,
// and those in doubt that may have been carried out then. It is for a loss whose extent the
// Transport cannot know: an administrator who starts an emergency response of self-service
// disaster recovery is shown the time of the last sync, and what was carried out later is
// lost. The list for that time contains everything that this Transport has lost, and also
// writes that were carried out before from and acknowledged after it. The clocks of the
// service and of this machine may differ: subtract a few seconds.
//
// From and To of the report are the active endpoint. The report is truncated if the ledger
// had no room for all of that time ([Config.LedgerSize]), or the Transport was made after
// from. It is not among the reports of [Status].
func (t *Transport) WritesSince(from time.Time) *LossReport {
	return t.books.since(from, t.state.Load().active)
}

// reportGrowth emits events for reports that have grown, at most once in growthInterval, until
// none has.
func (t *Transport) reportGrowth() {
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
		if !sleep(t.ctx, growthInterval) {
			return
		}
	}
}

func (g *growth) String() string {
	when := "the traffic switched"
	if !g.report.Moved() {
		when = "the outage ended"
	}
	if g.by > 1 {
		return fmt.Sprintf("%d writes were under way at the %v when %s", g.by, g.report.From, when)
	}
	return fmt.Sprintf("%s %s was under way at the %v when %s", g.last.Method, g.last.Path, g.report.From, when)
}

// logLoss logs a line for each write of a report that was not logged before, up to maxRiskLines
// for all versions of the report.
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
