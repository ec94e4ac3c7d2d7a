package failover

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/json"
	"encoding/xml"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fill returns begin, followed by as many copies of part as fit into n bytes.
func fill(n int, begin, part string) []byte {
	b := make([]byte, 0, n)
	b = append(b, begin...)
	for len(b)+len(part) <= n {
		b = append(b, part...)
	}
	return b
}

// within returns n bytes that are inside a SOAP fault.
func within(n int, begin, part string) []byte {
	return fill(n, `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault>`+begin, part)
}

// A worstCase makes n bytes of a body that is as expensive as possible.
type worstCase struct {
	name, why, contentType, encoding string
	body                             func(n int) []byte
}

var worstCases = []worstCase{
	{"key above many values", "a path made for each value is quadratic", jsonType, "", func(n int) []byte {
		return fill(n, `{"`+strings.Repeat("k", n/2)+`":[`, "1,")
	}},
	{"keys above keys", "so is one made for each level", jsonType, "", func(n int) []byte {
		return fill(n, strings.Repeat(`{"`+strings.Repeat("k", n/64)+`":`, 31)+"{", `"":1,`)
	}},
	{"values", "many short ones", jsonType, "", func(n int) []byte { return fill(n, `{"error":[`, "1,") }},
	{"strings", "many short ones", jsonType, "", func(n int) []byte { return fill(n, `{"error":[`, `"",`) }},
	{"codes", "many at the right place", jsonType, "", func(n int) []byte { return fill(n, `{"error":{`, `"code":"",`) }},
	{"messages", "many at the right place", jsonType, "", func(n int) []byte { return fill(n, `{"error":{`, `"message":" ",`) }},
	{"escapes", "a string that grows when it is read", jsonType, "", func(n int) []byte { return fill(n, `{"error":{"message":"`, `\u0800`) }},
	{"depth of arrays", "each level is kept", jsonType, "", func(n int) []byte { return fill(n, "{\"a\":", "[") }},
	{"depth of objects", "each level is kept", jsonType, "", func(n int) []byte { return fill(n, "", `{"a":`) }},
	{"arrays", "opened and closed", jsonType, "", func(n int) []byte { return fill(n, `{"a":[`, "[],") }},
	{"one number", "without an end", jsonType, "", func(n int) []byte { return fill(n, `{"error":{"code":`, "1") }},
	{"blanks", "between tokens", jsonType, "", func(n int) []byte { return fill(n, "{", " ") }},
	{"not utf-8", "each byte becomes three", jsonType, "", func(n int) []byte { return fill(n, `{"error":{"message":"`, "\xff") }},
	{"control characters", "each is replaced", jsonType, "", func(n int) []byte { return fill(n, `{"error":{"message":"`, "\x01") }},

	{"elements", "many short ones", "text/xml", "", func(n int) []byte { return within(n, "", "<a/>") }},
	{"depth of elements", "each level is kept", "text/xml", "", func(n int) []byte { return within(n, "", "<a>") }},
	{"attributes", "many short ones", "text/xml", "", func(n int) []byte { return within(n, "<a ", `a="" `) }},
	{"namespaces of one element", "each is a declaration", "text/xml", "", func(n int) []byte { return within(n, "<a ", `xmlns:a="" `) }},
	{"namespaces of many elements", "declared and forgotten", "text/xml", "", func(n int) []byte { return within(n, "", `<a xmlns:a="b"/>`) }},
	{"names to resolve", "each looks through all declarations", "text/xml", "", func(n int) []byte {
		return within(n, string(fill(n/2, "<x ", `xmlns:a="" `))+`/>`, "<faultcode>z:z</faultcode>")
	}},
	{"names to resolve below declarations", "each looks through all declarations", "text/xml", "", func(n int) []byte {
		return fill(n, `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" `+string(fill(n/2, "", `xmlns:a="" `))+`><e:Body><e:Fault>`, "<faultcode>z:z</faultcode>")
	}},
	{"subcodes to resolve", "each looks through all declarations", "text/xml", "", func(n int) []byte {
		return fill(n, `<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" `+string(fill(n/2, "", `xmlns:a="" `))+`><e:Body><e:Fault>`,
			"<e:Code><e:Value>z:z</e:Value><e:Subcode><e:Value>z:z</e:Value></e:Subcode></e:Code>")
	}},
	{"long name above elements", "a path made for each is quadratic", "text/xml", "", func(n int) []byte {
		return within(n, "<"+strings.Repeat("n", n/2)+">", "<a/>")
	}},
	{"long namespace above elements", "it is resolved for each", "text/xml", "", func(n int) []byte {
		return within(n, `<a xmlns="`+strings.Repeat("n", n/2)+`">`, "<a/>")
	}},
	{"long namespace like one of ours", "it is compared for each", "text/xml", "", func(n int) []byte {
		return within(n, `<a xmlns="http://schemas.microsoft.com/xrm/`+strings.Repeat("n", n/2)+`">`, "<a/>")
	}},
	{"texts", "many at the right place", "text/xml", "", func(n int) []byte { return within(n, "", "<faultstring>x</faultstring>") }},
	{"text in pieces", "each is added to the text", "text/xml", "", func(n int) []byte { return within(n, "<faultstring>", "x<!---->") }},
	{"details", "many at the right place", "text/xml", "", func(n int) []byte { return within(n, "<detail>", "<a/>") }},
	{"entities", "never expanded", "text/xml", "", func(n int) []byte {
		return fill(n, `<!DOCTYPE e [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>`, "&b;")
	}},
	{"characters by number", "a text of references", "text/xml", "", func(n int) []byte { return within(n, "<faultstring>", "&#x800;") }},
	{"document type", "without an end", "text/xml", "", func(n int) []byte { return fill(n, "<!DOCTYPE ", "<") }},
	{"comment", "without an end", "text/xml", "", func(n int) []byte { return fill(n, "<!--", "<") }},
	{"declared charset", "must not be looked for", "text/xml", "", func(n int) []byte {
		return fill(n, `<?xml version="1.0" encoding="`+strings.Repeat("x", n/2)+`"?>`, "<a/>")
	}},

	{"headings", "opened", htmlType, "", func(n int) []byte { return fill(n, "", "<h1>") }},
	{"headings that end", "each tag is looked for", htmlType, "", func(n int) []byte { return fill(n, "<title>", "</h1>") }},
	{"tags in a heading", "each is taken out", htmlType, "", func(n int) []byte { return append(fill(n-16, "<title>", "<b>"), "</title>"...) }},
	{"references in a heading", "each is replaced", htmlType, "", func(n int) []byte { return append(fill(n-16, "<title>", "&#x800;"), "</title>"...) }},
	{"page in one line", "nothing but text", htmlType, "", func(n int) []byte { return fill(n, "", "service ") }},
	{"plain text", "nothing but text", "text/plain", "", func(n int) []byte { return fill(n, "", "\xff\n") }},

	{"utf-16", "is decoded as a whole", jsonType, "", func(n int) []byte { return utf16Bytes(string(fill(n/2, "{\"a\":\"", "x")), "\xff\xfe", false) }},
	{"surrogates in utf-16", "each half is replaced", jsonType, "", func(n int) []byte { return fill(n, "\xfe\xff\x00{", "\xd8\x00") }},
	{"parts of a batch", "the last is looked for", "multipart/mixed; boundary=b", "", func(n int) []byte { return fill(n, "", "\n{") }},

	{"gzip of values", "a few bytes stand for all", jsonType, "gzip", func(n int) []byte { return gzipBytes(fill(n, `{"`+strings.Repeat("k", n/2)+`":[`, "1,")) }},
	{"gzip members", "each begins anew", jsonType, "gzip", func(n int) []byte {
		return fill(n, "", string(gzipBytes(nil)))
	}},
	{"gzip members with names", "each has a header", jsonType, "gzip", func(n int) []byte {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
		w.Name = strings.Repeat("n", 400)
		w.Close()
		return fill(n, "", b.String())
	}},
	{"trees of deflate", "each block brings its own", jsonType, "gzip", func(n int) []byte { return gzipOf(fill(n-32, "", hostileBlock)) }},
	{"deflate", "bare, of nothing", jsonType, "deflate", func(n int) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.NoCompression)
		for b.Len() < n {
			w.Flush()
		}
		return b.Bytes()
	}},
}

