package failover_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// once counts at a server how often each request was carried out, by X-Request-Id.
type once struct {
	mu    sync.Mutex
	times map[string]int
}

func (o *once) carryOut(r *http.Request) {
	io.Copy(io.Discard, r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.times == nil {
		o.times = make(map[string]int)
	}
	o.times[r.Header.Get("X-Request-Id")]++
}

func (o *once) of(id string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.times[id]
}

// overTLS returns a Transport for a server, and the http.Transport that it sends with.
func overTLS(t *testing.T, server *httptest.Server, cfg failover.Config) (*failover.Transport, *http.Transport) {
	t.Helper()
	base := server.Client().Transport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	cfg.Base, cfg.Logger = base, slog.New(slog.DiscardHandler)
	cfg.Alternate = strings.Replace(server.URL, "127.0.0.1", "127.0.0.2", 1)
	transport, err := failover.New(server.URL, &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	return transport, base
}

// Front ends that recycle their connections say in a GOAWAY which requests they have left out.
// Those are sent again, so that no write fails because of it.
func TestARecyclingFrontEndCostsNoDoubt(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 60
	var counted once
	var n atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, 2, r.ProtoMajor)
		if n.Add(1)%callers == 0 {
			w.Header().Set("Connection", "close") // a graceful GOAWAY
		}
		counted.carryOut(r)
		w.WriteHeader(http.StatusNoContent)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport, _ := overTLS(t, server, failover.Config{})
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				req, err := http.NewRequest(http.MethodPost, server.URL+accounts, strings.NewReader("{}"))
				if i%2 == 0 {
					req.Body, req.GetBody = struct{ io.ReadCloser }{req.Body}, nil
				}
				id := fmt.Sprint(c, " ", i)
				req.Header.Set("X-Request-Id", id)
				assert.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				if assert.NoError(t, err) {
					resp.Body.Close()
					assert.Equal(t, http.StatusNoContent, resp.StatusCode)
				}
				assert.Equal(t, 1, counted.of(id))
			}
		})
	}
	wg.Wait()
	assert.Empty(t, transport.Status().Primary.Faults, "a recycled connection is no fault")
}

// A program's own connection type need do no more than net/http requires.
func TestAConnectionMayHaveNoAddress(t *testing.T) {
	t.Parallel()
	base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		go func() {
			if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
				io.WriteString(far, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		}()
		return madeUp{near: near}, nil
	}}
	defer base.CloseIdleConnections()
	transport, err := failover.New("http://127.0.0.1", &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	resp, err := (&http.Client{Transport: transport}).Post("http://127.0.0.1"+accounts, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusNoContent, resp.StatusCode)
}

// madeUp lacks all methods except those below.
type madeUp struct {
	net.Conn
	near net.Conn
}

func (c madeUp) Read(p []byte) (int, error)  { return c.near.Read(p) }
func (c madeUp) Write(p []byte) (int, error) { return c.near.Write(p) }
func (c madeUp) Close() error                { return c.near.Close() }

// A protocol that the program has registered does not tell what it has sent.
func TestAWriteOverAForeignProtocolIsNotRepeated(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{NextProtos: []string{"foreign"}}
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"foreign": func(*http.Server, *tls.Conn, http.Handler) {}}
	server.StartTLS()
	defer server.Close()
	base := server.Client().Transport.(*http.Transport).Clone()
	base.TLSClientConfig.NextProtos = []string{"foreign"}
	var sent atomic.Int32
	base.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{"foreign": func(string, *tls.Conn) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost {
				sent.Add(1)
			}
			return nil, io.ErrUnexpectedEOF
		})
	}}
	transport, err := failover.New(server.URL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPost, server.URL+accounts, strings.NewReader("{}"))
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.EqualValues(t, 1, sent.Load())
}

// An https URL for a port that speaks plain HTTP is reported as such, as http.Client does.
func TestAPortThatSpeaksPlainHTTPIsNamed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	transport, err := failover.New(strings.Replace(server.URL, "http:", "https:", 1), &failover.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequest(method, transport.Org().Primary.String(), nil)
		require.NoError(t, err)
		_, err = (&http.Client{Transport: transport}).Do(req)
		assert.ErrorIs(t, err, http.ErrSchemeMismatch, method)
		assert.ErrorContains(t, err, http.ErrSchemeMismatch.Error(), method)
		var fault *failover.Fault
		require.ErrorAs(t, err, &fault, method)
		assert.Equal(t, failover.NotSent, fault.Delivery, method)
	}
}

