package failover_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// lateConn is a connection whose dial ends just after it was abandoned: too late to be used,
// and too late to be cancelled.
type lateConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// dialLate returns a Base for a server, and a channel with the connections whose dials end
// only after they were abandoned: those of requests, or those of probes.
func dialLate(t *testing.T, server *httptest.Server, probes bool) (*http.Transport, <-chan *lateConn) {
	base := server.Client().Transport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	late := make(chan *lateConn, 64)
	cfg := base.TLSClientConfig.Clone()
	cfg.ServerName = "example.com"
	if server.EnableHTTP2 {
		cfg.NextProtos = []string{"h2"}
	}
	base.ForceAttemptHTTP2 = server.EnableHTTP2
	base.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		plain, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := &lateConn{Conn: plain, closed: make(chan struct{})}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		if isProbe := ctx.Value(ofCaller{}) == nil; isProbe == probes {
			late <- conn
			<-ctx.Done()
		}
		return secure, nil
	}
	return base, late
}

// ofCaller marks the context of a request that is not a probe.
type ofCaller struct{}

// A connection that is opened although nothing waits for it any more is closed. (net/http
// finishes an abandoned dial and, over HTTP/2, keeps the connection.)
func TestNoConnectionOutlivesItsUse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		probes bool // the late connections are those of probes
		end    func(transport *failover.Transport, giveUp context.CancelFunc)
	}{
		{"probe that times out", true, nil},
		{"request, given up after its pool", false, func(transport *failover.Transport, giveUp context.CancelFunc) {
			transport.Pin(failover.Alternate)
			giveUp()
		}},
		{"request, given up before its pool", false, func(transport *failover.Transport, giveUp context.CancelFunc) {
			giveUp()
			transport.Pin(failover.Alternate)
		}},
		{"request, given up after Close", false, func(transport *failover.Transport, giveUp context.CancelFunc) {
			transport.Close()
			giveUp()
		}},
		{"request, given up before Close", false, func(transport *failover.Transport, giveUp context.CancelFunc) {
			giveUp()
			transport.Close()
		}},
	}
	for _, tt := range tests {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", tt.name, h2), func(t *testing.T) {
				t.Parallel()
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					assert.Equal(t, h2, r.ProtoMajor == 2)
					w.WriteHeader(http.StatusServiceUnavailable)
				}))
				server.EnableHTTP2 = h2
				server.StartTLS()
				defer server.Close()
				base, late := dialLate(t, server, tt.probes)
				transport, err := failover.New(server.URL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler),
					Alternate:  strings.Replace(server.URL, "127.0.0.1", "127.0.0.2", 1),
					Instrument: func(own http.RoundTripper) http.RoundTripper { return own }, ProbeTimeout: 500 * time.Millisecond})
				require.NoError(t, err)
				defer transport.Close()
				ctx, giveUp := context.WithCancel(context.WithValue(t.Context(), ofCaller{}, true))
				defer giveUp()
				answered := make(chan struct{})
				go func() {
					defer close(answered)
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+accounts, nil)
					if assert.NoError(t, err) {
						if resp, err := transport.RoundTrip(req); err == nil {
							resp.Body.Close()
						}
					}
				}()
				conn := <-late
				if tt.end != nil {
					tt.end(transport, giveUp)
				}
				<-answered
				transport.Close()
				for {
					select {
					case <-conn.closed:
					case <-time.After(time.Minute):
						require.Fail(t, "a connection is left")
					}
					select {
					case conn = <-late:
						continue
					default:
					}
					break
				}
			})
		}
	}
}
