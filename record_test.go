package failover

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

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
	want   Write // Time and Method are checked in every row
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
		name: "two request ids", reason: "the service's own is the one that support asks for",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", sent: headerWith("x-ms-client-request-id", "c-1"),
		status: 503, header: headerWith("x-ms-service-request-id", "s-1"),
		want: Write{Path: "/api/data/v9.2/accounts", RequestID: "s-1", Status: 503},
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
		name: "entity id with a fragment", reason: "nothing but the path of a record is kept",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204, header: headerWith("OData-EntityId", accountA+"#x"),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, Status: 204},
	},
	{
		name: "entity id with escaped parentheses", reason: "it is the same record",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 204, header: headerWith("OData-EntityId", "/accounts%28"+recordA+"%29"),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: "/accounts(" + recordA + ")", EntityID: recordA, Status: 204},
	},
	{
		name: "entity id beside a Location", reason: "the header that is for it goes first",
		method: "POST", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", status: 201, header: headerWith("OData-EntityId", accountA, "Location", accountB),
		want: Write{Path: "/api/data/v9.2/accounts", Entity: accountA, EntityID: recordA, Status: 201},
	},
	{
		name: "unclosed id", reason: "the path was cut, or never named a record",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(" + recordA,
		want: Write{Path: "/api/data/v9.2/accounts(" + recordA},
	},
	{
		name: "id that goes on", reason: "it is no id",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(" + recordA + "0)",
		want: Write{Path: "/api/data/v9.2/accounts(" + recordA + "0)"},
	},
	{
		name: "other parentheses", reason: "the record may come after them",
		method: "DELETE", url: "https://contoso.api.crm.dynamics.com/x((/accounts(" + recordA + ")",
		want: Write{Path: "/x((/accounts(" + recordA + ")", Entity: "/x((/accounts(" + recordA + ")", EntityID: recordA},
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

// writeOf returns the write as a report lists it.
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

// Every byte of an id counts.
func TestTheFormOfAGUID(t *testing.T) {
	t.Parallel()
	for i := range recordA {
		for c := range 256 {
			want := strings.IndexByte("0123456789abcdefABCDEF", byte(c)) >= 0
			if recordA[i] == '-' {
				want = c == '-'
			}
			assert.Equal(t, want, isGUID(recordA[:i]+string([]byte{byte(c)})+recordA[i+1:]), "%q at %d", c, i)
		}
		assert.False(t, isGUID(recordA[:i]))
	}
	assert.False(t, isGUID(recordA+"0"))
	for r := range rune(0x180) {
		assert.Equal(t, r < 0x21 || r > 0x7e, invisible(r), "%q", r)
	}
}

// What a write is known to have done to its record.
func TestWhatCreatesAndDeletes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		write            Write
		creates, deletes bool
	}{
		{Write{Method: "POST", Path: "/api/data/v9.2/accounts", Entity: accountA, Status: 204}, true, false},
		{Write{Method: "PATCH", Path: accountA, Entity: accountA, Status: 201}, true, false},
		{Write{Method: "PATCH", Path: accountA, Entity: accountA, Status: 204}, false, false},
		{Write{Method: "PATCH", Path: "/api/data/v9.2/accounts(accountnumber='7')", Entity: accountA, Status: 204}, false, false}, // may have found a record with that key
		{Write{Method: "POST", Path: accountA + "/Microsoft.Dynamics.CRM.Merge", Entity: accountA, Status: 204}, false, false},
		{Write{Method: "POST", Path: accountB + "/contacts", Entity: accountA, Status: 204}, true, false},
		{Write{Method: "POST", Path: accountB + "/contacts/$ref", Entity: accountA, Status: 204}, false, false},
		{Write{Method: "DELETE", Path: accountA, Entity: accountA, Status: 204}, false, true},
		{Write{Method: "DELETE", Path: accountA + "/name", Entity: accountA, Status: 204}, false, false},
	} {
		assert.Equal(t, tt.creates, tt.write.creates(), tt.write)
		assert.Equal(t, tt.deletes, tt.write.deletes(), tt.write)
	}
}

// If it is known what the service calls a request, the answer is not searched for it again.
func TestARequestIDThatIsKnown(t *testing.T) {
	t.Parallel()
	w := describe(&http.Request{URL: &url.URL{}, Header: headerWith("Client-Request-Id", "c-1")}, &http.Response{Header: headerWith("REQ_ID", "r-2")}, time.Now(), "r-1", "")
	assert.Equal(t, "r-1", w.RequestID)
}

// The texts of a write are cut at their limits, and not before.
func TestTheTextsOfAWriteAreBounded(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		most  int
		write func(text string) (kept string)
	}{
		"method": {32, func(s string) string {
			return writeOf(&http.Request{Method: s, URL: &url.URL{Path: "/"}}, nil, time.Now(), "").Method
		}},
		"path":  {512, func(s string) string { return writeOf(&http.Request{URL: &url.URL{Path: s}}, nil, time.Now(), "").Path }},
		"label": {256, func(s string) string { return writeOf(&http.Request{URL: &url.URL{}}, nil, time.Now(), s).Label }},
		"id of the caller": {128, func(s string) string {
			return writeOf(&http.Request{URL: &url.URL{}, Header: headerWith("Client-Request-Id", s)}, nil, time.Now(), "").RequestID
		}},
		"id in the answer": {128, func(s string) string {
			return writeOf(&http.Request{URL: &url.URL{}}, &http.Response{Header: headerWith("REQ_ID", s)}, time.Now(), "").RequestID
		}},
		"id of the service": {128, func(s string) string {
			w := describe(&http.Request{URL: &url.URL{}}, nil, time.Now(), s, "")
			return w.RequestID
		}},
		"address": {1024, func(s string) string { return namedRecord(&http.Response{Header: headerWith("OData-EntityId", s)}) }},
	} {
		text := "/" + strings.Repeat("x", row.most)
		assert.Equal(t, text[:row.most], row.write(text[:row.most]), name)
		if name == "address" {
			assert.Empty(t, row.write(text), "half an address is none")
			continue
		}
		assert.Equal(t, text[:row.most], row.write(text), name)
	}
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
