package failover

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func gzipped(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func zlibbed(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w := zlib.NewWriter(&buf)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func deflated(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.DefaultCompression)
	require.NoError(t, err)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// utf16Bytes returns s in UTF-16 after the given byte order mark, which may be empty.
func utf16Bytes(s, mark string, bigEndian bool) []byte {
	b := []byte(mark)
	for _, u := range utf16.Encode([]rune(s)) {
		if bigEndian {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return b
}

// Every row is sent in every encoding: the verdict must be the same, and the caller must get
// the bytes as they were sent.
func TestClassifyEncodings(t *testing.T) {
	t.Parallel()
	encodings := []struct {
		name, why, header string
		uncompressed      bool
		encode            func(testing.TB, string) []byte
	}{
		{"gzip", "asked for by the caller itself", "gzip", false, func(t testing.TB, s string) []byte { return gzipped(t, []byte(s)) }},
		{"gzip without header", "gateways lose the header", "", false, func(t testing.TB, s string) []byte { return gzipped(t, []byte(s)) }},
		{"gzip header on plain text", "error pages inherit the header", "gzip", false, func(_ testing.TB, s string) []byte { return []byte(s) }},
		{"deflate", "RFC 9110 means zlib", "deflate", false, func(t testing.TB, s string) []byte { return zlibbed(t, []byte(s)) }},
		{"bare deflate", "what some servers send", "Deflate", false, func(t testing.TB, s string) []byte { return deflated(t, []byte(s)) }},
		{"uncompressed by net/http", "the body is plain then", "", true, func(_ testing.TB, s string) []byte { return []byte(s) }},
		{"byte order mark", ".NET likes to write one", "", false, func(_ testing.TB, s string) []byte { return []byte("\ufeff" + s) }},
		{"utf-16 le", "with its mark", "", false, func(_ testing.TB, s string) []byte { return utf16Bytes(s, "\xff\xfe", false) }},
		{"utf-16 be", "with its mark", "", false, func(_ testing.TB, s string) []byte { return utf16Bytes(s, "\xfe\xff", true) }},
		{"utf-16 le without mark", "declared in the header only", "", false, func(_ testing.TB, s string) []byte { return utf16Bytes(s, "", false) }},
		{"utf-16 be without mark", "declared in the header only", "", false, func(_ testing.TB, s string) []byte { return utf16Bytes(s, "", true) }},
		{"gzip of utf-16", "both at once", "gzip", false, func(t testing.TB, s string) []byte { return gzipped(t, utf16Bytes(s, "\xff\xfe", false)) }},
		{"declared utf-16", ".NET declares it on UTF-8 text", "", false, func(_ testing.TB, s string) []byte {
			return []byte(strings.Replace(s, `encoding="utf-8"`, `encoding="utf-16"`, 1))
		}},
		{"leading blanks", "templates begin with an empty line", "", false, func(_ testing.TB, s string) []byte { return []byte("\r\n " + s) }},
	}
	for _, enc := range encodings {
		require.NotEmpty(t, enc.why)
		t.Run(enc.name, func(t *testing.T) {
			t.Parallel()
			for _, row := range answerRows {
				if row.body == "" || strings.ContainsRune(row.body, 0) || enc.name == "leading blanks" && strings.HasPrefix(row.body, "<?xml") {
					continue // has nothing to encode, or is binary; an XML declaration must come first
				}
				raw := enc.encode(t, row.body)
				resp := row.response(io.NopCloser(iotest.HalfReader(bytes.NewReader(raw))))
				if enc.header != "" {
					resp.Header.Set("Content-Encoding", enc.header)
				}
				resp.Uncompressed = enc.uncompressed
				t.Run(row.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						row.check(t, Classify(resp, nil))
						rest, err := io.ReadAll(resp.Body)
						assert.NoError(t, err)
						assert.Equal(t, raw, rest)
					})
				})
			}
		})
	}
}

func TestClassifyUnknownEncoding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		row := answerRow{status: 502, header: typed(htmlType, "Content-Encoding", "br")}
		resp := row.response(io.NopCloser(strings.NewReader("Service Unavailable")))
		f := Classify(resp, nil)
		require.NotNil(t, f)
		assert.Equal(t, ClassUnavailable, f.Class)
		assert.Empty(t, f.Message, "bytes in an encoding that is not known are not text")
	})
}

