package failover

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Write is a write that was sent: what it takes to look it up later, and no
// body, query, or credentials. All texts are bounded and free of control
// characters.
type Write struct {
	// Time is when the attempt ended: the answer came, or was given up on.
	Time   time.Time
	Method string
	// Path of the request's URL, escaped, cut at 512 bytes. A record that was
	// addressed by an alternate key has the key in it.
	Path string
	// EntityID is the GUID of the record, "" if neither the request nor its
	// answer named one.
	EntityID string
	// Entity is the path under which the record with EntityID can be read, such
	// as "/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000001)".
	Entity string
	// RequestID is what the service calls the request, or else the caller.
	RequestID string
	// Label of the request, see [WithLabel].
	Label string
	// Status of the answer, 0 if there was none.
	Status int
}

// LossReport lists the writes that may not have reached the endpoint that the
// traffic moved to, because replication is asynchronous. They are at risk;
// which of them are lost, if any, takes a look at the other side, such as
// [LossReport.Verify].
type LossReport struct {
	// From is the endpoint that the writes were sent to.
	From Endpoint
	// URL is the origin that Verify reads from: the primary's, which stands for
	// whatever endpoint is active.
	URL string
	// LastSuccess is when From last answered a request in good health, zero if
	// it never did.
	LastSuccess time.Time
	// RPO is the [Config.RPO] that the report was made with.
	RPO time.Duration
	// AtRisk are the writes that From acknowledged within RPO before
	// LastSuccess, or later. The last success is the anchor, and not the time of
	// the switch, because to detect an outage takes longer than the RPO.
	AtRisk []Write
	// Unknown are the writes to From that ended without a definite answer, given
	// up on no more than 2 minutes and RPO before LastSuccess: Dataverse ends a
	// call after 2 minutes, and until then may have carried it out.
	Unknown []Write
	// Truncated: more writes may belong here than the ledger had room for.
	Truncated bool

	// verified is the result of the last Verify, for the status page.
	verified *atomic.Pointer[Verification]
}

// maxRun is how long after a write was given up on it may be carried out.
// Source: https://learn.microsoft.com/power-apps/developer/data-platform/analyze-performance
// (the 2 minute limit of message operations).
const maxRun = 2 * time.Minute

// ledger keeps the latest writes of an organization in a ring. Any number of
// goroutines may record and report at the same time; none waits for another. A
// nil ledger keeps nothing. The ring is made for the first write, so a program
// that only reads never pays for it.
type ledger struct {
	size int
	ring atomic.Pointer[[]atomic.Pointer[ledgerEntry]]
	next atomic.Uint64 // index of the next entry, modulo size
	// dropped is the latest entry that overflow has taken out, by endpoint and
	// by whether the outcome was known.
	dropped [2][2]atomic.Pointer[ledgerEntry]
}

type ledgerEntry struct {
	draft
	at      Endpoint
	unknown bool
}

// newLedger returns a ledger of size writes, nil if size is not positive.
func newLedger(size int) *ledger {
	if size <= 0 {
		return nil
	}
	return &ledger{size: size}
}

// record keeps a write that ended at an endpoint: acknowledged, or with an
// unknown outcome.
func (l *ledger) record(at Endpoint, w draft, unknown bool) {
	if l == nil {
		return
	}
	ring := l.slots()
	slot := &ring[(l.next.Add(1)-1)%uint64(len(ring))]
	e := &ledgerEntry{w, at, unknown}
	for {
		old := slot.Load()
		l.drop(old) // before it is gone, so that a report misses neither the entry nor its loss
		if slot.CompareAndSwap(old, e) {
			return
		}
	}
}

// slots returns the ring, which it makes on first use.
func (l *ledger) slots() []atomic.Pointer[ledgerEntry] {
	if ring := l.ring.Load(); ring != nil {
		return *ring
	}
	ring := make([]atomic.Pointer[ledgerEntry], l.size)
	l.ring.CompareAndSwap(nil, &ring)
	return *l.ring.Load()
}

// drop takes note that overflow takes e out. A nil e does not count.
func (l *ledger) drop(e *ledgerEntry) {
	if e == nil {
		return
	}
	latest := l.latestDropped(e.at, e.unknown)
	for {
		old := latest.Load()
		if old != nil && !e.Time.After(old.Time) || latest.CompareAndSwap(old, e) {
			return
		}
	}
}

