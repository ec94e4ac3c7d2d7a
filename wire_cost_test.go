package failover_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// traffic counts what a client puts on the wire.
type traffic struct{ conns, writes, bytes atomic.Int64 }

func (w *traffic) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.conns.Add(1)
	return &countedConn{conn, w}, nil
}

type countedConn struct {
	net.Conn
	w *traffic
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.w.writes.Add(1)
	c.w.bytes.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// onlyReader hides all other methods of a reader.
type onlyReader struct{ io.Reader }

// emptyFrame is the size of an empty DATA frame over TLS.
const emptyFrame = 9 + 22

// The library puts nothing on the wire that the bare transport does not: no byte, no write to
// a connection, and no connection. There is one exception: over HTTP/2, a write that has a
// Content-Type and no body gets an empty body, and so a frame. That makes it possible to tell
// whether a GOAWAY has left the write out.
func TestNothingIsAddedOnTheWire(t *testing.T) {
	t.Parallel()
	const path, calls = "/api/data/v9.2/accounts", 20
	body := []byte(`{"name":"` + strings.Repeat("x", 5000) + `"}`)
	requests := []struct {
		name, reason string
		make         func(url string) (*http.Request, error)
		frames       int64 // added to each call over HTTP/2
	}{
		{"GET", "by far the most calls", func(url string) (*http.Request, error) { return http.NewRequest("GET", url+path, nil) }, 0},
		{"GET that takes a message away", "it must not be repeated, and has no body", func(url string) (*http.Request, error) {
			return http.NewRequest("GET", url+"/api/connector/dequeue/1", nil)
		}, 0},
		{"POST", "it can be had again", func(url string) (*http.Request, error) {
			return http.NewRequest("POST", url+path, bytes.NewReader(body))
		}, 0},
		{"POST without GetBody", "it is held", func(url string) (*http.Request, error) {
			req, err := http.NewRequest("POST", url+path, bytes.NewReader(body))
			req.GetBody = nil
			return req, err
		}, 0},
		{"POST of a reader", "its length is not known", func(url string) (*http.Request, error) {
			return http.NewRequest("POST", url+path, onlyReader{bytes.NewReader(body)})
		}, 0},
		{"POST of a reader with a length", "it is not in memory", func(url string) (*http.Request, error) {
			req, err := http.NewRequest("POST", url+path, onlyReader{bytes.NewReader(body)})
			req.ContentLength = int64(len(body))
			return req, err
		}, 0},
		{"POST with a key", "net/http would repeat it", func(url string) (*http.Request, error) {
			req, err := http.NewRequest("POST", url+path, bytes.NewReader(body))
			req.Header.Set("Idempotency-Key", "7")
			return req, err
		}, 0},
		{"POST without a body", "an action", func(url string) (*http.Request, error) { return http.NewRequest("POST", url+path, nil) }, 0},
		{"POST without a body, with a type", "clients set it always", func(url string) (*http.Request, error) {
			req, err := http.NewRequest("POST", url+path, nil)
			req.Header.Set("Content-Type", "application/json")
			return req, err
		}, 1},
		{"DELETE", "it has no body", func(url string) (*http.Request, error) { return http.NewRequest("DELETE", url+path, nil) }, 0},
		{"PATCH", "an upsert", func(url string) (*http.Request, error) {
			return http.NewRequest("PATCH", url+path, bytes.NewReader(body))
		}, 0},
	}
	for _, http2 := range []bool{false, true} {
		proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			assert.Equal(t, proto, r.Proto)
			w.Header().Set("OData-Version", "4.0")
			w.WriteHeader(http.StatusNoContent)
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		for _, request := range requests {
			t.Run(proto+" "+request.name, func(t *testing.T) {
				t.Parallel()
				measure := func(wrapped bool) (conns, writes, size int64) {
					var seen traffic
					base := server.Client().Transport.(*http.Transport).Clone()
					base.DialContext = seen.dial
					defer base.CloseIdleConnections()
					var rt http.RoundTripper = base
					if wrapped {
						transport, err := failover.New(server.URL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
						require.NoError(t, err)
						defer transport.Close()
						rt = transport
					}
					for i := range calls + 1 {
						req, err := request.make(server.URL)
						if i == 0 { // shows which protocol the server speaks
							req, err = http.NewRequest("HEAD", server.URL+path, nil)
						}
						require.NoError(t, err)
						resp, err := rt.RoundTrip(req)
						require.NoError(t, err)
						resp.Body.Close()
					}
					return seen.conns.Load(), seen.writes.Load(), seen.bytes.Load()
				}
				// The most of the bare runs against the least of ours, because HTTP/2 adds
				// frames of its own now and then.
				var most, least [3]int64
				for i := range 5 {
					c, w, b := measure(false)
					most = [3]int64{max(most[0], c), max(most[1], w), max(most[2], b)}
					c, w, b = measure(true)
					if i == 0 {
						least = [3]int64{c, w, b}
					}
					least = [3]int64{min(least[0], c), min(least[1], w), min(least[2], b)}
				}
				if http2 {
					most[1], most[2] = most[1]+calls*request.frames, most[2]+calls*request.frames*emptyFrame
				}
				t.Logf("bare %v, failover %v: connections, writes, bytes", most, least)
				for i, what := range []string{"connections", "writes", "bytes"} {
					assert.LessOrEqual(t, least[i], most[i], "%s: %s", what, request.reason)
				}
			})
		}
	}
}
