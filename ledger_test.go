package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	d := draftOf(req, resp, at, label)
	return d.write()
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
				l.record(e.at, draft{Write: Write{Time: lastSuccess.Add(e.after), Label: e.label}}, e.unknown)
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
	l.record(Primary, draft{Write: Write{Time: time.Now(), Label: "first"}}, true)
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
		l.record(Primary, draft{Write: Write{Time: now}}, false)
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
	l := newLedger(16)
	w := draft{Write: Write{Time: time.Now(), Method: "POST", Path: accountA}}
	l.record(Primary, w, false)
	assert.Equal(t, 1.0, testing.AllocsPerRun(100, func() { l.record(Primary, w, false) }))
	l = nil
	assert.Zero(t, testing.AllocsPerRun(100, func() { l.record(Primary, w, false) }))
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
				l.record(Primary, draft{Write: Write{Time: base.Add(time.Duration(id)), Status: id}}, i%2 == 0)
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
	w := draft{Write: Write{Time: time.Now(), Method: "POST", Path: accountA}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.record(Primary, w, false)
		}
	})
}

func BenchmarkDraftOf(b *testing.B) {
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(b, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		draftOf(req, resp, now, "label")
	}
}

// readSide is an organization in memory that Verify reads from.
type readSide struct {
	answer func(n int, req *http.Request) (*http.Response, error) // n counts from 0
	mu     sync.Mutex
	reads  []string // method, URL
	times  []time.Time
}

func (s *readSide) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := len(s.reads)
	s.reads = append(s.reads, req.Method+" "+req.URL.String())
	s.times = append(s.times, time.Now())
	s.mu.Unlock()
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp, err := s.answer(n, req)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

