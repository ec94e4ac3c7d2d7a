package answer

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/xml"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	problem  = `{"error":{"code":"c1","message":"m"}}`
	odata    = `<m:error xmlns:m="http://docs.oasis-open.org/odata/ns/metadata"><m:code>c1</m:code><m:message>m</m:message><h1>x</h1></m:error>`
	batchEnd = "\r\n--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n"
)

// What a body claims is read from its bytes. Its media type matters only for plain text and
// batches.
func TestRead(t *testing.T) {
	t.Parallel()
	read := Answer{Code: "c1", Message: "m"}
	long := strings.Repeat("x", MaxMessage+1)
	for name, row := range map[string]struct {
		body, contentType, encoding string
		decoded                     bool
		want                        Answer
	}{
		"nothing":                         {"", "multipart/mixed", "", false, Answer{}},
		"blanks":                          {" \r\n", "text/plain", "", false, Answer{}},
		"one character":                   {"x", "text/plain", "", false, Answer{Message: "x"}},
		"JSON":                            {problem, "application/json", "", false, read},
		"JSON of another type":            {problem, "text/html", "", false, read},
		"JSON among blanks":               {"\ufeff\r\n " + problem + "\n", "", "", false, read},
		"JSON with control characters":    {"{\"error\":{\"code\":\"c1\",\x00\"message\":\"\x1fm\"}}", "", "", false, read},
		"JSON, decompressed already":      {problem, "", "br", true, read},
		"JSON, compressed as nobody does": {problem, "", "br", false, Answer{}},
		"XML":                             {odata, "text/html", "", false, read},
		"a fault with a code":             {fault("<faultcode>x:y</faultcode><h1>x</h1>"), "", "", false, Answer{Subcode: xml.Name{Local: "y"}}},
		"a page":                          {"<html><title>One\u2019s</title></html>", "", "", false, Answer{Message: "One\u2019s", Page: "one's\n"}},
		"text":                            {" Some\ttext ", "text/plain; charset=utf-8", "", false, Answer{Message: "Some text"}},
		"text that is called a page":      {"Some  text", "text/html", "", false, Answer{Message: "Some  text", Page: "some text"}},
		"much of it":                      {long, "text/html", "", false, Answer{Message: long, Page: long[:MaxMessage]}},
		"bytes":                           {"Some text", "application/octet-stream", "", false, Answer{}},
		"a batch":                         {"--b\r\n\r\n{}" + batchEnd + problem + "\r\n--b--", "Multipart/Mixed; boundary=b", "", false, Answer{Batch: true, Code: "c1", Message: "m"}},
		"a batch of one line":             {"\n" + problem, "multipart/mixed", "", false, Answer{Batch: true, Code: "c1", Message: "m"}},
		"a batch that is JSON":            {problem, "multipart/mixed", "", false, Answer{Batch: true}},
		"a batch without JSON":            {"--b" + batchEnd + "<title>x</title>", "multipart/mixed", "", false, Answer{Batch: true}},
	} {
		assert.Equal(t, row.want, withoutNotes(Read([]byte(row.body), row.contentType, row.encoding, row.decoded)), name)
	}
}

func withoutNotes(a Answer) Answer { a.subcode = false; return a }

// packed compresses text with a writer.
func packed(t *testing.T, text []byte, writer func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := writer(&b)
	require.NoError(t, err)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

var (
	asGzip   = func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
	asStored = func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.NoCompression) }
	asZlib   = func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil }
	asFlate  = func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, 9) }
)

func TestDecompressed(t *testing.T) {
	t.Parallel()
	gz, zl, fl := packed(t, []byte("text"), asGzip), packed(t, []byte("text"), asZlib), packed(t, []byte("text"), asFlate)
	for name, row := range map[string]struct {
		raw      []byte
		encoding string
		want     string
	}{
		"gzip":                   {gz, " GZIP ", "text"},
		"gzip that is not named": {gz, "", "text"},
		"gzip of another name":   {gz, "br", "text"},
		"gzip that is none":      {[]byte("text"), "gzip", "text"},
		"its older name":         {[]byte("text"), "X-gzip", "text"},
		"half of its mark":       {[]byte("\x1ftext"), "", "\x1ftext"},
		"nothing but its mark":   {[]byte("\x1f\x8b"), "", ""},
		"damaged":                {append([]byte("\x1f\x8bxx"), gz...), "", ""},
		"cut off":                {gz[:len(gz)-8], "", "text"},
		"deflate":                {zl, " Deflate", "text"},
		"bare deflate":           {fl, "deflate", "text"},
		"identity":               {[]byte("text"), "Identity", "text"},
		"nothing":                {[]byte("text"), " ", "text"},
		"unknown":                {[]byte("text"), "br", ""},
		"several":                {[]byte("text"), "gzip, br", ""},
	} {
		assert.Equal(t, row.want, string(decompressed(row.raw, row.encoding)), name)
	}
}

