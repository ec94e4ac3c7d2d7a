package failover_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/machine"
)

// received is a request as a server sees it.
type received struct {
	Method, Path, Body string
	Length             int64
	Encoding           []string
	Header, Trailer    http.Header
}

// Whatever the kind of body, a server sees the request that a bare http.Transport would have
// sent.
func TestRequestsLookAsNetHTTPSendsThem(t *testing.T) {
	t.Parallel()
	var last received
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		last = received{r.Method, r.RequestURI, string(body), r.ContentLength, r.TransferEncoding, r.Header, r.Trailer}
	}))
	defer server.Close()
	large := strings.Repeat("contoso ", 1000)
	stream := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }
	kinds := map[string]func() (*http.Request, error){
		"GET":              func() (*http.Request, error) { return http.NewRequest("GET", server.URL+"/a%2Fb?x=%20&y", nil) },
		"GET with a body":  func() (*http.Request, error) { return http.NewRequest("GET", server.URL, strings.NewReader("{}")) },
		"POST, GetBody":    func() (*http.Request, error) { return http.NewRequest("POST", server.URL, strings.NewReader("{}")) },
		"POST, no body":    func() (*http.Request, error) { return http.NewRequest("POST", server.URL, nil) },
		"POST, NoBody":     func() (*http.Request, error) { return http.NewRequest("POST", server.URL, http.NoBody) },
		"POST, held":       func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream("{}")) },
		"POST, empty":      func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream("")) },
		"POST, streamed":   func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream(large)) },
		"PUT, of a length": func() (*http.Request, error) { return withLength(http.NewRequest("PUT", server.URL, stream("{}"))) },
		"POST, trailer": func() (*http.Request, error) {
			req, err := http.NewRequest("POST", server.URL, stream("{}"))
			req.ContentLength, req.Trailer = -1, http.Header{"X-Contoso": {"7"}}
			return req, err
		},
		"POST, expect": func() (*http.Request, error) {
			req, err := http.NewRequest("POST", server.URL, stream(large))
			req.Header.Set("Expect", "100-continue")
			return req, err
		},
	}
	base := &http.Transport{ExpectContinueTimeout: time.Minute}
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Base: base, Alternate: "http://127.0.0.1:1", MaxBody: 1000})
	require.NoError(t, err)
	defer transport.Close()
	for name, kind := range kinds {
		var seen []received
		for _, way := range []http.RoundTripper{base, transport} {
			req, err := kind()
			require.NoError(t, err)
			resp, err := way.RoundTrip(req)
			require.NoError(t, err, name)
			resp.Body.Close()
			seen = append(seen, last)
		}
		assert.Equal(t, seen[0], seen[1], name)
	}
}

func withLength(req *http.Request, err error) (*http.Request, error) {
	req.ContentLength = 2
	return req, err
}

// While a body is read, its reader may set the trailers, which net/http reads before and after: in
// another goroutine, it could end the process.
func TestABodyThatSetsTrailersIsReadByBase(t *testing.T) {
	t.Parallel()
	sent := false
	transport, err := failover.New(orgURL, &failover.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = true
		_, err := io.Copy(io.Discard, req.Body)
		assert.NoError(t, err)
		assert.Equal(t, http.Header{"X-Contoso": {"7"}}, req.Trailer)
		return answerWith(req, http.StatusNoContent, ""), nil
	})})
	require.NoError(t, err)
	defer transport.Close()
	trailer := http.Header{"X-Contoso": nil}
	req, err := http.NewRequest(http.MethodPost, orgURL+accounts, trailing(func() {
		assert.True(t, sent)
		trailer.Set("X-Contoso", "7")
	}))
	require.NoError(t, err)
	req.Trailer = trailer
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
}

// trailing is a body of no bytes that is called when it ends.
type trailing func()

func (end trailing) Read([]byte) (int, error) {
	end()
	return 0, io.EOF
}

// rewinding is a body as azcore makes them: GetBody rewinds and returns the body itself.
type rewinding struct{ *strings.Reader }

func (rewinding) Close() error { return nil }

func TestABodyWhoseGetBodyRewindsItIsSentWhole(t *testing.T) {
	small := `{"name":"Contoso"}`
	large := `{"name":"Contoso","description":"` + strings.Repeat("x", 4<<10) + `"}`
	for name, body := range map[string]string{"held": small, "not held": large} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{MaxBody: 1 << 10}, func(s *story) {
				post := func() int {
					reader := rewinding{strings.NewReader(body)}
					req, err := http.NewRequest(http.MethodPost, orgURL+accounts, reader)
					require.NoError(s, err)
					req.Header.Set("Content-Type", "application/json")
					req.ContentLength = int64(len(body))
					req.GetBody = func() (io.ReadCloser, error) {
						_, err := reader.Seek(0, io.SeekStart)
						return reader, err
					}
					resp, err := s.client.Do(req)
					require.NoError(s, err)
					resp.Body.Close()
					return resp.StatusCode
				}
				assert.Equal(s, 204, post(), "healthy")
				s.org.FailOver()
				assert.Equal(s, 204, post(), "refused by the fence, and sent again")
				rows := s.org.Alternate().Rows("accounts")
				assert.Len(s, rows, 25+2)
				assert.Equal(s, "Contoso", rows[26]["name"])
			})
		})
	}
}

