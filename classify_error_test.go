package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A timeoutError is a net.Error of an unknown package.
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
		{"no descriptors left", "a limit of this machine", opErr("dial", os.NewSyscallError("socket", syscall.EMFILE)), ClassLocal, NotSent, false},
		{"no descriptors left in the system", "a limit of this machine", opErr("dial", os.NewSyscallError("socket", syscall.ENFILE)), ClassLocal, NotSent, false},
		{"no ports left", "a limit of this machine", &url.Error{Op: "Get", Err: opErr("dial", os.NewSyscallError("connect", syscall.EADDRNOTAVAIL))}, ClassLocal, NotSent, false},
		{"no buffers left", "a limit of this machine", opErr("dial", os.NewSyscallError("connect", syscall.ENOBUFS)), ClassLocal, NotSent, false},
		{"no buffers left while writing", "bytes may have left", opErr("write", os.NewSyscallError("write", syscall.ENOBUFS)), ClassLocal, Unknown, false},
		{"no memory left", "a limit of this machine", fmt.Errorf("x: %w", syscall.ENOMEM), ClassLocal, Unknown, false},
		{"no descriptors left for the resolver", "net keeps no more than the text", &net.DNSError{Err: "dial udp: socket: " + syscall.EMFILE.Error(), Name: "contoso.com"}, ClassLocal, NotSent, false},
		{"machine and endpoint", "of several attempts one may be about the endpoint", errors.Join(opErr("dial", syscall.EMFILE), opErr("dial", refused)), ClassUnavailable, Unknown, false},
		{"unreachable", "the network is not the machine", opErr("dial", os.NewSyscallError("connect", syscall.ENETUNREACH)), ClassUnavailable, NotSent, false},
		{"proxy wants credentials", "no fault of the endpoint", &connectError{status: 407}, ClassAuth, NotSent, false},
		{"proxy forbids", "no fault of the endpoint", &url.Error{Op: "Get", Err: &connectError{status: 403}}, ClassAuth, NotSent, false},
		{"proxy is busy", "it said so itself", &connectError{status: 429}, ClassThrottled, NotSent, false},
		{"proxy finds no name", "there is no way to the endpoint", &connectError{status: 404}, ClassUnavailable, NotSent, false},
		{"proxy gets no connection", "there is no way to the endpoint", &connectError{status: 502}, ClassUnavailable, NotSent, false},
		{"proxy is overloaded", "there is no way to the endpoint", &connectError{status: 503}, ClassUnavailable, NotSent, false},
		{"proxy waited", "there is no way to the endpoint", &connectError{status: 504}, ClassUnavailable, NotSent, false},
		{"proxy failed", "there is no way to the endpoint", &connectError{status: 500}, ClassUnavailable, NotSent, false},
		{"proxy among several attempts", "the other one may have been sent", errors.Join(&connectError{status: 407}, io.EOF), ClassAuth, Unknown, false},
		{"judged by a dialer", "who wraps a Fault knows", fmt.Errorf("x: %w", &Fault{Class: ClassAuth, Delivery: NotSent}), ClassAuth, NotSent, false},
		{"judged by one of several", "says nothing of the other", errors.Join(&Fault{Class: ClassAuth, Delivery: NotSent}, opErr("dial", refused)), ClassUnavailable, Unknown, false},
		{"use last response", "an error of unknown type counts", http.ErrUseLastResponse, ClassTransient, Unknown, false},
		{"text that looks like a dial", "text proves nothing", errors.New("dial tcp: connection refused"), ClassTransient, Unknown, false},
		{"joined attempts", "one attempt that was not sent says nothing of the other", errors.Join(opErr("dial", refused), io.EOF), ClassUnavailable, Unknown, false},
		{"joined below", "the same, further down", fmt.Errorf("x: %w", errors.Join(opErr("dial", refused), io.EOF)), ClassUnavailable, Unknown, false},
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

// refusingAddr returns an address that refuses connections until the test ends. It is the
// local end of an open connection: the port of a closed listener could go to the next one.
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
		{"proxy says no, untyped", "net/http has no type for a refused CONNECT, so it is judged with care", "https://contoso.example", &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: refusing.Listener.Addr().String()})}, ClassTransient, Unknown},
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

