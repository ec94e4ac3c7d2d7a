package failover

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	recordA = "0a1b2c3d-0000-4000-8000-00000000000a"
	recordB = "0a1b2c3d-0000-4000-8000-00000000000b"

	accountA = "/api/data/v9.2/accounts(" + recordA + ")"
	accountB = "/api/data/v9.2/accounts(" + recordB + ")"
)

func headerWith(pairs ...string) http.Header {
	h := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

var writeOfTests = []struct {
	name   string
	reason string
	method string
	url    string
	sent   http.Header
	status int // 0: no response
	header http.Header
	label  string
	want   Write // Time and Method are checked for all
}{
	{
		name: "create", reason: "the answer names the record that the path cannot know",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts",
		status: 204, header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", "r-1"),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, RequestID: "r-1", Status: 204},
	},
	{
		name: "create with representation", reason: "a 201 names the record in Location",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts",
		status: 201, header: headerWith("Location", "https://contoso.api.crm.dynamics.com"+accountA),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, Status: 201},
	},
	{
		name: "Location of an accepted job", reason: "only the Location of a 201 is that of the record",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts",
		status: 202, header: headerWith("Location", "https://contoso.api.crm.dynamics.com"+accountA),
		want: Write{Path: "/api/data/v9.2/accounts", Status: 202},
	},
	{
		name: "create of a child", reason: "the record of the answer outranks the one in the path",
		method: "POST", url: "https://contoso.api.crm.dynamics.com" + accountA + "/contact_customer_accounts",
		status: 204, header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com/api/data/v9.2/contacts("+recordB+")"),
		want: Write{Path: accountA + "/contact_customer_accounts", Entity: "/api/data/v9.2/contacts(" + recordB + ")", EntityID: recordB, Status: 204},
	},
	{
		name: "update in doubt", reason: "without an answer the path names the record, and the query is nobody's business",
		method: "PATCH", url: "https://contoso.api.crm.dynamics.com" + accountA + "?secret=1", label: "nightly import",
		want: Write{Path: accountA, Entity: accountA, EntityID: recordA, Label: "nightly import"},
	},
	{
		name: "bound action", reason: "the first record of the path is the one that it is about",
		method: "POST", url: "https://contoso.api.crm.dynamics.com" + accountA + "/Microsoft.Dynamics.CRM.Merge", status: 200,
		want: Write{Path: accountA + "/Microsoft.Dynamics.CRM.Merge", Entity: accountA, EntityID: recordA, Status: 200},
	},
	{
		name: "disassociate", reason: "of two records in the path the first has the relation",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com" + accountA + "/contacts(" + recordB + ")/$ref", status: 204,
		want: Write{Path: accountA + "/contacts(" + recordB + ")/$ref", Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "escaped parentheses", reason: "clients that build paths by hand escape them; it is the same record",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts%28" + recordA + "%29", status: 204,
		want: Write{Path: accountA, Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "alternate key", reason: "a key is no id; it stays in the path",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(accountnumber='7')", status: 204,
		want: Write{Path: "/api/data/v9.2/accounts(accountnumber='7')", Status: 204},
	},
	{
		name: "upsert by alternate key", reason: "the answer gives the id that the key stands for",
		method: "PATCH", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(accountnumber='7')",
		status: 204, header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA),
		want: Write{Path: "/api/data/v9.2/accounts(accountnumber='7')", Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "id inside a key", reason: "what looks like an id in a key value is not one",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(name='x(" + recordA + ")')", status: 204,
		want: Write{Path: "/api/data/v9.2/accounts(name='x(" + recordA + ")')", Status: 204},
	},
	{
		name: "SOAP", reason: "a SOAP request names its record in the body, which is not looked at",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/XRMServices/2011/Organization.svc/web",
		status: 200, header: headerWith("x-ms-service-request-id", "s-1", "REQ_ID", "r-1"),
		want: Write{Path: "/XRMServices/2011/Organization.svc/web", RequestID: "s-1", Status: 200},
	},
	{
		name: "batch", reason: "a batch is about many records",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/$batch", status: 200,
		want: Write{Path: "/api/data/v9.2/$batch", Status: 200},
	},
	{
		name: "request id of the caller", reason: "without an answer the caller's own id is all there is",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", sent: headerWith("x-ms-client-request-id", "c-1"),
		want: Write{Path: "/api/data/v9.2/accounts", RequestID: "c-1"},
	},
	{
		name: "request id of an SDK", reason: "older clients name it without the prefix",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", sent: headerWith("client-request-id", "c-2"), status: 503,
		want: Write{Path: "/api/data/v9.2/accounts", RequestID: "c-2", Status: 503},
	},
	{
		name: "id without hyphens", reason: "only the one form of GUIDs that the service writes counts",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(" + strings.ReplaceAll(recordA, "-", "0") + ")",
		want: Write{Path: "/api/data/v9.2/accounts(" + strings.ReplaceAll(recordA, "-", "0") + ")"},
	},
	{
		name: "no hexadecimal id", reason: "a name of the right length is no GUID",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(" + strings.ReplaceAll(recordA, "a", "g") + ")",
		want: Write{Path: "/api/data/v9.2/accounts(" + strings.ReplaceAll(recordA, "a", "g") + ")"},
	},
	{
		name: "entity id of something below a record", reason: "the header is to name a record and nothing else",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204,
		header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA+"/name"),
		want:   Write{Path: "/api/data/v9.2/accounts", Status: 204},
	},
	{
		name: "relative entity id", reason: "OData allows it to be relative to the request",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204, header: headerWith("OData-EntityId", accountA),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "entity id with a query", reason: "nothing but the path of a record is kept",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204,
		header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA+"?sig=secret"),
		want:   Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "hostile entity id", reason: "a path with blanks or control characters would end up in a request",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204,
		header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com/x\r\ny/accounts("+recordA+")"),
		want:   Write{Path: "/api/data/v9.2/accounts", Status: 204},
	},
	{
		name: "endless entity id", reason: "what is kept is bounded",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204,
		header: headerWith("OData-EntityId", "/"+strings.Repeat("x", 600)+"/accounts("+recordA+")"),
		want:   Write{Path: "/api/data/v9.2/accounts", Status: 204},
	},
	{
		name: "elastic table", reason: "its records are read by their partition as well; the session token gives them away",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/contoso_readings",
		status: 204, header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com/api/data/v9.2/contoso_readings("+recordA+")", "x-ms-session-token", "240:8#142792728#7=-1"),
		want: Write{Path: "/api/data/v9.2/contoso_readings", EntityID: recordA, Status: 204},
	},
	{
		name: "partition in the query", reason: "deletes from elastic tables come back without the session token",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/contoso_readings(" + recordA + ")?partitionId=device-1", status: 204,
		want: Write{Path: "/api/data/v9.2/contoso_readings(" + recordA + ")", EntityID: recordA, Status: 204},
	},
	{
		name: "custom table", reason: "their names have a prefix with an underscore, and digits",
		method: "PATCH", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/new_2projects(" + recordA + ")", status: 204,
		want: Write{Path: "/api/data/v9.2/new_2projects(" + recordA + ")", Entity: "/api/data/v9.2/new_2projects(" + recordA + ")", EntityID: recordA, Status: 204},
	},
	{
		name: "endless path", reason: "what is kept is bounded, and half an id is none",
		method: "PATCH", url: "https://contoso.api.crm.dynamics.com/" + strings.Repeat("x", 500) + "/accounts(" + recordA + ")",
		want: Write{Path: ("/" + strings.Repeat("x", 500) + "/accounts(" + recordA)[:512]},
	},
}

