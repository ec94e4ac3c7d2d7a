package failover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A timeoutError is a net.Error of a package that nobody knows.
type timeoutError struct{ timeout bool }

func (timeoutError) Error() string   { return "waited" }
func (e timeoutError) Timeout() bool { return e.timeout }
func (timeoutError) Temporary() bool { return false }

func opErr(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

func TestClassifyErrors(t *testing.T) {
	t.Parallel()
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	tests := []struct {
		name, why string
		err       error
		class     Class
		delivery  Delivery
		timeout   bool
	}{
		{"canceled", "the caller gave up", context.Canceled, ClassCanceled, Unknown, false},
		{"canceled while dialing", "the caller gave up, whatever was going on", opErr("dial", context.Canceled), ClassCanceled, Unknown, false},
		{"deadline", "how a black hole looks", context.DeadlineExceeded, ClassTransient, Unknown, true},
		{"i/o deadline", "bytes may have left", opErr("read", os.ErrDeadlineExceeded), ClassTransient, Unknown, true},
		{"unknown time-out", "every net.Error can say so", fmt.Errorf("x: %w", timeoutError{true}), ClassTransient, Unknown, true},
		{"unknown net.Error", "counts", timeoutError{false}, ClassTransient, Unknown, false},
		{"dial refused", "no connection, no bytes", opErr("dial", refused), ClassUnavailable, NotSent, false},
		{"dial time-out", "no connection, no bytes", opErr("dial", timeoutError{true}), ClassUnavailable, NotSent, true},
		{"dial in client error", "http.Client wraps", &url.Error{Op: "Get", URL: "https://contoso.com", Err: opErr("dial", refused)}, ClassUnavailable, NotSent, false},
		{"proxy connect", "the request goes after CONNECT", opErr("proxyconnect", opErr("read", io.EOF)), ClassUnavailable, NotSent, false},
		{"socks connect", "the request goes after it", opErr("socks connect", errors.New("general failure")), ClassUnavailable, NotSent, false},
		{"dial below another operation", "each operation of the chain counts", opErr("custom", opErr("dial", refused)), ClassUnavailable, NotSent, false},
		{"dns", "no address", &net.DNSError{Err: "no such host", Name: "contoso.com", IsNotFound: true}, ClassUnavailable, NotSent, false},
		{"dns time-out", "no address", &net.DNSError{Err: "time-out", IsTimeout: true}, ClassUnavailable, NotSent, true},
		{"address", "no address", &net.AddrError{Err: "missing port"}, ClassUnavailable, NotSent, false},
		{"certificate", "verified before the first byte of the request", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, ClassUnavailable, NotSent, false},
		{"authority", "custom dialers return it bare", x509.UnknownAuthorityError{}, ClassUnavailable, NotSent, false},
		{"host name", "custom dialers return it bare", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "contoso.com"}, ClassUnavailable, NotSent, false},
		{"expired", "custom dialers return it bare", x509.CertificateInvalidError{Reason: x509.Expired}, ClassUnavailable, NotSent, false},
		{"first record", "Conn is set only if the first record was no TLS", tls.RecordHeaderError{Conn: &net.TCPConn{}}, ClassUnavailable, NotSent, false},
		{"later record", "may follow the request", tls.RecordHeaderError{Msg: "oversized"}, ClassUnavailable, Unknown, false},
		{"remote alert", "with TLS 1.3 it may follow the request", opErr("remote error", errors.New("tls: certificate required")), ClassUnavailable, Unknown, false},
		{"alert", "the exported form", tls.AlertError(116), ClassUnavailable, Unknown, false},
		{"reset", "bytes may have left", opErr("read", os.NewSyscallError("read", syscall.ECONNRESET)), ClassTransient, Unknown, false},
		{"broken pipe", "bytes may have left", opErr("write", os.NewSyscallError("write", syscall.EPIPE)), ClassTransient, Unknown, false},
		{"aborted", "bytes may have left", opErr("read", syscall.ECONNABORTED), ClassTransient, Unknown, false},
		{"refused while reading", "refused proves something of a dial only", opErr("read", refused), ClassTransient, Unknown, false},
		{"eof", "the connection ended before the answer", io.EOF, ClassTransient, Unknown, false},
		{"unexpected eof", "the connection ended in the answer", io.ErrUnexpectedEOF, ClassTransient, Unknown, false},
		{"closed", "by a pool", opErr("write", net.ErrClosed), ClassTransient, Unknown, false},
		{"http2 refused stream", "RFC 9113: nothing was processed", lookalike{1, refusedStream, nil}, ClassTransient, Refused, false},
		{"http2 refused stream, wrapped", "still the same stream", fmt.Errorf("x: %w", lookalike{1, refusedStream, nil}), ClassTransient, Refused, false},
		{"http2 other stream error", "may have been processed", lookalike{1, 2, nil}, ClassTransient, Unknown, false},
		{"use last response", "an error of unknown type counts", http.ErrUseLastResponse, ClassTransient, Unknown, false},
		{"text that looks like a dial", "text proves nothing", errors.New("dial tcp: connection refused"), ClassTransient, Unknown, false},
		{"joined attempts", "one attempt that was not sent says nothing of the other", errors.Join(opErr("dial", refused), io.EOF), ClassUnavailable, Unknown, false},
		{"joined below", "the same, further down", fmt.Errorf("x: %w", errors.Join(lookalike{1, refusedStream, nil}, io.EOF)), ClassTransient, Unknown, false},
	}
	seen := make(map[string]bool)
	for _, tt := range tests {
		require.False(t, seen[tt.name], "row %q occurs twice", tt.name)
		require.NotEmpty(t, tt.why)
		seen[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := Classify(nil, tt.err)
			require.NotNil(t, f)
			assert.Equal(t, tt.class.String(), f.Class.String(), tt.why)
			assert.Equal(t, tt.delivery.String(), f.Delivery.String(), tt.why)
			assert.Equal(t, tt.timeout, f.Timeout(), tt.why)
			assert.False(t, f.Definitive)
			assert.ErrorIs(t, f, tt.err)
		})
	}
}

