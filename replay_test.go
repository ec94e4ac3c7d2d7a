package failover

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// servicesSpace begins the actions of Organization.svc.
const servicesSpace = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"

const (
	retrieveAction = servicesSpace + "/IOrganizationService/Retrieve"
	multipleAction = servicesSpace + "/IOrganizationService/RetrieveMultiple"
	createAction   = servicesSpace + "/IOrganizationService/Create"
	executeAction  = servicesSpace + "/IOrganizationService/Execute"
)

// execute returns an envelope that executes a request with that name and xsi:type ("" for
// none). The action goes into wsa:Action unless it is "".
func execute(action, kind, name string) string {
	header, attr := "", ""
	if action != "" {
		header = `<s:Header><a:Action xmlns:a="http://www.w3.org/2005/08/addressing" s:mustUnderstand="1">` + action + `</a:Action></s:Header>`
	}
	if kind != "" {
		attr = ` xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns:c="http://schemas.microsoft.com/crm/2011/Contracts" i:type="` + kind + `"`
	}
	return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">` + header + `<s:Body><Execute xmlns="` + servicesSpace +
		`"><request` + attr + ` xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts"><x:Parameters/><x:RequestName>` + name +
		`</x:RequestName></request></Execute></s:Body></s:Envelope>`
}

// retrieve returns an envelope whose body holds the element of an operation. The action goes
// into wsa:Action unless it is "".
func retrieve(action, operation string) string {
	header := ""
	if action != "" {
		header = `<s:Header><a:Action xmlns:a="http://www.w3.org/2005/08/addressing" s:mustUnderstand="1">` + action + `</a:Action></s:Header>`
	}
	return `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope">` + header + `<s:Body><` + operation + ` xmlns="` + servicesSpace +
		`"><entityName>account</entityName></` + operation + `></s:Body></s:Envelope>`
}

// batchOf returns a batch with one part for each request line.
func batchOf(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "--contoso\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n%s HTTP/1.1\r\nAccept: application/json\r\n\r\n\r\n", line)
	}
	return b.String() + "--contoso--\r\n"
}

type header map[string]string

// noValue stands for a header without values.
const noValue = "\x00"

