package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// startOrganization starts a proxy of an organization that answers as handler
// does. Probes pass.
func startOrganization(t *testing.T, handler http.HandlerFunc) *site {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	base := server.Client().Transport.(*http.Transport).Clone()
	base.ExpectContinueTimeout = time.Second // as http.DefaultTransport has it
	t.Cleanup(base.CloseIdleConnections)
	return startProxy(t, server.URL, &failover.Config{
		Base:      base,
		Alternate: "https://127.0.0.1:1",
		Probe:     func(context.Context, *http.Client, *url.URL) error { return nil },
	})
}

func TestAnswersArePassedOnAsTheyCome(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"application/json", "application/octet-stream", "image/png", "multipart/mixed; boundary=b"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", kind)
				if kind == "image/png" {
					w.Header().Set("Content-Length", fmt.Sprint(len(`{"value":[{"a":1},{}]}`)))
				} else {
					w.Header().Set("Trailer", "X-Sum")
				}
				io.WriteString(w, `{"value":[{"a":1},`)
				http.NewResponseController(w).Flush()
				<-goOn
				io.WriteString(w, `{}]}`)
				if kind != "image/png" {
					w.Header().Set("X-Sum", "42")
				}
			})
			resp, err := s.caller.Get(s.root() + "$batch")
			require.NoError(t, err)
			defer resp.Body.Close()
			first := make([]byte, len(`{"value":[{"a":1},`))
			_, err = io.ReadFull(resp.Body, first)
			require.NoError(t, err)
			assert.Equal(t, `{"value":[{"a":1},`, string(first))
			close(goOn)
			rest, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, `{}]}`, string(rest))
			if kind != "image/png" {
				assert.Equal(t, "42", resp.Trailer.Get("X-Sum"))
			}
		})
	}
}

func TestRequestsArePassedOnAsTheyCome(t *testing.T) {
	t.Parallel()
	came, answered := make(chan struct{}), make(chan int64, 1)
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyN(io.Discard, r.Body, 2*maxHeld) // more than is ever held
		close(came)
		rest, _ := io.Copy(io.Discard, r.Body)
		answered <- n + rest
	})
	body, pipe := io.Pipe()
	go func() {
		pipe.Write(make([]byte, 3*maxHeld))
		<-came
		pipe.Write([]byte("the end"))
		pipe.Close()
	}()
	resp, err := s.caller.Post(s.root()+"annotations(1)/documentbody", "application/octet-stream", body)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, int64(3*maxHeld+len("the end")), <-answered)
}

const large = 32 << 20

// writeLarge writes a JSON array of about large bytes.
func writeLarge(w io.Writer) {
	piece := []byte(`{"@odata.etag":"W/\"1\"","name":"` + strings.Repeat("Contoso ", 1000) + `"},`)
	io.WriteString(w, `{"value":[`)
	for n := 0; n < large; n += len(piece) {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
	io.WriteString(w, `{}],"@odata.nextLink":"end"}`)
}

// heap notes how much memory is in use at the most.
type heap struct {
	base, most uint64
	n          int
}

func newHeap() *heap {
	h := new(heap)
	h.base = h.inUse()
	return h
}

func (h *heap) inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Write looks now and then.
func (h *heap) Write(p []byte) (int, error) {
	if h.n += len(p); h.n > large/16 {
		h.n = 0
		h.look()
	}
	return len(p), nil
}

func (h *heap) look() { h.most = max(h.most, h.inUse()) }

func (h *heap) assertBounded(t *testing.T) {
	t.Helper()
	require.NotZero(t, h.most)
	assert.Less(t, int64(h.most)-int64(h.base), int64(large/2), "memory in use")
}

// Not parallel: it measures the memory of the process.
func TestLargeBodiesTakeLittleMemory(t *testing.T) {
	var mem *heap
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(mem, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			writeLarge(w)
		}
	})
	mem = newHeap()
	resp, err := s.caller.Get(s.root() + "accounts")
	require.NoError(t, err)
	n, err := io.Copy(mem, resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	assert.Greater(t, n, int64(large))
	mem.assertBounded(t)

	mem = newHeap()
	body, pipe := io.Pipe()
	go func() { writeLarge(pipe); pipe.Close() }()
	resp, err = s.caller.Post(s.root()+"accounts", "application/json", body)
	require.NoError(t, err)
	resp.Body.Close()
	mem.assertBounded(t)
}

func TestACallerThatGoesCancelsTheRequest(t *testing.T) {
	t.Parallel()
	began, ended := make(chan struct{}), make(chan struct{})
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.root()+"accounts", strings.NewReader(`{}`))
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() {
		_, err := s.caller.Do(req)
		failed <- err
	}()
	<-began
	cancel()
	<-ended
	assert.ErrorIs(t, <-failed, context.Canceled)
}