// A lookalike lets errors.As copy it into a struct of its shape, as the stream
// error of net/http does. TestRefusedStreamOfNetHTTP shows that it does.
type lookalike struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (lookalike) Error() string { return "stream error" }

func (e lookalike) As(target any) bool {
	s, ok := target.(*streamError)
	if ok {
		*s = streamError(e)
	}
	return ok
}

func TestClassifyNothing(t *testing.T) {
	t.Parallel()
	f := Classify(nil, nil)
	require.NotNil(t, f, "a round tripper that returns nothing is no success")
	assert.Equal(t, ClassTransient, f.Class)
	assert.Equal(t, Unknown, f.Delivery)
	f = Classify(&http.Response{StatusCode: 200}, io.EOF)
	require.NotNil(t, f, "an error decides alone")
	assert.Equal(t, ClassTransient, f.Class)
}

func TestFaultTimeoutOfGateways(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]bool{504: true, 524: true, 503: false, 500: false} {
		assert.Equal(t, want, Classify(&http.Response{StatusCode: status}, nil).Timeout(), "status %d", status)
	}
}

// roundTrip makes one request through rt and returns its fault.
func roundTrip(t *testing.T, rt http.RoundTripper, target string) *Fault {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, io.NopCloser(strings.NewReader("{}")))
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	if err == nil {
		defer resp.Body.Close()
	}
	return Classify(resp, err)
}

// refusingAddr returns an address that refuses connections until the test ends. It
// is the near end of an open connection: the port of a listener that was closed
// could go to the next one.
func refusingAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