var replayRows = []struct {
	name   string
	method string
	path   string // default: an entity set
	header header
	body   string
	mark   func(context.Context) context.Context
	config Config
	// whether the request may be sent again if the outcome of the attempt is unknown; after
	// NotSent and Refused it always may, unless never is set
	unknown bool
	never   bool
	why     string
}{
	{name: "GET", method: "GET", unknown: true, why: "a read"},
	{name: "no method", method: "", unknown: true, why: "means GET"},
	{name: "HEAD", method: "HEAD", unknown: true, why: "a read"},
	{name: "OPTIONS", method: "OPTIONS", unknown: true, why: "a read"},
	{name: "PUT", method: "PUT", body: "{}", unknown: true, why: "sets a value, twice the same"},
	{name: "DELETE", method: "DELETE", unknown: true, why: "gone is gone"},
	{name: "PUT if match", method: "PUT", header: header{"If-Match": `W/"7"`}, unknown: true, why: "the second one fails if the first was done"},
	{name: "DELETE if match", method: "DELETE", header: header{"If-Match": `W/"7"`}, unknown: true, why: "the second one fails if the first was done"},
	{name: "PATCH if match", method: "PATCH", header: header{"If-Match": `W/"7"`}, unknown: true, why: "the second one fails if the first was done"},
	{name: "PATCH if match any", method: "PATCH", header: header{"If-Match": "*"}, unknown: true, why: "an update, never a stub"},
	{name: "PATCH if none match", method: "PATCH", header: header{"If-None-Match": "*"}, unknown: true, why: "a create, which fails the second time"},
	{name: "PATCH", method: "PATCH", why: "an upsert could create a stub of a record that was lost"},
	{name: "PATCH if none match a tag", method: "PATCH", header: header{"If-None-Match": `W/"7"`}, why: "still an upsert"},
	{name: "POST", method: "POST", body: "{}", why: "would create a second record"},
	{name: "POST if match", method: "POST", header: header{"If-Match": "*"}, body: "{}", why: "a condition means nothing to a create"},
	{name: "idempotency key without a value", method: "POST", header: header{"Idempotency-Key": noValue}, unknown: true, why: "net/http's rule: not sent, but marked"},
	{name: "empty idempotency key", method: "POST", header: header{"Idempotency-Key": ""}, why: "no key at all, sent on by a proxy"},
	{name: "blank idempotency key", method: "POST", header: header{"X-Idempotency-Key": " \t"}, why: "no key at all"},
	{name: "PATCH if match, several", method: "PATCH", header: header{"If-Match": `W/"7", "8"`}, unknown: true, why: "a list of tags is a condition"},
	{name: "PATCH if match, empty", method: "PATCH", header: header{"If-Match": ""}, why: "no condition: an upsert"},
	{name: "PATCH if match, blank", method: "PATCH", header: header{"If-Match": " "}, why: "no condition: an upsert"},
	{name: "PATCH if match, no tag", method: "PATCH", header: header{"If-Match": "7"}, why: "what is no tag may be ignored"},
	{name: "PATCH if match, empty tag", method: "PATCH", header: header{"If-Match": `W/""`}, why: "a variable that was not set"},
	{name: "PATCH if match, broken tag", method: "PATCH", header: header{"If-Match": `W/"7`}, why: "what is no tag may be ignored"},
	{name: "PATCH if match, tag and word", method: "PATCH", header: header{"If-Match": `W/"7", x`}, why: "what is no tag may be ignored"},
	{name: "PATCH if none match, blanks", method: "PATCH", header: header{"If-None-Match": " * "}, unknown: true, why: "a create, which fails the second time"},
	{name: "PATCH if none match, empty", method: "PATCH", header: header{"If-None-Match": ""}, why: "no condition: an upsert"},
	{name: "PUT that means another method", method: "PUT", header: header{"X-HTTP-Method": "POST"}, why: "a server may do what the header says"},
	{name: "GET that means another method", method: "GET", header: header{"X-HTTP-Method-Override": "DELETE"}, why: "a server may do what the header says"},
	{name: "GET that means another method, with a key", method: "GET", header: header{"X-HTTP-Method-Override": "DELETE", "Idempotency-Key": "7"}, unknown: true, why: "the caller vouches for it"},
	{name: "GET that takes away", method: "GET", path: "/api/connector/dequeue/00000000-0000-0000-0000-000000000001", why: "the next message of a queue, which is gone then"},
	{name: "GET of a function", method: "GET", path: "/api/data/v9.2/RetrieveVersion()", unknown: true, why: "functions change nothing"},
	{name: "unknown method", method: "MERGE", body: "{}", why: "an update of OData v2; not known to be safe"},
	{name: "idempotency key", method: "POST", header: header{"Idempotency-Key": "7"}, unknown: true, why: "net/http's rule"},
	{name: "idempotency key, X-", method: "POST", header: header{"X-Idempotency-Key": "7"}, unknown: true, why: "net/http's rule"},
	{name: "WithReplay", method: "POST", body: "{}", mark: WithReplay, unknown: true, why: "the caller vouches for it"},
	{name: "NoReplay GET", method: "GET", mark: NoReplay, never: true, why: "the caller forbids it"},
	{name: "NoReplay POST", method: "POST", body: "{}", mark: NoReplay, never: true, why: "the caller forbids it"},
	{name: "NoReplay with key", method: "POST", header: header{"Idempotency-Key": "7"}, mark: NoReplay, never: true, why: "the caller forbids it"},
	{name: "Config.Replay", method: "POST", body: "{}", config: Config{Replay: func(*http.Request) bool { return true }}, unknown: true, why: "the service vouches for it"},
	{name: "Config.Replay says no", method: "POST", body: "{}", config: Config{Replay: func(*http.Request) bool { return false }}, why: "it adds, it does not take away"},

	{name: "SOAP 1.1 Retrieve", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": `"` + retrieveAction + `"`}, body: retrieve("", "Retrieve"), unknown: true, why: "a read by its header"},
	{name: "SOAP 1.1 RetrieveMultiple, no quotes", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": multipleAction}, body: retrieve("", "RetrieveMultiple"), unknown: true, why: "a read by its header and its body"},
	{name: "SOAP 1.1 Create", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": createAction}, body: execute("", "", "WhoAmI"), why: "a write by its header"},
	{name: "SOAP 1.1 WhoAmI", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "c:WhoAmIRequest", "WhoAmI"), unknown: true, why: "a read by its request"},
	{name: "SOAP 1.1 RetrieveVersion, untyped", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "", "RetrieveVersion"), unknown: true, why: "a read by its name"},
	{name: "SOAP 1.1 general request", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "x:OrganizationRequest", "RetrieveVersion"), unknown: true, why: "a read by its name"},
	{name: "SOAP 1.1 WinOpportunity", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "c:WinOpportunityRequest", "WinOpportunity"), why: "a write"},
	{name: "SOAP 1.1 custom request", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "", "contoso_RetrieveAndClose"), why: "nobody knows what it does"},
	{name: "SOAP 1.1 type against name", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "c:WinOpportunityRequest", "WhoAmI"), why: "in doubt a write"},
	{name: "SOAP 1.1 ExecuteMultiple", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: execute("", "x:ExecuteMultipleRequest", "ExecuteMultiple"), why: "holds writes"},
	{name: "SOAP 1.1 broken envelope", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": executeAction}, body: "<s:Envelope", why: "in doubt a write"},
	{name: "SOAP 1.2 Retrieve by parameter", method: "POST", header: header{"Content-Type": `application/soap+xml; charset=utf-8; action="` + retrieveAction + `"`}, body: retrieve("", "Retrieve"), unknown: true, why: "a read by its media type"},
	{name: "SOAP 1.2 Retrieve by wsa:Action", method: "POST", header: header{"Content-Type": "application/soap+xml"}, body: retrieve(retrieveAction, "Retrieve"), unknown: true, why: "a read by its envelope"},
	{name: "SOAP 1.2 WhoAmI by wsa:Action", method: "POST", header: header{"Content-Type": "application/soap+xml"}, body: execute(executeAction, "c:WhoAmIRequest", "WhoAmI"), unknown: true, why: "a read by its envelope"},
	{name: "SOAP 1.2 Create by wsa:Action", method: "POST", header: header{"Content-Type": "application/soap+xml"}, body: execute(createAction, "", "WhoAmI"), why: "a write by its envelope"},
	{name: "SOAP 1.2 no action", method: "POST", header: header{"Content-Type": "application/soap+xml"}, body: execute("", "c:WhoAmIRequest", "WhoAmI"), why: "in doubt a write"},
	{name: "SOAP 1.1 Retrieve without a message", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": retrieveAction}, why: "in doubt a write"},
	{name: "SOAP 1.1 Retrieve that creates", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": retrieveAction}, body: retrieve("", "Create"), why: "the envelope says otherwise"},
	{name: "SOAP 1.2 Create with a left-over SOAPAction", method: "POST", header: header{"Content-Type": "application/soap+xml", "SOAPAction": retrieveAction}, body: retrieve(createAction, "Create"), why: "the two differ"},
	{name: "SOAP 1.2 Retrieve with a left-over SOAPAction", method: "POST", header: header{"Content-Type": "application/soap+xml", "SOAPAction": createAction}, body: retrieve(retrieveAction, "Retrieve"), why: "the two differ"},
	{name: "SOAP 1.2 Create with the element of a retrieve", method: "POST", header: header{"Content-Type": "application/soap+xml", "SOAPAction": retrieveAction}, body: retrieve(createAction, "Retrieve"), why: "the two differ"},
	{name: "SOAP action of another service", method: "POST", header: header{"Content-Type": "text/xml", "SOAPAction": "urn:contoso/IOrganizationService/Retrieve"}, why: "a name is not enough"},

	{name: "batch of reads", method: "POST", path: "/api/data/v9.2/$batch", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: batchOf("GET accounts", "GET /api/data/v9.2/contacts"), unknown: true, why: "reads only"},
	{name: "batch with a write", method: "POST", path: "/api/data/v9.2/$batch", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: batchOf("GET accounts", "POST accounts"), why: "one write is enough"},
	{name: "batch with a change set", method: "POST", path: "/api/data/v9.2/$batch", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: "--contoso\r\nContent-Type: multipart/mixed; boundary=inner\r\n\r\n--inner\r\nContent-Type: application/http\r\n\r\nDELETE accounts(1) HTTP/1.1\r\n\r\n--inner--\r\n--contoso--\r\n", why: "one write is enough"},
	{name: "batch that is cut off", method: "POST", path: "/api/data/v9.2/$batch", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: strings.TrimSuffix(batchOf("GET accounts"), "--contoso--\r\n"), why: "in doubt a write"},
	{name: "batch with an encoded part", method: "POST", path: "/api/data/v9.2/$batch", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: strings.ReplaceAll(batchOf("GET accounts"), "binary", "base64"), why: "in doubt a write"},
	{name: "batch elsewhere", method: "POST", path: "/upload", header: header{"Content-Type": "multipart/mixed; boundary=contoso"},
		body: batchOf("GET accounts"), why: "not a batch"},
}

// Every cell of the table of what may be sent again.
func TestMaySendAgain(t *testing.T) {
	t.Parallel()
	org, err := ParseOrg("https://contoso.crm.dynamics.com")
	require.NoError(t, err)
	seen := make(map[string]bool)
	for _, row := range replayRows {
		require.NotEmpty(t, row.why, row.name)
		require.False(t, seen[row.name], "%s is there twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.path == "" {
				row.path = "/api/data/v9.2/accounts"
			}
			req, err := http.NewRequest(row.method, "https://contoso.crm.dynamics.com"+row.path, strings.NewReader(row.body))
			require.NoError(t, err)
			req.Method = row.method
			for k, v := range row.header {
				req.Header.Set(k, v)
				if v == noValue {
					req.Header[http.CanonicalHeaderKey(k)] = nil
				}
			}
			if row.mark != nil {
				req = req.WithContext(row.mark(req.Context()))
			}
			c := &call{t: &Transport{org: org, cfg: row.config}, req: req}
			require.NoError(t, c.body.load(req, 1<<20))
			for delivery, want := range map[Delivery]bool{
				NotSent: !row.never, Refused: !row.never, Unknown: row.unknown, Answered: row.unknown,
			} {
				assert.Equal(t, want, c.maySendAgain(&Fault{Class: ClassTransient, Delivery: delivery}), "%v: %s", delivery, row.why)
			}
		})
	}
}

