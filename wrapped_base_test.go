package failover_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// A program may fetch a token in the context of the request that needs it. The requests for the
// token are not taken for tries of a write: it is sent, and what is answered is not in doubt.
func TestATokenFetchedInTheContextOfAWrite(t *testing.T) {
	t.Parallel()
	serve := func(http2 bool, handler http.HandlerFunc) *httptest.Server {
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	tokens := map[bool]*http.Client{}
	for _, http2 := range []bool{false, true} {
		server := serve(http2, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "contoso") })
		tokens[http2] = server.Client()
		tokens[http2].Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
	}
	for i := range 1 << 5 {
		http2, tokenHTTP2, body, method := i&1 != 0, i&2 != 0, []string{"", "{}"}[i>>2&1], []string{"POST", "PUT"}[i>>4]
		for _, form := range []string{"Authorize", "Base", "Instrument"} {
			name := fmt.Sprintf("%s, HTTP/2 %v, for the token %v, %s %q, fails %v", form, http2, tokenHTTP2, method, body, i&8 != 0)
			fetch := func(req *http.Request) error {
				for range 2 { // MSAL asks about the tenant first
					r, err := http.NewRequestWithContext(req.Context(), http.MethodGet, "https://example.com/token", nil)
					require.NoError(t, err)
					resp, err := tokens[tokenHTTP2].Do(r)
					require.NoError(t, err)
					token, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					resp.Body.Close()
					req.Header.Set("Authorization", "Bearer "+string(token))
				}
				return nil
			}
			wrap := func(rt http.RoundTripper) http.RoundTripper {
				return roundTripper(func(req *http.Request) (*http.Response, error) {
					out := req.Clone(req.Context())
					if err := fetch(out); err != nil {
						return nil, err
					}
					return rt.RoundTrip(out)
				})
			}
			var counted once
			server := serve(http2, func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, "Bearer contoso", r.Header.Get("Authorization"), name)
				if counted.carryOut(r); i&8 != 0 {
					w.WriteHeader(http.StatusBadRequest)
				}
			})
			cfg := failover.Config{Base: server.Client().Transport, Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler)}
			switch form {
			case "Authorize":
				cfg.Authorize = fetch
			case "Base":
				cfg.Base = wrap(cfg.Base)
			case "Instrument":
				cfg.Instrument = wrap
			}
			transport, err := failover.New(server.URL, &cfg)
			require.NoError(t, err)
			t.Cleanup(func() { transport.Close() })
			for _, id := range []string{"over a new connection", "over an old one"} {
				req, err := http.NewRequestWithContext(t.Context(), method, server.URL+accounts, strings.NewReader(body))
				require.NoError(t, err)
				req.Header.Set("X-Request-Id", id)
				resp, err := transport.RoundTrip(req)
				if !assert.NoError(t, err, name) {
					continue
				}
				resp.Body.Close()
				_, inDoubt := failover.InDoubt(resp, err)
				assert.False(t, inDoubt, name)
				assert.Equal(t, 1, counted.of(id), name)
			}
		}
	}
}

// A Base that repeats an action after the answer that its token has expired may do so: it is not
// net/http that repeats a write of which nothing is known.
func TestAnActionThatIsSignedAnew(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		var counted once
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			counted.carryOut(r)
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		defer server.Close()
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := server.Client().Transport.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusUnauthorized {
				return resp, err
			}
			resp.Body.Close()
			again := req.Clone(req.Context())
			again.Header.Set("Authorization", "Bearer contoso")
			return server.Client().Transport.RoundTrip(again)
		})
		transport, err := failover.New(server.URL, &failover.Config{Base: base, Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/api/data/v9.2/PublishAllXml", nil)
		require.NoError(t, err)
		req.Header.Set("X-Request-Id", "publish")
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err, "HTTP/2 %v", http2)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, 1, counted.of("publish"))
	}
}

// A Base that logs requests as httputil.DumpRequestOut shows them has not sent them before.
func TestABaseThatLogsRequests(t *testing.T) {
	t.Parallel()
	for i := range 1 << 3 {
		http2, body, refused := i&1 != 0, []string{"", "{}"}[i>>1&1], i&4 != 0
		name := fmt.Sprintf("HTTP/2 %v, %q, refused %v", http2, body, refused)
		var counted once
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if counted.carryOut(r); !refused {
				w.WriteHeader(http.StatusBadRequest)
			}
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		defer server.Close()
		dumped := ""
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			dump, err := httputil.DumpRequestOut(req, true)
			dumped = string(dump)
			require.NoError(t, err)
			return server.Client().Transport.RoundTrip(req)
		})
		primary, alternate := server.URL, failover.NoAlternate
		if refused {
			primary, alternate = "https://127.0.0.1:1", server.URL
		}
		probe := func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
			if "https://"+endpoint.Host == server.URL {
				return nil
			}
			return syscall.ECONNREFUSED
		}
		transport, err := failover.New(primary, &failover.Config{Base: base, Alternate: alternate, Probe: probe, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, primary+accounts, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("X-Request-Id", "create")
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err, name)
		resp.Body.Close()
		_, inDoubt := failover.InDoubt(resp, err)
		assert.False(t, inDoubt, name)
		assert.Equal(t, 1, counted.of("create"), name)
		assert.Contains(t, dumped, "POST "+accounts+" HTTP/1.1")
	}
}
