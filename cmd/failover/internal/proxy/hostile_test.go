package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/d365failover/failover"
)

// startRaw starts a proxy of an organization that writes an answer byte by byte to
// every request, over HTTP/1.1, and closes the connection.
func startRaw(t testing.TB, answer func(r *http.Request) string) *site {
	t.Helper()
	// Without connections that are used again: one that is being closed is in
	// doubt, rightly.
	return startHTTP1(t, func(_ *httptest.Server, base *http.Transport) { base.DisableKeepAlives = true }, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, answer(r))
			conn.Close()
		}
	})
}

// startHTTP1 starts a proxy of an organization that speaks HTTP/1.1 only. Probes
// pass.
func startHTTP1(t testing.TB, configure func(*httptest.Server, *http.Transport), handler http.HandlerFunc) *site {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = quietLog
	base := newBase()
	base.ExpectContinueTimeout = 0
	if configure != nil {
		configure(server, base)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	base.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	t.Cleanup(base.CloseIdleConnections)
	return startProxy(t, server.URL, &failover.Config{
		Base:             base,
		Alternate:        "https://127.0.0.1:1",
		MaxAttempts:      1,
		FailureThreshold: 1 << 30, // no decisions: they are not what is looked at
		Probe:            func(context.Context, *http.Client, *url.URL) error { return nil },
	})
}

// raw writes bytes to the proxy and returns all that comes back until the
// connection ends.
func (s *site) raw(t testing.TB, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Logf("after %d bytes: %v", len(answer), err)
	}
	return string(answer)
}

// answersIn reads the responses in what came from the proxy, with the bodies.
func answersIn(t *testing.T, method, text string) (answers []reply) {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(text))
	for {
		if _, err := r.Peek(1); err != nil {
			return answers
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		require.NoError(t, err, "%q", text)
		var body []byte
		if resp.StatusCode >= 200 {
			body, err = io.ReadAll(resp.Body)
			require.NoError(t, err, "%q", text)
		}
		answers = append(answers, reply{resp, string(body)})
	}
}