// A body that can be read only once, and was touched, rules out a repeat of any request.
func TestAStreamMayNotBeSentAgain(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "PUT", "POST"} {
		req, err := http.NewRequest(method, "https://contoso.crm.dynamics.com/", struct{ *strings.Reader }{strings.NewReader("contoso")})
		require.NoError(t, err)
		c := &call{t: new(Transport), req: req}
		require.NoError(t, c.body.load(req, 3))
		body, err := c.body.next()
		require.NoError(t, err)
		_, err = body.Read(make([]byte, 1))
		require.NoError(t, err)
		assert.True(t, c.body.spent(), method)
	}
}

func TestReadMethods(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"", "GET", "HEAD", "OPTIONS", "TRACE"} {
		assert.True(t, isReadMethod(method), method)
	}
	for _, method := range []string{"get", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "MERGE"} {
		assert.False(t, isReadMethod(method), method)
	}
}

// newCall returns a call that POSTs body to path.
func newCall(t *testing.T, path, contentType, body string, maxBody int64) *call {
	org, err := ParseOrg("https://contoso.crm.dynamics.com")
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodPost, "https://contoso.crm.dynamics.com"+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", contentType)
	if maxBody < int64(len(body)) {
		req.GetBody = nil
	}
	c := &call{t: &Transport{org: org}, req: req}
	require.NoError(t, c.body.load(req, maxBody))
	return c
}

