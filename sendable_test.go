package failover

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What net/http refuses to send is told from what it sends, for every byte at each place.
func TestWhatNetHTTPSends(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	base := server.Client().Transport.(*http.Transport)
	http1 := base.Clone()
	http1.ForceAttemptHTTP2 = false
	http1.TLSClientConfig.NextProtos, http1.TLSNextProto = nil, map[string]func(string, *tls.Conn) http.RoundTripper{}
	defer http1.CloseIdleConnections()
	try := func(name string, http2 bool, change func(*http.Request)) {
		req, err := http.NewRequest("POST", server.URL, nil)
		require.NoError(t, err)
		change(req)
		sends := sendable(req, http2)
		rt := http1
		if http2 {
			rt = base
		}
		resp, err := rt.RoundTrip(req)
		if err == nil {
			assert.Equal(t, http2, resp.ProtoMajor == 2)
			discard(resp)
		}
		assert.Equal(t, err == nil, sends, "%s: %v", name, err)
	}
	for c := range 256 {
		s := "a" + string([]byte{byte(c)}) + "b"
		for name, change := range map[string]func(*http.Request){
			"method":       func(r *http.Request) { r.Method = s },
			"header":       func(r *http.Request) { r.Header[s] = []string{"x"} },
			"value":        func(r *http.Request) { r.Header["X-Contoso"] = []string{"x", s} },
			"trailer":      func(r *http.Request) { withTrailer(r, http.Header{s: {"x"}}) },
			"trailer line": func(r *http.Request) { withTrailer(r, http.Header{"X-Contoso": {s}}) },
		} {
			try(name+" "+s, false, change)
		}
		try("host "+s, true, func(r *http.Request) { r.Host = s })
	}
	for _, u := range []url.URL{{}, {Path: "*"}, {Path: "/a"}, {Path: "a"}, {Opaque: "*"}, {Opaque: "/a"}, {Opaque: "a"}, {Opaque: "//contoso/a"}, {RawQuery: "a"}} {
		try("target "+u.String(), true, func(r *http.Request) {
			r.URL.Path, r.URL.Opaque, r.URL.RawQuery = u.Path, u.Opaque, u.RawQuery
			if strings.HasPrefix(u.Opaque, "//") {
				r.Host = "contoso"
			}
		})
	}
	body := func(n int64) func(*http.Request) {
		return func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("contoso")), n }
	}
	for name, change := range map[string]func(*http.Request){
		"nothing odd":              func(*http.Request) {},
		"no method":                func(r *http.Request) { r.Method = "" },
		"no host":                  func(r *http.Request) { r.URL.Host = "" },
		"no header":                func(r *http.Request) { r.Header = nil },
		"header without a name":    func(r *http.Request) { r.Header[""] = []string{"x"} },
		"host":                     func(r *http.Request) { r.Host = "contoso\x00" },
		"body":                     body(7),
		"body of unknown length":   body(-1),
		"body of length 0":         body(0),
		"length without a body":    func(r *http.Request) { r.ContentLength = 7 },
		"trailer of a known body":  func(r *http.Request) { body(7)(r); r.Trailer = http.Header{"X-Contoso": {"x"}} },
		"trailer without a body":   func(r *http.Request) { r.Trailer = http.Header{"X-Contoso": {"x"}} },
		"trailer that is reserved": func(r *http.Request) { withTrailer(r, http.Header{"Content-Length": {"7"}}) },
	} {
		try(name, false, change)
	}
	try("tunnel", true, func(r *http.Request) { r.Method, r.URL.Opaque = http.MethodConnect, "contoso" })
	for _, field := range []string{
		"Upgrade: h2c", "Upgrade:", "Connection:", "Connection: close", "Connection: keep-alive", "Connection: Keep-Alive", "Connection: contoso",
		"Transfer-Encoding:", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "X-Contoso: x",
	} {
		name, value, _ := strings.Cut(field, ":")
		try(field, true, func(r *http.Request) { r.Header.Set(name, strings.TrimSpace(value)) })
	}
}

func withTrailer(req *http.Request, trailer http.Header) {
	req.Body, req.ContentLength, req.Trailer = io.NopCloser(strings.NewReader("contoso")), -1, trailer
}

// Only the error of a handshake that was answered in HTTP is one of the scheme.
func TestWhichHandshakesWereAnsweredInHTTP(t *testing.T) {
	t.Parallel()
	other := tls.RecordHeaderError{Msg: "contoso", RecordHeader: [5]byte{21, 3, 3, 0, 2}}
	for _, err := range []error{io.EOF, other} {
		assert.Equal(t, err, sayPlainHTTP(err))
	}
	named := sayPlainHTTP(tls.RecordHeaderError{Msg: "contoso", RecordHeader: [5]byte([]byte("HTTP/"))})
	assert.ErrorIs(t, named, http.ErrSchemeMismatch)
	assert.NotErrorIs(t, named, io.EOF)
	assert.True(t, errors.As(named, new(tls.RecordHeaderError)))
}

// The error of AttemptTimeout is a net.Error, as that of a deadline is.
func TestAnAttemptTimeoutIsANetError(t *testing.T) {
	t.Parallel()
	var err net.Error = attemptTimeout{}
	assert.True(t, err.Timeout())
	assert.True(t, err.(interface{ Temporary() bool }).Temporary(), "as a context's is")
}