func (l *ledger) latestDropped(at Endpoint, unknown bool) *atomic.Pointer[ledgerEntry] {
	if unknown {
		return &l.dropped[at][1]
	}
	return &l.dropped[at][0]
}

// report lists the writes at risk when the traffic leaves an endpoint. The
// caller sets the URL of the report. Of a nil ledger nothing is known, so its
// report is truncated.
func (l *ledger) report(from Endpoint, lastSuccess time.Time, rpo time.Duration) *LossReport {
	r := &LossReport{From: from, LastSuccess: lastSuccess, RPO: max(rpo, 0), Truncated: l == nil}
	if l == nil {
		return r
	}
	start := func(unknown bool) time.Time {
		if unknown {
			return lastSuccess.Add(-r.RPO - maxRun)
		}
		return lastSuccess.Add(-r.RPO)
	}
	if ring := l.ring.Load(); ring != nil {
		oldest := l.next.Load()
		for i := range uint64(l.size) {
			e := (*ring)[(oldest+i)%uint64(l.size)].Load()
			switch {
			case e == nil || e.at != from || e.Time.Before(start(e.unknown)):
			case e.unknown:
				r.Unknown = append(r.Unknown, e.write())
			default:
				r.AtRisk = append(r.AtRisk, e.write())
			}
		}
	}
	for _, unknown := range []bool{false, true} {
		e := l.latestDropped(from, unknown).Load()
		r.Truncated = r.Truncated || e != nil && !e.Time.Before(start(unknown))
	}
	slices.SortStableFunc(r.AtRisk, byTime)
	slices.SortStableFunc(r.Unknown, byTime)
	return r
}

func byTime(a, b Write) int { return a.Time.Compare(b.Time) }

// Bounds of the texts of a Write, in bytes.
const (
	maxWriteMethod = 32
	maxWritePath   = 512
	maxWriteLabel  = 256
)

// maxAddress bounds the address of a record that an answer names, in bytes.
const maxAddress = 1024

// draft is a write as the ledger keeps it. Which record it is about is found out
// when a report asks for it, which for most writes never happens.
type draft struct {
	Write
	named string // the address of its record, by the answer
}

// draftOf describes a write whose attempt ended at a time, with resp or, if that
// is nil, without a response. It shares no memory with a request or response
// that would keep their queries or bodies alive: its texts are cut from one of
// its own.
func draftOf(req *http.Request, resp *http.Response, at time.Time, label string) draft {
	d := draft{Write: Write{Time: at, Method: oneLine(req.Method, maxWriteMethod)}}
	path := withParens(req.URL.EscapedPath())
	path = path[:min(len(path), maxWritePath)]
	label = oneLine(label, maxWriteLabel)
	named, id := "", ""
	if resp != nil {
		d.Status, named, id = resp.StatusCode, namedRecord(resp), requestID(resp.Header)
	}
	if id == "" {
		id = callersRequestID(req.Header)
	}
	var text strings.Builder
	text.Grow(len(path) + len(label) + len(named) + len(id))
	cut := func(s string) string {
		start := text.Len()
		text.WriteString(s)
		return text.String()[start:]
	}
	d.Path, d.Label, d.named, d.RequestID = cut(path), cut(label), cut(named), cut(id)
	return d
}

// write returns the write in full.
func (d *draft) write() Write {
	w := d.Write
	w.Entity, w.EntityID = recordIn(w.Path)
	if entity, id := recordAt(d.named); entity != "" {
		w.Entity, w.EntityID = entity, id
	}
	return w
}

// callersRequestID returns what the caller calls a request, "" if nothing.
func callersRequestID(h http.Header) string {
	for _, key := range []string{"X-Ms-Client-Request-Id", "Client-Request-Id"} {
		if id := oneLine(valueOf(h, key), maxRequestText); id != "" {
			return id
		}
	}
	return ""
}

// withParens undoes the escaping of parentheses, which net/url escapes in paths
// that were not parsed. To OData they mean the same.
func withParens(path string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	return strings.ReplaceAll(strings.ReplaceAll(path, "%28", "("), "%29", ")")
}

