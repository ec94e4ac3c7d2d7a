package message

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A readCase is a request and whether it reads.
type readCase struct {
	name, why string
	method    string // default: POST
	url       string // default: the $batch or the Organization.svc of the organization
	header    string // lines with names as they stand there; default: that of the table
	body      string
	reads     bool
}

func (c readCase) request(t testing.TB, header string) (method string, u *url.URL, h http.Header, body []byte) {
	t.Helper()
	require.NotEmpty(t, c.why, c.name)
	if c.header != "" {
		header = c.header
	}
	h = make(http.Header)
	for line := range strings.SplitSeq(header, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h[name] = append(h[name], value)
		}
	}
	switch {
	case c.url != "":
	case strings.HasPrefix(header, "Content-Type: multipart/"):
		c.url = "https://" + rewritePrimary + batchPath
	default:
		c.url = soapURL
	}
	u, err := url.Parse(c.url)
	require.NoError(t, err)
	if c.method == "" {
		c.method = http.MethodPost
	}
	return c.method, u, h, []byte(c.body)
}

// runReadCases checks every case, and that only POST makes a message a read.
func runReadCases(t *testing.T, header string, cases []readCase) {
	seen := map[string]bool{}
	for _, c := range cases {
		require.False(t, seen[c.name], "case %q is there twice", c.name)
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			method, u, h, body := c.request(t, header)
			assert.Equal(t, c.reads, Reads(method, u, h, body), c.why)
			if !isReadMethod(method) {
				assert.False(t, Reads(http.MethodPatch, u, h, body))
				assert.False(t, Reads(method, u, h, nil), "a body that is not at hand")
				for _, name := range []string{"X-Http-Method", "X-HTTP-Method", "x-http-method-OVERRIDE", "X-Method-Override"} {
					h[name] = []string{"MERGE"}
					assert.False(t, Reads(method, u, h, body), "another method is meant")
					assert.True(t, Overridden(h))
					delete(h, name)
				}
			}
		})
	}
}

const queue = "https://contoso.operations.dynamics.com/api/connector/"

var safeCases = []readCase{
	{name: "get", method: "GET", reads: true, why: "reads"},
	{name: "function", method: "GET", url: "https://" + rewritePrimary + "/api/data/v9.2/WhoAmI()", reads: true, why: "functions change nothing (OData, section 11.5.3)"},
	{name: "queue in a query", method: "GET", url: "https://" + rewritePrimary + "/api/data/v9.2/queues?$filter=name eq 'dequeue'", reads: true, why: "only the path is a resource"},
	{name: "queues", method: "GET", url: "https://" + rewritePrimary + "/api/data/v9.2/queueitems", reads: true, why: "the table of that name"},
	{name: "status of a job", method: "GET", url: queue + "jobstatus/1?jobId=2", reads: true, why: "reads"},
	{name: "lower-case method", method: "get", why: "methods have a case; nobody knows what a server makes of it"},
	{name: "unknown method", method: "PURGE", why: "not known to read"},

	{name: "dequeue", method: "GET", url: queue + "dequeue/00000000-0000-0000-0000-000000000001", why: "takes a message off its queue"},
	{name: "dequeue by HEAD", method: "HEAD", url: queue + "dequeue/1", why: "servers answer HEAD as they do GET, without the body"},
	{name: "dequeue, upper case", method: "GET", url: queue + "DEQUEUE/1", why: "paths of IIS have no case"},
	{name: "dequeue, trailing slash", method: "GET", url: queue + "dequeue/", why: "the same resource"},
	{name: "dequeue, alone", method: "GET", url: queue + "dequeue?activity=1", why: "the same resource"},
	{name: "dequeue, escaped", method: "GET", url: queue + "%64eq%75eue/1", why: "the same resource"},
	{name: "dequeue, escaped slashes", method: "GET", url: "https://contoso.operations.dynamics.com/api%2Fconnector%2Fdequeue%2F1", why: "the same resource to some"},
	{name: "dequeue, detour", method: "GET", url: queue + "jobstatus/../dequeue/1", why: "the same resource"},
	{name: "dequeue behind a gateway", method: "GET", url: "https://gateway.contoso.example/erp/connector/Dequeue/1", why: "gateways put their own path before it"},
	{name: "dequeue with parameters", method: "GET", url: queue + "dequeue;v=1/1", why: "path parameters are cut off by some"},

	{name: "override", method: "GET", header: "X-Http-Method: DELETE", why: "tunnels a method (OData)"},
	{name: "override, other name", method: "GET", header: "X-Http-Method-Override: delete", why: "tunnels a method"},
	{name: "override, third name", method: "GET", header: "X-Method-Override: PATCH", why: "as some frameworks have it"},
	{name: "override by a read", method: "GET", header: "X-Http-Method: GET", why: "nobody writes it, so nobody misses it"},
	{name: "header of that length", method: "GET", header: "X-Correlation: 1\nX-Some-Other-Header-22: 1\nX-Request-Id12: 1", reads: true, why: "other headers do not matter"},
}

