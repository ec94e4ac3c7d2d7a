package message

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// crlf gives s the line ends of the wire.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var rewriteBatchCases = []rewriteCase{
	{name: "absolute URL", why: "the first of the three forms of a request line; header order and case stay",
		body: crlf("--batch_1\nCONTENT-type: application/http\nContent-Transfer-Encoding: binary\n\n" +
			"GET https://{M}/api/data/v9.2/accounts?$filter=websiteurl%20eq%20'https://{K}/' HTTP/1.1\nAccept: application/json\nIf-Match: W/\"{K}\"\n\n--batch_1--\n")},
	{name: "absolute path and Host", why: "the second form",
		body: crlf("--batch_1\nContent-Type: application/http\nContent-ID: 1\n\nGET /api/data/v9.2/accounts HTTP/1.1\nhOST:  {M} \nX-From: {K}\n\n--batch_1--")},
	{name: "relative path", why: "the third form names no host",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET accounts?$search={K} HTTP/1.1\n\n--batch_1--")},
	{name: "change set", why: "writes are one level deeper, with bodies of their own",
		body: crlf("preamble {K}\n--batch_1\nContent-Type: multipart/mixed;\n boundary=set_1\n\n--set_1 \t\nContent-Type: application/http; msgtype=request\nContent-ID: 1\n\n" +
			"POST https://{M}/api/data/v9.2/tasks HTTP/1.1\nContent-Type: application/json;type=entry\n\n" +
			"{\"description\":\"https://{K}/\",\"x@odata.bind\":\"https://{M}/api/data/v9.2/accounts(1)\"}\n" +
			"--set_1\nContent-Type: application/http\n\nPATCH $1 HTTP/1.1\nContent-Type: application/json\n\n{\"y@odata.bind\":\"https://{M}/a\"}\n\n--set_1--\n\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{M}/api HTTP/1.1\n--batch_1--\nepilogue https://{K}/")},
	{name: "bare line feeds", why: "hand-written batches; their line ends stay",
		body: "--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nHost: {M}\nContent-Type: application/json\n\n{\"@odata.id\":\"https://{M}/\"}\n--batch_1--\n"},
	{name: "blank line before the request", why: "readers skip it (RFC 9112, section 2.2)",
		body: crlf("--batch_1\nContent-Type: application/http\n\n\n\nGET https://{M}/api HTTP/1.1\n\n\n--batch_1--\n")},
	{name: "no version", why: "the target ends with the line", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{M}/api\n\n--batch_1--\n")},
	{name: "disassociate", why: "the entity is named in the query",
		body: crlf("--batch_1\nContent-Type: application/http\n\nDELETE accounts(1)/x/$ref?$id=https://{M}/api/contacts(2) HTTP/1.1\n\n--batch_1--\n")},
	{name: "delimiter-like text", why: "a delimiter is a whole line",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\n\n" +
			"{\"a\":\"--batch_1--\",\n \"--batch_1\":0, \"x@odata.bind\":\"https://{M}/\"\n}\n--batch_1--\n")},
	{name: "longer delimiter", why: "another boundary may begin like ours",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=batch_12\n\n--batch_12\nContent-Type: application/http\n\nGET https://{M}/ HTTP/1.1\n\n--batch_12--\n--batch_1--\n")},
	{name: "unchanged length", why: "a part without a change keeps its length as written",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/ HTTP/1.1\nContent-Length: 003\n\na\n--batch_1--\n")},
	{name: "unreadable JSON in one part", why: "the organization refuses that part, the others are served",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\n\n{\"@odata.id\":\"https://{K}/\"\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{M}/api HTTP/1.1\n\n--batch_1--\n")},
	{name: "encoded part", why: "a compressed, base64 or unknown part is data",
		body: crlf("--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: base64\n\nGET https://{K}/api HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: text/plain\n\nGET https://{K}/api HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\nContent-Encoding: gzip\n\n{\"@odata.id\":\"https://{K}/\"}\n\n--batch_1--\n")},
	{name: "multipart within a request", why: "a batch cannot be sent within a batch: its body is data",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api/data/v9.2/$batch HTTP/1.1\nContent-Type: multipart/mixed; boundary=x\n\n" +
			"--x\nContent-Type: application/http\n\nGET https://{K}/api HTTP/1.1\n\n--x--\n--batch_1--\n")},
	{name: "third level", why: "change sets do not nest",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/mixed; boundary=y\n\n--y\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--y--\n--x--\n--batch_1--\n")},
	{name: "SOAP in a part", why: "only the Web API has batches",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/ HTTP/1.1\nContent-Type: text/xml\n\n" + envelopeOf("<a:To>https://{K}/</a:To>", "") + "\n--batch_1--\n")},

	{name: "plain encodings", why: "binary, 8bit and 7bit encode nothing",
		body: crlf("--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: 8bit\n\nGET https://{M}/ HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: 7BIT\n\nGET https://{M}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "nothing behind the authority", why: "the line, or the target, ends with it",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{M} HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{M}\n--batch_1\nContent-Type: application/http\n\nGET ?$id=https://{M} HTTP/1.1\n\n--batch_1--\n")},
	{name: "other targets", why: "a target is no JSON, and a query begins with a question mark",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https:\\/\\/{K}\\/ HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\n\nGET $id=https://{K}/ HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https%3A%2F%2F{K}%2F HTTP/1.1\n\n--batch_1--\n")},
	{name: "other fields", why: "only Host names the host",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET / HTTP/1.1\nHos: {K}\nCost: {K}\nHosts: {K}\nHost: {K}/\nHost: https://{K}\nHOST: {M}\n\n--batch_1--\n")},
	{name: "folded with a tab", why: "as with a blank",
		body: crlf("--batch_1\nContent-Type: multipart/mixed;\n\tboundary=s \t\n\n--s\nContent-Type: application/http\n\nGET https://{M}/ HTTP/1.1\n\n--s--\n--batch_1--\n")},
	{name: "as many fields as there may be", why: "the bound is beyond what anybody writes",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{M}/ HTTP/1.1\n" + strings.Repeat("X: 1\n", 255) + "Host: {M}\n\n--batch_1--\n")},

	{name: "no final boundary behind parts", why: "cut short: does not parse", body: crlf(goodPart + "--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n")},
	{name: "no final boundary", why: "cut short: does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/api HTTP/1.1\n\n")},
	{name: "no final boundary of the change set", why: "cut short: does not parse",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "only a final boundary", why: "no parts: does not parse", body: "https://{K}/\n--batch_1--\n"},
	{name: "no boundary", why: "cannot be parsed", contentType: "multipart/mixed", body: crlf("--\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n----\n")},
	{name: "other boundary", why: "cannot be parsed", contentType: "multipart/mixed; boundary=other",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "other multipart", why: "form data is data", contentType: `multipart/form-data; boundary="batch_1"`,
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "request as a batch", why: "not multipart", contentType: "application/http; boundary=batch_1",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "other path", why: "multipart sent elsewhere is an upload", path: "/api/data/v9.2/accounts",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "a CR too many", why: "a part of the target, which is no address then", body: "--batch_1\r\nContent-Type: application/http\r\n\r\nGET https://{K}\r\r\n--batch_1--\r\n"},
	{name: "header without a colon", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\nHost {K}\n\n--batch_1--\n")},
	{name: "space in a header name", why: "servers read it differently (RFC 9112, section 5.1)",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\nContent-Length : 1\n\n--batch_1--\n")},
	{name: "folded first header", why: "nothing to fold into: does not parse", body: crlf("--batch_1\n Content-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "no request line", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\n--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "method of other characters", why: "a request line must not become a delimiter", contentType: `multipart/mixed; boundary="x https://` + rewriteAlternate + `/"`,
		body: crlf("--x https://" + rewriteAlternate + "/\nContent-Type: application/http\n\n--x https://{K}/\n\n--x https://" + rewriteAlternate + "/--\n")},
	{name: "tab in the request line", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET\thttps://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "no method", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\n https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "folded host", why: "no name of the pair", body: crlf("--batch_1\nContent-Type: application/http\n\nGET / HTTP/1.1\nHost: {K}\n {K}\n\n--batch_1--\n")},
	{name: "length beyond the part", why: "a server that trusts it sees other parts than we do",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: text/plain\nContent-Length: 100\n\na\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "length beyond the delimiter's line end", why: "the line end is the most that is counted by mistake",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: text/plain\nContent-Length: 4\n\na\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "length before the link", why: "the server would read half of the body",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: application/json\nContent-Length: 9\n\n{\"@odata.id\":\"https://{K}/\"}\n--batch_1--\n")},
	{name: "length that is no number", why: "does not parse",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: application/json\nContent-Length: +40\n\n{\"@odata.id\":\"https://{K}/\"}\n--batch_1--\n")},
}

const goodPart = "--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n"

// brokenParts are parts that servers may read differently.
var brokenParts = map[string]string{
	"nothing but a method":               "Content-Type: application/http\n\nGET",
	"no request":                         "Content-Type: application/http\n",
	"a field without a colon":            "Content-Type: application/http\nX\n\nGET / HTTP/1.1\n",
	"a field without a name":             "Content-Type: application/http\n: x\n\nGET / HTTP/1.1\n",
	"a blank in a name":                  "Content-Type: application/http\nX : y\n\nGET / HTTP/1.1\n",
	"a tab in a name":                    "Content-Type: application/http\nX\t: y\n\nGET / HTTP/1.1\n",
	"a folded first field":               " X: y\nContent-Type: application/http\n\nGET / HTTP/1.1\n",
	"a request field without a colon":    "Content-Type: application/http\n\nGET / HTTP/1.1\nX\n",
	"a folded first request field":       "Content-Type: application/http\n\nGET / HTTP/1.1\n X: y\n",
	"more fields than there may be":      "Content-Type: application/http\n\nGET / HTTP/1.1\n" + strings.Repeat("X: 1\n", 257),
	"a length that is no number":         "Content-Type: application/http\n\nGET / HTTP/1.1\nContent-Length: x\n",
	"a negative length":                  "Content-Type: application/http\n\nGET / HTTP/1.1\nContent-Length: -1\n",
	"a length beyond the part":           "Content-Type: application/http\nContent-Length: 99\n\nGET / HTTP/1.1\n",
	"the same, of a part that is data":   "Content-Type: text/plain\nContent-Length: 99\n\nGET / HTTP/1.1\n",
	"a length before the link":           "Content-Type: application/http\nContent-Length: 9\n\nGET https://{K}/ HTTP/1.1\n",
	"a change set without a boundary":    "Content-Type: multipart/mixed\n\n--\nContent-Type: application/http\n\nGET / HTTP/1.1\n----",
	"a change set that is cut short":     "Content-Type: multipart/mixed; boundary=s\n\n--s\nContent-Type: application/http\n\nGET / HTTP/1.1\n",
	"a change set with a broken part":    "Content-Type: multipart/mixed; boundary=s\n\n--s\nX\n\n--s--",
	"a change set with a broken request": "Content-Type: multipart/mixed; boundary=s\n\n--s\nContent-Type: application/http\n\nX\n\n--s--",
}

func TestRewriteBatch(t *testing.T) {
	t.Parallel()
	cases := rewriteBatchCases
	for name, broken := range brokenParts { // a single one prevents rewriting
		cases = append(cases, rewriteCase{name: "part with " + name, why: "servers may see other parts than these",
			body: crlf(goodPart + "--batch_1\n" + broken + "\n" + goodPart + "--batch_1--\n")})
	}
	runRewriteCases(t, typeBatch, cases)
}

func TestRewriteBatchCorrectsContentLength(t *testing.T) {
	t.Parallel()
	// lengthBatch has a length wherever there can be one.
	lengthBatch := func(host string, trailing int) string {
		body := `{"x@odata.bind":["https://` + host + `/a","https://` + host + `/b"]}`
		request := crlf(fmt.Sprintf("POST https://%s/tasks HTTP/1.1\nContent-Type: application/json\ncontent-LENGTH: %d\nHost: %s\n\n%s", host, len(body)+trailing, host, body))
		other := crlf("POST tasks HTTP/1.1\nContent-Length: 2\nContent-Type: application/json\n\n{}")
		set := crlf("--s\nContent-Type: application/http\nContent-Length: "+fmt.Sprint(len(request)+trailing)+"\n\n") + request +
			crlf("\n--s\nContent-Type: application/http\n\n") + other + crlf("\n--s--")
		return crlf(fmt.Sprintf("--batch_1\nContent-Length:%d\nContent-Type: multipart/mixed; boundary=s\n\n", len(set)+trailing)) +
			set + crlf("\n--batch_1--\n")
	}
	shortBatch := func(host string, missing int) string { // the length ends with the link
		request := "GET https://" + host
		return crlf(fmt.Sprintf("--batch_1\nContent-Type: application/http\nContent-Length: %d\n\n%s\n--batch_1--\n", len(request)-missing, request))
	}
	for missing, want := range []string{shortBatch(rewriteAlternate, 0), shortBatch(rewritePrimary, 1)} {
		got, _ := rewriteFor(toAlternate, contentType(typeBatch), batchPath, []byte(shortBatch(rewritePrimary, missing)))
		assert.Equal(t, want, string(got))
	}
	for _, trailing := range []int{0, 2} { // with and without the line end before the delimiter
		in, want := lengthBatch(rewritePrimary, trailing), lengthBatch(rewriteAlternate, trailing)
		got, changed := rewriteFor(toAlternate, contentType(typeBatch), batchPath, []byte(in))
		assert.True(t, changed)
		assert.Equal(t, want, string(got))
		back, _ := rewriteFor(toPrimary, contentType(typeBatch), batchPath, got)
		assert.Equal(t, in, string(back))
	}
}
