package message

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	batchAddress = &url.URL{Path: batchPath}
	soapAddress  = &url.URL{Path: "/XRMServices/2011/Organization.svc/web"}
)

// headerOf returns the header that s spells out, with names as they stand there.
func headerOf(s string) http.Header {
	h := make(http.Header)
	for line := range strings.SplitSeq(s, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h[name] = append(h[name], value)
		}
	}
	return h
}

// FuzzBatchReads: no batch that any reader could take for a write counts as a read.
func FuzzBatchReads(f *testing.F) {
	for _, c := range batchReadCases {
		header := c.header
		if header == "" {
			header = "Content-Type: multipart/mixed; boundary=b"
		}
		f.Add(header, []byte(c.body))
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		h := headerOf(header)
		if Reads(http.MethodPost, batchAddress, h, body) {
			require.False(t, batchWrites(h, body), "%q: %q", header, body)
		}
	})
}

func FuzzSOAPReads(f *testing.F) {
	for _, c := range soapReadCases {
		header := c.header
		if header == "" {
			header = type12
		}
		f.Add(header, []byte(c.body))
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		h := headerOf(header)
		if Reads(http.MethodPost, soapAddress, h, body) {
			require.False(t, soapWrites(h, body), "%q: %q", header, body)
		}
	})
}

// The lenient reader itself finds the writes in the tables; otherwise it would prove nothing.
func TestTheLenientReaderFindsWrites(t *testing.T) {
	t.Parallel()
	count := func(cases []readCase, header string, writes func(http.Header, []byte) bool) (found, reads int) {
		for _, c := range cases {
			_, _, h, body := c.request(t, header)
			if c.reads {
				reads++
				assert.False(t, writes(h, body), "%s: %s", c.name, c.why)
			} else if writes(h, body) {
				found++
			}
		}
		return found, reads
	}
	found, reads := count(batchReadCases, "Content-Type: multipart/mixed; boundary=b", batchWrites)
	t.Logf("batches: %d writes, %d reads of %d", found, reads, len(batchReadCases))
	assert.Greater(t, found, 15)
	found, reads = count(soapReadCases, type12, soapWrites)
	t.Logf("SOAP: %d writes, %d reads of %d", found, reads, len(soapReadCases))
	assert.Greater(t, found, 20)
}

// mutated replaces, repeats, drops and inserts pieces of a message.
func mutated(r *rand.Rand, s string, pieces []string) string {
	for range 1 + r.IntN(3) {
		from := r.IntN(len(s) + 1)
		to := min(len(s), from+r.IntN(12))
		if r.IntN(3) == 0 { // at the edge of a line
			if n := strings.IndexByte(s[from:], '\n'); n >= 0 {
				from += n + 1
				to = from
			}
		}
		switch piece := pieces[r.IntN(len(pieces))]; r.IntN(4) {
		case 0:
			s = s[:from] + piece + s[max(from, to):]
		case 1:
			s = s[:from] + s[max(from, to):]
		default:
			s = s[:from] + piece + s[from:]
		}
		if s == "" {
			return s
		}
	}
	return s
}

// Thousands of messages, made of pieces that readers disagree on.
func TestNoMessageIsReadThatSomebodyCouldTakeForAWrite(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	batchPieces := []string{
		"--b", "--b--", "--b\r\n", "--b \r\n", "--b\v\n", "--b\u00a0\r\n", "--c\r\n", "\r", "\n", "\r\n", "\r\n\r\n", "\v", "\f", "\u0085", "\u2028", " ", "\t", "\x00",
		"POST accounts HTTP/1.1", "delete x", "QUERY x HTTP/1.1", "GET accounts HTTP/1.1", "PATCH", "MERGE\t", "X-HTTP-Method: DELETE\r\n", "X-Method-Override : PUT",
		"Content-Type: application/http\r\n", "Content-Type: multipart/mixed; boundary=c\r\n\r\n", "Content-Transfer-Encoding: base64\r\n", "Content-Length: 9\r\n",
		"UE9TVCBhY2NvdW50cw==", "=50OST x", "/api/connector/dequeue/1", "%64equeue", "%44", ";charset=utf-16", "\ufeff", "\r\nContent-Type: application/http\r\n\r\nPUT x HTTP/1.1\r\n\r\n",
		`{"requests":[{"method":"POST"}]}`,
	}
	soapPieces := []string{
		"<v:Create/>", "<v:Retrieve/>", "<s:Body>", "</s:Body>", "<s:Body><v:Create/></s:Body>", acted("Create"), acted("Execute"), "<a:Action>" + actionPrefix + "Create</a:Action>",
		"<x:RequestName>WinOpportunity</x:RequestName>", "<x:RequestName>WhoAmI</x:RequestName>", ` i:type="c:WinOpportunityRequest"`, ` type="c:WhoAmIRequest"`, "<!-- -->", "<![CDATA[", "]]>", "&#67;reate",
		"Create", "Retrieve", "Execute", "WhoAmI", "Multiple", "<?x y?>", `<?xml version="1.0" encoding="utf-16"?>`, "</s:Envelope>", "</v:Execute>", "<v:request>", "</v:request>", `xmlns:v="urn:x"`, "\ufeff",
	}
	headerPieces := []string{
		"Content-Type: multipart/mixed; boundary=c\n", "; boundary=c", "; charset=utf-16", "\nX-Http-Method: PUT", "\nContent-Encoding: gzip", "\ncontent-type: text/xml",
		"\nSoapaction: " + actionPrefix + "Create", "\nSOAPAction: " + actionPrefix + "Execute", `; action="` + actionPrefix + `Create"`, "; boundary*=utf-8''c",
	}
	run := func(cases []readCase, header string, u *url.URL, pieces []string, writes func(http.Header, []byte) bool) {
		reads, asked := 0, 0
		for range 60_000 {
			c := cases[r.IntN(len(cases))]
			if !c.reads && r.IntN(4) > 0 {
				continue
			}
			head := header
			if c.header != "" {
				head = c.header
			}
			if r.IntN(5) == 0 {
				head = mutated(r, head, headerPieces)
			}
			h, body := headerOf(head), []byte(mutated(r, c.body, pieces))
			asked++
			if Reads(http.MethodPost, u, h, body) {
				reads++
				require.False(t, writes(h, body), "%q: %q", head, body)
			}
		}
		t.Logf("%d of %d read", reads, asked)
		assert.Greater(t, reads, asked/100, "the measure is not applied")
	}
	run(batchReadCases, "Content-Type: multipart/mixed; boundary=b", batchAddress, batchPieces, batchWrites)
	run(soapReadCases, type12, soapAddress, soapPieces, soapWrites)
}
