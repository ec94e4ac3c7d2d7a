package failover

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/redact"
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
// to learn which of them are lost, if any, look at the other side, as
// [LossReport.Verify] does.
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

// newLedger returns a ledger of size writes, nil if size is not positive.
func newLedger(size int) *ledger {
	if size <= 0 {
		return nil
	}
	return &ledger{size: size}
}

// record keeps a write, which is not changed any more.
func (l *ledger) record(e *ledgerEntry) {
	if l == nil {
		return
	}
	ring := l.slots()
	slot := &ring[(l.next.Add(1)-1)%uint64(len(ring))]
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
		if old != nil && !e.time.After(old.time) || latest.CompareAndSwap(old, e) {
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
			case e == nil || e.at != from || e.time.Before(start(e.unknown)):
			case e.unknown:
				r.Unknown = append(r.Unknown, e.write())
			default:
				r.AtRisk = append(r.AtRisk, e.write())
			}
		}
	}
	for _, unknown := range []bool{false, true} {
		e := l.latestDropped(from, unknown).Load()
		r.Truncated = r.Truncated || e != nil && !e.time.Before(start(unknown))
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

// ledgerEntry is a write as the ledger keeps it: in one piece, with its texts as they
// came. Which record it is about is found out when a report asks for it, which for
// most writes never happens.
type ledgerEntry struct {
	at      Endpoint
	unknown bool
	status  int32
	time    time.Time
	ends    [5]uint16 // of method, path, label, request id and the record's address, one after the other
	brief   [248]byte // where they fit in, as most do
	long    []byte    // or else here
}

// newLedgerEntry packs a write that ended at an endpoint: acknowledged, or with an
// unknown outcome. named is the address of its record, by the answer. The entry
// shares no memory with the texts: they may be parts of a longer one, which has the
// query or the body in it.
func newLedgerEntry(at Endpoint, unknown bool, w Write, named string) *ledgerEntry {
	e := &ledgerEntry{at: at, unknown: unknown, time: w.Time, status: int32(w.Status)}
	of := [...]string{w.Method, w.Path, w.Label, w.RequestID, named}
	end := 0
	for i, text := range of {
		end += len(text)
		e.ends[i] = uint16(end)
	}
	to := e.brief[:]
	if end > len(to) {
		e.long = make([]byte, end)
		to = e.long
	}
	for _, text := range of {
		to = to[copy(to, text):]
	}
	return e
}

// write returns the write in full.
func (e *ledgerEntry) write() Write {
	all := string(e.brief[:])
	if e.long != nil {
		all = string(e.long)
	}
	start, of := 0, [len(e.ends)]string{}
	for i, end := range e.ends {
		of[i], start = all[start:end], int(end)
	}
	w := Write{Time: e.time, Method: of[0], Path: of[1], Label: of[2], RequestID: of[3], Status: int(e.status)}
	w.Entity, w.EntityID = recordIn(w.Path)
	if entity, id := recordAt(of[4]); entity != "" {
		w.Entity, w.EntityID = entity, id
	}
	return w
}

// describe returns a write whose attempt ended with resp or, if that is nil, without
// a response, and the address that the response gives its record; which record that
// is, is left out. id is what the service calls the request, "" if that is for the
// response to say. All texts are bounded.
func describe(req *http.Request, resp *http.Response, ended time.Time, id, label string) (w Write, named string) {
	path := withParens(req.URL.EscapedPath())
	w = Write{
		Time: ended, Method: redact.Line(req.Method, maxWriteMethod), Path: path[:min(len(path), maxWritePath)],
		Label: redact.Line(label, maxWriteLabel), RequestID: redact.Line(id, maxRequestText),
	}
	if resp != nil {
		w.Status, named = resp.StatusCode, namedRecord(resp)
		if w.RequestID == "" {
			w.RequestID = requestID(resp.Header)
		}
	}
	if w.RequestID == "" {
		w.RequestID = callersRequestID(req.Header)
	}
	return w, named
}

// callersRequestID returns what the caller calls a request, "" if nothing.
func callersRequestID(h http.Header) string {
	for _, key := range []string{"X-Ms-Client-Request-Id", "Client-Request-Id"} {
		if id := redact.Line(valueOf(h, key), maxRequestText); id != "" {
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
			if c := ascii.LowerByte(s[i]); (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return len(s) == guidLength
}

// isIdentifier reports whether s can be the name of an entity set.
func isIdentifier(s string) bool {
	for i := range len(s) {
		if c := ascii.LowerByte(s[i]); c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
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