func TestAnswersThatCannotBePassedOn(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, answer string }
	rows := []row{
		{"099", "net/http cannot write it", "HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nhi"},
		{"000", "the same", "HTTP/1.1 000 None\r\nContent-Length: 2\r\n\r\nhi"},
		{"unasked 101", "nobody asked for another protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\nraw bytes"},
		{"101 without a protocol", "the same", "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
		{"endless 103", "there is an end", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 1000) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"two digits", "no status line", "HTTP/1.1 99 Low\r\n\r\n"},
		{"four digits", "no status line", "HTTP/1.1 2000 OK\r\n\r\n"},
		{"negative", "no status line", "HTTP/1.1 -20 OK\r\n\r\n"},
		{"header of 1 MB", "nobody sends that", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\nContent-Length: 2\r\n\r\nhi"},
		{"no HTTP", "HTTP/0.9 perhaps", "<html>hello</html>\r\n\r\n"},
		{"two lengths", "response splitting", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!"},
		{"unknown coding", "no length is known", "HTTP/1.1 200 OK\r\nTransfer-Encoding: evil\r\n\r\nhi"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := startRaw(t, func(*http.Request) string { return r.answer })
			for _, method := range []string{"GET", "POST"} {
				text := s.raw(t, method+" /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				answers := answersIn(t, method, text)
				require.NotEmpty(t, answers)
				last := answers[len(answers)-1]
				assert.Equal(t, http.StatusBadGateway, last.StatusCode, "%q", text)
				code := last.failure(t).Error.Code
				if method == "POST" {
					assert.Equal(t, "unknown", last.Header.Get("Failover-Outcome"), "nobody knows what became of it: %s", code)
					assert.Contains(t, []string{"Failover.NoAnswer", "Failover.OutcomeUnknown"}, code)
				} else {
					assert.Empty(t, last.Header.Get("Failover-Outcome"))
					assert.Equal(t, "Failover.NoAnswer", code)
				}
				assert.LessOrEqual(t, len(answers), maxInformational+2)
				for _, a := range answers[:len(answers)-1] {
					assert.Equal(t, http.StatusEarlyHints, a.StatusCode)
				}
			}
		})
	}
}

func TestTheOutcomeIsTheProxysWord(t *testing.T) {
	t.Parallel()
	const end = "Content-Length: 2\r\n\r\nhi"
	type row struct{ name, why, answer string }
	rows := []row{
		{"header", "the organization has no such word", "HTTP/1.1 200 OK\r\nFailover-Outcome: unknown\r\n" + end},
		{"other case", "names have none", "HTTP/1.1 200 OK\r\nfAILOVER-oUTCOME: unknown\r\n" + end},
		{"folded", "continued on the next line", "HTTP/1.1 200 OK\r\nFailover-Outcome:\r\n unknown\r\n" + end},
		{"blank behind the name", "lenient readers take it", "HTTP/1.1 200 OK\r\nFailover-Outcome : unknown\r\n" + end},
		{"twice", "both", "HTTP/1.1 200 OK\r\nFailover-Outcome: a\r\nFailover-Outcome: b\r\n" + end},
		{"an error", "the same under each status", "HTTP/1.1 400 Bad Request\r\nFailover-Outcome: unknown\r\n" + end},
		{"103", "informational", "HTTP/1.1 103 Early Hints\r\nFailover-Outcome: unknown\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n" + end},
		{"102", "informational", "HTTP/1.1 102 Processing\r\nFailover-Outcome: unknown\r\n\r\nHTTP/1.1 200 OK\r\n" + end},
		{"199", "informational, unknown", "HTTP/1.1 199 Odd\r\nFailover-Outcome: unknown\r\nConnection: x\r\n\r\nHTTP/1.1 200 OK\r\n" + end},
		{"100", "not asked for", "HTTP/1.1 100 Continue\r\nFailover-Outcome: unknown\r\n\r\nHTTP/1.1 200 OK\r\n" + end},
		{"trailer", "announced", "HTTP/1.1 200 OK\r\nTrailer: Failover-Outcome, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nFailover-Outcome: unknown\r\nX-Sum: 42\r\n\r\n"},
		{"unannounced trailer", "comes at the end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nfailover-outcome: unknown\r\nX-Sum: 42\r\n\r\n"},
		{"one announced, one not", "both ways at once", "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nFailover-Outcome: unknown\r\nX-Sum: 42\r\nSet-Cookie: a=b\r\n\r\n"},
		{"trailer prefix", "a convention of net/http", "HTTP/1.1 200 OK\r\nTrailer:Failover-Outcome: unknown\r\n" + end},
		{"connection", "names it for removal", "HTTP/1.1 200 OK\r\nConnection: Failover-Outcome\r\nFailover-Outcome: unknown\r\n" + end},
		{"mapped body", "through a filter", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nFailover-Outcome: unknown\r\nX-Sum: 42\r\n\r\n"},
		{"no body", "nothing to wait for", "HTTP/1.1 204 No Content\r\nFailover-Outcome: unknown\r\n\r\n"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := startRaw(t, func(*http.Request) string { return r.answer })
			for _, method := range []string{"GET", "POST", "HEAD"} {
				text := s.raw(t, method+" /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n")
				assert.NotContains(t, strings.ToLower(text), "failover-outcome")
				assert.NotContains(t, text, "Set-Cookie")
				if method == "GET" && strings.Contains(r.answer, "X-Sum: 42") {
					assert.Contains(t, text, "X-Sum: 42", "other trailers come")
				}
			}
		})
	}
}

func TestInformationalResponsesAreForTheirCaller(t *testing.T) {
	t.Parallel()
	s := startRaw(t, func(*http.Request) string {
		return "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nConnection: Link\r\nKeep-Alive: 5\r\nAlt-Svc: h3\r\nWWW-Authenticate: NTLM\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	})
	answers := answersIn(t, "GET", s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
	require.Len(t, answers, 2)
	assert.Equal(t, http.StatusEarlyHints, answers[0].StatusCode)
	assert.Equal(t, http.Header{"Link": {"</style.css>"}}, answers[0].Header)
	assert.Equal(t, "hi", answers[1].body)
	assert.Empty(t, answers[1].Header.Get("Link"), "of the first one")

	old := s.raw(t, "GET /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n")
	assert.True(t, strings.HasPrefix(old, "HTTP/1.0 200 OK\r\n"), "HTTP/1.0 knows none: %q", old)

	s = startHTTP1(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		io.Copy(io.Discard, r.Body)
	})
	waiting := s.raw(t, "PUT /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
	assert.NotContains(t, waiting, "103", "the server may write 100 at the same time")
	assert.Equal(t, 1, strings.Count(waiting, "100 Continue"))
	assert.Contains(t, waiting, "200 OK")
}

func TestMethodsThatAskForTheRequestItself(t *testing.T) {
	t.Parallel()
	s := startOrganization(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was sent", r.Method) })
	for _, method := range []string{"TRACE", "TRACK", "trace", "Track"} {
		for _, version := range []string{"1.0", "1.1"} {
			text := s.raw(t, method+" /x HTTP/"+version+"\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer hunter2\r\n\r\n")
			answers := answersIn(t, method, text)
			require.Len(t, answers, 1)
			assert.Equal(t, http.StatusMethodNotAllowed, answers[0].StatusCode)
			assert.Equal(t, "Failover.MethodNotAllowed", answers[0].failure(t).Error.Code)
			assert.NotContains(t, text, "hunter2")
		}
	}
}

// received is what an organization has received.
type received struct {
	mu   sync.Mutex
	list []string
}

func (r *received) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, s)
}

func (r *received) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.list...)
}

func TestBodiesOverHTTP10(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why, request string
		status             int
		sent               []string
	}
	chunked := "3\r\nabc\r\n0\r\n\r\n"
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	rows := []row{
		{"chunks", "HTTP/1.0 has none; the body must not be lost", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, 411, nil},
		{"chunks kept alive", "what follows is no request", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + smuggled, 411, nil},
		{"hidden request", "the chunk would be the next request", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled, 411, nil},
		{"hidden behind a read", "the same", "GET /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled, 200, []string{"GET /x "}},
		{"hidden behind a length", "the length counts, and nothing after it", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc" + smuggled, 200, []string{"POST /x abc"}},
		{"no length", "the end of the connection is none", "PUT /x HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\nabc", 411, nil},
		{"a length", "as nginx sends it", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc", 200, []string{"POST /x abc"}},
		{"empty", "a length of zero is one", "POST /x HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", 200, []string{"POST /x "}},
		{"a read", "has no body", "GET /x HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", 200, []string{"GET /x "}},
		{"a read kept alive", "one request for each connection", "GET /x HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n" + smuggled, 200, []string{"GET /x "}},
		{"an error kept alive", "the proxy's own answers end it, too", "GET /x HTTP/1.0\r\nHost: evil.example\r\nConnection: keep-alive\r\n\r\n" + smuggled, 421, nil},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var got received
			s := startOrganization(t, func(_ http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				got.add(req.Method + " " + req.URL.Path + " " + string(body))
			})
			answers := answersIn(t, strings.Fields(r.request)[0], s.raw(t, r.request))
			require.Len(t, answers, 1)
			assert.Equal(t, r.status, answers[0].StatusCode)
			assert.Equal(t, r.sent, got.all())
		})
	}
}

func TestFramingOverHTTP11(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why, head, body string
		status                int
	}
	rows := []row{
		{"chunks", "as they should be", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", 200},
		{"extension", "means nothing here", "Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\n\r\n", 200},
		{"both", "the length does not count", "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", 200},
		{"chunked twice", "is not known", "Transfer-Encoding: chunked, chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", 501},
		{"identity", "is not known", "Transfer-Encoding: identity\r\n", "abc", 501},
		{"look-alike", "is not known", "Transfer-Encoding: \x0bchunked\r\n", "3\r\nabc\r\n0\r\n\r\n", 400},
		{"two lengths", "which one?", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd", 400},
		{"signed length", "is none", "Content-Length: +3\r\n", "abc", 400},
		{"hexadecimal length", "is none", "Content-Length: 0x3\r\n", "abc", 400},
		{"blank before the colon", "hides a field", "Content-Length : 3\r\n", "abc", 400},
		{"length in a trailer", "framing cannot come late", "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "3\r\nabc\r\n0\r\nContent-Length: 1\r\n\r\n", 400},
		{"chunk too short", "what follows is no chunk", "Transfer-Encoding: chunked\r\n", "2\r\nabc\r\n0\r\n\r\n", 400},
		{"size too large", "overflows", "Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var got received
			s := startHTTP1(t, nil, func(_ http.ResponseWriter, req *http.Request) {
				if body, err := io.ReadAll(req.Body); err == nil {
					got.add(string(body))
				}
			})
			text := s.raw(t, "POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"+r.head+"\r\n"+r.body+"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			answer := text[:min(len(text), len("HTTP/1.1 200"))]
			assert.Equal(t, fmt.Sprintf("HTTP/1.1 %d", r.status), answer, "%q", text)
			assert.Equal(t, 1, strings.Count(text, "HTTP/1.1 "), "one answer: %q", text)
			if r.status == 200 {
				assert.Equal(t, []string{"abc"}, got.all())
			} else {
				assert.Empty(t, got.all())
			}
		})
	}
}

func TestTrailersOfRequestsPass(t *testing.T) {
	t.Parallel()
	trailers := make(chan http.Header, 1)
	s := startHTTP1(t, nil, func(_ http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		trailers <- req.Trailer
	})
	for _, length := range []int{1, 2 * maxHeld} {
		text := s.raw(t, "POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Authorization, Failover-Outcome, X-Forwarded-For, If-Match\r\n\r\n"+
			fmt.Sprintf("%x\r\n%s\r\n", length, strings.Repeat("x", length))+
			"0\r\nX-Sum: 42\r\nAuthorization: Bearer late\r\nFailover-Outcome: unknown\r\nX-Forwarded-For: evil\r\nIf-Match: *\r\nX-Unannounced: 1\r\n\r\n")
		assert.True(t, strings.HasPrefix(text, "HTTP/1.1 200"), "%q", text)
		assert.Equal(t, http.Header{"X-Sum": {"42"}}, <-trailers, length)
	}
}

func TestHopByHopHeadersEndAtTheProxy(t *testing.T) {
	t.Parallel()
	headers := make(chan http.Header, 1)
	s := startRaw(t, func(req *http.Request) string {
		req.Header.Del("Connection") // the proxy's own, to startRaw
		headers <- req.Header
		return "HTTP/1.1 200 OK\r\nConnection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n" +
			"Proxy-Connection: keep-alive\r\nTe: x\r\nTrailer: X-Late\r\nX-Passes: 1\r\nContent-Length: 0\r\n\r\n"
	})
	text := s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close, X-Mine, Upgrade, HTTP2-Settings\r\nX-Mine: 1\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\nSec-WebSocket-Key: x\r\n"+
		"Keep-Alive: 5\r\nProxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: X-Late\r\nUser-Agent: test\r\nX-Passes: 1\r\n\r\n")
	assert.Equal(t, http.Header{"Accept-Encoding": {"gzip"}, "Sec-Websocket-Key": {"x"}, "User-Agent": {"test"}, "X-Passes": {"1"}}, <-headers)
	answers := answersIn(t, "GET", text)
	require.Len(t, answers, 1)
	for _, name := range append([]string{"X-Named"}, hopHeaders...) {
		if name != "Connection" {
			assert.Empty(t, answers[0].Header.Values(name), name)
		}
	}
	assert.Equal(t, "1", answers[0].Header.Get("X-Passes"))
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	s := startOrganization(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	for _, head := range []string{
		"X: " + strings.Repeat("x", 1<<20) + "\r\n",
		strings.Repeat("a:\r\n", 1<<18),
	} {
		conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
		require.NoError(t, err)
		go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"+head+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
		conn.Close()
	}
}

func TestFoldedHeadersOfPartsAreOneLine(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, in, want string }
	const m = "https://contoso.api.crm4.dynamics.com"
	part := func(inner, body string) string {
		return crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\n" + inner + "\n" + body + "\n--b--\n")
	}
	rows := []row{
		{"type", "of a body with links", part("Content-Type:\n application/json\n", `{"@odata.id":"`+m+`/a"}`), part("Content-Type:\n application/json\n", `{"@odata.id":"`+proxyOrigin+`/a"}`)},
		{"tab", "folds, too", part("Content-Type:\n\tapplication/json;\n\todata.metadata=minimal\n", `{"@odata.id":"`+m+`/a"}`), part("Content-Type:\n\tapplication/json;\n\todata.metadata=minimal\n", `{"@odata.id":"`+proxyOrigin+`/a"}`)},
		{"link", "goes into one line", part("Location:\n "+m+"/a\nX: 1\n", "x"), part("Location: "+proxyOrigin+"/a\nX: 1\n", "x")},
		{"length", "with all its lines", part("Content-Length:\n 5\nX: 1\n", "x"), part("X: 1\n", "x")},
		{"blank before the colon", "lenient readers take it", part("Content-Length : 5\nLocation : "+m+"/a\n", "x"), part("Location : "+proxyOrigin+"/a\n", "x")},
		{"outcome", "is the proxy's word", part("Failover-Outcome: unknown\nfailover-outcome:\n unknown\nX: 1\n", "x"), part("X: 1\n", "x")},
		{"not folded", "an empty line ends the header", part("X: 1\n", " Location: "+m+"/a"), part("X: 1\n", " Location: "+m+"/a")},
		{"nothing to continue", "the first line", part(" Location: "+m+"/a\n", "x"), part(" Location: "+m+"/a\n", "x")},
		{"of the part itself", "names what is in it",
			crlf("--b\nContent-Type:\n application/http\nContent-Length:\n 99\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a\n\n\n--b--\n"),
			crlf("--b\nContent-Type:\n application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a\n\n\n--b--\n")},
		{"delimiter in a header", "ends the part", crlf("--b\nContent-Type: application/http\n--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a\n\n--b--"),
			crlf("--b\nContent-Type: application/http\n--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a\n\n--b--")},
		{"breaks off in a header", "what was held comes", crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nX: 1\n"), crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nX: 1\n")},
		{"breaks off in a link", "the line may be whole", crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a"), crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a")},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	mapped := toProxy(t)
	for _, r := range rows {
		for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
			assert.Equal(t, r.want, through(newBatch(mapped, "b"), r.in, size), "%s in pieces of %d", r.name, size)
		}
	}
}