// If an endpoint changes its protocol, as a front end may after a move, every write still
// arrives once.
func TestTheProtocolOfAnEndpointMayChange(t *testing.T) {
	t.Parallel()
	var counted once
	var protocols sync.Map
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols.Store(r.Header.Get("X-Request-Id"), r.ProtoMajor)
		counted.carryOut(r)
		w.WriteHeader(http.StatusNoContent)
	}))
	var speaks atomic.Pointer[[]string]
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	certificates := server.TLS.Certificates
	server.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: certificates, NextProtos: *speaks.Load()}, nil
	}
	transport, base := overTLS(t, server, failover.Config{})
	for i, version := range []int{1, 2, 1, 2, 2, 1} {
		next := []string{"http/1.1"}
		if version == 2 {
			next = []string{"h2"}
		}
		speaks.Store(&next)
		base.CloseIdleConnections()
		for kind, body := range map[string]io.Reader{"body": strings.NewReader("{}"), "none": nil} {
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				id := fmt.Sprint(i, kind, method)
				req, err := http.NewRequestWithContext(failover.NoReplay(t.Context()), method, server.URL+accounts, body)
				require.NoError(t, err)
				req.Header.Set("X-Request-Id", id)
				req.Header.Set("Content-Type", "application/json")
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err, id)
				resp.Body.Close()
				assert.Equal(t, http.StatusNoContent, resp.StatusCode)
				got, _ := protocols.Load(id)
				assert.Equal(t, version, got, id)
				assert.Equal(t, 1, counted.of(id))
			}
		}
	}
}

// Over HTTP/1.1, net/http repeats reads, and requests with an Idempotency-Key, if they fail on
// a used connection. It does not repeat those of NoReplay.
func TestNoReplayIsCarriedOutOnceOverHTTP1(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, method, body string
		header             [2]string
	}{
		{"GET", http.MethodGet, "", [2]string{}},
		{"HEAD", http.MethodHead, "", [2]string{}},
		{"DELETE", http.MethodDelete, "", [2]string{}},
		{"POST", http.MethodPost, "{}", [2]string{}},
		{"key", http.MethodPost, "{}", [2]string{"Idempotency-Key", "7"}},
		{"other key", http.MethodPost, "{}", [2]string{"X-Idempotency-Key", "7"}},
		{"key, no body", http.MethodPost, "", [2]string{"Idempotency-Key", "7"}},
	} {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, wrapped %v", test.name, wrapped), func(t *testing.T) {
				t.Parallel()
				var counted once
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					counted.carryOut(r)
					if r.Header.Get("X-Request-Id") == "" {
						return
					}
					assert.Empty(t, r.TransferEncoding)
					if key := test.header[0]; key != "" {
						assert.Equal(t, test.header[1], r.Header.Get(key))
					}
					panic(http.ErrAbortHandler)
				}))
				defer server.Close()
				base := http.RoundTripper(&http.Transport{})
				if wrapped {
					base = struct{ http.RoundTripper }{base}
				}
				transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				for range 2 { // with an unknown protocol, and with a known one
					first, err := http.NewRequest(http.MethodGet, server.URL, nil)
					require.NoError(t, err)
					resp, err := transport.RoundTrip(first)
					require.NoError(t, err)
					resp.Body.Close()
					var body io.Reader
					if test.body != "" {
						body = strings.NewReader(test.body)
					}
					req, err := http.NewRequestWithContext(failover.NoReplay(t.Context()), test.method, server.URL, body)
					require.NoError(t, err)
					req.Header.Set("X-Request-Id", "it")
					if test.header[0] != "" {
						req.Header.Set(test.header[0], test.header[1])
					}
					before := counted.of("it")
					_, err = transport.RoundTrip(req)
					require.Error(t, err)
					assert.Equal(t, 1, counted.of("it")-before)
					assert.NotContains(t, req.Header, strings.ToLower(test.header[0]), "the request is the caller's")
				}
			})
		}
	}
}

// A Base that repeats requests by itself has nothing to repeat a write with.
func TestABaseThatRepeatsCannotRepeatAWrite(t *testing.T) {
	t.Parallel()
	var counted once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted.carryOut(r)
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	inner := new(http.Transport)
	defer inner.CloseIdleConnections()
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := inner.RoundTrip(req)
		for range 3 {
			if err == nil || req.GetBody == nil {
				return resp, err
			}
			again := req.Clone(req.Context())
			again.Body, _ = req.GetBody()
			resp, err = inner.RoundTrip(again)
		}
		return resp, err
	})
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader("{}"))
	require.NoError(t, err)
	req.Header.Set("X-Request-Id", "it")
	_, err = transport.RoundTrip(req)
	require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.Equal(t, 1, counted.of("it"))
}