func TestClassifyRealErrors(t *testing.T) {
	t.Parallel()
	closed := refusingAddr(t)
	serve := func(config *tls.Config, handler http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if s.TLS = config; config != nil {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s
	}
	plain := serve(nil, http.NotFound)
	secure := serve(&tls.Config{}, http.NotFound)
	dropping := serve(nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	refusing := serve(nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	demanding := serve(&tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}, http.NotFound)
	roots := x509.NewCertPool()
	roots.AddCert(demanding.Certificate())

	tests := []struct {
		name, why, target string
		transport         *http.Transport
		class             Class
		delivery          Delivery
	}{
		{"refused", "nobody listens", "http://" + closed, &http.Transport{}, ClassUnavailable, NotSent},
		{"untrusted", "the certificate is verified first", secure.URL, &http.Transport{}, ClassUnavailable, NotSent},
		{"no tls", "the first record is HTTP", strings.Replace(plain.URL, "http:", "https:", 1), &http.Transport{}, ClassUnavailable, NotSent},
		{"client certificate required", "the alert alone does not say when it came: with TLS 1.3 perhaps after the request", demanding.URL, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12}}, ClassUnavailable, Unknown},
		{"dropped", "the server read the request", dropping.URL, &http.Transport{}, ClassTransient, Unknown},
		{"proxy is down", "the request goes after CONNECT", "https://contoso.example", &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: closed, User: url.UserPassword("u", canary)})}, ClassUnavailable, NotSent},
		{"proxy says no", "net/http has no type for a refused CONNECT, so it is judged with care", "https://contoso.example", &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: refusing.Listener.Addr().String()})}, ClassTransient, Unknown},
		{"reserved name", "the name does not resolve", "http://contoso.invalid", &http.Transport{}, ClassUnavailable, NotSent},
	}
	for _, tt := range tests {
		require.NotEmpty(t, tt.why)
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			defer tt.transport.CloseIdleConnections()
			f := roundTrip(t, tt.transport, tt.target)
			require.NotNil(t, f)
			assert.Equal(t, tt.class.String(), f.Class.String(), f.Error())
			assert.Equal(t, tt.delivery.String(), f.Delivery.String(), f.Error())
			assert.NotContains(t, f.Error(), canary)
		})
	}
}

// TestRefusedStreamOfNetHTTP lets a server refuse every stream of HTTP/2, in frames
// made by hand, until net/http gives up retrying. It does so after about a minute,
// hence the bubble.
func TestRefusedStreamOfNetHTTP(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &http.Transport{
			Protocols: new(http.Protocols),
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go refuseStreams(server)
				return client, nil
			},
		}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest(http.MethodGet, "http://contoso.example/", nil)
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		require.Error(t, err)
		f := Classify(resp, err)
		assert.Equal(t, ClassTransient, f.Class, err)
		assert.Equal(t, Refused, f.Delivery, err)
	})
}

// refuseStreams serves HTTP/2 on conn and answers every HEADERS frame with
// RST_STREAM (REFUSED_STREAM).
func refuseStreams(conn net.Conn) {
	defer conn.Close()
	const (
		headers  = 0x1
		reset    = 0x3
		settings = 0x4
		ack      = 0x1
	)
	replies := make(chan []byte, 64) // a pipe has no buffer: never write while reading
	defer close(replies)
	go func() {
		for b := range replies {
			conn.Write(b)
		}
	}()
	frame := func(kind, flags byte, stream uint32, payload ...byte) {
		b := append([]byte{0, 0, byte(len(payload)), kind, flags}, binary.BigEndian.AppendUint32(nil, stream)...)
		replies <- append(b, payload...)
	}
	if _, err := io.CopyN(io.Discard, conn, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	frame(settings, 0, 0)
	for {
		var head [9]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if _, err := io.CopyN(io.Discard, conn, length); err != nil {
			return
		}
		switch {
		case head[3] == settings && head[4]&ack == 0:
			frame(settings, ack, 0)
		case head[3] == headers:
			frame(reset, 0, binary.BigEndian.Uint32(head[5:]), 0, 0, 0, refusedStream)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	tests := []struct {
		name, value, date string
		want              time.Duration
	}{
		{"none", "", date, 0},
		{"seconds", "17", "", 17 * time.Second},
		{"blanks", " 17 ", "", 17 * time.Second},
		{"capped", "86400", "", 5 * time.Minute},
		{"beyond 64 bits", "99999999999999999999999", "", 5 * time.Minute},
		{"negative", "-1", "", 0},
		{"fraction", "1.5", "", 0},
		{"text", "soon", "", 0},
		{"date", "Sun, 06 Nov 1994 08:49:47 GMT", date, 10 * time.Second},
		{"date in the past", "Sun, 06 Nov 1994 08:49:00 GMT", date, 0},
		{"date far ahead", "Sun, 06 Nov 2094 08:49:37 GMT", date, 5 * time.Minute},
		{"old form of date", "Sunday, 06-Nov-94 08:49:47 GMT", date, 10 * time.Second},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set("Retry-After", tt.value)
		h.Set("Date", tt.date)
		assert.Equal(t, tt.want, retryAfter(h), tt.name)
	}
}

func TestRetryAfterWithoutDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := http.Header{}
		h.Set("Retry-After", time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat))
		assert.Equal(t, 90*time.Second, retryAfter(h), "relative to our own clock")
	})
}

func TestXSDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"PT30S": 30 * time.Second, "PT2M3S": 123 * time.Second, "PT1.5S": 1500 * time.Millisecond, "PT4M59.9S": 299900 * time.Millisecond,
		"PT5M1S": 5 * time.Minute, "PT1H": 5 * time.Minute, "P1D": 5 * time.Minute, "P1DT2H": 5 * time.Minute, "P0D": 0,
		"00:00:30": 30 * time.Second, "00:02:03.5": 123500 * time.Millisecond, "1.00:00:00": 5 * time.Minute, "0.00:00:07": 7 * time.Second,
		"": 0, "P": 0, "PT": 0, "P1Y": 0, "-PT5S": 0, "PT-5S": 0, "5": 0, "00:30": 0, "00:NaN:01": 0, "::": 0, "x": 0, "1e9:0:0": 0,
		"PT99999999999999999999H": 0,
	} {
		assert.Equal(t, want, xsDuration(in), in)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	assert.Empty(t, requestID(h))
	for _, key := range []string{"x-ms-client-request-id", "request-id", "x-ms-request-id", "REQ_ID", "x-ms-service-request-id"} {
		h.Set(key, key)
		assert.Equal(t, key, requestID(h), "later keys of this list outrank earlier ones")
	}
	h.Set("x-ms-service-request-id", "a\tb"+strings.Repeat("c", 500))
	assert.Len(t, requestID(h), maxRequestText)
	assert.True(t, strings.HasPrefix(requestID(h), "a b"))
	assert.Equal(t, "only", Classify(&http.Response{StatusCode: 500, Header: http.Header{"Req_id": {"only"}}}, nil).RequestID)
}

// TestClassifyHealthyAllocatesNothing is not parallel: testing.AllocsPerRun counts
// for the whole process.
func TestClassifyHealthyAllocatesNothing(t *testing.T) {
	for _, resp := range healthyAnswers() {
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if Classify(resp, nil) != nil {
				t.Error("healthy answer judged a fault")
			}
		}))
	}
}

func healthyAnswers() []*http.Response {
	row := answerRow{status: 200, header: typed(jsonType, "OData-Version", "4.0")}
	html := answerRow{status: 200, path: "/WebResources/contoso_/start.html", header: typed(htmlType)}
	empty := answerRow{status: 204}
	unread := io.NopCloser(iotest.ErrReader(errors.New("a healthy body was read")))
	return []*http.Response{row.response(unread), html.response(unread), empty.response(http.NoBody)}
}

func TestXMLIsStrictAboutPlaces(t *testing.T) {
	t.Parallel()
	var a answer
	a.readXML([]byte(soap11Fault(`<faultcode xmlns:w="urn:one"><!-- c --> w:Busy </faultcode>`, "x", "")))
	assert.Equal(t, "urn:one", a.subcode.Space)
	assert.Equal(t, "Busy", a.subcode.Local)
	a = answer{}
	a.readXML([]byte(`<a>` + soap11Fault(senderCode, "x", "") + `</a>`))
	assert.Empty(t, a, "an envelope in another document is quoted, not sent")
}