// writeOf returns what a report says of a write.
func writeOf(req *http.Request, resp *http.Response, at time.Time, label string) Write {
	w := describe(req, resp, at, "", label)
	var e ledgerEntry
	e.pack(&w)
	return e.write()
}

func TestWriteOf(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range writeOfTests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequest(tt.method, tt.url, nil)
			require.NoError(t, err)
			if tt.sent != nil {
				req.Header = tt.sent
			}
			var resp *http.Response
			if tt.status != 0 {
				resp = &http.Response{StatusCode: tt.status, Header: tt.header}
			}
			tt.want.Time, tt.want.Method = at, tt.method
			assert.Equal(t, tt.want, writeOf(req, resp, at, tt.label), tt.reason)
		})
	}
}

func TestWriteOfPathThatWasNeverParsed(t *testing.T) {
	t.Parallel()
	req := &http.Request{Method: "DELETE", URL: &url.URL{Scheme: "https", Host: "contoso.api.crm.dynamics.com", Path: accountA}}
	w := writeOf(req, nil, time.Now(), "")
	assert.Equal(t, accountA, w.Path)
	assert.Equal(t, recordA, w.EntityID)
}

func FuzzWriteOf(f *testing.F) {
	for _, tt := range writeOfTests {
		f.Add(tt.url, tt.header.Get("OData-EntityId"), tt.header.Get("REQ_ID"), tt.label)
	}
	f.Add("https://contoso.api.crm.dynamics.com/\x00%0a", "/a\x7f", "id\r\nSet-Cookie: a=b", "\x1b[31m")
	f.Fuzz(func(t *testing.T, address, entityID, requestID, label string) {
		u, err := url.Parse(address)
		if err != nil {
			return
		}
		req := &http.Request{Method: "PATCH", URL: u}
		w := writeOf(req, &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", entityID, "REQ_ID", requestID)}, time.Now(), label)
		for _, s := range []string{w.Path, w.Entity, w.EntityID, w.RequestID, w.Label} {
			if len(s) > maxWritePath || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("kept %q", s)
			}
		}
		elastic := strings.Contains(strings.ToLower(u.RawQuery), "partitionid")
		if (w.Entity == "") != (w.EntityID == "" || elastic) || !strings.HasSuffix(w.Entity, w.EntityID+")") && w.Entity != "" {
			t.Errorf("entity %q, id %q", w.Entity, w.EntityID)
		}
		if strings.Contains(w.Entity, "?") || strings.Contains(w.Path, "?") {
			t.Errorf("a query was kept: %q, %q", w.Path, w.Entity)
		}
	})
}