// A gateway that answers 401 has not forwarded the request. A 401 of the service itself,
// another status, or a lost answer proves nothing; nor does a 401 to several operations.
func TestOnlyAChallengeOfAGatewayProvesThatAWriteWasNotMade(t *testing.T) {
	t.Parallel()
	challenge := Fault{Class: ClassAuth, Status: 401, Delivery: Answered}
	for name, change := range map[string]func(*Fault){
		"another class":     func(f *Fault) { f.Class = ClassTransient },
		"another status":    func(f *Fault) { f.Status = 403 },
		"the service's own": func(f *Fault) { f.Code = "0x80048306" },
		"a lost answer":     func(f *Fault) { f.Delivery = Unknown },
	} {
		f := challenge
		change(&f)
		assert.False(t, newCall(t, "/api/data/v9.2/accounts", "application/json", "{}", 10).maySendAgain(&f), name)
	}
	assert.True(t, newCall(t, "/api/data/v9.2/accounts", "application/json", "{}", 10).maySendAgain(&challenge))
	batch := newCall(t, "/api/data/v9.2/$batch", "multipart/mixed; boundary=contoso", batchOf("POST accounts"), 1<<20)
	assert.False(t, batch.maySendAgain(&challenge))
}

// Config.Replay is called once for a request, however many attempts that takes.
func TestReplayIsAskedOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	c := newCall(t, "/api/data/v9.2/accounts", "application/json", "{}", 10)
	c.t.cfg.Replay = func(*http.Request) bool { asked++; return false }
	for range 3 {
		assert.False(t, c.maySendAgain(&Fault{Class: ClassTransient, Delivery: Unknown}))
	}
	assert.Equal(t, 1, asked)
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		h    http.Header
		want bool
	}{
		"none":            {http.Header{}, false},
		"one":             {http.Header{"Idempotency-Key": {"7"}}, true},
		"without a value": {http.Header{"Idempotency-Key": nil}, true},
		"empty":           {http.Header{"Idempotency-Key": {""}}, false},
		"blank":           {http.Header{"Idempotency-Key": {" "}}, false},
		"two":             {http.Header{"Idempotency-Key": {"7", "8"}}, false},
	} {
		assert.Equal(t, row.want, hasKey(row.h, "Idempotency-Key"), name)
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		`*`: true, ` * `: true, `"7"`: true, `W/"7"`: true, `"7", W/"8"`: true,
		``: false, `7`: false, `7"`: false, `"7`: false, `""`: false, `"7 8"`: false, `"7"8"`: false, `"7", 8"`: false, "\"\x00\"": false,
	} {
		assert.Equal(t, want, isCondition([]string{value}), "%q", value)
	}
	assert.False(t, isCondition(nil))
	assert.True(t, isCondition([]string{`"7"`, `"8"`}))
	assert.False(t, isAnyTag([]string{"*", "*"}))
}

