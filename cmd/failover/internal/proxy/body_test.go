package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// through returns what becomes of a body in pieces of the given size.
func through(f filter, body string, size int) string {
	var out []byte
	for p := []byte(body); len(p) > 0; {
		n := min(size, len(p))
		out = f.next(out, bytes.Clone(p[:n]))
		p = p[n:]
	}
	return string(f.end(out))
}

// bodyRow is a body in which {M} is an origin of the organization that is to
// become the proxy's, and {K} one that is to stay.
type bodyRow struct{ name, why, body string }

func (r bodyRow) in(origin string) string {
	return strings.NewReplacer("{M}", origin, "{K}", "https://contoso.api.crm4.dynamics.com").Replace(r.body)
}

func runBodies(t *testing.T, rows []bodyRow, newFilter func() filter) {
	requireReasons(t, rows, func(r bodyRow) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, own := range []string{"https://contoso.api.crm4.dynamics.com", "https://contoso--s.crm4.dynamics.com"} {
				for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
					got, want := through(newFilter(), r.in(own), size), r.in(proxyOrigin)
					require.True(t, got == want, "in pieces of %d:\n%.2000q\nnot\n%.2000q", size, got, want)
				}
			}
		})
	}
}

var jsonRows = []bodyRow{
	{"next link", "what paging follows", `{"value":[{"a":1}],"@odata.nextLink":"{M}/api/data/v9.2/accounts?$skiptoken=%3Cx%3E"}`},
	{"context and delta link", "the other links of a list", `{"@odata.context":"{M}/api/data/v9.2/$metadata#accounts","@odata.deltaLink":"{M}/d"}`},
	{"links of records", "full metadata", `{"value":[{"@odata.id":"{M}/a","@odata.editLink":"{M}/e","@odata.readLink":"{M}/r","primarycontactid@odata.navigationLink":"{M}/n","primarycontactid@odata.associationLink":"{M}/s"}]}`},
	{"media", "files and images", `{"entityimage@odata.mediaReadLink":"{M}/r","entityimage@odata.mediaEditLink":"{M}/e"}`},
	{"link of an expanded list", "the name is in front", `{"contact_customer_accounts":[],"contact_customer_accounts@odata.nextLink":"{M}/x"}`},
	{"short form", "OData 4.01", `{"@context":"{M}/c","@nextLink":"{M}/n","x@bind":"{M}/b"}`},
	{"bind", "to one record and to several", `{"a@odata.bind":"{M}/1","b@odata.bind":["{M}/2","accounts(3)","{M}/4"],"c":["{K}/5"]}`},
	{"column", "data, whatever it contains", `{"websiteurl":"{K}/a","description":"\"@odata.nextLink\":\"{K}/a\""}`},
	{"column after a link", "the link ends with its value", `{"@odata.id":"{M}/1","name":"{K}/2"}`},
	{"column after links", "the same", `{"b@odata.bind":["{M}/2"],"name":"{K}/2","tags":["{K}/3"]}`},
	{"other annotations", "hold data", `{"name@OData.Community.Display.V1.FormattedValue":"{K}/a","@odata.etag":"{K}","@odata.type":"{K}","@Microsoft.Dynamics.CRM.id":"{K}/a"}`},
	{"object and arrays in a link's place", "no links of this kind", `{"@odata.id":{"a":"{K}/1"},"x@odata.bind":[{"b":"{K}/2"},["{K}/3"]]}`},
	{"array of strings", "has no names", `["@odata.id","{K}/a"]`},
	{"string", "valid JSON", `"{K}/a"`},
	{"not at the beginning", "no URL", `{"@odata.id":"x {K}/a"}`},
	{"other host", "not ours", `{"@odata.nextLink":"https://example.com/{K}/a"}`},
	{"longer host", "not ours", `{"@odata.nextLink":"{K}.example.com/a"}`},
	{"other escape", "nobody writes it", `{"@odata.nextLink":"\u0068ttps://contoso.crm4.dynamics.com/a","x":"{K}"}`},
	{"quote in a link", "does not end it", `{"@odata.nextLink":"\"{K}/a","y":"{K}/b"}`},
	{"quote in a name", "does not end it", `{"a\"@odata.id":"{M}/a","a\\":"{K}","b\\\"":"{K}"}`},
	{"escaped name", "nobody writes it", `{"\u0040odata.id":"{K}/a"}`},
	{"long name", "cannot be a link's", `{"` + strings.Repeat("x", maxName) + `@odata.id":"{K}/a","@odata.id":"{M}/a"}`},
	{"long authority", "cannot be ours", `{"@odata.id":"https://` + strings.Repeat("x", 2*maxOrigin) + `/a","x@odata.id":"{M}/a"}`},
	{"origin alone", "nothing has to follow", `{"@odata.id":"{M}"}`},
	{"query alone", "RFC 3986 allows it", `{"@odata.id":"{M}?a","x@odata.id":"{M}#a"}`},
	{"white space", "may be anywhere between", "\ufeff {\r\n\t\"@odata.id\" :\r\n \"{M}/a\" ,\n\"b\" : \"{K}/a\" } "},
	{"literals", "between strings", `{"a":null,"@odata.count":3,"b":[true,-1.5e3,{}],"@odata.id":"{M}/a"}`},
	{"several values", "read one after the other", `{"@odata.id":"{M}/a"} {"@odata.id":"{M}/b"}`},
	{"broken off in a link", "passes as it is", `{"@odata.id":"{K}`},
	{"broken off in a name", "passes as it is", `{"@odata.i`},
	{"too many brackets", "no JSON from there on", `{}}{"@odata.id":"{K}/a"}`},
	{"nested too deep", "not followed", strings.Repeat("[", maxDepth) + `{"@odata.id":"{K}/a"}`},
	{"empty", "no JSON", ``},
}