// namedRecord returns the address of the record that a response names: in
// OData-EntityId (OData 4.0, part 1, section 8.3.4), or in the Location of a 201.
func namedRecord(resp *http.Response) string {
	address := valueOf(resp.Header, "Odata-Entityid")
	if address == "" && resp.StatusCode == http.StatusCreated {
		address = valueOf(resp.Header, "Location")
	}
	address, _, _ = strings.Cut(address, "?")
	address, _, _ = strings.Cut(address, "#")
	if len(address) > maxAddress {
		return ""
	}
	return address
}

// recordAt returns path and id of the record at an address. Both are empty if it
// is not the address of one.
func recordAt(address string) (entity, id string) {
	path := address
	if _, _, rest, ok := splitURL(address); ok {
		path = rest
	}
	if len(path) > maxWritePath || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, invisible) {
		return "", ""
	}
	path = withParens(path)
	if entity, id = recordIn(path); entity != path {
		return "", ""
	}
	return entity, id
}

func invisible(r rune) bool { return r <= ' ' || r > '~' }

// guidLength of the form 00000000-0000-0000-0000-000000000000.
const guidLength = 36

// recordIn returns the start of a path that ends with the first record that is
// addressed by a GUID, as in "/api/data/v9.2/accounts(...)/name", and that GUID.
// Both are empty if there is none.
func recordIn(path string) (entity, id string) {
	for i := 0; ; {
		open := strings.IndexByte(path[i:], '(')
		if open < 0 {
			return "", ""
		}
		set := path[strings.LastIndexByte(path[:i+open], '/')+1 : i+open]
		i += open + 1
		end := i + guidLength
		if end < len(path) && path[end] == ')' && isGUID(path[i:end]) && isIdentifier(set) {
			return path[:end+1], path[i:end]
		}
	}
}