func TestClassifyLatin1(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		row := answerRow{status: 500, header: typed("application/json; charset=iso-8859-1")}
		resp := row.response(io.NopCloser(strings.NewReader("{\"error\":{\"message\":\"Zugriff f\xfcr alle\",\"code\":\"0x8004B065\"}}")))
		f := Classify(resp, nil)
		require.NotNil(t, f)
		assert.Equal(t, "0x8004B065", f.Code, "a byte that is not UTF-8 must not end the reading")
		assert.Equal(t, "Zugriff f\ufffdr alle", f.Message)
	})
}

// Every row is cut at every byte, as by a connection that breaks. The code is either known or
// not, but never half a code, and the caller gets the same bytes and the same error.
func TestClassifyCut(t *testing.T) {
	t.Parallel()
	errCut := errors.New("connection cut")
	for _, row := range answerRows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				codeSeen := false
				for n := range len(row.body) {
					body := io.MultiReader(strings.NewReader(row.body[:n]), iotest.ErrReader(errCut))
					resp := row.response(io.NopCloser(body))
					f := Classify(resp, nil)
					rest, err := io.ReadAll(resp.Body)
					require.Equal(t, errCut, err, "cut at %d", n)
					require.Equal(t, row.body[:n], string(rest), "cut at %d", n)
					if f == nil {
						continue
					}
					if f.Code != "" {
						require.Equal(t, row.code, f.Code, "cut at %d", n)
					}
					require.False(t, codeSeen && f.Code == "", "cut at %d: code forgotten", n)
					codeSeen = f.Code != ""
				}
			})
		})
	}
}

// A countingBody is an endless or long body that counts how much of it is read.
type countingBody struct {
	io.Reader
	read   int
	closed int
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

func (b *countingBody) Close() error {
	b.closed++
	return nil
}

type endless struct{ text string }

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.text)
	}
	return n, nil
}

func TestClassifyReadsBoundedPrefix(t *testing.T) {
	t.Parallel()
	const gigabyte = 1 << 30
	row := answerRow{status: 500, header: typed(jsonType)}
	for name, text := range map[string]string{
		"text": "Contoso ", "nested arrays": "[", "nested objects": `{"a":`, "nested elements": "<a>", "headings": "<h1>", "attributes": `<a b="c" `,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				body := &countingBody{Reader: io.LimitReader(endless{text}, gigabyte)}
				resp := row.response(body)
				f := Classify(resp, nil)
				require.NotNil(t, f)
				assert.Equal(t, ClassTransient, f.Class)
				assert.LessOrEqual(t, body.read, 64<<10)
				got := make([]byte, body.read)
				_, err := io.ReadFull(resp.Body, got)
				require.NoError(t, err)
				assert.True(t, strings.HasPrefix(string(got), text+text), "the prefix is put back")
				require.NoError(t, resp.Body.Close())
				assert.Equal(t, 1, body.closed, "Close is the body's own")
			})
		})
	}
}

func TestClassifyFindsCodeBeforeCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		row := answerRow{status: 500, header: typed(jsonType)}
		body := `{"error":{"code":"0x8004B065","message":"x","@Contoso.TraceText":"` + strings.Repeat("trace ", 1<<20)
		f := Classify(row.response(io.NopCloser(strings.NewReader(body))), nil)
		require.NotNil(t, f)
		assert.Equal(t, "0x8004B065", f.Code)
	})
}