func TestJSONLinks(t *testing.T) {
	t.Parallel()
	m := toProxy(t)
	runBodies(t, jsonRows, func() filter { return newJSONLinks(m) })
}

func TestEscapedSlashesStayEscapedWhereTheyEndAnOrigin(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 1 << 10} {
		assert.Equal(t, `{"@odata.id":"`+proxyOrigin+`\/api\/data","b":"\/"}`,
			through(newJSONLinks(toProxy(t)), `{"@odata.id":"https:\/\/contoso.crm4.dynamics.com\/api\/data","b":"\/"}`, size))
	}
}

// crlf writes line ends as MIME has them.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var batchRows = []bodyRow{
	{"requests", "targets, Host and bodies", crlf(`--b
Content-Type: application/http
Content-Transfer-Encoding: binary

GET {M}/api/data/v9.2/accounts?$filter=name eq '{K}' HTTP/1.1
Accept: application/json

--b
Content-Type: multipart/mixed; boundary=c

--c
Content-Type: application/http
Content-ID: 1

POST {M}/api/data/v9.2/accounts HTTP/1.1
Content-Type: application/json; type=entry

{"name":"{K}/a","primarycontactid@odata.bind":"{M}/api/data/v9.2/contacts(1)"}
--c--
--b
Content-Type: application/http

DELETE /api/data/v9.2/accounts(1) HTTP/1.1

--b--
epilogue {K}
`)},
	{"answers", "header links and JSON", crlf(`--b
Content-Type: application/http

HTTP/1.1 204 No Content
Location: {M}/api/data/v9.2/accounts(1)
OData-EntityId: {M}/api/data/v9.2/accounts(1)
X-Other: {K}/a


--b
Content-Type: application/http

HTTP/1.1 200 OK
Content-Type: application/json

{"@odata.context":"{M}/c","value":[{"name":"{K}
--b is no delimiter
"}],
 "@odata.nextLink":"{M}/n"}
--b--
`)},
	{"line feeds alone", "read by most", "--b\nContent-Type: application/http\n\nGET {M}/a HTTP/1.1\n\n--b--"},
	{"text in a part", "no request", "--b\r\nContent-Type: text/plain\r\n\r\nGET {K}/a HTTP/1.1\r\n--b--"},
	{"text in a request", "no JSON", "--b\r\nContent-Type: application/http\r\n\r\nPOST {M}/a HTTP/1.1\r\nContent-Type: text/plain\r\n\r\n{\"@odata.id\":\"{K}/a\"}\r\n--b--"},
	{"compressed JSON in a request", "no JSON yet", "--b\r\nContent-Type: application/http\r\n\r\nPOST {M}/a HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n{\"@odata.id\":\"{K}/a\"}\r\n--b--"},
	{"outer delimiter in an inner part", "ends both", "--b\r\nContent-Type: multipart/mixed;boundary=c\r\n\r\n--c\r\nContent-Type: application/http\r\n\r\nPOST {M}/a HTTP/1.1\r\n\r\n--b\r\nContent-Type: application/http\r\n\r\nGET {M}/b HTTP/1.1\r\n\r\n--b--"},
	{"three deep", "not read", "--b\r\nContent-Type: multipart/mixed;boundary=c\r\n\r\n--c\r\nContent-Type: multipart/mixed;boundary=d\r\n\r\n--d\r\nContent-Type: application/http\r\n\r\nPOST {K}/a HTTP/1.1\r\n\r\n--d--\r\n--c--\r\n--b--"},
	{"long line in a body", "is not held back", "--b\r\nContent-Type: application/http\r\n\r\nPOST {M}/a HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{\"x\":\"" + strings.Repeat("y", 2*maxLine) + "\",\"@odata.id\":\"{M}/a\"}\r\n--b--"},
	{"long line with hyphens", "is not a delimiter", "--b\r\nContent-Type: application/http\r\n\r\nPOST {M}/a HTTP/1.1\r\n\r\n" + strings.Repeat("-", 2*maxLine) + "\r\n--b--"},
	{"header line too long", "not read from there on", "--b\r\nContent-Type: application/http\r\nX: " + strings.Repeat("y", maxLine) + "\r\n\r\nPOST {K}/a HTTP/1.1\r\n\r\n--b--"},
	{"another boundary", "no part is found", "--c\r\nContent-Type: application/http\r\n\r\nGET {K}/a HTTP/1.1\r\n\r\n--c--"},
	{"no request line", "passes as it is", "--b\r\nContent-Type: application/http\r\n\r\n{K}/a\r\n\r\n--b--"},
	{"host", "is an authority", "--b\r\nContent-Type: application/http\r\n\r\nGET /a HTTP/1.1\r\nHost: example.com\r\n\r\n--b--"},
	{"empty", "no batch", ""},
}