func TestOperations(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/api/data/v9.2/accounts":                                        "accounts",
		"/api/data/v9.2/accounts(1)/":                                    "accounts",
		"/api/data/v9.2/accounts/Microsoft.Dynamics.CRM.Merge":           "Merge",
		"/api/data/v9.2/Microsoft.Dynamics.CRM.Merge(a=@x.y)":            "Merge",
		"/api/data/v9.2/accounts/Microsoft.Dynamics.CRM.UpdateMultiple/": "UpdateMultiple",
		"": "",
	} {
		assert.Equal(t, want, operation(path), path)
	}
}

// A request has several operations by its path, or by what its SOAP message executes, whether
// or not all of it can be inspected.
func TestRequestsForSeveralOperations(t *testing.T) {
	t.Parallel()
	const soap = "/XRMServices/2011/Organization.svc/web"
	soap12 := `application/soap+xml; action="` + executeAction + `"`
	several := execute("", "x:ExecuteMultipleRequest", "ExecuteMultiple")
	for name, row := range map[string]struct {
		path, contentType, body string
		held, want              bool
	}{
		"create":                   {"/api/data/v9.2/accounts", "application/json", "{}", true, false},
		"batch":                    {"/api/data/v9.2/$batch", "multipart/mixed; boundary=contoso", batchOf("POST accounts"), true, true},
		"batch of reads":           {"/api/data/v9.2/$batch", "multipart/mixed; boundary=contoso", batchOf("GET accounts"), true, false},
		"message":                  {soap, soap12, several, true, true},
		"message of another kind":  {soap, soap12, execute("", "", "Merge"), true, false},
		"message that is streamed": {soap, soap12, execute("", "", "Merge"), false, true},
		"message without action":   {soap, "text/xml", several, true, true},
		"no message":               {soap, "application/json", several, true, false},
		"message in UTF-16":        {soap, soap12 + "; charset=utf-16", "\xff\xfe<\x00s\x00", true, true},
		"message nested deeply":    {soap, soap12, strings.Repeat("<a>", maxSOAPDepth+1), true, true},
		"message cut off":          {soap, soap12, "<a>", true, false},
	} {
		maxBody := int64(1 << 20)
		if !row.held {
			maxBody = 3
		}
		assert.Equal(t, row.want, newCall(t, row.path, row.contentType, row.body, maxBody).isBulk(), name)
	}
	c := newCall(t, "/", "multipart/mixed; boundary=contoso", batchOf("GET accounts"), 1<<20)
	c.req.URL.Opaque = "/api/data/v9.2/%24batch?a=/b"
	assert.True(t, c.isRead(), "Opaque goes out in place of the path")
	c = newCall(t, "/", "multipart/mixed; boundary=contoso", batchOf("POST accounts"), 1<<20)
	c.req.URL.Opaque = "/api/data/v9.2/%24batch?a=/b"
	assert.True(t, c.isBulk(), "Opaque goes out in place of the path")
	c = newCall(t, "/api/data/v9.2/$batch", "multipart/mixed; boundary=contoso", batchOf("GET accounts"), 1<<20)
	c.req.URL.Opaque = "/api/data/v9.2/accounts"
	assert.False(t, c.isRead(), "and this is no batch")
	c = newCall(t, soap, soap12, several, 1<<20)
	c.req.Method = http.MethodPut
	assert.False(t, c.isBulk(), "no message is sent by PUT")
	c = newCall(t, soap, soap12, several, 1<<20)
	c.body = payload{}
	reader := strings.NewReader(several) // which GetBody rewinds
	c.req.Body = io.NopCloser(reader)
	c.req.GetBody = func() (io.ReadCloser, error) {
		_, err := reader.Seek(0, io.SeekStart)
		return io.NopCloser(reader), err
	}
	require.NoError(t, c.body.load(c.req, 3))
	sending, err := c.body.next()
	require.NoError(t, err)
	assert.True(t, c.isBulk())
	_, err = sending.Read(make([]byte, 1))
	assert.ErrorIs(t, err, errWithdrawn, "it is read for one purpose at a time")
}

