package failover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Trouble of this machine and mistakes of the caller are no faults of the endpoint: they do
// not count, leave no write in doubt, and lend no credentials to the probes.
func TestLocalTroublesAreNoFaults(t *testing.T) {
	t.Parallel()
	limited := func(errno syscall.Errno) func(*http.Transport) {
		return func(base *http.Transport) {
			base.DialContext = (&net.Dialer{Control: func(string, string, syscall.RawConn) error {
				return os.NewSyscallError("socket", errno)
			}}).DialContext
		}
	}
	header := func(name, value string) func(*http.Request) *http.Request {
		return func(req *http.Request) *http.Request { req.Header[name] = []string{value}; return req }
	}
	for _, test := range []struct {
		name   string
		base   func(*http.Transport)
		change func(*http.Request) *http.Request
		class  failover.Class
		bare   bool // without a body
	}{
		{name: "EMFILE", base: limited(syscall.EMFILE)},
		{name: "ENFILE", base: limited(syscall.ENFILE)},
		{name: "EADDRNOTAVAIL", base: limited(syscall.EADDRNOTAVAIL)},
		{name: "ENOBUFS", base: limited(syscall.ENOBUFS)},
		{name: "ENOMEM", base: limited(syscall.ENOMEM)},
		{name: "EMFILE while resolving", base: func(base *http.Transport) {
			base.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "contoso", Err: "dial udp 192.0.2.1:53: socket: too many open files"}}
			}
		}},
		{name: "line break in a header", change: header("X-Contoso", "a\nb")},
		{name: "line break in the token", change: header("Authorization", "Bearer canary\n")},
		{name: "blank in the name of a header", change: header("X Contoso", "a")},
		{name: "blank in the method", change: func(req *http.Request) *http.Request { req.Method = "NO GO"; return req }},
		{name: "control character in the path", change: func(req *http.Request) *http.Request { req.URL.Opaque = "/a\x01"; return req }},
		{name: "no header", change: func(req *http.Request) *http.Request { req.Header = nil; return req }},
		{name: "length of no body", bare: true, change: func(req *http.Request) *http.Request { req.ContentLength = 7; return req }},
		{name: "trailer", change: func(req *http.Request) *http.Request {
			req.Trailer = http.Header{"Content-Length": nil}
			req.ContentLength, req.TransferEncoding = -1, []string{"chunked"}
			return req
		}},
		{name: "context was canceled", class: failover.ClassCanceled, change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "deadline was over", change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithDeadline(req.Context(), time.Now())
			context.AfterFunc(req.Context(), cancel)
			return req.WithContext(ctx)
		}},
		{name: "GetBody fails", change: func(req *http.Request) *http.Request {
			req.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 200)))
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("disk gone") }
			req.ContentLength = 200
			return req
		}, base: limited(syscall.EMFILE)},
	} {
		if test.class == 0 {
			test.class = failover.ClassLocal
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(test.name+"/"+method, func(t *testing.T) {
				t.Parallel()
				borrowed := make(chan string, 16)
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/WhoAmI") {
						borrowed <- r.Header.Get("Authorization")
					}
				}))
				defer server.Close()
				base := new(http.Transport)
				defer base.CloseIdleConnections()
				if test.base != nil {
					test.base(base)
				}
				transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, MaxBody: 100, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				for range 5 {
					var body io.Reader
					if method == http.MethodPost && !test.bare {
						body = strings.NewReader("{}")
					}
					req, err := http.NewRequestWithContext(t.Context(), method, server.URL+accounts, body)
					require.NoError(t, err)
					req.Header.Set("Authorization", "Bearer canary")
					if test.change != nil {
						req = test.change(req)
					}
					if method == http.MethodGet && test.name == "GetBody fails" {
						return // a GET has no body
					}
					resp, err := transport.RoundTrip(req)
					require.Error(t, err)
					_, inDoubt := failover.InDoubt(resp, err)
					assert.False(t, inDoubt)
					assert.Equal(t, test.class, lastFault(t, err).Class)
					assert.Equal(t, failover.NotSent, lastFault(t, err).Delivery)
					assert.Len(t, attempts(err), 1)
				}
				status := transport.Status()
				assert.Equal(t, failover.StateClosed, status.Primary.State)
				assert.False(t, status.Down)
				transport.Switch(t.Context(), failover.Primary, "makes a probe")
				select {
				case auth := <-borrowed:
					if test.class == failover.ClassLocal {
						assert.Empty(t, auth)
					}
				default:
					assert.NotNil(t, test.base, "the probe arrives")
				}
			})
		}
	}
}