func TestBatches(t *testing.T) {
	t.Parallel()
	m := toProxy(t)
	runBodies(t, batchRows, func() filter { return newBatch(m, "b") })
}

func TestBatchesNameHostsAndLengths(t *testing.T) {
	t.Parallel()
	const in = "--b\r\nContent-Type: application/http\r\nContent-Length: 100\r\n\r\nPOST /a HTTP/1.1\r\nHost: contoso.crm4.dynamics.com\r\nContent-Type: application/json\r\ncontent-length: 51\r\n\r\n" +
		`{"@odata.id":"https://contoso.crm4.dynamics.com/a"}` + "\r\n--b--\r\n"
	const want = "--b\r\nContent-Type: application/http\r\n\r\nPOST /a HTTP/1.1\r\nHost: 127.0.0.1:8365\r\nContent-Type: application/json\r\n\r\n" +
		`{"@odata.id":"` + proxyOrigin + `/a"}` + "\r\n--b--\r\n"
	for _, size := range []int{1, 5, 1 << 10} {
		assert.Equal(t, want, through(newBatch(toProxy(t), "b"), in, size))
	}
}

const soapHead = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header>`

var soapRows = []bodyRow{
	{"to", "what WCF compares", soapHead + `<a:Action>{K}</a:Action><a:To s:mustUnderstand="1"> {M}/XRMServices/2011/Organization.svc
