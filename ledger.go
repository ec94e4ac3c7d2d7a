package failover

import (
	"math"
	"math/bits"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
	"github.com/d365failover/failover/internal/redact"
)

// Write describes a write that was sent, so that it can be found later. It has no body,
// query or credentials. All texts are bounded and free of control characters.
type Write struct {
	// Time is when the attempt ended, with or without an answer. For a write that is still
	// under way it is when it was listed.
	Time   time.Time
	Method string
	// Path of the request's URL, escaped, cut at 512 bytes. It includes the alternate key of
	// a record that was addressed by one.
	Path string
	// EntityID is the GUID of the record, "" if neither the request nor its
	// answer named one.
	EntityID string
	// Entity is the path under which the record with EntityID can be read, such
	// as "/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000001)". It is
	// "" for a record of an elastic table, which is read by its id and its
	// partition.
	Entity string
	// RequestID is the id that the service assigned to the request, or else the caller's.
	RequestID string
	// Label of the request, see [WithLabel].
	Label string
	// Status of the answer, 0 if there was none.
	Status int
	// Endpoint to which the write was sent.
	Endpoint Endpoint
	// Outcome is what is known about its effect.
	Outcome Outcome
}

// Outcome says what is known about the effect of a write at the endpoint to which it was
// sent.
type Outcome uint8

const (
	// OutcomeAcknowledged: the service confirmed that it had carried out the write.
	OutcomeAcknowledged Outcome = iota
	// OutcomeUnknown: there was no definite answer. The write may have been carried out, or
	// may still be.
	OutcomeUnknown
	// OutcomePartial: a $batch or ExecuteMultiple was answered with an error. The writes in
	// it before the one that failed may have been carried out.
	OutcomePartial
)

// String returns "acknowledged", "unknown" or "partial".
func (o Outcome) String() string {
	switch o {
	case OutcomeUnknown:
		return "unknown"
	case OutcomePartial:
		return "partial"
	default:
		return "acknowledged"
	}
}

// ledger keeps the latest writes of an organization in a ring. It is safe for concurrent use;
// goroutines contend only for the same slot, during a copy. Its memory is allocated as writes
// are made, so a program that only reads never pays for it.
type ledger struct {
	size int
	ring atomic.Pointer[ring]
	next atomic.Uint64 // index of the next entry, modulo size
}

type ring struct {
	began  time.Time
	chunks []atomic.Pointer[[]slot] // allocated by slot
	// dropped is the time, since began, of the latest entry that was overwritten, by endpoint
	// and by whether its outcome is unknown.
	dropped [2][2]atomic.Int64
}

// firstSlots is the size of the first two chunks. Each of the others is as large as all before
// it.
const firstSlots = 8

type slot struct {
	mu    sync.Mutex
	entry ledgerEntry
}

// record enters a write that has ended, and returns the epoch at that time.
func (l *ledger) record(w *endedWrite, epoch *atomic.Uint64) (ended uint64) {
	r := l.ring.Load()
	if r == nil {
		r = l.makeRing(w.Time)
	}
	s := r.slot(l.size, int((l.next.Add(1)-1)%uint64(l.size)))
	s.mu.Lock()
	if s.entry.used {
		r.drop(&s.entry)
	}
	s.entry.pack(w)
	// Read under the lock of the slot: a report that changes the epoch and then reads the slot
	// finds the entry, or else the entry has the new epoch.
	s.entry.ended = epoch.Load()
	ended = s.entry.ended
	s.mu.Unlock()
	return ended
}

func (l *ledger) makeRing(began time.Time) *ring {
	r := &ring{began: began, chunks: make([]atomic.Pointer[[]slot], bits.Len(uint((l.size-1)/firstSlots))+1)}
	for at := range r.dropped {
		for unknown := range r.dropped[at] {
			r.dropped[at][unknown].Store(math.MinInt64)
		}
	}
	l.ring.CompareAndSwap(nil, r)
	return l.ring.Load()
}

// slot returns the slot with an index. Size is the number of slots in all.
func (r *ring) slot(size, i int) *slot {
	n := bits.Len(uint(i / firstSlots)) // of the chunk
	start, end := 0, firstSlots
	if n > 0 {
		start, end = firstSlots<<(n-1), firstSlots<<n
	}
	c := r.chunks[n].Load()
	if c == nil {
		slots := make([]slot, min(end, size)-start)
		r.chunks[n].CompareAndSwap(nil, &slots)
		c = r.chunks[n].Load()
	}
	return &(*c)[i-start]
}

