package failover

import (
	"io"
	"net/http"
	"strings"
	"testing"

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