// repeated is a text again and again, without the memory for it.
type repeated struct {
	text string
	left int
	at   int
}

func newRepeated(text string, length int) *repeated {
	return &repeated{text: strings.Repeat(text, 1+(64<<10)/len(text)), left: length}
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) && r.left > 0 {
		c := copy(p[n:], r.text[r.at:])
		c = min(c, r.left)
		n, r.left, r.at = n+c, r.left-c, (r.at+c)%len(r.text)
	}
	if r.left == 0 {
		err = io.EOF
	}
	return n, err
}

// Not parallel: it measures the memory of the process.
func TestBatchesOfAnyFormTakeLittleMemory(t *testing.T) {
	const begin = "--b\r\nContent-Type: application/http\r\n\r\nPOST /x HTTP/1.1\r\n"
	type row struct{ name, why, begin, text string }
	rows := []row{
		{"header lines", "each was kept", begin, "a:\r\n"},
		{"header lines of their own", "under names of their own", begin, "a1:x\r\nb2:y\r\n"},
		{"types", "of which one counts", begin, "Content-Type: application/json\r\n"},
		{"encodings", "of which one counts", begin, "Content-Encoding: identity\r\n"},
		{"folded lines", "are one line", begin + "a:\r\n", " b\r\n"},
		{"empty folded lines", "the same", begin + "a:\r\n", " \r\n"},
		{"one line", "does not end", begin, "a"},
		{"delimiters", "a part each", "", "--b\r\n"},
		{"parts", "one after the other", "", begin + "Content-Type: application/json\r\n\r\n{\"@odata.id\":\"https://contoso.api.crm4.dynamics.com/a\"}\r\n"},
		{"change sets", "that do not end", "", "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n"},
		{"boundaries", "one in the other", "", "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"},
		{"arrays", "one in the other", begin + "Content-Type: application/json\r\n\r\n", "["},
		{"names", "that do not end", begin + "Content-Type: application/json\r\n\r\n{\"", "x"},
		{"links", "that do not end", begin + "Content-Type: application/json\r\n\r\n{\"@odata.id\":\"", "h"},
		{"hyphens", "that may be a delimiter", begin + "\r\n", "-"},
		{"blank lines", "before a request", "--b\r\nContent-Type: application/http\r\n\r\n", "\r\n"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	const length = 2 << 20
	links := toProxy(t)
	for _, r := range rows {
		mem := newHeap()
		mem.n = -length / 8 // looks are slow
		out := &filtered{src: io.NopCloser(io.MultiReader(strings.NewReader(r.begin), newRepeated(r.text, length))), filter: newBatch(links, "b")}
		n, err := io.Copy(mem, out)
		require.NoError(t, err, r.name)
		assert.GreaterOrEqual(t, n, int64(length/2), r.name)
		assert.Less(t, int64(mem.most)-int64(mem.base), int64(1<<20), "bytes in use: %s", r.name)
	}

	var mem *heap
	hostile := func() io.Reader {
		return io.MultiReader(strings.NewReader(begin), newRepeated("a: "+strings.Repeat("b", 100)+"\r\n", large))
	}
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(mem, r.Body)
			return
		}
		w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
		io.Copy(w, hostile())
	})
	mem = newHeap()
	resp, err := s.caller.Post(s.root()+"$batch", "multipart/mixed; boundary=b", hostile())
	require.NoError(t, err)
	resp.Body.Close()
	mem.assertBounded(t)

	mem = newHeap()
	resp, err = s.caller.Get(s.root() + "$batch")
	require.NoError(t, err)
	_, err = io.Copy(mem, resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	mem.assertBounded(t)
}

