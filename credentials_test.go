package failover_test

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// lender is an organization whose callers bring their own tokens, which probes borrow.
type lender struct {
	*testing.T
	transport *failover.Transport

	mu     sync.Mutex
	down   map[string]bool   // by host: refuses connections
	fenced map[string]bool   // by host: answers with the fence
	good   map[string]bool   // tokens
	only   map[string]string // by host: one more good token
	probes []string          // the Authorization header of each probe of the primary
	seen   map[string]int    // how often each token was used to probe either endpoint
}

const (
	lenderPrimary   = "contoso.api.crm4.dynamics.com"
	lenderAlternate = "contoso--s.api.crm4.dynamics.com"
)

// lend runs a test in a bubble.
func lend(t *testing.T, cfg failover.Config, plot func(*lender)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{T: t, down: make(map[string]bool), fenced: make(map[string]bool), good: map[string]bool{"Bearer good": true}, only: make(map[string]string), seen: make(map[string]int)}
		cfg.Base, cfg.Logger = l, slog.New(slog.DiscardHandler)
		var err error
		l.transport, err = failover.New("https://"+lenderPrimary, &cfg)
		require.NoError(t, err)
		defer l.transport.Close()
		plot(l)
	})
}

// RoundTrip answers as the organization does: 401 without a good token, and otherwise what the
// path asks for.
func (l *lender) RoundTrip(req *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token := strings.Join(req.Header["Authorization"], ", ")
	if req.URL.Path == whoAmI {
		l.seen[token]++
		if req.URL.Host == lenderPrimary {
			l.probes = append(l.probes, token)
		}
	}
	if l.down[req.URL.Host] {
		return nil, fmt.Errorf("connection refused")
	}
	answer := func(status int, body string) (*http.Response, error) {
		h := http.Header{"Content-Type": {"application/json"}, "Req_id": {"1"}}
		if status == http.StatusUnauthorized {
			h.Set("WWW-Authenticate", "Bearer authorization_uri=https://login.contoso.example/")
		}
		return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
	}
	switch {
	case l.fenced[req.URL.Host]:
		return answer(503, `{"error":{"code":"0x8004B065","message":"not available"}}`)
	case l.good[token], token != "" && l.only[req.URL.Host] == token:
		return answer(200, `{"OrganizationId":"00000000-0000-0000-0000-000000000001"}`)
	case strings.HasSuffix(token, " 403"):
		return answer(403, "")
	case strings.HasSuffix(token, " 429"):
		return answer(429, "")
	case strings.HasSuffix(token, " page"):
		return answer(503, "<html><title>503</title></html>")
	default:
		return answer(401, "")
	}
}

// set changes the organization.
func (l *lender) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// tokens returns the tokens of all probes so far, with the number of probes that used each.
func (l *lender) tokens() map[string]int {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.seen)
}

