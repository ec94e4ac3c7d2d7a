package failover_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// This file plays the adversaries of SECURITY.md that are on the wire: proxies, servers that
// answer without end, and bodies made to look like other requests.

// A tunnel is a proxy that records everything it sees.
type tunnel struct {
	listener net.Listener
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	mu       sync.Mutex
	requests []*http.Request
	passed   bytes.Buffer // through tunnels, in both directions
	// conduct, if set, takes over a connection after its CONNECT.
	conduct func(net.Conn)
}

func (p *tunnel) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.handle(conn)
	}
}

func (p *tunnel) handle(conn net.Conn) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.requests = append(p.requests, req)
	p.mu.Unlock()
	if p.conduct != nil {
		p.conduct(conn)
		return
	}
	target, err := p.dial(context.Background(), "tcp", req.Host)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer target.Close()
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(target, io.TeeReader(conn, p))
	io.Copy(conn, io.TeeReader(target, p))
}

func (p *tunnel) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed.Write(b)
}

// through returns a Base that reaches an organization through the proxy, with a password for
// it.
func (p *tunnel) through(t *testing.T, org *failovertest.Org) *http.Transport {
	var err error
	p.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { p.listener.Close() })
	go p.serve()
	base := org.Transport()
	t.Cleanup(base.CloseIdleConnections)
	p.dial = base.DialContext
	base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword("contoso", secret+"proxy"), Host: p.listener.Addr().String()})
	base.DialContext = new(net.Dialer).DialContext
	base.DisableKeepAlives = true // a write on a connection that is cut would be in doubt
	return base
}

// A proxy learns nothing but the names of the pair, before and after a failover. The
// organization does not learn the proxy's password.
func TestAProxySeesNoMoreThanNames(t *testing.T) {
	t.Parallel()
	org := failovertest.Start(nil)
	defer org.Close()
	proxy := new(tunnel)
	client, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{Base: proxy.through(t, org), Authorize: org.Authorize, Logger: quietLog})
	require.NoError(t, err)
	defer transport.Close()
	for _, happens := range []func(){func() {}, func() { org.Disaster(failovertest.Refuse()) }} {
		happens()
		resp, err := client.Post(org.URL()+accounts+"?"+secret+"query", "application/json", strings.NewReader(`{"name":"`+secret+`body"}`))
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		require.Equal(t, http.StatusNoContent, resp.StatusCode)
	}
	require.Equal(t, failover.Alternate, transport.Status().Active)

	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	assert.NotEmpty(t, proxy.passed.Bytes())
	assert.NotContains(t, proxy.passed.String(), secret)
	for _, r := range proxy.requests {
		assert.Equal(t, http.MethodConnect, r.Method)
		assert.Contains(t, []string{"contoso.api.crm.dynamics.com:443", "contoso--s.api.crm.dynamics.com:443"}, r.Host)
		assert.Empty(t, r.Header.Get("Authorization"))
		assert.NotEmpty(t, r.Header.Get("Proxy-Authorization"))
	}
	for _, d := range append(org.Primary().Deliveries(), org.Alternate().Deliveries()...) {
		assert.Empty(t, d.Header.Get("Proxy-Authorization"))
	}
}