</a:To></s:Header><s:Body><To>{K}</To></s:Body></s:Envelope>`},
	{"large body", "passes as it comes", soapHead + `<a:To>{M}/x</a:To></s:Header><s:Body>{K}` + strings.Repeat("<a>x</a>", maxHeader) + `</s:Body></s:Envelope>`},
	{"signed", "would be refused if it was changed", soapHead + `<a:To>{K}/x</a:To><w:Security><d:Signature/></w:Security></s:Header><s:Body/></s:Envelope>`},
	{"without a header", "nothing to map", `<s:Envelope><s:Body><To>{K}/x</To></s:Body></s:Envelope>`},
	{"to below another element", "is not wsa:To", soapHead + `<x><To>{K}/x</To></x></s:Header></s:Envelope>`},
	{"no envelope", "no SOAP", `<x><Header><To>{K}/x</To></Header></x>`},
	{"document type", "may say anything", `<!DOCTYPE x>` + soapHead + `<a:To>{K}/x</a:To></s:Header></s:Envelope>`},
	{"broken off", "passes as it is", soapHead + `<a:To>{K}/x`},
	{"header too long", "is not held back for ever", soapHead + strings.Repeat("<x/>", maxHeader) + `<a:To>{K}/x</a:To></s:Header></s:Envelope>`},
	{"empty", "no SOAP", ""},
}

func TestSOAPAddresses(t *testing.T) {
	t.Parallel()
	m := toProxy(t)
	runBodies(t, soapRows, func() filter { return &soapTo{links: m} })
}

var wsdlRows = []bodyRow{
	{"locations", "in attributes and text", `<d><import location="{M}/x.svc?wsdl=wsdl0"/><a:address location='{M}/x.svc'/><A>{M}/x</A><B>{M}</B></d>{M}`},
	{"namespaces", "are not of the organization", `<d xmlns="http://schemas.microsoft.com/xrm/2011" t="https://contoso.crm4.dynamics.com.example.com/"/>`},
	{"beginnings", "of an origin", `https https://contoso. hhttps://contoso.ap h`},
	{"empty", "no document", ``},
}

func TestServiceDescriptions(t *testing.T) {
	t.Parallel()
	m := toProxy(t)
	runBodies(t, wsdlRows, func() filter { return newPlainLinks(m) })
}

func TestFilteredBodyPassesOnWhatItHasBeforeAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken off")
	src := io.MultiReader(strings.NewReader(`{"a":"b","@odata.id":"https://con`), iotest.ErrReader(broken))
	body := &filtered{src: io.NopCloser(src), filter: newJSONLinks(toProxy(t))}
	got, err := io.ReadAll(iotest.OneByteReader(body))
	assert.Equal(t, broken, err)
	assert.Equal(t, `{"a":"b","@odata.id":"https://con`, string(got))
	require.NoError(t, iotest.TestReader(&filtered{src: io.NopCloser(strings.NewReader(`{"a":1}`)), filter: newJSONLinks(nil)}, []byte(`{"a":1}`)))
}

// withoutLinks decodes JSON and returns it with every link replaced by a word.
func withoutLinks(v any, link bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any)
		for name, member := range v {
			out[name] = withoutLinks(member, isLink([]byte(name), true))
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			_, text := element.(string)
			out[i] = withoutLinks(element, link && text)
		}
		return out
	case string:
		if link {
			return "link"
		}
	}
	return v
}

func FuzzJSONLinks(f *testing.F) {
	for i, r := range jsonRows {
		if body := r.in("https://contoso.api.crm4.dynamics.com"); len(body) < 4096 {
			f.Add([]byte(body), i+1)
		}
	}
	m := toProxy(f)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		whole := []byte(through(newJSONLinks(m), string(body), len(body)+1))
		pieces := through(newJSONLinks(m), string(body), max(1, size%97))
		if string(whole) != pieces {
			t.Fatalf("in pieces:\n%q\nnot\n%q", pieces, whole)
		}
		if json.Valid(body) != json.Valid(whole) {
			t.Fatalf("valid %v became %v: %q", json.Valid(body), json.Valid(whole), whole)
		}
		var before, after any
		if json.Unmarshal(body, &before) != nil || json.Unmarshal(whole, &after) != nil || !utf8.Valid(body) {
			return // what is no UTF-8 is longer once it is decoded, and may be too long for the name of a link
		}
		if !reflect.DeepEqual(withoutLinks(before, false), withoutLinks(after, false)) {
			t.Fatalf("a value changed:\n%q\nbecame\n%q", body, whole)
		}
		if again := through(newJSONLinks(m), string(whole), len(whole)+1); again != string(whole) {
			t.Fatalf("a second pass changed %q to %q", whole, again)
		}
	})
}