// Every attempt gets the unread rest of a body, wherever its reader stood.
func TestABodyIsSentFromWhereItStands(t *testing.T) {
	t.Parallel()
	const content = `{"name":"Contoso"}`
	for name, reader := range map[string]func(string) io.Reader{
		"bytes.Reader":   func(s string) io.Reader { return bytes.NewReader([]byte(s)) },
		"bytes.Buffer":   func(s string) io.Reader { return bytes.NewBufferString(s) },
		"strings.Reader": func(s string) io.Reader { return strings.NewReader(s) },
	} {
		for _, again := range []bool{true, false} { // with GetBody, without
			t.Run(fmt.Sprintf("%s, GetBody: %v", name, again), func(t *testing.T) {
				t.Parallel()
				var whole []string
				transport, err := failover.New(orgURL, &failover.Config{MaxAttempts: 3, FailureThreshold: 10, RetryBackoff: -1, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					sent, err := io.ReadAll(req.Body)
					require.NoError(t, err)
					assert.EqualValues(t, len(content), req.ContentLength)
					require.NotNil(t, req.GetBody, "net/http may have to send it again on another connection")
					second, err := req.GetBody()
					require.NoError(t, err)
					resent, err := io.ReadAll(second)
					require.NoError(t, err)
					whole = append(whole, string(sent), string(resent))
					return nil, errDial
				})})
				require.NoError(t, err)
				defer transport.Close()
				body := reader("read" + content)
				_, err = io.CopyN(io.Discard, body, int64(len("read")))
				require.NoError(t, err)
				req, err := http.NewRequest(http.MethodPut, orgURL+accounts, body)
				require.NoError(t, err)
				if !again {
					req.GetBody = nil
				}
				_, err = transport.RoundTrip(req)
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.Equal(t, []string{content, content, content, content, content, content}, whole)
			})
		}
	}
}

// An abandoned attempt may read its body once more when its stall ends. By then the caller's
// buffer holds something else.
func TestABufferIsTheCallersAgainOnceItIsAnswered(t *testing.T) {
	t.Parallel()
	start := func() *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{}")
		}))
		server.EnableHTTP2 = true // over HTTP/1.1, net/http waits for the write to end
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	var stalled *stallingConn
	var buffer *bytes.Buffer
	var err error
	machine.Try(func() bool { // the alternate has two seconds as well
		primary, alternate := start(), start()
		stalled = &stallingConn{open: make(chan struct{}), closed: make(chan struct{}), wrote: make(chan struct{}, 100)}
		stalled.release = sync.OnceFunc(func() { close(stalled.open) })
		t.Cleanup(stalled.release)
		var dialed atomic.Bool
		base := alternate.Client().Transport.(*http.Transport) // the primary has the same certificate
		stalling := stalled
		base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil && address == primary.Listener.Addr().String() && dialed.CompareAndSwap(false, true) {
				stalling.Conn = conn
				conn = stalling
			}
			return conn, err
		}
		var transport *failover.Transport
		transport, err = failover.New(primary.URL, &failover.Config{Alternate: alternate.URL, Base: base, Probe: failover.ProbePath("/probe"),
			AttemptTimeout: 2 * time.Second, ProbeTimeout: 10 * time.Second, FailureThreshold: 1, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(func() { transport.Close() })

		buffer = bytes.NewBufferString(strings.Repeat("first ", 50_000))
		req, err1 := http.NewRequest(http.MethodPut, primary.URL, buffer)
		require.NoError(t, err1)
		var resp *http.Response
		if resp, err = transport.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	require.NoError(t, err)

	second := strings.Repeat("second", 5_000)
	buffer.Reset()
	buffer.WriteString(second)
	stalled.release()
	for range 2 { // the stalled write, and then either the reset of the stream or the end of the connection
		select {
		case <-stalled.wrote:
		case <-stalled.closed:
		case <-time.After(time.Minute):
			require.FailNow(t, "the first attempt does not end")
		}
	}
	assert.Equal(t, len(second), buffer.Len())
}

// stallingConn stops after about 20,000 bytes until open is closed.
type stallingConn struct {
	net.Conn
	sent         int
	open, closed chan struct{}
	release      func()        // closes open
	wrote        chan struct{} // gets a value for every write that was stalled
	once         sync.Once
}

func (c *stallingConn) Write(p []byte) (int, error) {
	if c.sent += len(p); c.sent > 20_000 {
		select {
		case <-c.open:
			defer func() { c.wrote <- struct{}{} }()
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(p)
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// NoReplay holds for net/http as well: without a GetBody, it does not repeat a write, whatever
// its headers.
func TestNoReplayHoldsForNetHTTP(t *testing.T) {
	t.Parallel()
	var posts atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			posts.Add(1)
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	base := new(http.Transport)
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	get, err := http.NewRequest(http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(get) // net/http repeats requests only over connections that were used before
	require.NoError(t, err)
	resp.Body.Close()
	post, err := http.NewRequestWithContext(failover.NoReplay(t.Context()), http.MethodPost, server.URL, strings.NewReader("{}"))
	require.NoError(t, err)
	post.GetBody = nil
	post.Header.Set("Idempotency-Key", "7")
	_, err = transport.RoundTrip(post)
	require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.EqualValues(t, 1, posts.Load())
}

func TestABodyLongerOrShorterThanItsLengthIsRefusedByBase(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // else it may answer first
	}))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	for _, length := range []int64{3, 7, 100, 1 << 60} {
		req, err := http.NewRequest(http.MethodPut, server.URL, strings.NewReader("12345"))
		require.NoError(t, err)
		req.ContentLength = length
		_, err = transport.RoundTrip(req)
		assert.ErrorContains(t, err, "ContentLength", "%d", length)
	}
}

// Whatever MaxBody is, the server gets every body whole.
func TestMaxBodyOfAnySize(t *testing.T) {
	t.Parallel()
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		got = string(body)
	}))
	defer server.Close()
	for _, maxBody := range []int64{-1, 1, 7, 511, 512, 513, 1 << 20, math.MaxInt64 - 1, math.MaxInt64} {
		transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", MaxBody: maxBody})
		require.NoError(t, err)
		for _, size := range []int{0, 1, 6, 7, 8, 511, 512, 513, 2000} {
			want := strings.Repeat("x", size)
			for _, known := range []bool{true, false} {
				var body io.Reader = strings.NewReader(want)
				if !known {
					body = struct{ io.Reader }{iotest.OneByteReader(body)}
				}
				req, err := http.NewRequest(http.MethodPut, server.URL, body)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				assert.True(t, want == got, "MaxBody %d, %d bytes, known: %v", maxBody, size, known)
			}
		}
		transport.Close()
	}
}