// Headers longer than the endpoint's HTTP/2 limit are no fault of the endpoint.
func TestHeadersThatAreTooLongAreNoFault(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2, server.Config.MaxHeaderBytes = true, 4096
	server.StartTLS()
	defer server.Close()
	transport, _ := overTLS(t, server, failover.Config{})
	client := &http.Client{Transport: transport}
	_, err := client.Get(server.URL + accounts) // opens the connection, over which the endpoint states its limit
	require.NoError(t, err)
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
		req, err := http.NewRequest(method, server.URL+accounts, strings.NewReader("{}"))
		require.NoError(t, err)
		req.Header.Set("X-Contoso", strings.Repeat("x", 8192))
		_, err = transport.RoundTrip(req)
		require.Error(t, err)
		assert.NotErrorIs(t, err, failover.ErrOutcomeUnknown)
		assert.Equal(t, failover.ClassLocal, lastFault(t, err).Class, "%s: %v", method, err)
		assert.Equal(t, failover.NotSent, lastFault(t, err).Delivery, method)
		assert.Len(t, attempts(err), 1, method)
	}
}

func attempts(err error) []*failover.Fault {
	var failure *failover.Error
	if !errors.As(err, &failure) {
		return nil
	}
	return failure.Attempts
}

func lastFault(t *testing.T, err error) *failover.Fault {
	t.Helper()
	all := attempts(err)
	require.NotEmpty(t, all, "%v", err)
	return all[len(all)-1]
}

// A call that ends in the queue for a connection of Base says nothing about the endpoint. One
// that ends while a connection is being opened for it does.
func TestWaitingForAPlaceInThePoolIsNoFault(t *testing.T) {
	t.Parallel()
	hang, hung := make(chan struct{}), make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hung <- struct{}{}
		<-hang
	}))
	defer server.Close()
	base := &http.Transport{MaxConnsPerHost: 1}
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		req, _ := http.NewRequest(http.MethodGet, server.URL, nil)
		if resp, err := transport.RoundTrip(req); assert.NoError(t, err) {
			resp.Body.Close()
		}
	})
	<-hung
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, server.URL, nil)
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, failover.ClassLocal, lastFault(t, err).Class)
		assert.Equal(t, failover.NotSent, lastFault(t, err).Delivery)
	}
	close(hang)
	wg.Wait()
}

// Request.Cancel is the caller's, whenever it is closed. The Timeout of a client, which also closes
// it, is how a black hole looks.
func TestRequestCancelIsTheCallers(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for _, phase := range []string{"connection", "headers", "body"} {
			reached, hang := make(chan struct{}, 100), make(chan struct{})
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if phase == "body" {
					w.(http.Flusher).Flush()
				}
				reached <- struct{}{}
				<-hang // an answer to a connection that is being closed may still arrive
			}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			defer server.Close()
			defer close(hang)
			base := server.Client().Transport.(*http.Transport)
			if phase == "connection" {
				base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					reached <- struct{}{}
					<-ctx.Done()
					return nil, ctx.Err()
				}
			}
			client, transport, err := failover.Wrap(server.Client(), server.URL, &failover.Config{
				Alternate: failover.NoAlternate, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer transport.Close()
			read := func(req *http.Request) error {
				resp, err := client.Do(req)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				return err
			}
			name := fmt.Sprintf("%s, HTTP/2 %v", phase, http2)

			for range 5 {
				cancel := make(chan struct{})
				req, err := http.NewRequest(http.MethodGet, server.URL, nil)
				require.NoError(t, err)
				//lint:ignore SA1019 callers may still set it
				req.Cancel = cancel
				go func() {
					<-reached
					close(cancel)
				}()
				require.Error(t, read(req), name)
				if f := transport.Status().Primary.LastFault; f != nil {
					assert.Equal(t, failover.ClassCanceled, f.Class, name)
				}
				assert.Zero(t, transport.Status().Primary.Recent.Faults[failover.ClassTransient], name)
			}

			for i := range 20 { // the client's timer and the deadline of its context race
				client.Timeout = time.Duration(i+1) * time.Millisecond / 2
				req, err := http.NewRequest(http.MethodGet, server.URL, nil)
				require.NoError(t, err)
				err = read(req)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout, name)
				assert.True(t, timeout.Timeout(), "%s: %v", name, err)
				f := transport.Status().Primary.LastFault
				if f.Class != failover.ClassLocal { // too late to begin
					assert.Equal(t, failover.ClassTransient, f.Class, "%s: %v", name, err)
				}
				assert.True(t, f.Timeout(), "%s: %v", name, err)
			}
		}
	}
}