func gzipBytes(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

// gzipOf returns a gzip member, without a trailer, around deflated bytes.
func gzipOf(deflated []byte) []byte {
	head := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	return append(head, deflated...)
}

// hostileBlock is a block of deflate with 15-bit codes, for which a reader builds tables of 32
// KiB, and 40 bytes of text.
const hostileBlock = "\x34\xe0\x03\x00\x00\x84\xc2\x70\x3d\xef\x64\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdb" +
	"\xb6\x6d\xdb\xb6\x6d\xd7\x7d\xde\xef\xff\x07\x00\x00\x00\x00\xf0\x1f\x00\x00\x00\xff\xff"

// allocated returns what f allocates, in bytes and objects.
func allocated(f func()) (size, objects uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, after.Mallocs - before.Mallocs
}

// Four times the input takes about four times the memory, and no input takes more than 16 MiB.
// Time grows with the allocations, because none of the loops runs without reading a token. Not
// parallel: it measures the memory of the process.
func TestClassifyIsLinearInAnyInput(t *testing.T) {
	const large, small = maxPeek, maxPeek / 4
	for _, tt := range worstCases {
		t.Run(tt.name, func(t *testing.T) {
			require.NotEmpty(t, tt.why)
			measure := func(n int) (size, objects uint64) {
				body := tt.body(n)
				row := answerRow{status: 500, header: typed(tt.contentType, "Content-Encoding", tt.encoding)}
				size, objects = 1<<62, 1<<62
				for range 3 { // the minimum, because other goroutines may allocate meanwhile
					resp := row.response(io.NopCloser(bytes.NewReader(body)))
					s, o := allocated(func() { Classify(resp, nil) })
					size, objects = min(size, s), min(objects, o)
				}
				return size, objects
			}
			size, objects := measure(small)
			size4, objects4 := measure(large)
			assert.LessOrEqual(t, size4, 6*size+2*large, "bytes") // 16 times would be quadratic
			assert.LessOrEqual(t, objects4, 6*objects+100, "objects")
			assert.LessOrEqual(t, size4, uint64(16<<20), "bytes")
		})
	}
}

// longDocuments returns long documents of both kinds, and functions that read them once with
// the standard decoder.
func longDocuments() map[string]struct {
	contentType string
	body        []byte
	pass        func()
} {
	j := fill(60<<10, `{"error":{"code":"0x80040217","message":"x","details":[`, `{"code":"contoso","message":"no such account","target":"name","n":12},`)
	x := within(60<<10, senderCode+"<faultstring>x</faultstring><detail>", `<Pair xmlns:d="urn:contoso"><key>name</key><value>no such account</value></Pair>`)
	pass := func(next func() error) {
		for next() == nil {
		}
	}
	return map[string]struct {
		contentType string
		body        []byte
		pass        func()
	}{
		"json": {jsonType, j, func() {
			d := json.NewDecoder(bytes.NewReader(j))
			d.UseNumber()
			pass(func() error { _, err := d.Token(); return err })
		}},
		"xml": {"text/xml", x, func() {
			d := xml.NewDecoder(bytes.NewReader(x))
			pass(func() error { _, err := d.Token(); return err })
		}},
	}
}

// Classifying a long answer costs one pass of the standard decoder and a copy of the bytes.
// Not parallel: it measures memory.
func TestClassifyTakesOnePassOfTheDecoder(t *testing.T) {
	for name, doc := range longDocuments() {
		size, objects := allocated(doc.pass)
		resp := (&answerRow{status: 500, header: typed(doc.contentType)}).response(io.NopCloser(bytes.NewReader(doc.body)))
		resp.ContentLength = int64(len(doc.body))
		size2, objects2 := allocated(func() { Classify(resp, nil) })
		assert.LessOrEqual(t, objects2, objects+objects/100+100, name)
		assert.LessOrEqual(t, size2, size+3*maxPeek, name)
	}
}

// Programs that check whether a record exists get many of these.
func TestAnOrdinary404IsCheap(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector allocates as well")
	}
	body := odata("0x80040217", "account With Id = 11111111-2222-3333-4444-555555555555 Does Not Exist")
	row := answerRow{status: 404, header: typed(jsonType, "OData-Version", "4.0", "x-ms-service-request-id", "11111111-2222-3333-4444-555555555555")}
	resp := row.response(nil)
	for _, length := range []int64{int64(len(body)), -1} { // answers over HTTP/2, or in chunks, have no length
		resp.ContentLength = length
		const runs = 100
		size, objects := uint64(1<<62), uint64(1<<62)
		for range 5 { // the minimum, because other goroutines may allocate meanwhile
			var bodies [runs]io.ReadCloser
			for i := range bodies {
				bodies[i] = io.NopCloser(strings.NewReader(body))
			}
			s, o := allocated(func() {
				for _, body := range bodies {
					resp.Body = body
					Classify(resp, nil)
				}
			})
			size, objects = min(size, s), min(objects, o)
		}
		assert.LessOrEqual(t, size/runs, uint64(3<<10), "bytes, Content-Length %d", length)
		assert.LessOrEqual(t, objects/runs, uint64(60), "objects, Content-Length %d", length)
	}
}

func BenchmarkClassifyLong(b *testing.B) {
	for name, doc := range longDocuments() {
		b.Run(name+"/one pass", func(b *testing.B) {
			for b.Loop() {
				doc.pass()
			}
		})
		b.Run(name, func(b *testing.B) {
			resp := (&answerRow{status: 500, header: typed(doc.contentType)}).response(nil)
			for b.Loop() {
				resp.Body = io.NopCloser(bytes.NewReader(doc.body))
				Classify(resp, nil)
			}
		})
	}
}
