package failover

import (
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
		name: "endless path", reason: "what is kept is bounded, and half an id is none",
		method: "PATCH", url: "https://contoso.api.crm.dynamics.com/" + strings.Repeat("x", 500) + "/accounts(" + recordA + ")",
		want: Write{Path: ("/" + strings.Repeat("x", 500) + "/accounts(" + recordA)[:512]},
	},
}

// writeOf returns what a report says of a write.
func writeOf(req *http.Request, resp *http.Response, at time.Time, label string) Write {
	w, named := describe(req, resp, at, "", label)
	return newLedgerEntry(Primary, false, w, named).write()
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
		if (w.Entity == "") != (w.EntityID == "") || !strings.HasSuffix(w.Entity, w.EntityID+")") && w.Entity != "" {
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

func TestLedgerReport(t *testing.T) {
	t.Parallel()
	lastSuccess := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const rpo = 5 * time.Second
	type entry struct {
		after   time.Duration // lastSuccess
		at      Endpoint
		unknown bool
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
	}{
		{name: "nothing", reason: "no write, no risk", size: 4},
		{
			name: "window", reason: "it reaches back from the last success by the RPO, inclusive", size: 8,
			entries: []entry{{after: -rpo - 1, label: "old"}, {after: -rpo, label: "edge"}, {after: 0, label: "last"}, {after: time.Minute, label: "later"}},
			atRisk:  []string{"edge", "last", "later"},
		},
		{
			name: "doubtful writes", reason: "they may have been carried out for 2 minutes after they were given up on", size: 8,
			entries: []entry{
				{after: -rpo - 2*time.Minute - 1, unknown: true, label: "noise"}, {after: -rpo - 2*time.Minute, unknown: true, label: "edge"},
				{after: 150 * time.Second, unknown: true, label: "black hole"},
			},
			unknown: []string{"edge", "black hole"},
		},
		{
			name: "the other endpoint", reason: "only writes of the endpoint that is left count", size: 8, from: Alternate,
			entries: []entry{{label: "primary"}, {at: Alternate, label: "alternate"}, {unknown: true, label: "primary"}},
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
			entries: []entry{{after: -time.Minute, unknown: true, label: "doubtful"}, {after: 1, label: "1"}},
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
			l := newLedger(tt.size)
			for _, e := range tt.entries {
				l.record(newLedgerEntry(e.at, e.unknown, Write{Time: lastSuccess.Add(e.after), Label: e.label}, ""))
			}
			r := l.report(tt.from, lastSuccess, rpo)
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
	l := newLedger(4)
	l.record(newLedgerEntry(Primary, true, Write{Time: time.Now(), Label: "first"}, ""))
	r := l.report(Primary, time.Time{}, -1)
	assert.Equal(t, []string{"first"}, labels(r.Unknown), "an endpoint that never succeeded has no safe writes")
	assert.Zero(t, r.RPO, "a negative RPO is off")
	assert.False(t, r.Truncated)
}

func TestNilLedger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, size := range []int{0, -1} {
		l := newLedger(size)
		require.Nil(t, l)
		l.record(newLedgerEntry(Primary, false, Write{Time: now}, ""))
		want := &LossReport{From: Alternate, LastSuccess: now, RPO: time.Second, Truncated: true}
		assert.Equal(t, want, l.report(Alternate, now, time.Second))
	}
}

func TestUnusedLedgerIsSmall(t *testing.T) {
	t.Parallel()
	l := newLedger(4096)
	assert.Nil(t, l.ring.Load(), "the ring is made for the first write")
	assert.Empty(t, l.report(Primary, time.Now(), time.Second).AtRisk)
	assert.Nil(t, l.ring.Load(), "a report needs no ring")
	assert.Less(t, unsafe.Sizeof(*l), uintptr(100))
}

// Not parallel: testing.AllocsPerRun counts the allocations of every goroutine.
func TestRecordAllocatesOnce(t *testing.T) {
	l, w := newLedger(16), Write{Time: time.Now(), Method: "POST", Path: accountA}
	record := func() { l.record(newLedgerEntry(Primary, false, w, "")) }
	record() // makes the ring
	assert.Equal(t, 1.0, testing.AllocsPerRun(100, record))
}

// A report either holds every write that was recorded before it, or says that it
// is truncated; it holds none twice.
func TestLedgerReportsWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	const writers, writesEach, size = 4, 500, 1000
	base := time.Now()
	l := newLedger(size)
	var recorded atomic.Int64
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range writesEach {
				id := n*writesEach + i
				l.record(newLedgerEntry(Primary, i%2 == 0, Write{Time: base.Add(time.Duration(id)), Status: id}, ""))
				recorded.Add(1)
			}
		})
	}
	for reports := 0; reports < 2000; reports++ {
		before := recorded.Load()
		r := l.report(Primary, base, 0)
		writes := slices.Concat(r.AtRisk, r.Unknown)
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
	r := l.report(Primary, base, 0)
	assert.Len(t, slices.Concat(r.AtRisk, r.Unknown), size)
	assert.True(t, r.Truncated)
}

func BenchmarkRecord(b *testing.B) {
	l := newLedger(4096)
	w := Write{Time: time.Now(), Method: "POST", Path: accountA}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.record(newLedgerEntry(Primary, false, w, ""))
		}
	})
}

func BenchmarkEntry(b *testing.B) {
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(b, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		w, named := describe(req, resp, now, "", "label")
		newLedgerEntry(Primary, false, w, named)
	}
}