func TestChallengesThatSignInConnectionsAreDropped(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why string
		in, want  []string
	}
	rows := []row{
		{"alone", "the usual offer of IIS", []string{"Negotiate", "NTLM"}, nil},
		{"in one line", "a list", []string{"Negotiate, NTLM"}, nil},
		{"case", "schemes have none", []string{"negotiate", "ntlm", "NeGoTiAtE"}, nil},
		{"with a token", "the second step", []string{"NTLM TlRMTVNTUAACAAAA==", "Negotiate oYG2MIGzoAMKAQGh"}, nil},
		{"Bearer stays", "byte by byte", []string{"Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm.dynamics.com/"}, []string{"Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm.dynamics.com/"}},
		{"Bearer among them", "in lines", []string{"Negotiate", "Bearer realm=\"x\"", "NTLM"}, []string{"Bearer realm=\"x\""}},
		{"Bearer in the middle", "in a list", []string{"NTLM, Bearer realm=\"x, NTLM\", error=\"a\", Negotiate abc==, Basic realm=y"}, []string{"Bearer realm=\"x, NTLM\", error=\"a\", Basic realm=y"}},
		{"with parameters", "go with their challenge", []string{"Negotiate a=b, c=d, Basic realm=x, charset=UTF-8"}, []string{"Basic realm=x, charset=UTF-8"}},
		{"in a quoted string", "is none", []string{"Basic realm=\"NTLM, Negotiate\""}, []string{"Basic realm=\"NTLM, Negotiate\""}},
		{"in an escaped one", "is none", []string{"Basic realm=\"a\\\", NTLM, b\""}, []string{"Basic realm=\"a\\\", NTLM, b\""}},
		{"behind a quote that does not end", "lenient readers find it", []string{"Basic realm=\"x, NTLM"}, []string{"Basic realm=\"x"}},
		{"as a parameter", "is none", []string{"Basic realm=x, ntlm=1"}, []string{"Basic realm=x, ntlm=1"}},
		{"longer name", "another scheme", []string{"NTLMv3 a=b"}, []string{"NTLMv3 a=b"}},
		{"tab", "separates, too", []string{"NTLM\tTlRM"}, nil},
		{"odd blanks", "some trim them", []string{"\u00a0NTLM", "Basic realm=x, \fNegotiate\u0085abc"}, []string{"Basic realm=x"}},
		{"siblings", "sign in connections as well", []string{"Kerberos", "Nego2", "CredSSP"}, nil},
		{"Digest", "signs in a request", []string{"Digest realm=\"x\", nonce=\"y\""}, []string{"Digest realm=\"x\", nonce=\"y\""}},
		{"nothing", "no challenge", nil, nil},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		h := http.Header{}
		for _, v := range r.in {
			h.Add("WWW-Authenticate", v)
		}
		none := dropConnectionChallenges(h)
		assert.Equal(t, r.want, h["Www-Authenticate"], r.name)
		assert.Equal(t, r.in != nil && r.want == nil, none, r.name)
	}
}