// A hostile proxy gets nothing, and none of its claims takes effect.
func TestAHostileProxyGetsNothing(t *testing.T) {
	t.Parallel()
	impostor := httptest.NewUnstartedServer(nil)
	impostor.StartTLS() // its certificate is not signed by the organization's authority
	defer impostor.Close()
	says := func(s string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, s) } }
	tests := []struct {
		name, why string
		conduct   func(net.Conn)
	}{
		{"asks for credentials", "those of the organization are none of its business", says("HTTP/1.1 407 Give\r\nProxy-Authenticate: Bearer realm=x\r\nContent-Length: 0\r\n\r\n")},
		{"redirects", "the answer to CONNECT is not the organization's", says("HTTP/1.1 302 Found\r\nLocation: https://contoso.example/\r\nContent-Length: 0\r\n\r\n")},
		{"forges the fence", "only the organization can say that it does not serve", says("HTTP/1.1 503 x\r\nContent-Type: application/json\r\nContent-Length: 31\r\n\r\n" + `{"error":{"code":"0x8004B065"}}`)},
		{"speaks without end", "texts are bounded", says("HTTP/1.1 502 " + strings.Repeat("no ", 1<<20) + "\r\n\r\n")},
		{"puts on a mask", "TLS is with the organization", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			masked := tls.Server(c, &tls.Config{Certificates: impostor.TLS.Certificates})
			if masked.Handshake() == nil {
				t.Error("the handshake with an impostor is not to succeed")
			}
		}},
		{"speaks in the clear", "no TLS, no request", says("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			org := failovertest.Start(nil)
			defer org.Close()
			org.Alternate().Serve()
			proxy := &tunnel{conduct: tt.conduct}
			var log bytes.Buffer
			transport, err := failover.New(org.URL(), &failover.Config{Base: proxy.through(t, org), Authorize: org.Authorize,
				Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			require.NoError(t, err)
			req, err := http.NewRequest(http.MethodPost, org.URL()+accounts+"?"+secret+"query", strings.NewReader(secret+"body"))
			require.NoError(t, err)
			req.Header.Set("Cookie", secret+"cookie")
			_, err = transport.RoundTrip(req)
			require.Error(t, err)
			assert.NotErrorIs(t, err, failover.ErrOutcomeUnknown, tt.why)
			status := transport.Status()
			transport.Close()
			assert.Zero(t, status.Generation, tt.why)
			for _, text := range []string{err.Error(), log.String(), fmt.Sprintf("%+v", status)} {
				assert.Empty(t, secrets.FindAllString(text, 3), tt.why)
			}
			assert.Less(t, log.Len(), 1<<16, tt.why)
			assert.Empty(t, append(org.Primary().Deliveries(), org.Alternate().Deliveries()...))
			proxy.mu.Lock()
			defer proxy.mu.Unlock()
			for _, r := range proxy.requests {
				assert.Equal(t, http.MethodConnect, r.Method)
				assert.NotContains(t, fmt.Sprint(r.Header), secret)
			}
		})
	}
}

// blockedBody is a body that blocks after its beginning until it is closed.
type blockedBody struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func (b *blockedBody) Read(p []byte) (int, error) {
	if n, err := b.Reader.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	<-b.closed
	return 0, errors.New("read on closed body")
}

func (b *blockedBody) Close() error { b.once.Do(func() { close(b.closed) }); return nil }

// withBody answers every request with a new body.
func withBody(status int, contentType string, body func() io.ReadCloser) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Request: req, Body: body(), ContentLength: -1}, nil
	}
}

// A call without a deadline ends in bounded time, whatever the body of a fault does, and
// whatever probes meet.
func TestAnswersThatDoNotEndAreLeftInTime(t *testing.T) {
	t.Parallel()
	silent := func(beginning string) func() io.ReadCloser {
		return func() io.ReadCloser {
			return &blockedBody{Reader: strings.NewReader(beginning), closed: make(chan struct{})}
		}
	}
	endless := func() io.ReadCloser { return io.NopCloser(zeros{}) }
	down := refuse(errDial)
	tests := []struct {
		name, why string
		limit     time.Duration
		request   func(*http.Request) (*http.Response, error)
		probe     func(*http.Request) (*http.Response, error)
		active    failover.Endpoint
	}{
		{"503 without a body", "the status says it all", 30 * time.Second, withBody(503, "text/html", silent("")), onlyAlternateServes, failover.Alternate},
		{"503 with the beginning of a body", "and so does what came", 30 * time.Second, withBody(503, "text/html", silent("<html>")), onlyAlternateServes, failover.Alternate},
		{"404 without a body", "a fault of the application is returned as it came", 10 * time.Second, withBody(404, "application/json", silent("")), down, failover.Primary},
		{"sign-in page without an end", "200 with a page is looked into", 30 * time.Second, withBody(200, "text/html", silent("<html>")), onlyAlternateServes, failover.Alternate},
		{"503 without end", "only its beginning is read", 10 * time.Second, withBody(503, "text/html", endless), onlyAlternateServes, failover.Alternate},
		{"silent probes", "ProbeTimeout ends them", 10 * time.Second, down, silentProbe(200), failover.Primary},
		{"silent probes that have failed already", "the status says it all", 3 * time.Second, down, silentProbe(503), failover.Primary},
		{"probes without end", "only their beginning is read", 10 * time.Second, down, withBody(200, "application/json", endless), failover.Primary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &script{probe: tt.probe}
				base.answers = answers(func(r *http.Request) (*http.Response, error) {
					if strings.HasPrefix(r.URL.Host, "contoso--s.") {
						return serves(r)
					}
					return tt.request(r)
				})
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quietLog})
				require.NoError(t, err)
				defer transport.Close()
				req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
				require.NoError(t, err)
				began := time.Now()
				if resp, err := transport.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
				assert.LessOrEqual(t, time.Since(began), tt.limit, tt.why)
				assert.Equal(t, tt.active, transport.Status().Active, tt.why)
			})
		})
	}
}

