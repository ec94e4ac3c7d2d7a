package failover_test

import (
	"context"
	"crypto/tls"
	"errors"
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

// A write whose body nobody has read was not sent. One that may be repeated has a GetBody, of
// which a wrapped Base may have sent what nobody counts.
func TestABaseThatLosesAConnection(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		ctx  context.Context
		send func(*http.Request) // the body, before the connection is lost
		want failover.Delivery
	}{
		"before the body":              {t.Context(), func(*http.Request) {}, failover.NotSent},
		"in the body":                  {t.Context(), func(req *http.Request) { req.Body.Read(make([]byte, 1)) }, failover.Unknown},
		"it may be repeated, and was":  {failover.WithReplay(t.Context()), func(req *http.Request) { req.GetBody() }, failover.Unknown},
		"it may be repeated, and read": {failover.WithReplay(t.Context()), func(req *http.Request) { req.Body.Read(make([]byte, 1)) }, failover.Unknown},
	} {
		var deliveries []failover.Delivery
		transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				trace := httptrace.ContextClientTrace(req.Context())
				trace.GetConn(req.URL.Host)
				conn, _ := net.Pipe()
				trace.GotConn(httptrace.GotConnInfo{Conn: conn})
				row.send(req)
				return nil, errors.New("connection reset")
			}),
			Alternate: failover.NoAlternate, MaxAttempts: 1, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler),
			OnFault: func(_ context.Context, a failover.Attempt) { deliveries = append(deliveries, a.Fault.Delivery) },
		})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(row.ctx, http.MethodPost, "https://contoso.api.crm.dynamics.com"+accounts, strings.NewReader("{}"))
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		require.Error(t, err)
		assert.Equal(t, []failover.Delivery{row.want}, deliveries, name)
	}
}