func TestAnAnswerThatBreaksOffBreaksOffForTheCaller(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"application/json", "image/png"} {
		s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, `{"value":[`)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := s.caller.Get(s.root() + "accounts")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		assert.Error(t, err, "it must not look complete")
		assert.Equal(t, `{"value":[`, string(body))
	}
}

func TestTheOrganizationIsAskedFirstWhereTheCallerAsks(t *testing.T) {
	t.Parallel()
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	s.caller.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	r := s.send(t, http.MethodPut, s.url+"/take", strings.Repeat("x", 3*maxHeld), "Expect: 100-continue")
	assert.Equal(t, fmt.Sprint(3*maxHeld), r.body)
	r = s.send(t, http.MethodPut, s.url+"/small", `{"a":1}`, "Expect: 100-continue", asJSON)
	assert.Equal(t, "7", r.body)
	r = s.send(t, http.MethodPut, s.url+"/refuse", strings.Repeat("x", 3*maxHeld), "Expect: 100-continue")
	assert.Equal(t, http.StatusRequestEntityTooLarge, r.StatusCode)
}

func TestPathsAndQueriesPassByteByByte(t *testing.T) {
	t.Parallel()
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	for _, target := range []string{
		"/api/data/v9.2/accounts?$filter=name%20eq%20'a;b'&x",
		"/api/data/v9.2/accounts(key='a%2Fb')",
		"/api/data//v9.2/../accounts?a=%zz",
		"/?",
	} {
		conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
		require.NoError(t, err)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, target, string(body))
		conn.Close()
	}
}

func TestCompressedAnswersAreMapped(t *testing.T) {
	t.Parallel()
	var own string
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Alt-Svc", `h3=":443"`)
		body := []byte(`{"@odata.nextLink":"https://` + r.Host + `/a"}`)
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			body = gzipped(body)
		}
		w.Write(body)
	})
	own = s.url
	r := s.send(t, http.MethodGet, s.root()+"accounts", "", "Accept-Encoding: gzip, br")
	assert.Equal(t, `{"@odata.nextLink":"`+own+`/a"}`, r.body)
	assert.Empty(t, r.Header.Get("Content-Encoding"))
	assert.Empty(t, r.Header.Get("Alt-Svc"))
}

func TestPartsOfAnAnswerAreNotMapped(t *testing.T) {
	t.Parallel()
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Range", "bytes 0-9/10")
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, `{"@odata.id":"https://`+r.Host+`/a"}`)
	})
	r := s.send(t, http.MethodGet, s.root()+"accounts", "", "Range: bytes=0-9")
	assert.NotContains(t, r.body, s.url)
}

func TestSlowCallersAreNotWaitedForWithoutEnd(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	server := httptest.NewServer(patient(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		if r.Method == http.MethodPost {
			_, err = io.Copy(io.Discard, r.Body)
		}
		for err == nil && r.Method == http.MethodGet {
			_, err = w.Write(make([]byte, 1<<20))
		}
		result <- err
	}), 50*time.Millisecond))
	t.Cleanup(server.Close)
	for _, head := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nthe beginning",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", // and does not read
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		io.WriteString(conn, head)
		err = <-result
		var timeout net.Error
		require.True(t, errors.As(err, &timeout), "%v", err)
		assert.True(t, timeout.Timeout())
		conn.Close()
	}
}

func TestPatienceIsForEachPiece(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Second
		ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: patient(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			r.Body.Read(make([]byte, 1))     // once more after the end, while the server watches for callers that go
			wait := time.NewTimer(3 * limit) // not the caller's fault
			defer wait.Stop()
			select {
			case <-wait.C:
				io.WriteString(w, "done")
			case <-r.Context().Done():
			}
		}), limit)}
		go server.Serve(ln)
		defer server.Close()
		dialed := 0
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dialed++
			near, far := net.Pipe()
			ln.conns <- far
			return near, nil
		}}
		defer base.CloseIdleConnections()
		client := &http.Client{Transport: base}
		for range 2 {
			resp, err := client.Post("http://127.0.0.1", "text/plain", strings.NewReader("x"))
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.NoError(t, err)
			assert.Equal(t, "done", string(body))
		}
		assert.Equal(t, 1, dialed)
	})
}

// pipeListener accepts the connections that it is sent.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestTheOrganizationsNameIsInTheHandshake(t *testing.T) {
	t.Parallel()
	names := make(chan string, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- hello.ServerName
		return nil, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	base := server.Client().Transport.(*http.Transport).Clone()
	base.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	base.TLSClientConfig.InsecureSkipVerify = true // the name is what is looked at
	t.Cleanup(base.CloseIdleConnections)
	s := startProxy(t, "https://contoso.crm4.dynamics.com", &failover.Config{Base: base})
	assert.Equal(t, "contoso.crm4.dynamics.com", s.send(t, http.MethodGet, s.url+"/", "").body)
	assert.Equal(t, "contoso.crm4.dynamics.com", <-names)
}

func gzipped(p []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
}
