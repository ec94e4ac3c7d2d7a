package failover_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// stalling answers with the beginning of a page. The rest comes after a while, or never if
// rest is zero.
func stalling(begin string, rest time.Duration, end string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		r, w := io.Pipe()
		go func() {
			io.WriteString(w, begin)
			if rest > 0 {
				time.Sleep(rest)
				io.WriteString(w, end)
				w.Close()
			}
		}()
		context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
		return &http.Response{StatusCode: http.StatusServiceUnavailable, ContentLength: -1, Body: r,
			Header: http.Header{"Content-Type": {"text/html"}}, Request: req}, nil
	}
}

// A caller without a deadline must not wait for the end of an error page that does not come. A
// bare transport would return the status at once.
func TestAStalledErrorPageDoesNotHoldTheCaller(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		name, method, begin string
		status              int
		why                 string
	}{
		{"a write", "POST", "<h1>Service", http.StatusServiceUnavailable, "it may not be sent again, so its status is returned"},
		{"a read", "GET", "<h1>Service", http.StatusServiceUnavailable, "repeated in vain: the page that is discarded stalls too"},
		{"after much of it", "POST", strings.Repeat("<p>", 30_000), http.StatusServiceUnavailable, "what is looked at has come, the rest has not"},
		{"a read after much of it", "GET", strings.Repeat("<p>", 30_000), http.StatusServiceUnavailable, "discarding waits for more than was looked at"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &script{answers: []func(*http.Request) (*http.Response, error){stalling(test.begin, 0, "")}, probe: onlyPrimaryServes}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, test.method, orgURL+accounts, nil)
				require.NoError(t, err)

				start := time.Now()
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				assert.Less(t, time.Since(start), time.Minute, test.why)
				assert.Equal(t, test.status, resp.StatusCode)
				got := make([]byte, len(test.begin))
				_, err = io.ReadFull(resp.Body, got)
				require.NoError(t, err)
				assert.Equal(t, test.begin, string(got))
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

// What was inspected in vain is put back, and the rest follows.
func TestASlowErrorPageIsReadWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		resp, err := stalling("<h1>Ser", time.Minute, "vice</h1>")(new(http.Request))
		require.NoError(t, err)
		start := time.Now()
		fault := failover.Classify(resp, nil)
		assert.Equal(t, failover.ClassUnavailable, fault.Class)
		assert.Less(t, time.Since(start), 10*time.Second)
		whole, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "<h1>Service</h1>", string(whole))
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

// Closing a body ends the wait for its beginning.
func TestAStalledErrorPageCanBeClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		resp, err := stalling("<h1>", 0, "")(new(http.Request))
		require.NoError(t, err)
		failover.Classify(resp, nil)
		require.NoError(t, resp.Body.Close())
		_, err = io.ReadAll(resp.Body)
		assert.True(t, errors.Is(err, io.ErrClosedPipe), "%v", err)
	})
}
