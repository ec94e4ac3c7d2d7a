package failover

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A write is in the list of WritesSince exactly once, whatever has become of its attempt.
func TestWritesSinceMissesNoWriteBetweenItsAnswerAndItsEntry(t *testing.T) {
	t.Parallel()
	for name, base := range map[string]roundTripFunc{
		"acknowledged": acknowledging,
		"in doubt":     func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var transport *Transport
			check := func() {
				list := transport.WritesSince(transport.started)
				assert.Equal(t, []string{"invoice 6"}, labels(slices.Concat(list.AtRisk, list.Unknown)))
			}
			transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				check()
				return base(req)
			}), Config{
				Alternate: NoAlternate,
				Classify:  func(resp *http.Response, err error) *Fault { check(); return Classify(resp, err) },
				OnFault:   func(context.Context, Attempt) { check() },
				Probe:     func(context.Context, *http.Client, *url.URL) error { return nil },
			})
			post(t, transport, "/api/data/v9.2/accounts", "invoice 6", "application/json", "{}")
			check()
			assert.Nil(t, transport.books.sent, "nothing is under way any more")
		})
	}
}

// What is known not to have been carried out is not listed.
func TestWritesSinceListsNoWriteThatWasRefused(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}), Config{Alternate: NoAlternate, RetryBackoff: -1})
	transport.cfg.OnFault = func(context.Context, Attempt) {
		assert.Empty(t, transport.WritesSince(transport.started).Unknown)
	}
	post(t, transport, "/api/data/v9.2/accounts", "invoice 5", "application/json", "{}")
	assert.Nil(t, transport.books.sent)
}

// A write in doubt whose call waits for the end of an outage may have been carried out.
func TestWritesSinceListsDoubtsOfCallsThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if broken.Load() {
				return nil, context.DeadlineExceeded
			}
			return acknowledging(req)
		})
		transport := newTestTransport(t, base, Config{Alternate: NoAlternate, WaitForUp: true, FailureThreshold: 1})
		done := make(chan struct{})
		go func() {
			defer close(done)
			req, _ := http.NewRequestWithContext(WithLabel(t.Context(), "invoice 7"), "PUT", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000001)/name", strings.NewReader(`{"value":"x"}`))
			resp, err := transport.RoundTrip(req)
			if assert.NoError(t, err) {
				discard(resp)
			}
		}()
		time.Sleep(time.Minute)
		require.True(t, transport.Status().Down)
		list := transport.WritesSince(transport.started)
		if assert.Len(t, list.Unknown, 1) {
			assert.Equal(t, "invoice 7", list.Unknown[0].Label)
		}
		broken.Store(false)
		<-done
		list = transport.WritesSince(transport.started)
		assert.Len(t, list.AtRisk, 1)
		assert.Empty(t, list.Unknown)
		assert.Nil(t, transport.books.sent, "nothing is under way any more")
	})
}

// lookingContext is a context that looks at the Transport when it is asked for a value.
type lookingContext struct {
	context.Context
	look func()
}

func (c lookingContext) Value(key any) any {
	if key == labelKey {
		c.look()
	}
	return c.Context.Value(key)
}

// The context of a write is the program's own: no lock is held while it is asked.
func TestTheContextOfAWriteMayLookAtTheTransport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			<-answer
			return acknowledging(req)
		})
		transport := newTestTransport(t, base, Config{})
		ctx := lookingContext{WithLabel(t.Context(), "invoice 8"), func() { transport.Status(); transport.WritesSince(transport.started) }}
		go func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", strings.NewReader("{}"))
			resp, err := transport.RoundTrip(req)
			if assert.NoError(t, err) {
				discard(resp)
			}
		}()
		synctest.Wait()
		list := make(chan *LossReport, 1)
		go func() { list <- transport.WritesSince(transport.started) }()
		synctest.Wait()
		select {
		case r := <-list:
			if assert.Len(t, r.Unknown, 1) {
				assert.Equal(t, "invoice 8", r.Unknown[0].Label)
			}
		default:
			t.Error("WritesSince waits for a lock that it holds itself")
		}
		close(answer)
		synctest.Wait()
	})
}