type userKey struct{}

// windowsAuthentication answers as IIS does with it: who has signed in over a
// connection is the user of all that comes over it.
func windowsAuthentication(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	user := r.Context().Value(userKey{}).(*string)
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case isConnectionScheme(scheme):
		*user = credentials
	case scheme == "Bearer":
		fmt.Fprintf(w, "%s by a token", credentials)
		return
	}
	if *user == "" {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		w.Header().Add("WWW-Authenticate", "NTLM")
		if r.URL.Path != "/windows-only" {
			w.Header().Add("WWW-Authenticate", `Bearer realm="contoso"`)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, *user)
}

func TestNobodyIsTheUserWhoSignedInLast(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	connections := 0
	s := startHTTP1(t, func(server *httptest.Server, _ *http.Transport) {
		server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			mu.Lock()
			defer mu.Unlock()
			connections++
			return context.WithValue(ctx, userKey{}, new(string))
		}
	}, windowsAuthentication)
	r := s.send(t, http.MethodGet, s.root()+"WhoAmI", "")
	assert.Equal(t, http.StatusUnauthorized, r.StatusCode)
	assert.Equal(t, []string{`Bearer realm="contoso"`}, r.Header.Values("WWW-Authenticate"))
	for _, credentials := range []string{
		"NTLM adele", "Negotiate adele", "ntlm adele", "NEGOTIATE adele", "NTLM\tadele", "NTLM", "Negotiate", "Kerberos adele", "Nego2 adele", "CredSSP adele",
		"Bearer x, NTLM adele", "\u00a0NTLM adele", "Bearer \"x, NTLM adele", "NTLM,adele", "Negotiate=adele",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r = s.send(t, method, s.root()+"WhoAmI", "", "Authorization: "+credentials)
			assert.Equal(t, http.StatusBadRequest, r.StatusCode, credentials)
			assert.Equal(t, "Failover.ConnectionCredentials", r.failure(t).Error.Code)
			assert.Contains(t, r.failure(t).Error.Message, "Bearer", "what to do")
			assert.NotContains(t, r.body, "adele")
		}
		r = s.send(t, http.MethodGet, s.root()+"WhoAmI", "")
		assert.Equal(t, http.StatusUnauthorized, r.StatusCode, "%s: the next user is nobody", credentials)
	}
	two := answersIn(t, "GET", s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer lee\r\nAuthorization: NTLM adele\r\n\r\n"))
	assert.Equal(t, http.StatusBadRequest, two[0].StatusCode)
	folded := answersIn(t, "GET", s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization:\r\n NTLM adele\r\n\r\n"))
	assert.Equal(t, http.StatusBadRequest, folded[0].StatusCode)
	r = s.send(t, http.MethodGet, s.root()+"WhoAmI", "", "Authorization: Bearer lee")
	assert.Equal(t, "lee by a token", r.body)
	r = s.send(t, http.MethodGet, s.url+"/windows-only", "")
	assert.Equal(t, http.StatusBadGateway, r.StatusCode)
	assert.Equal(t, "Failover.ConnectionCredentials", r.failure(t).Error.Code)
	assert.Empty(t, r.Header.Get("Failover-Outcome"), "nothing was carried out")
	mu.Lock()
	defer mu.Unlock()
	assert.LessOrEqual(t, connections, 3, "the requests shared connections")
}

// The test above would be worth nothing if the organization did not do what it is
// afraid of.
func TestWindowsAuthenticationSignsInConnections(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(windowsAuthentication))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, userKey{}, new(string))
	}
	server.Start()
	t.Cleanup(server.Close)
	var last bytes.Buffer
	for _, credentials := range []string{"NTLM adele", ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		if credentials != "" {
			req.Header.Set("Authorization", credentials)
		}
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		last.Reset()
		io.Copy(&last, resp.Body)
		resp.Body.Close()
	}
	assert.Equal(t, "adele", last.String())
}