func isGUID(s string) bool {
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if c := lowerByte(s[i]); (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return len(s) == guidLength
}

// isIdentifier reports whether s can be the name of an entity set.
func isIdentifier(s string) bool {
	for i := range len(s) {
		if c := lowerByte(s[i]); c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}

// created returns the keys of the records that writes of the report have created
// by POST, nil if there are none.
func (r *LossReport) created() map[string]bool {
	var keys map[string]bool
	for _, w := range slices.Concat(r.AtRisk, r.Unknown) {
		if w.Method == http.MethodPost && w.Entity != "" && w.creates() {
			if keys == nil {
				keys = make(map[string]bool)
			}
			keys[recordKey(w)] = true
		}
	}
	return keys
}

// Verification sorts the writes of a [LossReport] by what reading their records
// has shown. Each list is in order of time. It describes the side that was read
// at the time it was read: what other programs have done to a record since the
// write is not known.
type Verification struct {
	// Present: what the write left behind is there. A record that it created can
	// be read; a record that it deleted can not.
	Present []Write
	// Missing: what the write left behind is not there. The record that it
	// created or changed does not exist, or the one that it deleted still does,
	// and no later write of the report explains that.
	Missing []Write
	// Unreadable: reading cannot tell. Such are changes of a record that exists
	// (a read does not tell its versions apart), writes that name no record by
	// its id (creates without an answer, alternate keys, $batch, SOAP), records
	// that could not be read, and whatever was left when Verify ended early.
	Unreadable []Write
}

// Verify reads the record of every listed write, once each, from the endpoint
// that client reaches, and sorts the writes by what that shows. The client
// should be the one whose transport is the [Transport] of the report, so that
// the reads go to the active endpoint; it must authorize requests by itself,
// as through [Config.Authorize]. A nil client means [http.DefaultClient].
//
// Verify sends nothing but GETs, one at a time, no more than ten a second, and
// follows no redirects. It waits when it is throttled, for as long as the
// service asks but no more than 5 minutes, and reads a record three times at the
// most for it. It ends early when ctx ends, a read gets no answer at all, the
// credentials are refused, or throttling does not stop. Then it returns that as
// its error, along with what is known by then. An error of a single record is
// none of Verify. [Transport.StatusHandler] shows the result of the last Verify.
func (r *LossReport) Verify(ctx context.Context, client *http.Client) (Verification, error) {
	writes := slices.Concat(r.AtRisk, r.Unknown)
	slices.SortStableFunc(writes, byTime)
	records := make(map[string]*listedRecord)
	var order []*listedRecord
	for _, w := range writes {
		if !strings.HasPrefix(w.Entity, "/") {
			continue
		}
		rec := records[recordKey(w)]
		if rec == nil {
			rec = &listedRecord{path: w.Entity}
			records[recordKey(w)], order = rec, append(order, rec)
		}
		if w.deletes() {
			rec.deleted = w.Time
		} else {
			rec.written = w.Time
		}
	}
	err := readRecords(ctx, client, r.URL, order)
	var v Verification
	for _, w := range writes {
		list := &v.Unreadable
		switch records[recordKey(w)].effect(w) {
		case effectSeen:
			list = &v.Present
		case effectNotSeen:
			list = &v.Missing
		}
		*list = append(*list, w)
	}
	if r.verified != nil {
		r.verified.Store(&v)
	}
	return v, err
}

// verification returns the result of the last Verify, nil if there was none.
func (r *LossReport) verification() *Verification {
	if r.verified == nil {
		return nil
	}
	return r.verified.Load()
}

// recordKey tells records apart: entity set and id, whatever the version of the
// API in the path.
func recordKey(w Write) string {
	return lower(w.Entity[strings.LastIndexByte(w.Entity, '/')+1:])
}

// deletes reports whether w is to delete its record, and not a part of it.
func (w *Write) deletes() bool { return w.Method == http.MethodDelete && w.Path == w.Entity }

// creates reports whether w is known to have created its record: the answer
// says so, or names a record that the path of the request did not lead to.
func (w *Write) creates() bool {
	return w.Status == http.StatusCreated ||
		w.Method == http.MethodPost && !strings.HasPrefix(w.Path, w.Entity) && !strings.HasSuffix(w.Path, "/$ref")
}

// presence is what reading a record has shown.
type presence uint8

const (
	notRead presence = iota
	exists
	gone
)

// effect is what the presence of its record says about a write.
type effect uint8

const (
	effectUnclear effect = iota
	effectSeen
	effectNotSeen
)

// listedRecord is a record that writes of a report are about.
type listedRecord struct {
	path     string
	presence presence
	// deleted and written are when it was last to be deleted, and last to be
	// created or changed, as far as the report knows.
	deleted, written time.Time
}

// effect judges one write of the record. A nil record was not read.
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
	verifyTries    = 3                      // of a read that is throttled
)

// readRecords finds out which of the records exist at an origin.
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
	for i, rec := range records {
		if i > 0 {
			err = wait(ctx, pace.C)
		}
		if err == nil {
			rec.presence, err = readRecord(ctx, client, base.scheme+"://"+base.host+rec.path)
		}
		if err != nil {
			return fmt.Errorf("failover: verify: %w", err)
		}
	}
	return nil
}

// wait waits for c. It returns the error of ctx if that ends first.
func wait(ctx context.Context, c <-chan time.Time) error {
	select {
	case <-c:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readRecord finds out whether the record at an address exists. An error means
// that reading others is of no use.
func readRecord(ctx context.Context, client *http.Client, address string) (presence, error) {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return notRead, nil // not a path; it is not from writeOf
		}
		req.Header.Set("Accept", "application/json")
		req.Header.Set("OData-Version", "4.0")
		req.Header.Set("OData-MaxVersion", "4.0")
		resp, err := client.Do(req)
		if err != nil {
			return notRead, err
		}
		f := Classify(resp, nil)
		discard(resp)
		switch {
		case f == nil && resp.StatusCode == http.StatusOK:
			return exists, nil
		case f == nil:
			return notRead, nil
		case f.Class == ClassApplication && f.Status == http.StatusNotFound && resp.Header.Get("OData-Version") != "":
			return gone, nil // by the service's own word; a front end would not give its version
		case f.Class == ClassAuth && f.Status != http.StatusForbidden:
			return notRead, f
		case f.Class != ClassThrottled:
			return notRead, nil
		case try == verifyTries:
			return notRead, f
		}
		timer := time.NewTimer(max(f.RetryAfter, time.Second))
		err = wait(ctx, timer.C)
		timer.Stop()
		if err != nil {
			return notRead, err
		}
	}
}
