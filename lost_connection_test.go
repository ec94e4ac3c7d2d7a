package failover_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// A connection may be lost after net/http has chosen it and before it writes. Whatever wraps the
// http.Transport, a write is sent over the next one, as it is without a Transport. If there is
// none, it was not sent.
func TestAConnectionThatIsLostBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"bare", "itself", "wrapped", "instrumented"} {
		for _, body := range []string{"{}", ""} {
			for _, http2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %q, HTTP/2 %v", form, body, http2), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { writeOverALostConnection(t, form, body, http2) })
				})
			}
		}
	}
}

func writeOverALostConnection(t *testing.T, form, body string, http2 bool) {
	const address = "https://127.0.0.1" // which the certificate of httptest is for
	var counted once
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { counted.carryOut(r) }))
	server.Listener.Close()
	network := &pipes{make(chan net.Conn), make(chan struct{})}
	server.Listener, server.EnableHTTP2 = network, http2
	server.StartTLS()
	defer server.Close()
	defer close(network.done)
	base := server.Client().Transport.(*http.Transport)
	down := false
	base.DialContext = func(context.Context, string, string) (net.Conn, error) {
		if down {
			return nil, syscall.ECONNREFUSED
		}
		near, far := net.Pipe()
		network.conns <- far
		return near, nil
	}
	wrap := func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) { return rt.RoundTrip(req.Clone(req.Context())) })
	}
	cfg := failover.Config{Base: base, Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler)}
	switch form {
	case "wrapped":
		cfg.Base = wrap(base)
	case "instrumented":
		cfg.Instrument = wrap
	}
	var sender http.RoundTripper = base
	if form != "bare" {
		transport, err := failover.New(address, &cfg)
		require.NoError(t, err)
		defer transport.Close()
		sender = transport
	}
	lost := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused && lost == 0 {
			lost++
			info.Conn.(*tls.Conn).NetConn().Close()
			synctest.Wait() // until net/http has noticed
		}
	}})
	send := func(id string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+accounts, strings.NewReader(body))
		require.NoError(t, err)
		req.Header = http.Header{"X-Request-Id": {id}, "Content-Type": {"application/json"}}
		return sender.RoundTrip(req)
	}
	for _, id := range []string{"first", "second"} {
		resp, err := send(id)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 1, counted.of(id))
	}
	assert.Equal(t, 1, lost)

	lost, down = 0, true
	_, err := send("third")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Equal(t, 1, lost)
	if _, inDoubt := failover.InDoubt(nil, err); body != "" || http2 { // else there is no body that a Base of one's own leaves unread
		assert.False(t, inDoubt)
	}
}