// If a Base repeats a request without a body and then cannot connect, that proves nothing.
func TestARefusedRepeatWithinAnAttemptProvesNothing(t *testing.T) {
	t.Parallel()
	var counted once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted.carryOut(r)
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	var gone atomic.Bool
	inner := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if gone.Swap(true) {
			return nil, errDial
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer inner.CloseIdleConnections()
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		inner.RoundTrip(req)
		return inner.RoundTrip(req)
	})
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPut, server.URL, nil)
	require.NoError(t, err)
	req.Header.Set("X-Request-Id", "it")
	_, err = transport.RoundTrip(req)
	require.ErrorIs(t, err, errDial)
	assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.Equal(t, 1, counted.of("it"))
}

// A response together with an error is an error, as for http.Client, and proves that the
// request was sent.
func TestABaseThatReturnsResponseAndErrorHasFailed(t *testing.T) {
	t.Parallel()
	body := &closeCounter{Reader: strings.NewReader("")}
	for _, resp := range []http.Response{{StatusCode: 200, Body: body}, {StatusCode: 200}} {
		transport, err := failover.New(orgURL, &failover.Config{MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Method == http.MethodGet {
					return serves(req) // a probe
				}
				both := resp
				return &both, errDial
			})})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, nil)
		require.NoError(t, err)
		got, err := transport.RoundTrip(req)
		assert.Nil(t, got)
		require.ErrorIs(t, err, errDial)
		assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	}
	assert.EqualValues(t, 1, body.closed.Load())
}

// A Base need not say which request a response is for: a page in place of an answer is
// recognized regardless.
func TestABaseThatDoesNotNameTheRequest(t *testing.T) {
	t.Parallel()
	transport, err := failover.New(orgURL, &failover.Config{Logger: slog.New(slog.DiscardHandler),
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := answer(200, "<title>Sign in to the Contoso guest network</title>", "Content-Type", "text/html")(req)
			resp.Request = nil
			return resp, err
		})})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader("{}"))
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	f, doubt := failover.InDoubt(resp, nil)
	assert.True(t, doubt)
	assert.Equal(t, failover.ClassTransient, f.Class)
}

// The request that a Base names, because it follows redirects itself, is left.
func TestABaseThatNamesAnotherRequest(t *testing.T) {
	t.Parallel()
	last, err := http.NewRequest(http.MethodGet, orgURL+"/last", nil)
	require.NoError(t, err)
	transport, err := failover.New(orgURL, &failover.Config{SuspectAfter: -1, Logger: slog.New(slog.DiscardHandler),
		Base: roundTripper(func(*http.Request) (*http.Response, error) { return answer(200, "")(last) })})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Same(t, last, resp.Request)
}

// A panic of Base reaches the caller, as without a Transport; the write that it had is
// nevertheless recorded as in doubt.
func TestAPanicOfBaseIsItsCallers(t *testing.T) {
	t.Parallel()
	told := make(chan failover.Event, 8)
	transport, err := failover.New(orgURL, &failover.Config{Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(e failover.Event) { told <- e },
		Base:    roundTripper(func(*http.Request) (*http.Response, error) { panic("contoso") })})
	require.NoError(t, err)
	body := &closeCounter{Reader: strings.NewReader("{}")}
	req, err := http.NewRequest(http.MethodPost, orgURL+accounts, body)
	require.NoError(t, err)
	assert.PanicsWithValue(t, "contoso", func() { transport.RoundTrip(req) })
	assert.EqualValues(t, 1, body.closed.Load())
	assert.Equal(t, failover.EventOutcomeUnknown, (<-told).Kind)
	transport.Close()
}

// The attempt times out just as an answer without a body arrives.
func TestATimeoutWithoutABodyDoesNotPanic(t *testing.T) {
	t.Parallel()
	transport, err := failover.New(orgURL, &failover.Config{AttemptTimeout: 1, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler),
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return &http.Response{StatusCode: 200, Header: http.Header{}, Request: req}, nil
		})})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	var timeout interface{ Timeout() bool }
	require.True(t, errors.As(err, &timeout))
	assert.True(t, timeout.Timeout())
}