// drop records that e is about to be overwritten.
func (r *ring) drop(e *ledgerEntry) {
	latest, at := r.latestDropped(e.at, e.outcome == OutcomeUnknown), int64(e.time.Sub(r.began))
	for old := latest.Load(); old < at && !latest.CompareAndSwap(old, at); {
		old = latest.Load()
	}
}

func (r *ring) latestDropped(at Endpoint, unknown bool) *atomic.Int64 {
	if unknown {
		return &r.dropped[at][1]
	}
	return &r.dropped[at][0]
}

// each calls f for every entry, with the lock of its slot held.
func (l *ledger) each(f func(*ledgerEntry)) {
	r := l.ring.Load()
	if r == nil {
		return
	}
	for i := range r.chunks {
		c := r.chunks[i].Load()
		if c == nil {
			continue
		}
		for i := range *c {
			(*c)[i].read(f)
		}
	}
}

func (s *slot) read(f func(*ledgerEntry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entry.used {
		f(&s.entry)
	}
}

// hasDropped reports whether a write to an endpoint that ended at from or later was overwritten.
func (l *ledger) hasDropped(at Endpoint, unknown bool, from time.Time) bool {
	r := l.ring.Load()
	if r == nil {
		return false
	}
	latest := r.latestDropped(at, unknown).Load()
	return latest != math.MinInt64 && !r.began.Add(time.Duration(latest)).Before(from)
}

// Bounds of the texts of a Write, in bytes.
const (
	maxWriteMethod = 32
	maxWritePath   = 512
	maxWriteLabel  = 256
)

// endedWrite is a write whose attempt has ended. Its record is determined by addressed, which is
// never needed for most writes.
type endedWrite struct {
	Write                 // without Entity and EntityID
	named       string    // address of the record in the answer
	partitioned bool      // the record is in a partition of an elastic table
	began       uint64    // epoch of the attempt
	underway    *underway // as which it was kept before, or nil
}

// describe returns a write whose attempt ended with resp, or without a response if resp is nil.
// Id is the service's id of the request; "": take it from the response. All texts are bounded.
func describe(req *http.Request, resp *http.Response, ended time.Time, id, label string) endedWrite {
	path := withParens(message.Target(req.URL).EscapedPath())
	w := endedWrite{Write: Write{
		Time: ended, Method: redact.Line(req.Method, maxWriteMethod), Path: path[:min(len(path), maxWritePath)],
		Label: redact.Line(label, maxWriteLabel), RequestID: redact.Line(id, maxRequestText),
	}}
	w.partitioned = inPartition(req, resp)
	if resp != nil {
		w.Status, w.named = resp.StatusCode, namedRecord(resp)
		if w.RequestID == "" {
			w.RequestID = requestID(resp.Header)
		}
	}
	if w.RequestID == "" {
		w.RequestID = callersRequestID(req.Header)
	}
	return w
}

// callersRequestID returns the caller's id of a request, "" if there is none.
func callersRequestID(h http.Header) string {
	for _, key := range []string{"X-Ms-Client-Request-Id", "Client-Request-Id"} {
		if id := redact.Line(valueOf(h, key), maxRequestText); id != "" {
			return id
		}
	}
	return ""
}

// addressed returns the write with Entity and EntityID.
func (w *endedWrite) addressed() Write {
	full := w.Write
	full.Entity, full.EntityID = recordIn(full.Path)
	if entity, id := recordAt(w.named); entity != "" {
		full.Entity, full.EntityID = entity, id
	}
	if w.partitioned {
		full.Entity = "" // the record cannot be read without its partition
	}
	return full
}

// ledgerEntry is a write as the ledger keeps it.
type ledgerEntry struct {
	used         bool
	at           Endpoint
	outcome      Outcome
	partitioned  bool
	status       int32
	began, ended uint64 // epochs
	time         time.Time
	ends         [5]uint16 // of method, path, label, request id and the record's address, which follow each other
	brief        [240]byte // in here, if they fit, as most do
	long         []byte    // or else in here
}

// pack makes e the entry of a write. It copies the texts, because they may be part of a longer
// one, which contains the query or the body.
func (e *ledgerEntry) pack(w *endedWrite) {
	e.used, e.at, e.outcome, e.partitioned = true, w.Endpoint, w.Outcome, w.partitioned
	e.status, e.began, e.time, e.long = int32(w.Status), w.began, w.Time, e.long[:0]
	of := [...]string{w.Method, w.Path, w.Label, w.RequestID, w.named}
	end := 0
	for i, text := range of {
		end += len(text)
		e.ends[i] = uint16(end)
	}
	if end > len(e.brief) {
		e.long = slices.Grow(e.long, end)
		for _, text := range of {
			e.long = append(e.long, text...)
		}
		return
	}
	to := e.brief[:]
	for _, text := range of {
		to = to[copy(to, text):]
	}
}

// write returns the write in full.
func (e *ledgerEntry) write() Write {
	all := string(e.brief[:])
	if len(e.long) > 0 {
		all = string(e.long)
	}
	start, of := 0, [len(e.ends)]string{}
	for i, end := range e.ends {
		of[i], start = all[start:end], int(end)
	}
	w := endedWrite{
		Write: Write{
			Time: e.time, Method: of[0], Path: of[1], Label: of[2], RequestID: of[3],
			Status: int(e.status), Endpoint: e.at, Outcome: e.outcome,
		},
		named: of[4], partitioned: e.partitioned,
	}
	return w.addressed()
}

// anchor is the last success of an endpoint before an outage, LossReport.LastSuccess.
type anchor struct {
	// lastSuccess is when a request last succeeded, in nanoseconds since Transport.started.
	// 0: never.
	lastSuccess atomic.Int64
	// before is lastSuccess at the first counted fault of an outage, since a later success
	// changes lastSuccess. 0: there is no outage. Guarded by Transport.mu.
	before int64
}

const (
	// successResolution is the minimum time between two recorded successes, so that requests
	// to a busy endpoint do not contend for lastSuccess.
	successResolution = time.Millisecond
	// neverSucceeded is anchor.before if there was no success.
	neverSucceeded = -1
)

// succeeded sets lastSuccess to now, a time since Transport.started, at most once in
// successResolution. It reports whether it did.
func (a *anchor) succeeded(now time.Duration) bool {
	last := a.lastSuccess.Load()
	if last != 0 && now-time.Duration(last) < successResolution {
		return false
	}
	a.lastSuccess.Store(max(1, int64(now))) // 0 is never
	return true
}

// hold keeps the last success as the anchor until release.
func (a *anchor) hold() {
	if a.before != 0 {
		return
	}
	if a.before = a.lastSuccess.Load(); a.before == 0 {
		a.before = neverSucceeded
	}
}

// release ends a hold, because the outage is over or was none.
func (a *anchor) release() { a.before = 0 }

// time returns the last success, before the outage if there is one. Zero: there was none.
func (a *anchor) time(started time.Time) time.Time {
	at := a.before
	if at == 0 {
		at = a.lastSuccess.Load()
	}
	if at <= 0 {
		return time.Time{}
	}
	return started.Add(time.Duration(at))
}

// The following determines the record of a write, from its request and its answer.

// maxAddress is the maximum length of the address of a record in an answer, in bytes.
const maxAddress = 1024

// namedRecord returns the address of a record in a response: its OData-EntityId (OData 4.0,
// part 1, section 8.3.4), or the Location of a 201.
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

// inPartition reports whether the record of a write is in an elastic table, so that its id alone
// is no address: the request names the partition, or the answer has a session token. Source:
// https://learn.microsoft.com/power-apps/developer/data-platform/use-elastic-tables
func inPartition(req *http.Request, resp *http.Response) bool {
	return strings.Contains(ascii.Lower(req.URL.RawQuery), "partitionid") ||
		resp != nil && hasSessionToken(resp)
}

func hasSessionToken(resp *http.Response) bool {
	return valueOf(resp.Header, "X-Ms-Session-Token") != ""
}

// recordAt returns the path and the id of the record at an address, or "" if it is not the
// address of a record.
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

// withParens undoes the escaping of parentheses, which net/url applies to paths that were not
// parsed. To OData, both forms are the same.
func withParens(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, "%28", "("), "%29", ")")
}

const guidLength = len("00000000-0000-0000-0000-000000000000")

// recordIn returns a path up to its first record that is addressed by a GUID, as in
// "/api/data/v9.2/accounts(...)/name", and that GUID. Both are empty if there is none.
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

// recordKey identifies the record at a path by its entity set and id, whatever the API version.
func recordKey(entity string) string {
	return ascii.Lower(entity[strings.LastIndexByte(entity, '/')+1:])
}

// deletes reports whether w deletes its record, rather than a part of it.
func (w *Write) deletes() bool { return w.Method == http.MethodDelete && w.Path == w.Entity }

// creates reports whether w has created its record, by its answer: the status is 201, or the
// answer names a record that the path of the POST does not.
func (w *Write) creates() bool {
	return w.Status == http.StatusCreated ||
		w.Method == http.MethodPost && !strings.HasPrefix(w.Path, w.Entity) && !strings.HasSuffix(w.Path, "/$ref")
}