// answerHTTP2 serves one connection and answers each request with header blocks,
// or, if there are none, with a reset once it was carried out.
func answerHTTP2(conn net.Conn, blocks [][]string, carriedOut *atomic.Int32) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if frame.StreamEnded() && blocks == nil {
				carriedOut.Add(1)
				framer.WriteRSTStream(frame.StreamID, http2.ErrCodeProtocol)
			}
		case *http2.HeadersFrame:
			if frame.StreamEnded() && blocks == nil {
				carriedOut.Add(1)
				framer.WriteRSTStream(frame.StreamID, http2.ErrCodeProtocol)
			}
			for i, block := range blocks {
				var b bytes.Buffer
				enc := hpack.NewEncoder(&b)
				enc.SetMaxDynamicTableSize(0)
				for _, field := range block {
					name, value, _ := strings.Cut(field, " ")
					enc.WriteField(hpack.HeaderField{Name: name, Value: value})
				}
				framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: i == len(blocks)-1})
			}
		}
	}
}

// startHTTP2 starts a proxy of an organization that serves connections as it likes.
// Probes pass.
func startHTTP2(t *testing.T, cfg *failover.Config, serve func(net.Conn)) *site {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS() // for its certificate
	t.Cleanup(cert.Close)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: cert.TLS.Certificates, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	base := newBase()
	base.TLSClientConfig = cert.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	base.TLSClientConfig.NextProtos = nil
	t.Cleanup(base.CloseIdleConnections)
	cfg.Base, cfg.Alternate = base, "https://127.0.0.1:1"
	cfg.Probe = func(context.Context, *http.Client, *url.URL) error { return nil }
	return startProxy(t, "https://"+ln.Addr().String(), cfg)
}