// Not parallel: it measures what the process allocates.
func TestClassifyBombs(t *testing.T) {
	zeros := make([]byte, 4<<20)
	var entities strings.Builder
	entities.WriteString(`<!DOCTYPE e [<!ENTITY a0 "contoso">`)
	for i := range 20 {
		a := string(rune('a' + i))
		entities.WriteString(`<!ENTITY ` + string(rune('b'+i)) + `0 "&` + a + `0;&` + a + `0;&` + a + `0;">`)
	}
	entities.WriteString(`<!ENTITY file SYSTEM "file:///etc/passwd">]>`)
	soap := `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault><faultstring>&u0;&file;</faultstring></e:Fault></e:Body></e:Envelope>`
	tests := []struct {
		name, why, encoding string
		body                []byte
	}{
		{"gzip", "a small body may stand for a large one", "gzip", gzipped(t, append([]byte(`{"error":{"message":"`), zeros...))},
		{"zlib", "a small body may stand for a large one", "deflate", zlibbed(t, zeros)},
		{"entities", "document types must not be expanded, files not be read", "", []byte(entities.String() + soap)},
		{"gzip header only", "damage is no reason to fail", "gzip", []byte{0x1f, 0x8b}},
		{"prefixes", "declarations must not pile up", "", []byte(strings.Repeat(`<a xmlns:b="`+strings.Repeat("u", 100)+`">`, 500))},
	}
	for _, tt := range tests {
		require.NotEmpty(t, tt.why)
		t.Run(tt.name, func(t *testing.T) {
			row := answerRow{status: 500, header: typed("text/xml", "Content-Encoding", tt.encoding)}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f := Classify(row.response(io.NopCloser(bytes.NewReader(tt.body))), nil)
			runtime.ReadMemStats(&after)
			require.NotNil(t, f)
			assert.Equal(t, ClassTransient, f.Class)
			assert.NotContains(t, f.Message, "contoso")
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20), "bytes allocated")
		})
	}
}

func TestClassifyLeavesBodiesAlone(t *testing.T) {
	t.Parallel()
	conn := &upgraded{}
	tests := []struct {
		name, why string
		resp      *http.Response
	}{
		{"2xx", "a healthy answer is not read", &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(io.ErrNoProgress))}},
		{"nil body", "handmade responses may have none", &http.Response{StatusCode: 500}},
		{"no body", "there is nothing to read", &http.Response{StatusCode: 500, Body: http.NoBody, ContentLength: 0}},
		{"upgraded", "a connection is not a body", &http.Response{StatusCode: 500, ContentLength: -1, Body: conn}},
		{"switching protocols", "1xx is no fault", &http.Response{StatusCode: 101, ContentLength: -1, Body: conn}},
		{"head", "HEAD has no body", &http.Response{StatusCode: 500, ContentLength: 9, Body: io.NopCloser(strings.NewReader("")), Request: &http.Request{Method: http.MethodHead}}},
	}
	for _, tt := range tests {
		require.NotEmpty(t, tt.why)
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := tt.resp.Body
			Classify(tt.resp, nil)
			assert.True(t, before == tt.resp.Body, tt.why)
		})
	}
}

// An upgraded body fails the test if it is read.
type upgraded struct{ io.ReadWriteCloser }

func TestPeekGivesUpOnEmptyReads(t *testing.T) {
	t.Parallel()
	resp := &http.Response{StatusCode: 500, ContentLength: -1, Body: io.NopCloser(idleReader{})}
	assert.Equal(t, ClassTransient, Classify(resp, nil).Class)
}

// An idleReader blocks for ever.
type idleReader struct{}

func (idleReader) Read([]byte) (int, error) { return 0, nil }

func TestClassifyTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		row := answerRow{status: 500, header: typed(jsonType)}
		body := odata("0x8004B065", "x")
		resp := row.response(io.NopCloser(strings.NewReader(body)))
		assert.Equal(t, Classify(resp, nil), Classify(resp, nil), "a second look must see the same")
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, body, string(rest))
	})
}
