package failover_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// pipes is an in-memory listener.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// serveInMemory runs a server until the test ends, and returns the function that connects to it.
func serveInMemory(t *testing.T, server *http.Server) func(context.Context, string, string) (net.Conn, error) {
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	go server.Serve(p)
	t.Cleanup(func() {
		close(p.done)
		server.Close()
	})
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		p.conns <- far
		return near, nil
	}
}

// distant returns a Base for an organization that is one round trip away, over HTTP/1.1:
// opening a connection takes two round trips (TCP and TLS 1.3), a request takes one. The
// primary runs a handler or refuses connections, and fault gets the time of its first fault.
// The alternate serves.
func distant(t *testing.T, rtt time.Duration, primary http.HandlerFunc, refuses bool, fault *atomic.Pointer[time.Time]) *http.Transport {
	met := func() {
		now := time.Now()
		fault.CompareAndSwap(nil, &now)
	}
	connect := serveInMemory(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(rtt)
		if !strings.Contains(r.Host, "--s") {
			primary(w, r)
			met()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("OData-Version", "4.0")
		if strings.HasSuffix(r.URL.Path, "/WhoAmI") {
			io.WriteString(w, `{"UserId":"00000000-0000-0000-0000-000000000001","OrganizationId":"00000000-0000-0000-0000-000000000002"}`)
			return
		}
		w.Write(listed)
	})})
	base := &http.Transport{DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		if refuses && !strings.Contains(address, "--s") {
			time.Sleep(rtt)
			met()
			return nil, errDial
		}
		time.Sleep(2 * rtt)
		return connect(ctx, "", address)
	}}
	t.Cleanup(base.CloseIdleConnections)
	return base
}

// How long the first caller waits after its first fault if every connection has to be opened.
// A probe and a request then take three round trips each.
func TestTheFirstGoodAnswerOverNewConnections(t *testing.T) {
	t.Parallel()
	const rtt = 20 * time.Millisecond
	for _, test := range []struct {
		name, reason string
		refuses      bool
		primary      http.HandlerFunc
		most         time.Duration
	}{
		{"fence", "the probe of the alternate, and the request", false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"error":{"code":"0x8004B065","message":"The datacenter is not available."}}`)
		}, 6 * rtt},
		{"bare 503", "the first fault asks already", false, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}, 8 * rtt},
		{"refused", "the first fault asks already", true, nil, 8 * rtt},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var fault atomic.Pointer[time.Time]
				transport, err := failover.New(orgURL, &failover.Config{
					Base: distant(t, rtt, test.primary, test.refuses, &fault), Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				require.NoError(t, newBenchCall(t, http.MethodGet, orgURL+listPath).call(transport))
				took := time.Since(*fault.Load())
				t.Logf("%.1f round trips", float64(took)/float64(rtt))
				assert.Equal(t, failover.Alternate, transport.Status().Active)
				assert.LessOrEqual(t, took, test.most, test.reason)
			})
		})
	}
}

// Out of a black hole, an answer takes the time of a suspicion and a probe.
func TestTheFirstGoodAnswerOutOfABlackHole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport, err := failover.New(orgURL, &failover.Config{
			Logger: slog.New(slog.DiscardHandler),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				switch {
				case !strings.HasPrefix(req.URL.Host, "contoso--s."):
					<-req.Context().Done()
					return nil, req.Context().Err()
				case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
					return serves(req)
				}
				return new(memory).RoundTrip(req)
			}),
		})
		require.NoError(t, err)
		defer transport.Close()
		start := time.Now()
		require.NoError(t, newBenchCall(t, http.MethodGet, orgURL+listPath).call(transport))
		t.Log(time.Since(start))
		assert.LessOrEqual(t, time.Since(start), 16*time.Second)
	})
}

// A body may wait for its response: a two-way conversation goes on.
func TestABodyThatWaitsForItsResponse(t *testing.T) {
	t.Parallel()
	for name, protocols := range map[string]func(*http.Protocols, bool){
		"HTTP/1.1": (*http.Protocols).SetHTTP1, "HTTP/2": (*http.Protocols).SetUnencryptedHTTP2,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					answer := http.NewResponseController(w)
					answer.EnableFullDuplex() // HTTP/2 is full duplex in any case
					w.Header().Set("OData-Version", "4.0")
					for said := bufio.NewScanner(r.Body); said.Scan(); answer.Flush() {
						fmt.Fprintf(w, "you said %s\n", said.Text())
					}
				})}
				base := &http.Transport{Protocols: new(http.Protocols)}
				protocols(server.Protocols, true)
				protocols(base.Protocols, true)
				base.DialContext = serveInMemory(t, server)
				defer base.CloseIdleConnections()
				transport, err := failover.New("http://contoso.example", &failover.Config{
					Base: base, AllowHTTP: true, Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				for _, rt := range []http.RoundTripper{base, transport} {
					began := time.Now()
					body, say := io.Pipe()
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://contoso.example/api/data/v9.2/accounts", body)
					require.NoError(t, err)
					go io.WriteString(say, "first\n")
					resp, err := rt.RoundTrip(req)
					require.NoError(t, err)
					heard := bufio.NewReader(resp.Body)
					for _, next := range []string{"second\n", "third\n", ""} {
						line, err := heard.ReadString('\n')
						require.NoError(t, err)
						assert.Contains(t, line, "you said ")
						io.WriteString(say, next)
					}
					say.Close()
					_, err = heard.ReadByte()
					assert.Equal(t, io.EOF, err)
					resp.Body.Close()
					assert.LessOrEqual(t, time.Since(began), 2*time.Second)
				}
			})
		})
	}
}