// silentProbe answers a probe with headers, and then with nothing until its time is up.
func silentProbe(status int) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		body := &blockedBody{Reader: strings.NewReader(""), closed: make(chan struct{})}
		context.AfterFunc(req.Context(), func() { body.Close() })
		return withBody(status, "application/json", func() io.ReadCloser { return body })(req)
	}
}

// Nothing that a hostile server says about itself accumulates.
func TestHostileHeadersDoNotPileUp(t *testing.T) {
	t.Parallel()
	network := newHostileNetwork(t)
	network.handler = func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", strings.Repeat("A", 1<<20))
	}
	transport, err := failover.New(orgURL, &failover.Config{Base: network, Logger: quietLog})
	require.NoError(t, err)
	defer transport.Close()
	for range 8 {
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader("{}"))
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	}
	status := transport.Status()
	kept := 0
	for _, e := range status.Events {
		for err := error(e.Fault); err != nil; err = errors.Unwrap(err) {
			kept += len(err.Error())
		}
	}
	assert.NotEmpty(t, status.Events)
	assert.Less(t, kept, 1<<16, "bytes of text that the last events hold on to")
	assert.Less(t, len(errors.Unwrap(status.Primary.LastFault).Error()), 1<<12)
}

// batchOf returns a batch with one part of the given content.
func batchOf(headers, content string) string {
	return "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n" + headers + "\r\n" + content + "\r\n--b--\r\n"
}