// Classify sees only a request, whose message may or may not be available again.
func TestBulkRequestsAsClassifySeesThem(t *testing.T) {
	t.Parallel()
	closed := 0
	request := func(method, body string, err error) *http.Request {
		req, _ := http.NewRequest(method, "https://contoso.crm.dynamics.com/XRMServices/2011/Organization.svc/web", nil)
		req.Header.Set("Content-Type", `application/soap+xml; action="`+executeAction+`"`)
		req.GetBody = func() (io.ReadCloser, error) {
			if err != nil {
				return nil, err
			}
			return &closing{strings.NewReader(body), &closed}, nil
		}
		return req
	}
	several := execute("", "x:ExecuteMultipleRequest", "ExecuteMultiple")
	assert.True(t, bulk(request("POST", several, nil)))
	assert.Equal(t, 1, closed, "what was obtained is closed")
	assert.False(t, bulk(request("PUT", several, nil)))
	assert.False(t, bulk(request("POST", several, io.ErrUnexpectedEOF)))
	assert.False(t, bulk(request("POST", strings.Repeat(" ", maxPeek)+several, nil)), "beyond what is looked at")
	bare := request("POST", several, nil)
	bare.Header.Del("Content-Type")
	assert.False(t, bulk(bare))
	assert.False(t, bulk(nil))
	assert.False(t, bulk(&http.Request{Method: "POST"}))
}

