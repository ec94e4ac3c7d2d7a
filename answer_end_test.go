package failover

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An answer that a program's own Base has made up may have no body. There is nothing to end.
func TestAnAnswerWithoutABodyIsEnded(t *testing.T) {
	t.Parallel()
	assert.NotPanics(t, func() {
		discard(nil)
		discard(new(http.Response))
		discard(&http.Response{ContentLength: 1 << 20})
		keep(new(http.Response))
		assert.Nil(t, keep(nil))
	})
}

// A Base may answer without a request or a body, in whatever protocol; what it returns is
// returned, and nothing is added to it.
func TestAnAnswerMayLackItsRequestAndItsBody(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, status := range []int{200, 404} {
			transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, ProtoMajor: 2}, nil
			}), Config{ProbeInterval: -1})
			req, err := http.NewRequest(method, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			assert.Equal(t, status, resp.StatusCode)
			assert.Nil(t, resp.Body)
		}
		cache := roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ProtoMajor: 2, Body: io.NopCloser(strings.NewReader("{}"))}, nil
		})
		transport := newTestTransport(t, new(http.Transport), Config{ProbeInterval: -1, Instrument: func(http.RoundTripper) http.RoundTripper { return cache }})
		req, err := http.NewRequest(method, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "{}", string(text))
	}
}

// The context of an attempt ends with the answer, also for a caller who does not close it. Over
// HTTP/2 the body of the request may still be sent then, until the answer is closed.
func TestTheContextOfAnAttemptEndsWithTheAnswer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		protocol int
		body     string
		ends     bool
	}{{1, "", true}, {1, "{}", true}, {2, "", true}, {2, "{}", false}} {
		var attempt context.Context
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempt = req.Context()
			return &http.Response{StatusCode: 200, ProtoMajor: row.protocol, Request: req, Body: io.NopCloser(strings.NewReader("{}"))}, nil
		}), Config{ProbeInterval: -1, AttemptTimeout: time.Minute})
		req, err := http.NewRequest(http.MethodPut, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", strings.NewReader(row.body))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		assert.NoError(t, attempt.Err())
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, row.ends, attempt.Err() != nil, "at the end of the answer: HTTP/%d, body %q", row.protocol, row.body)
		resp.Body.Close()
		assert.ErrorIs(t, attempt.Err(), context.Canceled, "when the answer is closed")
	}
}