// Mapping links changes host names and lengths, but never where a request or a part of a batch
// ends: a server reads as many as the caller has written.
func TestMappedBodiesSmuggleNothing(t *testing.T) {
	t.Parallel()
	link := `{"a@odata.bind":"` + orgURL + `/x(1)"}`
	post := "POST " + orgURL + accounts + " HTTP/1.1\r\nContent-Type: application/json\r\n"
	tests := []struct{ name, contentType, body, why string }{
		{"one part", "multipart/mixed;boundary=b", batchOf("", post+"\r\n"+link), "the ordinary case"},
		{"Content-Length", "multipart/mixed;boundary=b", batchOf("", post+"Content-Length: "+strconv.Itoa(len(link))+"\r\n\r\n"+link), "it has to follow"},
		{"two lengths", "multipart/mixed;boundary=b", batchOf("", post+"Content-Length: "+strconv.Itoa(len(link))+"\r\nContent-Length: 5\r\n\r\n"+link), "servers differ on which counts"},
		{"length of a part that is too short", "multipart/mixed;boundary=b", batchOf("Content-Length: 10\r\n", post+"\r\n"+link), "what is behind it would be another request"},
		{"length of a part that is too long", "multipart/mixed;boundary=b", batchOf("Content-Length: 99999\r\n", post+"\r\n"+link), "it would swallow the next one"},
		{"chunked part", "multipart/mixed;boundary=b", batchOf("", post+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+link), "two ways to say how long it is"},
		{"bare line feeds", "multipart/mixed;boundary=b", strings.ReplaceAll(batchOf("", post+"\r\n"+link), "\r\n", "\n"), "some servers take them for line ends"},
		{"bare carriage return", "multipart/mixed;boundary=b", batchOf("", "POST "+orgURL+accounts+"\rGET "+orgURL+"/ HTTP/1.1\r\n\r\n"), "and some these"},
		{"line ends in a link", "application/json", `{"a@odata.bind":"` + orgURL + `/x\r\n\r\nDELETE /x HTTP/1.1\r\n"}`, "escapes stay escapes"},
		{"boundary in a value", "multipart/mixed;boundary=b", batchOf("", post+"\r\n"+`{"name":"--b--","a@odata.bind":"`+orgURL+`/x(1)"}`), "a boundary is a line"},
		{"boundary that is the mark", `multipart/mixed;boundary="s.api.crm.dynamics.com"`, strings.ReplaceAll(batchOf("", post+"\r\n"+link), "--b", "--s.api.crm.dynamics.com"), "the new name must not become a boundary"},
		{"request behind the batch", "multipart/mixed;boundary=b", batchOf("", post+"\r\n"+link) + "DELETE " + orgURL + "/x HTTP/1.1\r\n\r\n", "an epilogue is nobody's"},
		{"folded header", "multipart/mixed;boundary=b", batchOf("X-A: a\r\n Content-Length: 1\r\n", post+"\r\n"+link), "a continuation is no header"},
		{"space before the colon", "multipart/mixed;boundary=b", batchOf("Content-Length : 1\r\n", post+"\r\n"+link), "servers differ on its name"},
		{"SOAP", "application/soap+xml", `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header><a:To>` + orgURL + `/x&#13;&#10;Host: y</a:To></s:Header></s:Envelope>`, "references stay references"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			requests := make(chan wireRequest, 8)
			network := newHostileNetwork(t)
			network.handler = func(w http.ResponseWriter, r *http.Request) {
				conn, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				length, _ := strconv.Atoi(r.Header.Get("Content-Length"))
				body := make([]byte, length)
				_, err = io.ReadFull(buf, body)
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				// Anything else on the connection was smuggled.
				conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				rest, _ := io.ReadAll(buf)
				requests <- wireRequest{r, string(body), string(rest), err}
			}
			transport, err := failover.New(orgURL, &failover.Config{Base: network, Logger: quietLog})
			require.NoError(t, err)
			defer transport.Close()
			transport.Pin(failover.Alternate)
			req, err := http.NewRequest(http.MethodPost, orgURL+"/api/data/v9.2/$batch", strings.NewReader(tt.body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", tt.contentType)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			resp.Body.Close()

			got := <-requests
			require.NoError(t, got.err)
			assert.Empty(t, got.rest, tt.why)
			assert.Len(t, got.Header["Content-Length"], 1)
			assert.Equal(t, shape(tt.contentType, tt.body), shape(tt.contentType, got.body), tt.why)
			assert.Equal(t, withoutLengths(tt.body), withoutLengths(strings.ReplaceAll(got.body, alternateURL, orgURL)), "only names and lengths may change")
		})
	}
}

// wireRequest is a request as it came over the wire.
type wireRequest struct {
	*http.Request
	body, rest string
	err        error
}

// withoutLengths removes the numbers of Content-Length headers from a body.
func withoutLengths(body string) string {
	var b strings.Builder
	for line := range strings.Lines(body) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(name), "Content-Length") {
			line = "Content-Length\r\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// shape returns how mime/multipart and net/http read a body, apart from the names of the pair:
// the method, path and body of every part, and what follows it.
func shape(contentType, body string) []string {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return nil
	}
	var parts []string
	for r := multipart.NewReader(strings.NewReader(body), params["boundary"]); ; {
		part, err := r.NextRawPart()
		if err != nil {
			return append(parts, cmp.Or(map[error]string{io.EOF: "end"}[err], "error"))
		}
		content, _ := io.ReadAll(part)
		in := bufio.NewReader(bytes.NewReader(content))
		req, err := http.ReadRequest(in)
		if err != nil {
			parts = append(parts, "no request")
			continue
		}
		own, _ := io.ReadAll(req.Body)
		rest, _ := io.ReadAll(in)
		parts = append(parts, strings.ReplaceAll(fmt.Sprintf("%s %s with %q before %q", req.Method, req.URL.Path, own, rest), alternateURL, orgURL))
	}
}
