package proxy

import (
	"bufio"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func FuzzChallenges(f *testing.F) {
	for _, value := range []string{
		"Negotiate, NTLM", "Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm.dynamics.com/",
		"NTLM, Bearer realm=\"x, NTLM\", error=\"a\", Negotiate abc==, Basic realm=y", "Basic realm=\"a\\\", NTLM", "NTLM\tTlRM", ",,NTLM,,", "Basic realm=\"x, NTLM",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		rest, dropped := withoutConnectionChallenges(value)
		if !dropped && rest != value {
			t.Fatalf("%q became %q", value, rest)
		}
		if again, more := withoutConnectionChallenges(rest); more || again != rest {
			t.Fatalf("%q became %q and then %q", value, rest, again)
		}
		for _, element := range elements(rest) {
			for _, first := range strings.Fields(element)[:min(1, len(strings.Fields(element)))] {
				_, after, _ := strings.Cut(element, first)
				if isConnectionScheme(first) && !strings.HasPrefix(strings.TrimLeft(after, " \t"), "=") {
					t.Fatalf("%q keeps %q", value, element)
				}
			}
		}
		lower := strings.ToLower(value)
		if dropped && !slices.ContainsFunc(connectionSchemes, func(s string) bool { return strings.Contains(lower, s) }) {
			t.Fatalf("%q asks for none", value)
		}
		credentials := http.Header{"Authorization": {value}}
		if fields := strings.Fields(value); len(fields) > 0 && isConnectionScheme(fields[0]) && value[0] != ' ' && fields[0] == value[:len(fields[0])] && !bindsConnection(credentials) {
			t.Fatalf("%q is sent", value)
		}
	})
}

// FuzzAnswers lets an organization answer with any bytes, over real sockets. The proxy does not
// panic, and no answer can set the proxy's own header.
func FuzzAnswers(f *testing.F) {
	const end = "Content-Length: 2\r\n\r\nhi"
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nFailover-Outcome: unknown\r\n" + end,
		"HTTP/1.1 099 Low\r\n" + end,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nFailover-Outcome: unknown\r\n\r\nHTTP/1.1 200 OK\r\n" + end,
		"HTTP/1.1 200 OK\r\nTrailer: Failover-Outcome\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nFailover-Outcome: unknown\r\n\r\n",
		"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\n" + end,
		"HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n" + end,
		"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Length: 60\r\n\r\n--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 200 OK\r\n\r\n--b--",
	} {
		f.Add(answer)
	}
	var answer atomic.Pointer[string]
	s := startRaw(f, func(*http.Request) string { return *answer.Load() })
	f.Fuzz(func(t *testing.T, text string) {
		answer.Store(&text)
		before := panics.Load()
		for _, method := range []string{"GET", "POST", "HEAD"}[len(text)%3:][:1] {
			got := s.raw(t, method+" /$batch HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n")
			r := bufio.NewReader(strings.NewReader(got))
			for n := 0; ; n++ {
				if _, err := r.Peek(1); err != nil {
					break
				}
				resp, err := http.ReadResponse(r, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("%q became %q: %v", text, got, err)
				}
				var body []byte
				if resp.StatusCode >= 200 {
					body, _ = io.ReadAll(resp.Body) // may break off, as the answer did
				}
				own := resp.StatusCode >= 500 && (method == "HEAD" || strings.Contains(string(body), `"code":"Failover.`))
				if resp.Header.Get(outcomeHeader) != "" && !own || resp.Trailer.Get(outcomeHeader) != "" {
					t.Fatalf("%q became %q", text, got)
				}
				if strings.Contains(strings.Join(resp.Header.Values("Www-Authenticate"), ","), "NTLM") {
					rest, _ := withoutConnectionChallenges(resp.Header.Get("Www-Authenticate"))
					if rest != resp.Header.Get("Www-Authenticate") {
						t.Fatalf("%q became %q", text, got)
					}
				}
				if resp.StatusCode < 200 && resp.StatusCode != http.StatusEarlyHints && resp.StatusCode == http.StatusSwitchingProtocols || n > maxInformational+2 {
					t.Fatalf("%q became %q", text, got)
				}
			}
		}
		if panics.Load() > before {
			t.Fatalf("%q makes the proxy panic", text)
		}
	})
}
