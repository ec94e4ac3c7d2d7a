package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// Over HTTP/1.0, the end of the connection is that of an answer without a length: a proxy in front that
// speaks HTTP/1.0, as nginx may, would pass on half an answer as a whole one.
func TestAnswersThatBreakOffOverHTTP10(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why, answer string
		whole             bool
	}
	compressed := string(gzipped([]byte(`{"value":[]}`)))
	const json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	rows := []row{
		{"mapped", "its length may change", json + "Content-Length: 100\r\n\r\n{\"value\":", false},
		{"in chunks", "the last one is missing", json + "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n", false},
		{"compressed", "the caller gets it decompressed", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99\r\n\r\n" + compressed[:len(compressed)-8], false},
		{"a whole one", "ends like any other", json + "Content-Length: 2\r\n\r\n{}", true},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := startRaw(t, func(*http.Request) string { return r.answer })
			conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
			require.NoError(t, err)
			defer conn.Close()
			io.WriteString(conn, "GET /x HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
			text, err := io.ReadAll(conn)
			if assert.Contains(t, string(text), "200 OK"); r.whole {
				assert.NoError(t, err)
			} else {
				assert.Error(t, err, "it looks complete: %q", text)
			}
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