// Only the beginning of a body is decompressed, and only up to a limit.
func TestBombsAreBounded(t *testing.T) {
	t.Parallel()
	assert.Len(t, decompressed(packed(t, make([]byte, 1<<20), asGzip), ""), maxPeek)
	noise := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	n := len(decompressed(packed(t, noise, asStored), ""))
	assert.LessOrEqual(t, n, maxPacked)
	assert.Greater(t, n, maxPacked-256)
}

// Every place in a JSON document that has a meaning.
func TestJSONPlaces(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Answer{
		`{"error":"invalid_grant","error_description":" d "}`: {Token: "invalid_grant", Message: "d", Described: true},
		`{"error":"Invalid_grant"}`:                           {},
		`{"error":"invalid grant"}`:                           {},
		`{"error":" invalid_grant"}`:                          {Token: "invalid_grant"},
		`{"error":""}`:                                        {},
		`{"error":{"code":" c1 ","message":{"value":"m"},"innererror":{"type":"T"}}}`: {Code: "c1", Message: "m", Exception: "T"},
		`{"odata.error":{"code":"c1","message":"m","innererror":{"type":"T"}}}`:       {Code: "c1", Message: "m", Exception: "T"},
		`{"odata.error":{"message":{"value":"m"}},"Message":"n"}`:                     {Message: "m"},
		`{"Message":"n"}`: {Message: "n"},
		`{"error":{"code":"c1","extendedData":{"code":"c2"}}}`:      {Code: "c1", PassedOn: "c2"},
		`{"error":{"code":12345678901234567890,"message":"m"}}`:     {Code: "12345678901234567890", Message: "m"},
		`{"error":{"code":12 `:                                      {Code: "12"},
		`{"error":{"code":12`:                                       {}, // may have more digits
		`{"error":{"code":"c1","message":"m`:                        {Code: "c1"},
		`{"a":1}{"error":{"code":"c1"}}`:                            {},
		`{"error":["code","c1"]}`:                                   {},
		`{"a":[],"error":{"code":"c1"}}`:                            {Code: "c1"},
		`{"error":["x",{"code":"c2"}],"odata.error":{"code":"c1"}}`: {Code: "c1"},
		`{"odata.error":"x","error":{"code":"c1"}}`:                 {Code: "c1"},
	} {
		var a Answer
		a.readJSON([]byte(text))
		assert.Equal(t, want, a, text)
	}
}

// xmlOf returns nested elements, given as prefix:name, with the declarations of all prefixes
// in the outermost.
func xmlOf(path, text string, spaces map[string]string) string {
	names := strings.Split(path, "/")
	var b strings.Builder
	for i, name := range names {
		b.WriteString("<" + name)
		for prefix, space := range spaces {
			if i == 0 {
				b.WriteString(" xmlns:" + prefix + `="` + space + `"`)
			}
		}
		b.WriteString(">")
	}
	b.WriteString(text)
	for i := range names {
		b.WriteString("</" + names[len(names)-1-i] + ">")
	}
	return b.String()
}