func TestTheProxyMakesNoWriteRepeatable(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, request string }
	const head = "POST /api/data/v9.2/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
	const batch = "--b\r\nContent-Type: application/http\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--"
	rows := []row{
		{"mapped", "it is in memory", head + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"},
		{"mapped batch", "the same", strings.Replace(head, "accounts", "$batch", 1) + "Content-Type: multipart/mixed; boundary=b\r\nContent-Length: " + fmt.Sprint(len(batch)) + "\r\n\r\n" + batch},
		{"as it comes", "it may be in memory", head + "Content-Length: 2\r\n\r\n{}"},
		{"in chunks", "its length is not known", head + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
		{"no body", "there is nothing to have again", head + "Content-Length: 0\r\n\r\n"},
		{"asked for", "the body is sent on demand", head + "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var carriedOut atomic.Int32
			s := startHTTP2(t, new(failover.Config), func(conn net.Conn) { answerHTTP2(conn, nil, &carriedOut) })
			text := s.raw(t, r.request)
			assert.EqualValues(t, 1, carriedOut.Load())
			answers := answersIn(t, "POST", text)
			last := answers[len(answers)-1]
			assert.Equal(t, http.StatusBadGateway, last.StatusCode)
			assert.Equal(t, "unknown", last.Header.Get("Failover-Outcome"))
		})
	}
}