// A forward proxy refuses CONNECT in every way. The default Base turns each into a typed
// error.
func TestClassifyProxies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		class  Class
	}{
		{400, ClassUnavailable}, {401, ClassAuth}, {403, ClassAuth}, {404, ClassUnavailable}, {407, ClassAuth}, {429, ClassThrottled},
		{500, ClassUnavailable}, {502, ClassUnavailable}, {503, ClassUnavailable}, {504, ClassUnavailable},
	}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.status), func(t *testing.T) {
			t.Parallel()
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, http.MethodConnect, r.Method)
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tt.status)
			}))
			defer proxy.Close()
			u, err := url.Parse(proxy.URL)
			require.NoError(t, err)
			u.User = url.UserPassword("contoso", canary)
			base := &http.Transport{Proxy: http.ProxyURL(u)}
			defer base.CloseIdleConnections()
			typeConnectErrors(base)
			f := roundTrip(t, base, "https://contoso.example")
			require.NotNil(t, f)
			assert.Equal(t, tt.class.String(), f.Class.String(), f.Error())
			assert.Equal(t, NotSent, f.Delivery)
			assert.Equal(t, 7*time.Second, f.RetryAfter)
			assert.Zero(t, f.Status, "the endpoint gave none")
			assert.Contains(t, f.Error(), strconv.Itoa(tt.status))
			assert.NotContains(t, f.Error(), canary)
		})
	}
}

// The wrong proxy password concerns both endpoints, and is no outage of either.
func TestAProxyThatRefusesIsNoOutage(t *testing.T) {
	t.Parallel()
	var refusals atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refusals.Add(1)
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	u.User = url.UserPassword("contoso", canary)
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}
	_, transport, err := Wrap(client, "https://contoso.api.crm.dynamics.com", &Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	for range 5 {
		req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", strings.NewReader("{}"))
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		var f *Fault
		require.ErrorAs(t, err, &f)
		assert.Equal(t, ClassAuth, f.Class, err)
		assert.Equal(t, NotSent, f.Delivery, err)
		assert.NotErrorIs(t, err, ErrUnavailable)
		assert.NotErrorIs(t, err, ErrOutcomeUnknown)
		assert.NotContains(t, err.Error(), canary)
	}
	status := transport.Status()
	assert.False(t, status.Down)
	assert.Equal(t, StateClosed, status.Primary.State)
	assert.Equal(t, int64(5), refusals.Load(), "neither repeated nor probed")
}

func TestTypedConnectErrorsLeaveAProgramsOwnHookItsSay(t *testing.T) {
	t.Parallel()
	own := errors.New("own")
	base := &http.Transport{OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == 418 {
			return own
		}
		return nil
	}}
	typeConnectErrors(base)
	for status, want := range map[int]error{200: nil, 418: own, 502: &connectError{status: 502}} {
		assert.Equal(t, want, base.OnProxyConnectResponse(t.Context(), nil, nil, &http.Response{StatusCode: status}))
	}
}

// A server resets every HTTP/2 stream, in handmade frames, until net/http gives up retrying.
// That takes about a minute, hence the bubble. No code proves anything: HAProxy sends
// REFUSED_STREAM for requests that its backend has accepted.
func TestResetStreamsProveNothing(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]byte{"PROTOCOL_ERROR": 1, "INTERNAL_ERROR": 2, "REFUSED_STREAM": 7, "CANCEL": 8, "ENHANCE_YOUR_CALM": 11} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { resetStreams(t, code) })
		})
	}
}

func resetStreams(t *testing.T, code byte) {
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go serveResets(server, code)
			return client, nil
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	var body io.Reader
	if code == 1 { // net/http would repeat a request without a body for ever
		body = io.NopCloser(strings.NewReader("{}"))
	}
	req, err := http.NewRequest(http.MethodGet, "http://contoso.example/", body)
	require.NoError(t, err)
	resp, err := tr.RoundTrip(req)
	require.Error(t, err)
	f := Classify(resp, err)
	assert.Equal(t, ClassTransient, f.Class, err)
	assert.Equal(t, Unknown, f.Delivery, err)
}

// serveResets serves HTTP/2 on conn, and answers every HEADERS frame with RST_STREAM and the
// code.
func serveResets(conn net.Conn, code byte) {
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
			frame(reset, 0, binary.BigEndian.Uint32(head[5:]), 0, 0, 0, code)
		}
	}
}