// Every place in an XML document that has a meaning, in each version of its namespaces, and no
// other place.
func TestXMLPlaces(t *testing.T) {
	t.Parallel()
	const fault, service = "s:Envelope/s:Body/s:Fault", "x:OrganizationServiceFault"
	entry := "<x:ErrorDetails><x:KeyValuePairOfstringanyType><c:key>Retry-After</c:key><c:value>PT7S</c:value></x:KeyValuePairOfstringanyType></x:ErrorDetails>"
	another := strings.Replace(entry, "Retry-After", "Another", 1)
	xrm := "http://schemas.microsoft.com/xrm/2011/Contracts"
	for _, row := range []struct {
		path, text string
		want       Answer
	}{
		{fault + "/faultcode", "x:y", Answer{Subcode: xml.Name{Space: xrm, Local: "y"}}},
		{fault + "/s:Code/s:Value", "x:y", Answer{Subcode: xml.Name{Space: xrm, Local: "y"}}},
		{fault + "/s:Code", "<s:Value>s:Sender</s:Value><s:Subcode><s:Value>x:y</s:Value></s:Subcode>", Answer{Subcode: xml.Name{Space: xrm, Local: "y"}}},
		{fault + "/s:Code", "<s:Subcode><s:Value>x:y</s:Value></s:Subcode><s:Subcode><s:Value>x:z</s:Value></s:Subcode>", Answer{Subcode: xml.Name{Space: xrm, Local: "y"}}},
		{fault + "/faultstring", " m ", Answer{Message: "m"}},
		{fault + "/s:Reason/s:Text", "m", Answer{Message: "m"}},
		{fault, "<faultstring>n</faultstring><detail><error><code>c1</code><description>m</description></error></detail>", Answer{Code: "c1", Message: "m"}},
		{"m:error/m:code", "c1", Answer{Code: "c1"}},
		{"m:error/m:message", "m", Answer{Message: "m"}},
		{"m:error/m:innererror/m:type", "T", Answer{Exception: "T"}},
		{fault + "/detail/a:RetryAfter", "7000", Answer{RetryAfter: 7 * time.Second}},
		{fault + "/s:Detail/a:RetryAfter", "7000", Answer{RetryAfter: 7 * time.Second}},
		{fault + "/detail/x:Other", "t", Answer{Detail: xml.Name{Space: xrm, Local: "Other"}}},
		{fault + "/s:Detail/x:Other", "t", Answer{Detail: xml.Name{Space: xrm, Local: "Other"}}},
		{fault, "<faultstring>n</faultstring><detail><x:OrganizationServiceFault><x:ErrorCode>-1</x:ErrorCode><x:Message>m</x:Message></x:OrganizationServiceFault></detail>", Answer{Code: "-1", Message: "m"}},
		{fault + "/s:Detail/x:DiscoveryServiceFault/x:ErrorCode", "-1", Answer{Code: "-1"}},
		{fault + "/detail/x:DeploymentServiceFault/x:ErrorCode", "-1", Answer{Code: "-1"}},
		{fault + "/detail/" + service, entry, Answer{RetryAfter: 7 * time.Second}},
		{fault + "/s:Detail/" + service, another + entry, Answer{RetryAfter: 7 * time.Second}},
		{fault + "/s:Detail/" + service, another, Answer{}},
		{fault + "/s:Detail/" + service + "/x:ErrorDetails", "<c:key>Retry-After</c:key><c:value>PT7S</c:value>", Answer{}},
		{"s:Envelope", "<s:Header><s:Fault><faultstring>n</faultstring></s:Fault></s:Header><s:Body><s:Fault><faultstring>m</faultstring></s:Fault></s:Body>", Answer{Message: "m"}},
		{"s:Envelope/s:Body", "<faultstring>n</faultstring>", Answer{}},
	} {
		for _, s := range []string{"http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope"} {
			for _, a := range []string{"http://www.w3.org/2005/08/addressing", "http://schemas.xmlsoap.org/ws/2004/08/addressing"} {
				for _, m := range []string{"http://schemas.microsoft.com/ado/2007/08/dataservices/metadata", "http://docs.oasis-open.org/odata/ns/metadata"} {
					spaces := map[string]string{"s": s, "a": a, "m": m, "x": xrm, "c": "http://schemas.datacontract.org/2004/07/System.Collections.Generic"}
					var got Answer
					text := xmlOf(row.path, row.text, spaces)
					got.readXML([]byte(text))
					assert.Equal(t, row.want, withoutNotes(got), text)
				}
			}
		}
		for _, other := range []string{"s", "m"} {
			spaces := map[string]string{"s": "http://www.w3.org/2003/05/soap-envelope", "a": "urn:a", "m": "http://docs.oasis-open.org/odata/ns/metadata", "x": "urn:x", "c": "urn:c"}
			spaces[other] = "http://contoso.example/"
			if strings.HasPrefix(row.path, other) {
				var got Answer
				got.readXML([]byte(xmlOf(row.path, row.text, spaces)))
				assert.Equal(t, Answer{}, withoutNotes(got), "%s in another namespace", row.path)
			}
		}
	}
	for path, want := range map[string]Answer{ // of other services
		fault + "/detail/a:RetryAfter":                {Detail: xml.Name{Space: "urn:a", Local: "RetryAfter"}},
		fault + "/detail/" + service + "/x:ErrorCode": {Detail: xml.Name{Space: "urn:x", Local: "OrganizationServiceFault"}},
	} {
		var got Answer
		got.readXML([]byte(xmlOf(path, "7", map[string]string{"s": "http://www.w3.org/2003/05/soap-envelope", "a": "urn:a", "x": "urn:x"})))
		assert.Equal(t, want, withoutNotes(got), path)
	}
}