// inSilence returns a client, for a bubble, of an organization at http://127.0.0.1 that reads
// requests and does not answer.
func inSilence(t *testing.T) (*http.Client, *failover.Transport) {
	base := &http.Transport{DialContext: serveInMemory(t, &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})})}
	client, transport, err := failover.Wrap(nil, "http://127.0.0.1", &failover.Config{Base: base, Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		transport.Close()
		base.CloseIdleConnections()
	})
	return client, transport
}

// A body that blocks, even one with GetBody, does not outlast the deadline.
func TestABodyThatBlocksDoesNotOutlastTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport, err := failover.New(orgURL, &failover.Config{Base: &script{answers: answers(answer(204, ""))}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		r, w := io.Pipe()
		defer w.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, orgURL+accounts, r)
		require.NoError(t, err)
		req.GetBody = func() (io.ReadCloser, error) { return r, nil }
		start := time.Now()
		resp, err := transport.RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(start))
		_, inDoubt := failover.InDoubt(resp, err)
		assert.False(t, inDoubt)
	})
}

// A body that fails while it is being sent is the caller's fault, with GetBody or without.
func TestABodyThatFailsOnTheWayIsTheCallers(t *testing.T) {
	t.Parallel()
	gone := errors.New("disk gone")
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", MaxBody: 10, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	for _, again := range []bool{true, false} {
		for i := range 4 {
			gone := gone
			if i == 3 { // does not prove that this request was not sent
				gone = &net.OpError{Op: "dial", Err: gone}
			}
			open := func() (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 100)), iotest.ErrReader(gone))), nil
			}
			body, _ := open()
			req, err := http.NewRequest(http.MethodPut, server.URL, body)
			require.NoError(t, err)
			if again {
				req.GetBody = open
			}
			_, err = transport.RoundTrip(req)
			require.ErrorIs(t, err, gone)
			require.Len(t, attempts(err), 1)
			assert.Equal(t, failover.ClassLocal, lastFault(t, err).Class)
			assert.Equal(t, failover.Unknown, lastFault(t, err).Delivery)
		}
	}
	assert.Equal(t, failover.StateClosed, transport.Status().Primary.State)
}

// If an answer comes before the request's body was read, the body is left to Base.
func TestABodyIsNotWithdrawnFromAnAttemptThatWasAnswered(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 413, 503} {
		read, done := make(chan struct{}), make(chan struct{})
		transport, err := failover.New(orgURL, &failover.Config{MaxBody: 10, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler), Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodGet {
				return serves(req) // a probe
			}
			go func() {
				defer close(done)
				<-read
				body, err := io.ReadAll(req.Body)
				assert.NoError(t, err)
				assert.Len(t, body, 100)
				req.Body.Close()
			}()
			return answer(status, "")(req)
		})})
		require.NoError(t, err)
		defer transport.Close()
		body := &closeCounter{Reader: strings.NewReader(strings.Repeat("x", 100))}
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, body)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, status, resp.StatusCode)
		assert.Zero(t, body.closed.Load(), "Base has it")
		close(read)
		<-done
		assert.EqualValues(t, 1, body.closed.Load())
	}
}

// A program's own functions may panic, or return a nil pointer as an error: the request goes
// on, and the log names the function.
func TestAPanicOfTheProgramsOwnFunctions(t *testing.T) {
	t.Parallel()
	var nothing *failover.Fault
	for _, test := range []struct {
		name   string
		cfg    failover.Config
		status int // 0: an error
		logged string
	}{
		{"Classify", failover.Config{Classify: func(*http.Response, error) *failover.Fault { panic("canary") }}, 204, "function=Config.Classify"},
		{"OnFault", failover.Config{OnFault: func(context.Context, failover.Attempt) { panic("canary") }}, 204, "function=Config.OnFault"},
		{"Replay", failover.Config{Replay: func(*http.Request) bool { panic("canary") }}, 204, "function=Config.Replay"},
		{"Authorize", failover.Config{Authorize: func(*http.Request) error { panic("canary") }}, 0, "function=Config.Authorize"},
		{"nil pointer", failover.Config{Authorize: func(*http.Request) error { return nothing }}, 204, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				cfg := test.cfg
				cfg.Base = &script{answers: answers(refuse(errDial), answer(204, "")), probe: onlyPrimaryServes}
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				transport, err := failover.New(orgURL, &cfg)
				require.NoError(t, err)
				req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader("{}"))
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				if test.status != 0 {
					require.NoError(t, err)
					assert.Equal(t, test.status, resp.StatusCode)
				} else {
					require.Error(t, err)
				}
				transport.Close()
				assert.Contains(t, log.String(), test.logged)
			})
		})
	}
}
