package failover_test

import (
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

// While an endpoint is not known to serve, the headers of an answer prove that it does; the
// body may take its time. Otherwise an answer counts when its body has ended.
func TestHeadersProveThatAnEndpointServes(t *testing.T) {
	t.Parallel()
	body, sender := io.Pipe()
	defer sender.Close()
	slow := func(req *http.Request) (*http.Response, error) {
		resp, err := serves(req)
		resp.Body, resp.ContentLength = body, -1
		return resp, err
	}
	throttles := answer(429, "", "Retry-After", "3600")
	for name, row := range map[string]struct {
		probe func(*http.Request) (*http.Response, error)
		is    func(failover.Status) bool
	}{
		"down": {func(*http.Request) (*http.Response, error) { return nil, errDial }, func(s failover.Status) bool { return s.Down }},
		"provisional": {func(req *http.Request) (*http.Response, error) {
			if strings.HasPrefix(req.URL.Host, "contoso--s.") {
				return throttles(req)
			}
			return nil, errDial
		}, func(s failover.Status) bool { return s.Provisional && s.Active == failover.Alternate }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &script{probe: row.probe, answers: answers(refuse(errDial), refuse(errDial), refuse(errDial), slow)}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler), MaxAttempts: 1})
				require.NoError(t, err)
				defer transport.Close()
				get := func() (*http.Response, error) {
					req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
					require.NoError(t, err)
					return transport.RoundTrip(req)
				}
				for range 3 {
					_, err := get()
					require.Error(t, err)
					time.Sleep(100 * time.Millisecond)
				}
				require.True(t, row.is(transport.Status()))
				resp, err := get()
				require.NoError(t, err)
				assert.False(t, transport.Status().Down || transport.Status().Provisional)
				resp.Body.Close()
			})
		})
	}
}