// Documents are read up to a depth, and values up to a length.
func TestDocumentsAreBounded(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]string{maxDepth: "c1", maxDepth + 1: ""} {
		var a, b, c Answer
		a.readJSON([]byte(`{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `,"error":{"code":"c1"}}`))
		assert.Equal(t, want, a.Code, depth)
		b.readJSON([]byte(strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-2) + `,"error":{"code":"c1"}}`))
		assert.Equal(t, want, b.Code, depth)
		c.readXML([]byte(`<error xmlns="http://docs.oasis-open.org/odata/ns/metadata">` + strings.Repeat("<a>", depth-1) + strings.Repeat("</a>", depth-1) + `<code>c1</code></error>`))
		assert.Equal(t, want, c.Code, depth)
	}
	x := strings.Repeat("x", maxText)
	for text, want := range map[string]int{x: maxText, x + "x": maxText, x[1:] + "<![CDATA[" + x + "]]>": maxText, x[1:] + "<![CDATA[x]]>": maxText, x[2:] + "<b/>x": maxText - 1} {
		var a Answer
		a.readXML([]byte(fault("<faultstring>" + text + "</faultstring>")))
		assert.Len(t, a.Message, want)
	}
}

func TestWordsAreOfFewCharacters(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		s := "a" + string([]byte{byte(c)}) + "a"
		want := ""
		if strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-:", byte(c)) >= 0 {
			want = s
		}
		assert.Equal(t, want, Word(s), "%q", s)
	}
}

// Text that needs no decoding is not copied.
func TestPlainTextIsNoCopy(t *testing.T) { // counts allocations, so not parallel
	for _, s := range []string{" ", "~", "text of !~ one line"} {
		b := []byte(s)
		assert.Zero(t, testing.AllocsPerRun(10, func() { plain(b) }), s)
	}
	for c := range 256 {
		want := string([]byte{byte(c)})
		switch {
		case c >= 0x80:
			want = "\ufffd"
		case c < ' ' || c == 0x7f:
			want = " "
		}
		assert.Equal(t, want, string(plain([]byte{byte(c)})), c)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	blanks := strings.Repeat(" ", maxText-1)
	for text, want := range map[string]Answer{
		"<title>One</title><h1>Two</h1><h2>Three</h2><h3>Four</h3><h4>Five</h4>": {Message: "One", Page: "one\ntwo\nthree\nfour\n"},
		"<TITLE lang=en>A &amp; B\r\n</Title>":                                   {Message: "A & B", Page: "a & b\n"},
		"<h1><a href=x>One</a> <b>two</b></h1>":                                  {Message: "One two", Page: "one two\n"},
		"<h1>One <b</h1>":                                                        {Message: "One", Page: "one\n"},
		"<title></title><h1>One</h1><h1>Two</h1>":                                {Message: "One", Page: "one\n"},
		"x<h2>One</h2>":             {Message: "One", Page: "one\n"},
		"<title>One":                {},
		"<title":                    {},
		"title></title>":            {},
		"<h1>" + blanks + "ab</h1>": {Message: "a", Page: "a\n"},
		"<h1>" + strings.Repeat("x", MaxMessage+1) + "</h1>": {Message: strings.Repeat("x", MaxMessage), Page: strings.Repeat("x", MaxMessage) + "\n"},
	} {
		var a Answer
		a.readHTML([]byte(text))
		assert.Equal(t, want, a, text)
	}
}