type closing struct {
	io.Reader
	closed *int
}

func (c *closing) Close() error { *c.closed++; return nil }

// A message executes what the name or type of its request says, and nothing else that looks
// like it.
func TestWhereAMessageSaysWhatItExecutes(t *testing.T) {
	t.Parallel()
	const several = "ExecuteMultiple"
	for body, want := range map[string]bool{
		`<E><Body><Execute><request type="x:ExecuteMultipleRequest"/></Execute></Body></E>`:                           true,
		`<E><Body><Execute><request> <RequestName>` + several + `</RequestName></request></Execute></Body></E>`:       true,
		`<E><Header><Execute><request type="ExecuteMultipleRequest"/></Execute></Header></E>`:                         false,
		`<E><Body><Create><request type="ExecuteMultipleRequest"/></Create></Body></E>`:                               false,
		`<E><Body><Execute><entity type="ExecuteMultipleRequest"/></Execute></Body></E>`:                              false,
		`<E><Body><Execute><request kind="ExecuteMultipleRequest"/></Execute></Body></E>`:                             false,
		`<E><Body><Execute><request><x type="ExecuteMultipleRequest"/></request></Execute></Body></E>`:                false,
		`<E><Body><Execute><request>` + several + `<x/></request></Execute></Body></E>`:                               false,
		`<E><Body><Execute><request><Name>` + several + `</Name></request></Execute></Body></E>`:                      false,
		`<E><Body><Execute><request><RequestName><x>` + several + `</x></RequestName></request></Execute></Body></E>`: false,
	} {
		assert.Equal(t, want, executesMultiple(strings.NewReader(body)), body)
	}
}

// An answer that refuses a request with several operations may come after some of them.
func TestWhatARefusalSaysAboutSeveralOperations(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		f           Fault
		contentType string
		want        Delivery
	}{
		"service protection":       {Fault{Class: ClassThrottled, Code: "0x80072322", Delivery: Refused}, "application/json", Refused},
		"a fence":                  {Fault{Class: ClassUnavailable, Definitive: true, Delivery: Refused}, "application/json", Unknown},
		"a fence within the parts": {Fault{Class: ClassUnavailable, Definitive: true, Delivery: Refused}, "Multipart/mixed; boundary=b", Answered},
		"another refusal":          {Fault{Class: ClassThrottled, Delivery: Refused}, "application/json", Answered},
		"an unknown outcome":       {Fault{Class: ClassTransient, Delivery: Unknown}, "application/json", Unknown},
	} {
		row.f.ofBulk(&http.Response{Header: http.Header{"Content-Type": {row.contentType}}})
		assert.Equal(t, row.want, row.f.Delivery, name)
	}
}

// A body that cannot be had again says nothing.
func TestABodyThatCannotBeHadAgainIsNotLookedInto(t *testing.T) {
	t.Parallel()
	for _, getBody := range []func() (io.ReadCloser, error){
		nil, func() (io.ReadCloser, error) { return nil, nil }, func() (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF },
	} {
		req := &http.Request{Method: "POST", URL: new(url.URL), Header: http.Header{"Soapaction": {"Execute"}}, GetBody: getBody}
		assert.False(t, bulk(req))
		_, known := executesSeveral(req.GetBody, maxPeek)
		assert.False(t, known)
	}
}
