package failover

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A frontRow says how the answers of a real front end must be classified.
type frontRow struct {
	front, situation, why string
	status                int
	healthy               bool
	class                 Class
	delivery              Delivery
	retryAfter            time.Duration
}

// The recordings are from internal/chaos/record. None of these answers proves that a write was
// not carried out, so no write is sent again. That includes the dead backend, which looks like
// one that died after it had accepted the request.
var frontRows = []frontRow{
	{"nginx", "dead", "no backend", 502, false, ClassUnavailable, Unknown, 0},
	{"nginx", "slow", "no answer in time", 504, false, ClassTransient, Unknown, 0},
	{"nginx", "resetting", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"nginx", "closing", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"nginx", "overloaded", "no connection left", 503, false, ClassUnavailable, Unknown, 0},
	{"nginx", "unrouted", "its own page", 404, false, ClassApplication, Answered, 0},
	{"haproxy", "dead", "no backend", 503, false, ClassUnavailable, Unknown, 0},
	{"haproxy", "slow", "no answer in time", 504, false, ClassTransient, Unknown, 0},
	{"haproxy", "resetting", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"haproxy", "closing", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"haproxy", "garbled", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"haproxy", "overloaded", "too long in the queue", 503, false, ClassUnavailable, Unknown, 0},
	{"haproxy", "unrouted", "no server at all", 503, false, ClassUnavailable, Unknown, 0},
	{"apache", "dead", "no backend", 503, false, ClassUnavailable, Unknown, 0},
	{"apache", "slow", "a time-out, not told from a broken connection", 502, false, ClassUnavailable, Unknown, 0},
	{"apache", "resetting", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"apache", "closing", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"apache", "garbled", "taken for HTTP/0.9 and passed on: a success has to be believed", 200, true, 0, 0, 0},
	{"apache", "overloaded", "no connection left", 503, false, ClassUnavailable, Unknown, 0},
	{"apache", "unrouted", "its own page", 404, false, ClassApplication, Answered, 0},
	{"varnish", "dead", "it puts a wait on every page of its own", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "slow", "a time-out, not told from a broken connection", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "resetting", "the backend had the request", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "closing", "the backend had the request", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "garbled", "the backend had the request", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "overloaded", "no connection left", 503, false, ClassUnavailable, Unknown, 5 * time.Second},
	{"varnish", "unrouted", "its own page", 404, false, ClassApplication, Answered, 5 * time.Second},
	{"squid", "dead", "no backend", 502, false, ClassUnavailable, Unknown, 0},
	{"squid", "slow", "no answer in time", 504, false, ClassTransient, Unknown, 0},
	{"squid", "resetting", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"squid", "closing", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"squid", "garbled", "taken for HTTP/0.9 and passed on: a success has to be believed", 200, true, 0, 0, 0},
	{"squid", "overloaded", "no connection left", 502, false, ClassUnavailable, Unknown, 0},
	{"squid", "unrouted", "its own page, which blocks", 403, false, ClassAuth, Answered, 0},
	{"caddy", "dead", "no backend", 502, false, ClassUnavailable, Unknown, 0},
	{"caddy", "slow", "no answer in time", 504, false, ClassTransient, Unknown, 0},
	{"caddy", "resetting", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"caddy", "closing", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"caddy", "garbled", "the backend had the request", 502, false, ClassUnavailable, Unknown, 0},
	{"caddy", "unrouted", "its own page", 404, false, ClassApplication, Answered, 0},
}

// A frontAnswer is a recorded answer.
type frontAnswer struct {
	Situation, Method string
	Status            int
	Header            http.Header
	Body              string
}

func (a *frontAnswer) response(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: a.Status, Header: a.Header.Clone(), Request: req, ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(a.Body)), Body: io.NopCloser(strings.NewReader(a.Body)),
	}
}

// recorded returns the recorded answers of a front end.
func recorded(t *testing.T, front string) []frontAnswer {
	data, err := os.ReadFile("testdata/fronts/" + front + ".json")
	require.NoError(t, err)
	var r struct {
		Front, Version, Recorded string
		Answers                  []frontAnswer
	}
	require.NoError(t, json.Unmarshal(data, &r))
	require.Equal(t, front, r.Front)
	require.Regexp(t, `\d\.\d`, r.Version)
	_, err = time.Parse(time.DateOnly, r.Recorded)
	require.NoError(t, err)
	return r.Answers
}

func TestAnswersOfRealFrontEnds(t *testing.T) {
	t.Parallel()
	left := make(map[string]int) // answers without a row
	for _, front := range []string{"nginx", "haproxy", "apache", "varnish", "squid", "caddy"} {
		for _, a := range recorded(t, front) {
			left[front+" "+a.Situation]++
		}
	}
	for _, row := range frontRows {
		require.NotEmpty(t, row.why)
		name := row.front + " " + row.situation
		delete(left, name)
		for _, a := range recorded(t, row.front) {
			if a.Situation != row.situation {
				continue
			}
			t.Run(name+" "+a.Method, func(t *testing.T) {
				t.Parallel()
				req, err := http.NewRequest(a.Method, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
				require.NoError(t, err)
				require.Equal(t, row.status, a.Status)
				resp := a.response(req)
				f := Classify(resp, nil)
				if row.healthy {
					require.Nil(t, f)
					return
				}
				require.NotNil(t, f)
				assert.Equal(t, row.class.String(), f.Class.String(), row.why)
				assert.Equal(t, row.delivery.String(), f.Delivery.String(), row.why)
				assert.Equal(t, row.retryAfter, f.RetryAfter, row.why)
				assert.False(t, f.Definitive)
				assert.False(t, fromService(resp, f), "no front end is the service")
				assert.Equal(t, int64(1), posts(t, &a), "a POST is not sent again")
			})
		}
	}
	assert.Empty(t, left, "every answer needs a row")
}

// posts returns how often a POST is sent if each attempt gets that answer.
func posts(t *testing.T, a *frontAnswer) (n int64) {
	synctest.Test(t, func(t *testing.T) {
		base := &frontEnd{answer: a}
		transport, err := New("https://contoso.api.crm.dynamics.com", &Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", strings.NewReader(`{"name":"Contoso"}`))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		n = base.posts.Load()
	})
	return n
}

// A frontEnd gives the same answer to every request.
type frontEnd struct {
	answer *frontAnswer
	posts  atomic.Int64
}

func (e *frontEnd) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	if req.Method == http.MethodPost {
		e.posts.Add(1)
	}
	return e.answer.response(req), nil
}