func TestSafe(t *testing.T) {
	t.Parallel()
	runReadCases(t, "", safeCases)
	assert.False(t, Safe("GET", &url.URL{Opaque: "/api/connector/dequeue/1"}, nil), "a path that net/url has not parsed")
	assert.False(t, Safe("GET", &url.URL{Opaque: "/api/connector/%zz"}, nil), "an escape that cannot be read")
	assert.True(t, Safe("GET", &url.URL{Opaque: "/api/data/v9.2/queues"}, nil))
	for _, path := range []string{"/dequeue", "/DEQUEUE", "q/dequeue", "Q/DEQUEUE", "/q/Q/DeQueue"} {
		assert.False(t, Safe("GET", &url.URL{Path: path}, nil), path)
	}
	for method, want := range map[string]bool{
		"": true, "GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true,
		"POST": false, "PUT": false, "PATCH": false, "DELETE": false, "MERGE": false, "CONNECT": false, "get": false,
	} {
		assert.Equal(t, want, Safe(method, &url.URL{Path: "/"}, nil), method)
		assert.Equal(t, want, Reads(method, &url.URL{Path: "/"}, nil, nil), method)
	}
}

func TestOverridden(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"X-Http-Method": true, "x-method-OVERRIDE": true, "X-HTTP-Method-Override": true,
		"X-Correlation": false, "X-Some-Header-No17": false, "X-Another-Header-No": false, "X-Some-Other-Header-22": false, "X-Http-Methods": false, "X-Method": false, "": false,
	} {
		assert.Equal(t, want, Overridden(http.Header{name: nil}), name)
	}
}

// A field that occurs twice is not plain, even if both values are the same.
func TestPlainKind(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]kind{
		"Content-Type: text/xml":                                         kindXML,
		"content-TYPE: multipart/mixed; boundary=b":                      kindMultipart,
		"Content-Type: text/xml\nContent-Encoding: identity":             kindXML,
		"Content-Type: text/xml\nContent-Encoding: gzip":                 kindOther,
		"Content-Type: text/xml\nContent-Type: text/xml":                 kindOther,
		"Content-Type: text/xml\ncontent-type: text/xml":                 kindOther,
		"Content-Type: text/xml\nContent-Encoding: \nContent-Encoding: ": kindOther,
		"Content-Length: 1":                                              kindOther,
	} {
		got, _ := plainKind(headerOf(header))
		assert.Equal(t, want, got, header)
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ u, want url.URL }{
		{url.URL{Path: "/a b", RawQuery: "c"}, url.URL{Path: "/a b", RawQuery: "c"}},
		{url.URL{Path: "/x", RawQuery: "y", Opaque: "/a%20b?c"}, url.URL{Path: "/a b", RawQuery: "c"}},
		{url.URL{Path: "/x", Opaque: "https://contoso.crm.dynamics.com/a?c"}, url.URL{Scheme: "https", Host: "contoso.crm.dynamics.com", Path: "/a", RawQuery: "c"}},
		{url.URL{Path: "/x", Opaque: "/a/%zz"}, url.URL{Path: "/a/%zz"}},
	} {
		assert.Equal(t, row.want, *Target(&row.u))
	}
}