// labels returns the labels of writes.
func labels(writes []Write) []string {
	var s []string
	for _, w := range writes {
		s = append(s, w.Label)
	}
	return s
}

// newBooks returns books with room for size writes.
func newBooks(size int) *books {
	b := new(books)
	org := Org{Primary: &url.URL{Scheme: "https", Host: "contoso.api.crm.dynamics.com"}}
	b.open(&Config{LedgerSize: size, RPO: 5 * time.Second}, &org, time.Now())
	return b
}

// ended returns a write that was made in the first epoch.
func ended(at Endpoint, outcome Outcome, when time.Time, label string) *endedWrite {
	return &endedWrite{Write: Write{Time: when, Label: label, Endpoint: at, Outcome: outcome}}
}

func TestLedgerReport(t *testing.T) {
	t.Parallel()
	lastSuccess := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const rpo = 5 * time.Second
	type entry struct {
		after   time.Duration // lastSuccess
		at      Endpoint
		outcome Outcome
		label   string
	}
	tests := []struct {
		name      string
		reason    string
		size      int
		entries   []entry
		from      Endpoint
		atRisk    []string
		unknown   []string
		truncated bool
		maxRun    time.Duration
	}{
		{name: "nothing", reason: "no write, no risk", size: 4},
		{
			name: "window", reason: "it reaches back from the last success by the RPO, inclusive", size: 8,
			entries: []entry{{after: -rpo - 1, label: "old"}, {after: -rpo, label: "edge"}, {after: 0, label: "last"}, {after: time.Minute, label: "later"}},
			atRisk:  []string{"edge", "last", "later"},
		},
		{
			name: "doubtful writes", reason: "they may be carried out for 10 minutes after they were given up on", size: 8,
			entries: []entry{
				{after: -rpo - 10*time.Minute - 1, outcome: OutcomeUnknown, label: "noise"}, {after: -rpo - 10*time.Minute, outcome: OutcomeUnknown, label: "edge"},
				{after: 150 * time.Second, outcome: OutcomeUnknown, label: "black hole"},
			},
			unknown: []string{"edge", "black hole"},
		},
		{
			name: "doubtful writes of Finance and Operations", reason: "a call may run for any length of time", size: 8, maxRun: never,
			entries: []entry{{after: -1000 * time.Hour, outcome: OutcomeUnknown, label: "long ago"}, {after: -rpo - 1, label: "safe"}},
			unknown: []string{"long ago"},
		},
		{
			name: "half-done batch", reason: "what it had done is acknowledged", size: 8,
			entries: []entry{{outcome: OutcomePartial, label: "batch"}, {after: -rpo - 1, outcome: OutcomePartial, label: "old"}},
			atRisk:  []string{"batch"},
		},
		{
			name: "the other endpoint", reason: "only writes of the endpoint that is left count", size: 8, from: Alternate,
			entries: []entry{{label: "primary"}, {at: Alternate, label: "alternate"}, {outcome: OutcomeUnknown, label: "primary"}},
			atRisk:  []string{"alternate"},
		},
		{
			name: "order", reason: "concurrent writers record out of order; the report is sorted", size: 8,
			entries: []entry{{after: 3, label: "3"}, {after: 1, label: "1"}, {after: 2, label: "2"}},
			atRisk:  []string{"1", "2", "3"},
		},
		{
			name: "overflow within the window", reason: "a write that belongs here was dropped", size: 2,
			entries: []entry{{after: 1, label: "1"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"}, truncated: true,
		},
		{
			name: "overflow before the window", reason: "what was dropped is safe, so the report is complete", size: 2,
			entries: []entry{{after: -rpo - 1, label: "old"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"},
		},
		{
			name: "overflow of the other endpoint", reason: "its writes are no part of this report", size: 2,
			entries: []entry{{at: Alternate, label: "alternate"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"},
		},
		{
			name: "overflow of a doubtful write", reason: "its window is wider", size: 1,
			entries: []entry{{after: -time.Minute, outcome: OutcomeUnknown, label: "doubtful"}, {after: 1, label: "1"}},
			atRisk:  []string{"1"}, truncated: true,
		},
		{
			name: "latest drop counts", reason: "drops out of order must not hide one within the window", size: 1,
			entries: []entry{{after: 1, label: "1"}, {after: -time.Hour, label: "old"}, {after: 2, label: "2"}},
			atRisk:  []string{"2"}, truncated: true,
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBooks(tt.size)
			b.rpo, b.maxRun = rpo, cmp.Or(tt.maxRun, maxRun)
			for _, e := range tt.entries {
				b.record(ended(e.at, e.outcome, lastSuccess.Add(e.after), e.label))
			}
			r := b.report(tt.from, tt.from.other(), 1, lastSuccess, "")
			assert.Equal(t, tt.atRisk, labels(r.AtRisk), tt.reason)
			assert.Equal(t, tt.unknown, labels(r.Unknown), tt.reason)
			assert.Equal(t, tt.truncated, r.Truncated, tt.reason)
			assert.Equal(t, tt.from, r.From)
			assert.Equal(t, lastSuccess, r.LastSuccess)
			assert.Equal(t, rpo, r.RPO)
		})
	}
}

func TestLedgerReportWithoutSuccess(t *testing.T) {
	t.Parallel()
	b := newBooks(4)
	b.rpo = 0
	b.record(ended(Primary, OutcomeUnknown, time.Now(), "first"))
	r := b.report(Primary, Alternate, 1, time.Time{}, "")
	assert.Equal(t, []string{"first"}, labels(r.Unknown), "an endpoint that never succeeded has no safe writes")
	assert.Zero(t, r.RPO)
	assert.False(t, r.Truncated)
}

func TestBooksWithoutALedger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, size := range []int{0, -1} {
		b := newBooks(size)
		require.Nil(t, b.ledger)
		assert.False(t, b.record(ended(Primary, OutcomeAcknowledged, now, "")))
		for _, r := range []*LossReport{b.report(Primary, Alternate, 1, now, ""), b.since(now, Primary)} {
			assert.True(t, r.Truncated, "of nothing that is kept nothing is known")
			assert.Empty(t, r.AtRisk)
			assert.Empty(t, r.Unknown)
		}
	}
}

// An organization is to take 3 KiB while idle and 12 KiB once it has written; this is
// the share of the books.
func TestBooksAreSmall(t *testing.T) {
	t.Parallel()
	b := newBooks(4096)
	assert.Empty(t, b.report(Primary, Alternate, 1, time.Now(), "").AtRisk)
	assert.Nil(t, b.ledger.ring.Load(), "neither idleness nor a report makes the ring")
	assert.Less(t, unsafe.Sizeof(*b)+unsafe.Sizeof(*b.ledger), uintptr(256))
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), ""))
	r := b.ledger.ring.Load()
	slots := func() (n int) {
		for i := range r.chunks {
			if c := r.chunks[i].Load(); c != nil {
				n += len(*c)
			}
		}
		return n
	}
	assert.LessOrEqual(t, unsafe.Sizeof(*r)+uintptr(len(r.chunks))*8+uintptr(slots())*unsafe.Sizeof(slot{}), uintptr(3<<10), "after a write")
	for n := 1; n < 5000; n++ {
		b.record(ended(Primary, OutcomeAcknowledged, time.Now(), ""))
		if most := max(firstSlots, 2*n); slots() > most {
			t.Fatalf("%d slots for %d writes", slots(), n+1)
		}
	}
	assert.Equal(t, 4096, slots())
}

// The ledger keeps as many writes as it is told to, whatever the number.
func TestTheLedgerKeepsAsManyAsItIsTold(t *testing.T) {
	t.Parallel()
	for size := 1; size < 70; size++ {
		b, now := newBooks(size), time.Now()
		for n := range 2*size + 1 {
			b.record(ended(Primary, OutcomeAcknowledged, now.Add(time.Duration(n)), ""))
		}
		kept := b.since(now, Primary).AtRisk
		require.Len(t, kept, size)
		require.Equal(t, now.Add(time.Duration(size+1)), kept[0].Time, "the latest of them")
	}
}

// Not parallel: testing.AllocsPerRun counts the allocations of every goroutine.
func TestAWriteAllocatesNothingInTheBooks(t *testing.T) {
	b := newBooks(16)
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(t, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	var u underway
	write := func(label string) func() {
		return func() {
			u = underway{req: req}
			b.begin(&u)
			b.end(&u)
			w := describe(req, resp, time.Now(), "", label)
			b.record(&w)
		}
	}
	brief, long := write("label"), write(strings.Repeat("x", 256))
	for range 16 {
		long() // makes the ring, and room for long texts
	}
	assert.Zero(t, testing.AllocsPerRun(100, brief))
	assert.Zero(t, testing.AllocsPerRun(100, long))
}

func TestASlotHoldsOneWriteAfterAnother(t *testing.T) {
	t.Parallel()
	b := newBooks(1)
	for _, label := range []string{"brief", strings.Repeat("long", 64), "again", ""} {
		b.record(ended(Primary, OutcomeAcknowledged, time.Now(), label))
		assert.Equal(t, []string{label}, labels(b.since(time.Time{}, Primary).AtRisk))
	}
}

// A report either holds every write that was recorded before it, or says that it
// is truncated; it holds none twice.
func TestLedgerReportsWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	const writers, writesEach, size = 4, 500, 1000
	base := time.Now()
	b := newBooks(size)
	var recorded atomic.Int64
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range writesEach {
				id := n*writesEach + i
				w := ended(Primary, Outcome(i%2), base.Add(time.Duration(id)), "")
				w.Status = id
				b.record(w)
				recorded.Add(1)
			}
		})
	}
	list := func() (*LossReport, []Write) {
		r := b.draft(Primary, Alternate, base, "")
		return r, slices.Concat(r.AtRisk, r.Unknown)
	}
	for reports := 0; reports < 2000; reports++ {
		before := recorded.Load()
		r, writes := list()
		if !r.Truncated && int64(len(writes)) < before {
			t.Fatalf("%d of %d writes reported, not truncated", len(writes), before)
		}
		slices.SortFunc(writes, byTime)
		if len(slices.Compact(writes)) != len(r.AtRisk)+len(r.Unknown) {
			t.Fatal("a write was reported twice")
		}
		if before == writers*writesEach {
			break
		}
	}
	wg.Wait()
	r, writes := list()
	assert.Len(t, writes, size)
	assert.True(t, r.Truncated)
}

func BenchmarkRecord(b *testing.B) {
	l := newBooks(4096)
	w := ended(Primary, OutcomeAcknowledged, time.Now(), "label")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.record(w)
		}
	})
}

func BenchmarkEntry(b *testing.B) {
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(b, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	now := time.Now()
	var e ledgerEntry
	b.ReportAllocs()
	for b.Loop() {
		w := describe(req, resp, now, "", "label")
		e.pack(&w)
	}
}