func TestDocumentsAreReadToABoundedDepth(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]string{maxDepth - 2: "0x8004B065", maxDepth + 1: ""} {
		xml := strings.Replace(soap11Fault(senderCode, "x", orgFault("detail", "0x8004B065", "x", "")),
			"<e:Body>", strings.Repeat("<h>", depth)+strings.Repeat("</h>", depth)+"<e:Body>", 1)
		json := `{"trace":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `,"error":{"code":"0x8004B065"}}`
		for _, body := range []string{xml, json} {
			row := answerRow{status: 500, header: typed("application/octet-stream")}
			f := Classify(row.response(io.NopCloser(strings.NewReader(body))), nil)
			assert.Equal(t, want, f.Code, "depth %d", depth)
		}
	}
}

var codeForm = regexp.MustCompile(`^(0x[89A-F][0-9A-F]{7}|[A-Za-z0-9_.:-]{1,64})?$`)

func FuzzClassify(f *testing.F) {
	for _, row := range answerRows {
		f.Add(row.status, row.header["Content-Type"], "", row.header["Retry-After"], []byte(row.body), true)
	}
	fence := []byte(odata("0x8004B065", "x"))
	f.Add(500, jsonType, "gzip", "", gzipped(f, fence), false)
	f.Add(500, jsonType, "deflate", "1", zlibbed(f, fence), true)
	f.Add(500, jsonType, "deflate", "x", deflated(f, fence), true)
	f.Add(500, "text/xml", "", "", utf16Bytes(soap11Fault(senderCode, "x", orgFault("detail", "-2147176347", "x", "")), "\xff\xfe", false), true)
	errCut := errors.New("connection cut")
	f.Fuzz(func(t *testing.T, status int, contentType, encoding, wait string, body []byte, eof bool) {
		end := errCut
		if eof {
			end = io.EOF
		}
		counted := &countingBody{Reader: io.MultiReader(bytes.NewReader(body), iotest.ErrReader(end))}
		row := answerRow{status: status, header: typed(contentType, "Content-Encoding", encoding, "Retry-After", wait)}
		resp := row.response(counted)
		fault := Classify(resp, nil)
		if counted.read > maxPeek {
			t.Fatalf("read %d bytes", counted.read)
		}
		got, err := io.ReadAll(resp.Body)
		if !bytes.Equal(got, body) || eof && err != nil || !eof && err != errCut {
			t.Fatalf("body changed: %d of %d bytes, error %v", len(got), len(body), err)
		}
		if resp.Body.Close(); counted.closed != 1 {
			t.Fatalf("closed %d times", counted.closed)
		}
		if fault == nil {
			if status < 100 || status >= 400 {
				t.Fatalf("status %d is healthy", status)
			}
			return
		}
		checkFault(t, fault)
	})
}

// checkFault checks what holds for every fault of a response.
func checkFault(t *testing.T, f *Fault) {
	t.Helper()
	if f.Class > ClassCanceled || f.Class == ClassCanceled || f.Delivery > Answered || f.Delivery == NotSent {
		t.Fatalf("class %v, delivery %v", f.Class, f.Delivery)
	}
	if f.Definitive && f.Class != ClassUnavailable {
		t.Fatalf("definitive %v", f.Class)
	}
	if !codeForm.MatchString(f.Code) {
		t.Fatalf("code %q", f.Code)
	}
	if len(f.Message) > maxMessage || !utf8.ValidString(f.Message) || strings.ContainsFunc(f.Message, func(r rune) bool { return r < ' ' }) {
		t.Fatalf("message %q", f.Message)
	}
	if f.RetryAfter < 0 || f.RetryAfter > maxRetryAfter {
		t.Fatalf("retry after %v", f.RetryAfter)
	}
	if text := f.Error(); len(text) > maxFaultText || strings.ContainsAny(text, "\r\n") {
		t.Fatalf("text %q", text)
	}
}

func BenchmarkClassify(b *testing.B) {
	b.Run("healthy", func(b *testing.B) {
		resp := healthyAnswers()[0]
		b.ReportAllocs()
		for b.Loop() {
			if Classify(resp, nil) != nil {
				b.Fatal("healthy answer judged a fault")
			}
		}
	})
	for name, row := range map[string]answerRow{
		"odata":  {status: 500, header: typed(jsonType), body: odata("0x8004B065", "not here")},
		"soap":   {status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147176347", "not here", ""))},
		"status": {status: 503},
	} {
		b.Run(name, func(b *testing.B) {
			resp := row.response(nil)
			b.ReportAllocs()
			for b.Loop() {
				resp.Body = io.NopCloser(strings.NewReader(row.body))
				if f := Classify(resp, nil); f.Class != ClassUnavailable {
					b.Fatal(f)
				}
			}
		})
	}
}
