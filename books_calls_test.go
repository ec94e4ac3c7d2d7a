package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// closingBody is a body of unknown length that tells when it is closed.
type closingBody struct {
	io.Reader
	close func()
}

func (b *closingBody) Close() error {
	b.close()
	return nil
}

// However often a write is sent, and whenever somebody looks, it is listed once for each
// endpoint that it may have reached.
func TestAWriteIsListedOnceForEachEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var transport *Transport
		var seen []string
		look := func(when string) {
			r := transport.WritesSince(transport.started)
			var at []string
			for _, w := range r.Unknown {
				at = append(at, w.Endpoint.String())
			}
			seen = append(seen, fmt.Sprint(when, " ", at, " ", len(r.AtRisk)))
		}
		alternates := 0
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if !strings.Contains(req.URL.Host, "--s.") {
				look("sent to the primary")
				return nil, errors.New("no answer")
			}
			look("sent to the alternate")
			if alternates++; alternates == 1 {
				return replyWith(429, "", "Retry-After", "1"), nil
			}
			return acknowledging(req)
		})
		ends := [2]error{errors.New("no route to host"), nil}
		transport = newTestTransport(t, base, Config{ProbeInterval: -1, Probe: answersProbes(&ends), FailureThreshold: 2, MaxAttempts: 5, RetryThrottled: 2e9,
			OnFault: func(_ context.Context, a Attempt) { look("fault of the " + a.Fault.Endpoint.String()) }})
		req, err := http.NewRequest("PUT", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000001)/name", strings.NewReader(`{"value":"x"}`))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		discard(resp)
		look("over")
		assert.Equal(t, []string{
			"sent to the primary [primary] 0", "fault of the primary [primary] 0", "sent to the primary [primary] 0", "fault of the primary [primary] 0",
			"sent to the alternate [primary alternate] 0", "fault of the alternate [primary] 0", "sent to the alternate [primary alternate] 0",
			"over [] 1",
		}, seen)
		assert.Nil(t, transport.books.sent)
	})
}

// A doubt that is in the ledger is no longer under way, not even for a moment.
func TestADoubtIsListedOnceAtTheEndOfItsCall(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, errors.New("no answer") }), Config{ProbeInterval: -1})
	var seen []int
	body := &closingBody{strings.NewReader("{}"), func() { seen = append(seen, len(transport.WritesSince(transport.started).Unknown)) }}
	req, err := http.NewRequestWithContext(NoReplay(t.Context()), "POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", body)
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	assert.ErrorIs(t, err, ErrOutcomeUnknown)
	assert.Equal(t, []int{1}, seen)
}

// A call that looks like a read, and has a header that servers take for another method, is
// forgotten with its end, whatever that is.
func TestAWriteThatLooksLikeAReadIsForgotten(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]roundTripFunc{
		"redirected": func(*http.Request) (*http.Response, error) { return replyWith(302, "", "Location", "/api"), nil },
		"panic":      func(*http.Request) (*http.Response, error) { panic("contoso") },
	} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if sent++; sent == 1 {
					return replyWith(503, `{"error":{"code":"0x8004B065","message":"Contoso"}}`, "Content-Type", "application/json"), nil
				}
				return again(req)
			})
			ends := [2]error{errors.New("no route to host"), nil}
			transport := newTestTransport(t, base, Config{ProbeInterval: -1, SuspectAfter: -1, Probe: answersProbes(&ends)})
			req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
			require.NoError(t, err)
			req.Header["x-http-method"] = []string{"DELETE"}
			func() {
				defer func() { assert.Equal(t, name == "panic", recover() != nil) }()
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				assert.Equal(t, 302, resp.StatusCode)
			}()
			assert.Equal(t, 2, sent)
			assert.Nil(t, transport.books.sent, name)
		})
	}
}

// A write that has been answered is listed once, even before its call has returned.
func TestAWriteThatHasBeenAnsweredIsListedOnce(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]Outcome{204: OutcomeAcknowledged, 502: OutcomeUnknown} {
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req.Body.Close() // unread
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
		}), Config{ProbeInterval: -1, MaxBody: -1, MaxAttempts: 1})
		closes := 0
		body := &closingBody{strings.NewReader("{}"), func() {
			closes++
			r := transport.WritesSince(time.Time{})
			var outcomes []Outcome
			for _, w := range slices.Concat(r.AtRisk, r.Unknown) {
				outcomes = append(outcomes, w.Outcome)
			}
			assert.Equal(t, []Outcome{want}, outcomes, "%d", status)
		}}
		req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", body)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 1, closes)
	}
}