// replyWith makes a response.
func replyWith(status int, body string, pairs ...string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: headerWith(pairs...), Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

const notFoundBody = `{"error":{"code":"0x80040217","message":"The record does not exist"}}`

// holding answers for an organization that has the given records and no others.
func holding(paths ...string) func(int, *http.Request) (*http.Response, error) {
	return func(_ int, req *http.Request) (*http.Response, error) {
		if slices.Contains(paths, req.URL.Path) {
			return replyWith(200, `{"name":"Contoso"}`, "OData-Version", "4.0", "Content-Type", "application/json"), nil
		}
		return replyWith(404, notFoundBody, "OData-Version", "4.0", "Content-Type", "application/json"), nil
	}
}

func create(entity string, status int) Write {
	return Write{Method: "POST", Path: "/api/data/v9.2/accounts", Entity: entity, Status: status}
}

func onRecord(method, entity, rest string) Write {
	return Write{Method: method, Path: entity + rest, Entity: entity, Status: 204}
}

func TestVerifyJudgesEveryWrite(t *testing.T) {
	t.Parallel()
	soap := Write{Method: "POST", Path: "/XRMServices/2011/Organization.svc/web"}
	tests := []struct {
		name       string
		reason     string
		writes     []Write // a second apart
		holding    []string
		present    []int // indexes of writes
		missing    []int
		unreadable []int
		reads      int
	}{
		{name: "no writes", reason: "nothing to look up", reads: 0},
		{
			name: "created record that exists", reason: "it came across",
			writes: []Write{create(accountA, 204)}, holding: []string{accountA}, present: []int{0}, reads: 1,
		},
		{
			name: "created record that does not exist", reason: "it did not come across",
			writes: []Write{create(accountA, 204)}, missing: []int{0}, reads: 1,
		},
		{
			name: "upsert that created", reason: "201 says so",
			writes:  []Write{{Method: "PATCH", Path: accountA, Entity: accountA, Status: 201}},
			holding: []string{accountA}, present: []int{0}, reads: 1,
		},
		{
			name: "deleted record that does not exist", reason: "the deletion came across",
			writes: []Write{onRecord("DELETE", accountA, "")}, present: []int{0}, reads: 1,
		},
		{
			name: "deleted record that exists", reason: "the deletion did not come across",
			writes: []Write{onRecord("DELETE", accountA, "")}, holding: []string{accountA}, missing: []int{0}, reads: 1,
		},
		{
			name: "changed record that exists", reason: "it may be the old version",
			writes:  []Write{onRecord("PATCH", accountA, ""), onRecord("PUT", accountA, "/name"), onRecord("POST", accountA, "/Microsoft.Dynamics.CRM.Merge")},
			holding: []string{accountA}, unreadable: []int{0, 1, 2}, reads: 1,
		},
		{
			name: "changed record that does not exist", reason: "the change cannot be there without it",
			writes: []Write{onRecord("PATCH", accountA, "")}, missing: []int{0}, reads: 1,
		},
		{
			name: "deleted column", reason: "the record is to stay, so its presence says nothing",
			writes: []Write{onRecord("DELETE", accountA, "/name")}, holding: []string{accountA}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "associate", reason: "a new relation is no new record",
			writes:  []Write{{Method: "POST", Path: accountA + "/contacts/$ref", Entity: accountB, Status: 204}},
			holding: []string{accountB}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "created, then deleted", reason: "that the record is gone does not say that it ever came across",
			writes:  []Write{create(accountA, 204), onRecord("PATCH", accountA, ""), onRecord("DELETE", accountA, "")},
			present: []int{2}, unreadable: []int{0, 1}, reads: 1,
		},
		{
			name: "created, deleted in vain", reason: "the record is there: the creation came across, the deletion did not",
			writes:  []Write{create(accountA, 204), onRecord("DELETE", accountA, "")},
			holding: []string{accountA}, present: []int{0}, missing: []int{1}, reads: 1,
		},
		{
			name: "deleted, then created again", reason: "that the record is there does not say that it was ever away",
			writes:  []Write{onRecord("DELETE", accountA, ""), create(accountA, 204)},
			holding: []string{accountA}, present: []int{1}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "no record", reason: "no id, nothing to read",
			writes: []Write{soap, {Method: "POST", Path: "/api/data/v9.2/$batch", Status: 200}, {Method: "POST", Path: "/api/data/v9.2/accounts"}}, unreadable: []int{0, 1, 2},
		},
		{
			name: "one record by several names", reason: "version of the API and case of the id do not make another record",
			writes: []Write{
				create(accountA, 204), onRecord("DELETE", strings.ReplaceAll(strings.ToUpper(accountA), "ACCOUNTS", "accounts"), ""),
				onRecord("PATCH", strings.ReplaceAll(accountA, "v9.2", "v9.0"), ""),
			},
			holding: []string{accountA}, present: []int{0}, unreadable: []int{1, 2}, reads: 1,
		},
		{
			name: "two records", reason: "each is judged by itself",
			writes: []Write{create(accountA, 204), create(accountB, 204)}, holding: []string{accountB},
			present: []int{1}, missing: []int{0}, reads: 2,
		},
		{
			name: "path that is none", reason: "a report may come from anywhere; only paths are put behind the origin",
			writes: []Write{create("@attacker.example/accounts("+recordA+")", 204), create("/\x00("+recordA+")", 204)}, unreadable: []int{0, 1},
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &LossReport{URL: "https://contoso.api.crm.dynamics.com"}
				for i, w := range tt.writes {
					w.Time, w.Label = time.Now().Add(time.Duration(i)*time.Second), strconv.Itoa(i)
					if i%2 == 0 { // which list a write is in makes no difference
						r.AtRisk = append(r.AtRisk, w)
					} else {
						r.Unknown = append(r.Unknown, w)
					}
				}
				side := &readSide{answer: holding(tt.holding...)}
				v, err := r.Verify(t.Context(), &http.Client{Transport: side})
				require.NoError(t, err)
				assert.Equal(t, indexes(tt.present), labels(v.Present), "present: "+tt.reason)
				assert.Equal(t, indexes(tt.missing), labels(v.Missing), "missing: "+tt.reason)
				assert.Equal(t, indexes(tt.unreadable), labels(v.Unreadable), "unreadable: "+tt.reason)
				assert.Len(t, side.reads, tt.reads, tt.reason)
				for _, read := range side.reads {
					assert.True(t, strings.HasPrefix(read, "GET https://contoso.api.crm.dynamics.com/"), read)
				}
			})
		})
	}
}

func indexes(numbers []int) []string {
	var s []string
	for _, n := range numbers {
		s = append(s, strconv.Itoa(n))
	}
	return s
}

// creates returns a report of n created records.
func creates(n int) *LossReport {
	r := &LossReport{URL: "https://contoso.api.crm.dynamics.com"}
	for i := range n {
		id := recordA[:33] + strconv.Itoa(100+i)
		w := create("/api/data/v9.2/accounts("+id+")", 204)
		w.Time = time.Now().Add(time.Duration(i))
		r.AtRisk = append(r.AtRisk, w)
	}
	return r
}

func TestVerifyReadsTenRecordsASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(30 * time.Millisecond)
			return replyWith(200, "{}", "OData-Version", "4.0"), nil
		}}
		v, err := creates(31).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Present, 31)
		assert.EqualValues(t, 1, most.Load(), "one read at a time")
		assert.Equal(t, 3*time.Second, side.times[30].Sub(side.times[0]))
	})
}

func TestVerifyWaitsWhenThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n < 2 {
				return replyWith(429, "", "Retry-After", "7"), nil
			}
			return replyWith(200, "{}", "OData-Version", "4.0"), nil
		}}
		v, err := creates(1).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Present, 1)
		require.Len(t, side.times, 3)
		assert.Equal(t, 7*time.Second, side.times[1].Sub(side.times[0]))
		assert.Equal(t, 14*time.Second, side.times[2].Sub(side.times[0]))
	})
}

func TestVerifyEndsEarly(t *testing.T) {
	t.Parallel()
	errReset := errors.New("connection reset")
	always := func(status int, pairs ...string) func(int, *http.Request) (*http.Response, error) {
		return func(n int, _ *http.Request) (*http.Response, error) {
			if n == 0 {
				return replyWith(200, "{}", "OData-Version", "4.0"), nil
			}
			return replyWith(status, "", pairs...), nil
		}
	}
	tests := []struct {
		name   string
		reason string
		answer func(int, *http.Request) (*http.Response, error)
		reads  int
		check  func(t *testing.T, err error)
	}{
		{
			name: "throttled for good", reason: "the service wants to be left alone", answer: always(429, "Retry-After", "1"), reads: 1 + verifyTries,
			check: func(t *testing.T, err error) { assertFault(t, ClassThrottled, err) },
		},
		{
			name: "credentials refused", reason: "the next read would fare no better", answer: always(401), reads: 2,
			check: func(t *testing.T, err error) { assertFault(t, ClassAuth, err) },
		},
		{
			name: "no answer", reason: "the Transport has tried everything already", reads: 2,
			answer: func(n int, req *http.Request) (*http.Response, error) {
				if n == 0 {
					return always(200)(n, req)
				}
				return nil, errReset
			},
			check: func(t *testing.T, err error) { assert.ErrorIs(t, err, errReset) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				side := &readSide{answer: tt.answer}
				v, err := creates(5).Verify(t.Context(), &http.Client{Transport: side})
				tt.check(t, err)
				assert.Len(t, side.reads, tt.reads, tt.reason)
				assert.Len(t, v.Present, 1, "what is known by then is returned")
				assert.Len(t, v.Unreadable, 4)
			})
		})
	}
}

func assertFault(t *testing.T, class Class, err error) {
	t.Helper()
	var f *Fault
	if assert.ErrorAs(t, err, &f) {
		assert.Equal(t, class, f.Class)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		v, err := creates(10).Verify(ctx, &http.Client{Transport: &readSide{answer: holding()}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Len(t, v.Missing, 3, "read at 0, 100 and 200 ms")
		assert.Len(t, v.Unreadable, 7)
	})
}

func TestVerifyWaitsForTheServiceNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
			return replyWith(429, "", "Retry-After", "60"), nil
		}}
		start := time.Now()
		v, err := creates(2).Verify(ctx, &http.Client{Transport: side})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 3*time.Second, time.Since(start))
		assert.Len(t, v.Unreadable, 2)
		assert.Len(t, side.reads, 1)
	})
}

func TestVerifyWithCanceledContextReadsNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := creates(2).Verify(ctx, &http.Client{Transport: &readSide{answer: holding()}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, v.Unreadable, 2)
}

// Neither a redirect nor an error of one record proves anything about it, and
// neither keeps the others from being read.
func TestVerifyProvesNothingByOtherAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := []*http.Response{
			replyWith(302, "", "Location", "https://contoso.example/"),
			replyWith(403, "", "OData-Version", "4.0"),
			replyWith(404, "<html>no such site</html>", "Content-Type", "text/html"), // of a front end
			replyWith(500, notFoundBody, "OData-Version", "4.0"),
			replyWith(204, "", "OData-Version", "4.0"),
			replyWith(200, "{}", "OData-Version", "4.0"),
		}
		side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) { return answers[n], nil }}
		v, err := creates(len(answers)).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Unreadable, len(answers)-1)
		assert.Len(t, v.Present, 1)
		assert.Empty(t, v.Missing)
		assert.Len(t, side.reads, len(answers), "no redirect was followed")
	})
}

func TestVerifyNeedsAnOrigin(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "contoso", "https://user:secret@contoso.api.crm.dynamics.com"} {
		r := creates(1)
		r.URL = address
		v, err := r.Verify(t.Context(), nil)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "secret")
		assert.Len(t, v.Unreadable, 1)
	}
}