// part returns a part of a batch with a request.
func part(request string) string {
	return "--b\nContent-Type: application/http\nContent-Transfer-Encoding: binary\n\n" + request + "\n"
}

const end = "--b--\n"

var batchReadCases = []readCase{
	{name: "reads", reads: true, why: "as Microsoft's guide writes it",
		body: crlf(part("GET accounts?$select=name HTTP/1.1\nAccept: application/json\n\n") + part("GET /api/data/v9.2/contacts(1) HTTP/1.1\n\n") + end)},
	{name: "absolute URLs", reads: true, why: "the first of the three forms of a request line",
		body: crlf(part("GET https://contoso.crm4.dynamics.com/api/data/v9.2/accounts HTTP/1.1\nHost: contoso.crm4.dynamics.com\n\n") + end)},
	{name: "line feeds", reads: true, why: "hand-written, and read alike by all", body: part("GET accounts\n") + end},
	{name: "no blank line before the delimiter", reads: true, why: "the delimiter ends the header", body: crlf(part("HEAD accounts HTTP/1.1") + "--b--")},
	{name: "blanks in a filter", reads: true, why: "hand-written", body: crlf(part("GET accounts?$filter=name eq 'Contoso Ltd' HTTP/1.1\n") + end)},
	{name: "letters beyond ASCII", reads: true, why: "hand-written", body: crlf(part("GET accounts?$filter=name eq 'Müller' HTTP/1.1\n") + end)},
	{name: "words in a path", reads: true, why: "words are whole", body: crlf(part("GET posts?$select=put,deletedon,patches&$filter=x eq 'a%20post%20' HTTP/1.1\nPrefer: odata.maxpagesize=10\n") + end)},
	{name: "ids of parts", reads: true, why: "a header that names the part", body: crlf("--b\nContent-ID: 1\nContent-Type: application/http; msgtype=request\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "blanks behind delimiters", reads: true, why: "padding of the transport (RFC 2046)", body: crlf("--b \t\nContent-Type: application/http\n\nGET accounts HTTP/1.1\n\n--b-- \n\n")},
	{name: "quoted boundary and charset", reads: true, why: "the same media type", header: `Content-Type: multipart/mixed; charset=utf-8; boundary="b"`, body: crlf(part("GET accounts HTTP/1.1\n") + end)},

	{name: "OPTIONS", reads: true, why: "reads (RFC 9110, section 9.2.1)", body: crlf(part("OPTIONS accounts HTTP/1.1\n") + end)},
	{name: "blank lines", reads: true, why: "all pass over them", body: crlf("\n\n" + part("\n\nGET accounts HTTP/1.1\n\n\n") + end + "\n\n")},
	{name: "8bit", reads: true, why: "nothing is encoded", body: strings.Replace(crlf(part("GET accounts HTTP/1.1\n")+end), "binary", "8BIT", 1)},
	{name: "7bit", reads: true, why: "nothing is encoded", body: strings.Replace(crlf(part("GET accounts HTTP/1.1\n")+end), "binary", "7bit", 1)},
	{name: "length of nothing", reads: true, why: "says that there is no body", body: crlf(part("GET accounts HTTP/1.1\nContent-Length: 0\nX: 1\n") + end)},

	{name: "a write", why: "one is enough", body: crlf(part("GET accounts HTTP/1.1\n") + part("POST accounts HTTP/1.1\nContent-Type: application/json\n\n{}") + end)},
	{name: "a change set", why: "is for writes", body: crlf("--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\nContent-Type: application/http\n\nGET accounts HTTP/1.1\n\n--c--\n--b--\n")},
	{name: "delimiter in the middle of a line", why: "ODataLib finds it",
		body: crlf(part("GET accounts HTTP/1.1\nX: --b\nContent-Type: application/http\n\nPUT accounts(1) HTTP/1.1\n\n") + end)},
	{name: "delimiter in the middle of a line, unknown method", why: "no reader shall find another part",
		body: crlf(part("GET accounts?--b HTTP/1.1\n") + end)},
	{name: "delimiter in the middle of a header line", why: "no reader shall find another part", body: crlf(part("GET accounts HTTP/1.1\nX: --b\n") + end)},
	{name: "blanks as a delimiter", why: "not one of this boundary", body: crlf(part("GET accounts HTTP/1.1\n") + strings.Replace(part("GET accounts HTTP/1.1\n"), "--b", "  ", 1) + end)},
	{name: "hyphens as the end", why: "not that of this boundary", body: crlf(part("GET accounts HTTP/1.1\n") + "--\n")},
	{name: "lone CR", why: "ends a line to ODataLib", body: "--b\r\nContent-Type: application/http\r\n\r\nGET accounts HTTP/1.1\r\nX: a\r--b\rContent-Type: application/http\r\rPOST accounts HTTP/1.1\r\r\r\n--b--\r\n"},
	{name: "lone CR, no word", why: "lines have to be the same to all", body: "--b\r\nContent-Type: application/http\r\n\r\nGET accounts HTTP/1.1\r\nX: a\rY: b\r\n--b--\r\n"},
	{name: "form feed behind the delimiter", why: "white space to ODataLib", body: crlf("--b\nContent-Type: application/http\n\nGET accounts HTTP/1.1\n\n--b\f\nContent-Type: application/http\n\nX accounts HTTP/1.1\n\n--b--\n")},
	{name: "no-break space behind the delimiter", why: "white space to ODataLib", body: crlf("--b\nContent-Type: application/http\n\nGET accounts HTTP/1.1\n\n--b\u00a0\nContent-Type: application/http\n\nX accounts HTTP/1.1\n\n--b--\n")},
	{name: "next line", why: "U+0085 ends a line to some", body: crlf(part("GET accounts HTTP/1.1\nX: a\u0085\u0085DELETE accounts(1) HTTP/1.1\n") + end)},
	{name: "NUL", why: "ends a text to some", body: crlf(part("GET accounts\x00 HTTP/1.1\n") + end)},
	{name: "preamble", why: "some read it", body: crlf("GET accounts HTTP/1.1\n" + part("GET accounts HTTP/1.1\n") + end)},
	{name: "epilogue", why: "some read it", body: crlf(part("GET accounts HTTP/1.1\n") + end + "x\n")},
	{name: "epilogue with a part", why: "some do not stop", body: crlf(part("GET accounts HTTP/1.1\n") + end + part("POST accounts HTTP/1.1\n\n{}") + end)},
	{name: "no end", why: "more may come", body: crlf(part("GET accounts HTTP/1.1\n"))},
	{name: "no parts", why: "nothing is known", body: crlf(end)},
	{name: "empty part", why: "nothing is known", body: crlf("--b\n" + part("GET accounts HTTP/1.1\n") + end)},
	{name: "part without a type", why: "some guess", body: crlf("--b\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part of another type", why: "may be anything", body: crlf("--b\nContent-Type: text/plain\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with its type twice", why: "nobody writes it", body: crlf("--b\nContent-Type: application/http\nContent-Type: application/http\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with more parameters", why: "may mean something else", body: crlf("--b\nContent-Type: application/http; msgtype=request; x=y\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with its encoding twice", why: "nobody writes it", body: crlf("--b\nContent-Type: application/http\nContent-Transfer-Encoding: binary\nContent-Transfer-Encoding: binary\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with a field of another name", why: "may mean something to some", body: crlf("--b\nContent-Type: application/http\nX: 1\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part that is only a header", why: "nothing is known", body: crlf("--b\nContent-Type: application/http\n" + part("GET accounts HTTP/1.1\n") + end)},
	{name: "part without a request", why: "nothing is known", body: crlf("--b\nContent-Type: application/http\n\n--b--\n")},
	{name: "nothing but a method", why: "does not parse", body: crlf(part("GET\n") + end)},
	{name: "nothing behind the method", why: "does not parse", body: crlf(part("GET \n") + end)},
	{name: "end of another boundary", why: "a longer one may begin like this", body: crlf(part("GET accounts HTTP/1.1\n") + "--bxx\n")},
	{name: "end with something behind it", why: "a longer boundary may begin like this", body: crlf(part("GET accounts HTTP/1.1\n") + "--b--x\n")},
	{name: "field without a colon", why: "does not parse", body: crlf("--b\nContent-Type: application/http\nContent-ID\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "request field without a colon", why: "does not parse", body: crlf(part("GET accounts HTTP/1.1\nX\n") + end)},
	{name: "request with a transfer encoding", why: "a GET has no body; what is it, then?", body: crlf(part("GET accounts HTTP/1.1\nTransfer-Encoding: chunked\n") + end)},
	{name: "part with two types", why: "readers choose differently", body: crlf("--b\nContent-Type: application/http\nContent-Type: multipart/mixed; boundary=c\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with a charset", why: "may mean other characters", body: crlf("--b\nContent-Type: application/http; charset=utf-7\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part that is a response", why: "not a request", body: crlf("--b\nContent-Type: application/http; msgtype=response\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "encoded part", why: "means something else", body: crlf("--b\nContent-Type: application/http\nContent-Transfer-Encoding: base64\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "part with two encodings", why: "readers choose differently", body: crlf("--b\nContent-Type: application/http\nContent-Transfer-Encoding: binary\nContent-Transfer-Encoding: quoted-printable\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "compressed part", why: "means something else", body: crlf("--b\nContent-Type: application/http\nContent-Encoding: gzip\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "folded header", why: "readers join lines differently", body: crlf("--b\nContent-Type: application/http;\n msgtype=request\n\nGET accounts HTTP/1.1\n\n--b--\n")},
	{name: "folded request header", why: "readers join lines differently", body: crlf(part("GET accounts HTTP/1.1\nX: a\n b\n") + end)},
	{name: "blank before a colon", why: "readers name it differently", body: crlf(part("GET accounts HTTP/1.1\nX : a\n") + end)},
	{name: "override in a part", why: "the method of a part may be replaced as well", body: crlf(part("GET accounts(1) HTTP/1.1\nX-HTTP-Method: DELETE\n") + end)},
	{name: "override in a part, other name", why: "the method of a part may be replaced as well", body: crlf(part("GET accounts(1) HTTP/1.1\nx-method-OVERRIDE: DELETE\n") + end)},
	{name: "override in a part's own header", why: "some merge the two headers", body: crlf("--b\nContent-Type: application/http\nX-HTTP-Method-Override: DELETE\n\nGET accounts(1) HTTP/1.1\n\n--b--\n")},
	{name: "dequeue in a part", why: "takes a message off its queue", body: crlf(part("GET /api/connector/Dequeue/1 HTTP/1.1\n") + end)},
	{name: "escaped dequeue in a part", why: "takes a message off its queue", body: crlf(part("GET /api/connector/%64equeue/1 HTTP/1.1\n") + end)},
	{name: "lower-case method", why: "some fold it", body: crlf(part("post accounts HTTP/1.1\n") + end)},
	{name: "unknown method", why: "not known to read", body: crlf(part("QUERY accounts HTTP/1.1\n") + end)},
	{name: "method behind a blank", why: "some trim", body: crlf(part(" POST accounts HTTP/1.1\n") + end)},
	{name: "method behind a tab", why: "any white space separates to some", body: crlf(part("GET\taccounts HTTP/1.1\n") + end)},
	{name: "no target", why: "does not parse", body: crlf(part("GET  HTTP/1.1\n") + end)},
	{name: "request with a body", why: "a GET has none; what is it, then?", body: crlf(part("GET accounts HTTP/1.1\nContent-Type: application/json\n\n{}") + end)},
	{name: "request with a length", why: "some skip as many bytes, delimiters included", body: crlf(part("GET accounts HTTP/1.1\nContent-Length: 80\n") + end)},
	{name: "two requests in a part", why: "some go on", body: crlf(part("GET accounts HTTP/1.1\n\nPUT accounts(1) HTTP/1.1\n") + end)},
	{name: "MERGE", why: "the update of OData v2", body: crlf(part("MERGE accounts(1) HTTP/1.1\n") + end)},
	{name: "two types", why: "servers choose differently", header: "Content-Type: multipart/mixed; boundary=b\ncontent-type: multipart/mixed; boundary=c", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "two boundaries", why: "servers choose differently", header: "Content-Type: multipart/mixed; boundary=b; boundary=c", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "two types in one", why: "no media type", header: "Content-Type: multipart/mixed; boundary=b, multipart/mixed; boundary=c", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "no boundary", why: "does not parse", header: "Content-Type: multipart/mixed", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "empty boundary", why: "does not parse", header: "Content-Type: multipart/mixed", body: strings.ReplaceAll(crlf(part("GET accounts HTTP/1.1\n")+end), "--b", "--")},
	{name: "request with a boundary", why: "not a batch", url: "https://" + rewritePrimary + batchPath, header: "Content-Type: application/http; boundary=b", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "odd boundary", why: "not one that all find", header: `Content-Type: multipart/mixed; boundary="b "`, body: crlf(strings.ReplaceAll(part("GET accounts HTTP/1.1\n")+end, "--b", "--b "))},
	{name: "other charset", why: "the bytes mean other characters", header: "Content-Type: multipart/mixed; boundary=b; charset=utf-16", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "compressed", why: "the bytes mean something else", header: "Content-Type: multipart/mixed; boundary=b\nContent-Encoding: gzip", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "compressed, second encoding", why: "the bytes mean something else", header: "Content-Type: multipart/mixed; boundary=b\nContent-Encoding: identity\ncontent-encoding: gzip", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "form", why: "not a batch", header: "Content-Type: multipart/form-data; boundary=b", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "JSON batch", why: "not looked into", header: "Content-Type: application/json", body: `{"requests":[{"id":"1","method":"GET","url":"accounts"}]}`},
	{name: "elsewhere", why: "an upload", url: "https://" + rewritePrimary + "/upload", body: crlf(part("GET accounts HTTP/1.1\n") + end)},
	{name: "UTF-16", why: "other characters", body: strings.Join(strings.Split(crlf(part("GET accounts HTTP/1.1\n")+end), ""), "\x00")},
}

func TestBatchReads(t *testing.T) {
	t.Parallel()
	runReadCases(t, "Content-Type: multipart/mixed; boundary=b", batchReadCases)
}

// wordEnds reports whether some reader takes c for white space, or for a part of it.
func wordEnds(c byte) bool { return c <= ' ' || c >= 0x80 }

func isASCIILetter(c byte) bool { return c < 0x80 && unicode.IsLetter(rune(c)) }

// What looks like a write counts as one, wherever it stands and whatever is around it.
func TestWhatLooksLikeAWrite(t *testing.T) {
	t.Parallel()
	looks := func(want bool, s string) { t.Helper(); assert.Equal(t, want, looksLikeWrite([]byte(s)), "%q", s) }
	for c := range 256 {
		b := string([]byte{byte(c)})
		odd := c < ' ' && c != '\t' && c != '\n' || c == 0x7f
		looks(odd, b)
		looks(odd && c != '\r', b+"\n")
		for _, method := range []string{"POST", "patch", "Put", "DELETE", "mErGe"} {
			looks(odd || wordEnds(byte(c)), "x"+b+method)
			looks(true, method+b+"\n"+method)
			looks(odd && c != '\r' || wordEnds(byte(c)), method+b+"\n")
			looks(odd, "x"+method+b)
		}
		for _, word := range []string{"Dequeue", "x-HTTP-method", "X-Method-Override"} {
			looks(true, b+word+b)
			looks(odd || strings.EqualFold(b, word[len(word)-1:]), word[:len(word)-1]+b)
		}
		for _, escape := range []string{"%%%02x", "%%%02X"} {
			looks(isASCIILetter(byte(c)), fmt.Sprintf(escape, c))
			looks(isASCIILetter(byte(c)), fmt.Sprintf(escape+"1", c))
			looks(false, fmt.Sprintf(escape, c)[:2])
		}
		for _, digits := range []string{"4" + b, b + "1"} {
			v, err := strconv.ParseUint(digits, 16, 8)
			looks(odd || err == nil && isASCIILetter(byte(v)), "%"+digits+"|")
		}
	}
	looks(false, "")
}

func TestPlainBoundaries(t *testing.T) {
	t.Parallel()
	assert.False(t, isPlainBoundary(""))
	assert.True(t, isPlainBoundary(strings.Repeat("a", 70)))
	assert.False(t, isPlainBoundary(strings.Repeat("a", 71)))
	for c := range 256 {
		want := isASCIILetter(byte(c)) || strings.IndexByte("0123456789'()+_,-./:=?", byte(c)) >= 0
		assert.Equal(t, want, isPlainBoundary("a"+string([]byte{byte(c)})+"a"), "%q", c)
	}
}

// Field names must be tokens, and their values ASCII.
func TestFieldsThatAllReadAlike(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		b := byte(c)
		if b == ':' {
			continue
		}
		l := lines{line: append([]byte{'A', b}, ": \tx\t "...)}
		name, value, ok := l.field()
		assert.Equal(t, isASCIILetter(b) || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.', ok, "%q", b)
		if ok {
			assert.Equal(t, [2]string{string(l.line[:2]), "x"}, [2]string{name, value})
		}
		l.line = []byte{'A', ':', b}
		_, _, ok = l.field()
		assert.Equal(t, b < 0x80, ok, "%q", b)
	}
	for line, want := range map[string]bool{"": false, ":": false, ": x": false, "A": false, "A:": true, "A:b:c": true} {
		l := lines{line: []byte(line)}
		_, _, ok := l.field()
		assert.Equal(t, want, ok, line)
	}
}

func BenchmarkReads(b *testing.B) {
	u := &url.URL{Scheme: "https", Host: rewritePrimary, Path: "/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000001)"}
	h := http.Header{"Accept": {"application/json"}, "Authorization": {"Bearer x"}, "Odata-Version": {"4.0"}, "Odata-Maxversion": {"4.0"}, "User-Agent": {"contoso/1.0"}}
	batch := []byte(strings.Repeat(crlf(part("GET accounts?$select=name HTTP/1.1\nAccept: application/json\n")), 10) + crlf(end))
	for name, run := range map[string]func() bool{
		"GET": func() bool { return Reads(http.MethodGet, u, h, nil) },
		"Batch": func() bool {
			return Reads(http.MethodPost, batchAddress, http.Header{"Content-Type": {"multipart/mixed; boundary=b"}}, batch)
		},
		"SOAP": func() bool {
			return Reads(http.MethodPost, soapAddress, http.Header{"Content-Type": {type12[14:]}}, []byte(soap12+acted("Retrieve")+bodyRetrieve))
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !run() {
					b.Fatal("is a read")
				}
			}
		})
	}
}
