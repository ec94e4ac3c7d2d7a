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

// ledger keeps the latest writes of an organization in a ring. Any number of
// goroutines may use it at the same time; they wait for each other only at the same
// slot, for the time of a copy. The ring is made for the first write, and its slots
// as they are needed, so a program that only reads never pays for it.
type ledger struct {
	size int
	ring atomic.Pointer[ring]
	next atomic.Uint64 // index of the next entry, modulo size
}

type ring struct {
	began  time.Time
	chunks []atomic.Pointer[[]slot] // made as they are needed, see slot
	// dropped is the time, since began, of the latest entry that overflow has taken
	// out, by endpoint and by whether the outcome was known.
	dropped [2][2]atomic.Int64
}

// firstSlots is how many slots the first two chunks have each. From then on each has as
// many as all before it.
const firstSlots = 8

type slot struct {
	mu    sync.Mutex
	entry ledgerEntry
}

// record keeps a write that has ended. It returns the epoch in which it did.
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
	// Not before the slot is locked: who moves the epoch on and reads the slot after
	// that finds the entry, or else it has the new epoch.
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

// slot returns the slot with an index, of size slots in all.
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

// drop takes note that overflow takes e out.
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

// each shows the entries to f, one at a time, each as it is at that moment.
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

// hasDropped reports whether overflow has taken out a write to an endpoint that
// ended at from or later.
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

// endedWrite is a write whose attempt has ended. Which record it is for is worked
// out when somebody asks for it, which for most writes never happens.
type endedWrite struct {
	Write                 // without its record
	named       string    // address of the record, by the answer
	partitioned bool      // the record is in a partition of an elastic table
	began       uint64    // epoch in which the attempt was made
	underway    *underway // as which it was listed, or nil
}

// describe returns a write whose attempt ended with resp or, if that is nil, without
// a response. id is what the service calls the request, "" if that is for the
// response to say. All texts are bounded.
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

// callersRequestID returns what the caller calls a request, "" if nothing.
func callersRequestID(h http.Header) string {
	for _, key := range []string{"X-Ms-Client-Request-Id", "Client-Request-Id"} {
		if id := redact.Line(valueOf(h, key), maxRequestText); id != "" {
			return id
		}
	}
	return ""
}

// addressed returns the write with its record.
func (w *endedWrite) addressed() Write {
	full := w.Write
	full.Entity, full.EntityID = recordIn(full.Path)
	if entity, id := recordAt(w.named); entity != "" {
		full.Entity, full.EntityID = entity, id
	}
	if w.partitioned {
		full.Entity = "" // which is not enough to read it by
	}
	return full
}

// ledgerEntry is a write as the ledger keeps it: in one piece, with its texts as they came.
type ledgerEntry struct {
	used         bool
	at           Endpoint
	outcome      Outcome
	partitioned  bool
	status       int32
	began, ended uint64 // epochs
	time         time.Time
	ends         [5]uint16 // of method, path, label, request id and the record's address, one after the other
	brief        [240]byte // where they fit in, as most do
	long         []byte    // or else here
}

// pack makes e the entry of a write. It shares no memory with the texts: they may
// be parts of a longer one, which has the query or the body in it.
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

// anchor is the last success of an endpoint: what the reports about it start from.
type anchor struct {
	// lastSuccess is when a request last succeeded: nanoseconds since
	// Transport.started, 0 for never.
	lastSuccess atomic.Int64
	// before is lastSuccess as it was when the first fault of an outage was counted,
	// 0 if there is no outage. The success that ends the outage moves lastSuccess on.
	// Guarded by Transport.mu.
	before int64
}

const (
	// successResolution is the least distance between two recorded successes,
	// so that a busy endpoint does not make every request write to one place.
	successResolution = time.Millisecond
	// neverSucceeded is an anchor.before without a success.
	neverSucceeded = -1
)

// succeeded moves the last success on to now, a time since Transport.started. It
// reports whether it did: it does so once in successResolution.
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

// release ends a hold: the outage is over, or was none.
func (a *anchor) release() { a.before = 0 }

// time returns the last success before the outage, or else the last one; zero if there
// was none.
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

// This file knows the addresses of records: what a request and its answer say about
// the record that a write is for.

// maxAddress bounds the address of a record that an answer names, in bytes.
const maxAddress = 1024

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

// inPartition reports whether a write is for a record of an elastic table, which its
// id alone does not address: the request names the partition, or the answer has the
// session token that the writes of such tables come with. Source:
// https://learn.microsoft.com/power-apps/developer/data-platform/use-elastic-tables
func inPartition(req *http.Request, resp *http.Response) bool {
	return strings.Contains(ascii.Lower(req.URL.RawQuery), "partitionid") ||
		resp != nil && hasSessionToken(resp)
}

func hasSessionToken(resp *http.Response) bool {
	return valueOf(resp.Header, "X-Ms-Session-Token") != ""
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

// withParens undoes the escaping of parentheses, which net/url escapes in paths
// that were not parsed. To OData they mean the same.
func withParens(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, "%28", "("), "%29", ")")
}

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

// recordKey identifies the record at a path: entity set and id, whatever the version
// of the API in the path.
func recordKey(entity string) string {
	return ascii.Lower(entity[strings.LastIndexByte(entity, '/')+1:])
}

// deletes reports whether w is to delete its record, and not a part of it.
func (w *Write) deletes() bool { return w.Method == http.MethodDelete && w.Path == w.Entity }

// creates reports whether w is known to have created its record: the answer
// says so, or names a record that the path of the request did not lead to.
func (w *Write) creates() bool {
	return w.Status == http.StatusCreated ||
		w.Method == http.MethodPost && !strings.HasPrefix(w.Path, w.Entity) && !strings.HasSuffix(w.Path, "/$ref")
}