// call sends a read with tokens as its Authorization headers, and returns the status, or 0 for
// an error.
func (l *lender) call(tokens ...string) int {
	l.Helper()
	req, err := http.NewRequestWithContext(l.Context(), http.MethodGet, "https://"+lenderPrimary+accounts, nil)
	require.NoError(l, err)
	req.Header["Authorization"] = tokens
	resp, err := l.transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// failOver makes the primary refuse connections. The next call, which has a good token, fails
// over.
func (l *lender) failOver() {
	l.Helper()
	l.set(func() { l.down[lenderPrimary] = true })
	require.Equal(l, 200, l.call("Bearer good"))
	require.Equal(l, failover.Alternate, l.transport.Status().Active)
	l.set(func() { l.probes = nil })
}

// nextProbe waits for a probe of the primary and returns its token.
func (l *lender) nextProbe() string {
	l.Helper()
	n := 0
	l.set(func() { n = len(l.probes) })
	for range 100 {
		time.Sleep(time.Second)
		synctest.Wait()
		l.mu.Lock()
		if len(l.probes) > n {
			defer l.mu.Unlock()
			return l.probes[n]
		}
		l.mu.Unlock()
	}
	l.Fatal("no probe")
	return ""
}

func TestATokenThatWasRefusedDoesNotReplaceAGoodOne(t *testing.T) {
	lend(t, failover.Config{}, func(l *lender) {
		l.failOver()
		for _, junk := range []string{"Bearer junk", "Bearer junk 403", "Bearer junk 429", "Bearer junk page"} {
			l.call(junk)
			assert.Equal(l, "Bearer good", l.nextProbe(), "after %q", junk)
		}
	})
}

func TestJunkTokensDoNotKeepTheTrafficFromHome(t *testing.T) {
	lend(t, failover.Config{MinDwell: time.Minute}, func(l *lender) {
		l.failOver()
		l.set(func() { l.down[lenderPrimary] = false })
		for i := range 1000 {
			l.call(fmt.Sprintf("Bearer junk%d %d", i, []int{401, 403, 429}[i%3]))
			time.Sleep(70 * time.Millisecond)
		}
		assert.Equal(l, failover.Primary, l.transport.Status().Active)
		for token := range l.tokens() {
			assert.Contains(l, []string{"Bearer good", ""}, token)
		}
	})
}

func TestAnExpiredTokenDoesNotFreezeDown(t *testing.T) {
	lend(t, failover.Config{}, func(l *lender) {
		l.set(func() { l.fenced[lenderPrimary], l.down[lenderAlternate] = true, true })
		for range 5 {
			l.call("Bearer expired")
			l.call("Bearer forbidden 403")
			time.Sleep(5 * time.Second)
		}
		require.True(l, l.transport.Status().Down)
		// The alternate now serves, and one caller has a token that is good there.
		l.set(func() { l.down[lenderAlternate] = false })
		l.call("Bearer expired")
		l.call("Bearer good")
		l.call("Bearer expired")
		time.Sleep(time.Second)
		synctest.Wait()
		status := l.transport.Status()
		assert.False(l, status.Down)
		assert.Equal(l, failover.Alternate, status.Active)
	})
}

func TestARejectedTokenIsNotBorrowedAgain(t *testing.T) {
	lend(t, failover.Config{MinDwell: time.Hour}, func(l *lender) {
		l.failOver()
		l.set(func() { l.down[lenderPrimary], l.good = false, map[string]bool{"Bearer new": true} })
		require.Equal(l, "Bearer good", l.nextProbe(), "which is rejected now")
		for range 5 {
			l.call("Bearer good") // also refused
			assert.Empty(l, l.nextProbe())
		}
		l.call("Bearer new")
		assert.Equal(l, "Bearer new", l.nextProbe())
	})
}

// A token that is good at the alternate but forbidden at the primary does not prevent the
// fail-back as long as there is another one.
func TestATokenThatIsForbiddenIsTriedLast(t *testing.T) {
	lend(t, failover.Config{MinDwell: time.Minute}, func(l *lender) {
		l.failOver()
		l.set(func() { l.down[lenderPrimary], l.only[lenderAlternate] = false, "Bearer clerk 403" })
		for range 20 {
			time.Sleep(7 * time.Second) // not at a time when the dwell may end
			if l.transport.Status().Active == failover.Primary {
				return
			}
			require.Equal(l, 200, l.call("Bearer clerk 403"))
		}
		l.Error("still at the alternate")
	})
}

func TestWhatProbesDoNotBorrow(t *testing.T) {
	t.Parallel()
	for name, tokens := range map[string][]string{
		"NTLM":                {"NTLM TlRMTVNTUAAB"},
		"Negotiate":           {"negotiate YII"},
		"Kerberos":            {" Kerberos x"},
		"Digest":              {`Digest username="contoso", nonce="x"`},
		"two headers":         {"Bearer one", "Bearer two"},
		"256 KiB":             {"Bearer " + strings.Repeat("x", 256<<10)},
		"what cannot be sent": {"Bearer a\nb"},
		"an empty one":        {""},
	} {
		t.Run(name, func(t *testing.T) {
			lend(t, failover.Config{}, func(l *lender) {
				l.failOver()
				l.set(func() { l.good[strings.Join(tokens, ", ")] = true })
				l.call(tokens...) // a healthy answer
				assert.Equal(l, "Bearer good", l.nextProbe())
				l.set(func() { l.down[lenderAlternate], l.good = true, map[string]bool{} })
				for range 5 {
					l.call(tokens...) // also while down
					time.Sleep(5 * time.Second)
				}
				for token := range l.tokens() {
					assert.Contains(l, []string{"Bearer good", ""}, token)
				}
			})
		})
	}
}

// However many new tokens callers bring, the pace of the probes stays the same.
func TestManyTokensAreNoStormOfProbes(t *testing.T) {
	lend(t, failover.Config{}, func(l *lender) {
		l.set(func() { l.down[lenderPrimary], l.down[lenderAlternate] = true, true })
		for range 3 {
			l.call("Bearer good")
		}
		require.True(l, l.transport.Status().Down)
		l.set(func() { l.probes = nil })
		for i := range 1000 {
			l.call(fmt.Sprint("Bearer ", i))
			time.Sleep(10 * time.Millisecond)
		}
		l.set(func() { assert.LessOrEqual(l, len(l.probes), 45, "in 10 s") })
	})
}

// Requests that the alternate answers lend their tokens without allocating. Not parallel: it
// counts allocations.
func TestLendingTakesNoMemory(t *testing.T) {
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == lenderPrimary {
			return nil, io.EOF
		}
		return &http.Response{StatusCode: 200, ProtoMajor: 1, Body: http.NoBody, Request: req}, nil
	})
	transport, err := failover.New("https://"+lenderPrimary, &failover.Config{Base: base, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	transport.Pin(failover.Alternate)
	allocations := func(tokens ...string) float64 {
		requests := make([]*http.Request, len(tokens))
		for i, token := range tokens {
			requests[i], err = http.NewRequest(http.MethodGet, "https://"+lenderPrimary+accounts, nil)
			require.NoError(t, err)
			requests[i].Header["Authorization"] = []string{token}
		}
		i := 0
		return testing.AllocsPerRun(100, func() {
			if _, err := transport.RoundTrip(requests[i%len(requests)]); err != nil {
				t.Error(err)
			}
			i++
		})
	}
	without := allocations("")
	assert.Equal(t, without, allocations("Bearer good"))
	assert.Equal(t, without, allocations("Bearer one", "Bearer two", "Bearer three"), "of callers by turns")
}