// While an answer is being read, which can take long, the request's body is not kept.
func TestALongAnswerDoesNotKeepTheRequestsBody(t *testing.T) { // not parallel: it measures the memory of the process
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("[]")), Request: req}, nil
	})
	transport, err := failover.New(orgURL, &failover.Config{Base: base})
	require.NoError(t, err)
	defer transport.Close()
	body := strings.Repeat("x", 1<<20)
	before := heapInUse()
	var answers []*http.Response
	for range 30 {
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		answers = append(answers, resp)
	}
	after := heapInUse()
	for _, resp := range answers {
		resp.Body.Close()
	}
	assert.Less(t, int64(after)-int64(before), int64(10<<20), "of 30 MiB")
}

// slowly is a body as azcore makes them, rewound by GetBody, and of which each Read takes its time.
type slowly struct {
	rewinding
	pause time.Duration
}

func (b slowly) Read(p []byte) (int, error) {
	time.Sleep(b.pause)
	return b.rewinding.Read(p[:min(len(p), 100)])
}

// A front end refuses an upload in the middle, and net/http goes on reading the body for a while:
// a second attempt does not share it. If a Read does not end, the caller gets the answer.
func TestABodyIsReadForOneAttemptAtATime(t *testing.T) {
	t.Parallel()
	for pause, want := range map[time.Duration]int{10 * time.Millisecond: 204, 900 * time.Millisecond: 204, time.Hour: 503} {
		synctest.Test(t, func(t *testing.T) {
			var got []byte
			var reading sync.WaitGroup
			base := &script{probe: onlyAlternateServes}
			send := roundTripper(func(req *http.Request) (*http.Response, error) {
				switch {
				case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
					return base.RoundTrip(req)
				case !strings.Contains(req.URL.Host, "--s"):
					reading.Go(func() { io.Copy(io.Discard, req.Body); req.Body.Close() })
					time.Sleep(25 * time.Millisecond)
					return fence(req)
				}
				got, _ = io.ReadAll(req.Body)
				req.Body.Close()
				return answer(204, "")(req)
			})
			transport, err := failover.New(orgURL, &failover.Config{Base: send, MaxBody: -1, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer transport.Close()
			content := strings.Repeat("contoso ", 100)
			body := slowly{rewinding{strings.NewReader(content)}, pause}
			req, err := http.NewRequest(http.MethodPost, orgURL+accounts, body)
			require.NoError(t, err)
			req.GetBody = func() (io.ReadCloser, error) {
				_, err := body.Seek(0, io.SeekStart)
				return body, err
			}
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, want, resp.StatusCode, "%v", pause)
			if want == 204 {
				assert.Equal(t, content, string(got), "%v", pause)
			}
			reading.Wait()
		})
	}
}