func FuzzBatch(f *testing.F) {
	for i, r := range append(batchRows, soapRows...) {
		if body := r.in("https://contoso.api.crm4.dynamics.com"); len(body) < 4096 {
			f.Add([]byte(body), i+1)
		}
	}
	f.Add([]byte("--b\r\nContent-Type:\r\n application/http\r\nX: 1\r\n\t2\r\n\r\nHTTP/1.1 200 OK\r\nLocation:\r\n https://contoso.crm4.dynamics.com\r\n\r\n{}\r\n--b--"), 3)
	m := toProxy(f)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		for _, newFilter := range []func() filter{
			func() filter { return newBatch(m, "b") },
			func() filter { return &soapTo{links: m} },
			func() filter { return newPlainLinks(m) },
		} {
			if bytes.Contains(bytes.ToLower(body), []byte("failover-outcome")) {
				return // is removed in some places
			}
			whole := through(newFilter(), string(body), len(body)+1)
			if pieces := through(newFilter(), string(body), max(1, size%97)); whole != pieces {
				t.Fatalf("%T: in pieces:\n%q\nnot\n%q", newFilter(), pieces, whole)
			}
			if !bytes.Contains(bytes.ToLower(body), []byte("dynamics.com")) && !bytes.Contains(bytes.ToLower(body), []byte("content-length")) && whole != string(body) {
				t.Fatalf("%T changed\n%q\nto\n%q", newFilter(), body, whole)
			}
		}
	})
}

func BenchmarkJSONLinks(b *testing.B) {
	var body strings.Builder
	body.WriteString(`{"@odata.context":"https://contoso.api.crm4.dynamics.com/c","value":[`)
	for i := range 1000 {
		fmt.Fprintf(&body, `{"@odata.etag":"W/\"%d\"","accountid":"%036d","name":"Contoso %d","description":"%s"},`, i, i, i, strings.Repeat("text ", 20))
	}
	body.WriteString(`{}]}`)
	text := []byte(body.String())
	m, out := toProxy(b), make([]byte, 0, body.Len())
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		out = newJSONLinks(m).next(out[:0], text)
	}
}

func TestShortNamesWithinAValueAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	const body = `{"@id":"{M}/1","a@bind":["{M}/2"],"value":{"@id":"{K}/3","x":[{"@id":"{K}/4","y@bind":"{K}/5","@odata.id":"{M}/6"}]},"b@bind":"{M}/7"}`
	r := bodyRow{body: body}
	m := mapping{"http://127.0.0.1:8365": "https://contoso.crm4.dynamics.com"}
	in := strings.ReplaceAll(strings.ReplaceAll(body, "{M}", "http://127.0.0.1:8365"), "{K}", "http://127.0.0.1:8365")
	want := strings.ReplaceAll(strings.ReplaceAll(r.body, "{M}", "https://contoso.crm4.dynamics.com"), "{K}", "http://127.0.0.1:8365")
	for _, kind := range []string{"application/json", "multipart/mixed; boundary=b"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/data/v9.2/$batch", nil)
		require.NoError(t, err)
		req.Header.Set("Content-Type", kind)
		before, after := "", ""
		if strings.HasPrefix(kind, "multipart") {
			before, after = crlf("--b\nContent-Type: application/http\n\nPOST /x HTTP/1.1\nContent-Type: application/json\n\n"), crlf("\n--b--")
		}
		for _, size := range []int{1, 7, 1 << 20} {
			assert.Equal(t, before+want+after, through(requestFilter(req, m), before+in+after, size))
		}
	}
	answer := through(newJSONLinks(mapping{"https://contoso.crm4.dynamics.com": proxyOrigin}), `{"value":[{"@id":"https://contoso.crm4.dynamics.com/1"}]}`, 7)
	assert.Equal(t, `{"value":[{"@id":"`+proxyOrigin+`/1"}]}`, answer, "records in an answer have them")
}