func TestAnswersOverHTTP2ThatCannotBePassedOn(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why string
		blocks    [][]string
		status    int
	}
	ok := []string{":status 200"}
	rows := []row{
		{"99", "no status", [][]string{{":status 99"}}, 502},
		{"1000", "no status", [][]string{{":status 1000"}}, 502},
		{"negative", "no status", [][]string{{":status -200"}}, 502},
		{"zero", "no status", [][]string{{":status 0"}}, 502},
		{"signed", "read as 200, and written as that", [][]string{{":status +200"}}, 200},
		{"101", "HTTP/2 knows no other protocols", [][]string{{":status 101"}, ok}, 200},
		{"103", "with a word of ours", [][]string{{":status 103", "failover-outcome unknown", "link </a>"}, ok}, 200},
		{"header", "with a word of ours", [][]string{{":status 200", "failover-outcome unknown"}}, 200},
		{"trailer", "with a word of ours", [][]string{ok, {"failover-outcome unknown", "x-sum 42"}}, 200},
		{"challenge in a trailer", "is too late", [][]string{ok, {"www-authenticate NTLM"}}, 200},
		{"hop by hop", "HTTP/2 has none", [][]string{{":status 200", "connection x-named", "x-named 1", "keep-alive 5"}}, 200},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := startHTTP2(t, &failover.Config{MaxAttempts: 1, FailureThreshold: 1 << 30}, func(conn net.Conn) { answerHTTP2(conn, r.blocks, nil) })
			for _, method := range []string{"GET", "POST"} {
				text := s.raw(t, method+" /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n")
				answers := answersIn(t, method, text)
				require.NotEmpty(t, answers)
				last := answers[len(answers)-1]
				assert.Equal(t, r.status, last.StatusCode, "%q", text)
				if r.status == 200 {
					assert.NotContains(t, strings.ToLower(text), "failover-outcome")
				} else if method == "POST" {
					assert.Equal(t, "unknown", last.Header.Get("Failover-Outcome"))
				}
				for _, word := range []string{"NTLM", "X-Named", "Keep-Alive", "101"} {
					assert.NotContains(t, text, word)
				}
			}
		})
	}
}
