package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/auth/authtest"
	"github.com/d365failover/failover/failovertest"
)

// world is an organization, over real sockets, whose endpoints require different tokens, and a
// client of it.
type world struct {
	org       *failovertest.Org
	transport *failover.Transport
	send      send
}

func newWorld(t *testing.T, p peer) *world {
	org := failovertest.Start(nil)
	t.Cleanup(org.Close)
	tokens, err := auth.New(auth.Config{Organization: org.URL(), Source: func(_ context.Context, scope string) (azcore.AccessToken, error) {
		host := strings.TrimSuffix(strings.TrimPrefix(scope, "https://"), "/.default")
		return azcore.AccessToken{Token: org.Token(host), ExpiresOn: time.Now().Add(time.Hour)}, nil
	}})
	require.NoError(t, err)
	t.Cleanup(func() { tokens.Close() })
	cfg := failover.Config{
		Base: org.Transport(), Authorize: tokens.Authorize, Logger: slog.New(slog.DiscardHandler),
		RetryBackoff: time.Millisecond, MinDwell: -1, ProbeInterval: -1, // the fence leads back
	}
	if p.base != nil {
		cfg.Base = p.base(cfg.Base)
	}
	client, transport, err := failover.Wrap(nil, org.URL(), &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	w := &world{org, transport, p.over(t, client)}
	w.demand()
	return w
}

// demand makes each endpoint require its own token, until Heal.
func (w *world) demand() {
	for _, d := range []*failovertest.Datacenter{w.org.Primary(), w.org.Alternate()} {
		authtest.Demand(d, "https://"+strings.Replace(d.Host(), ".api.", ".", 1))
	}
}

// record creates an account, changes it and reads it, and returns the failures that a caller sees.
// The names of the requests begin with its id.
func (w *world) record(ctx context.Context, id string) error {
	root := w.org.URL() + "/api/data/v9.2/accounts"
	steps := []struct {
		request
		status int
	}{
		{request{http.MethodPost, root, http.Header{"Content-Type": {"application/json"}},
			fmt.Sprintf(`{"accountid":%q,"name":"first"}`, id)}, http.StatusNoContent},
		{request{http.MethodPatch, root + "(" + id + ")", http.Header{"Content-Type": {"application/json"}, "If-Match": {"*"}},
			`{"name":"second"}`}, http.StatusNoContent},
		{request{http.MethodGet, root + "(" + id + ")?$select=name", http.Header{}, ""}, http.StatusOK},
	}
	for _, step := range steps {
		step.header.Set("X-Test-Id", step.method+" "+id)
		got, err := w.send(ctx, step.request)
		if err != nil {
			return fmt.Errorf("%s: %w", step.method, err)
		}
		if got.status != step.status {
			return fmt.Errorf("%s: status %d: %s", step.method, got.status, got.body)
		}
		if step.method == http.MethodGet {
			var account struct{ Name string }
			if err := json.Unmarshal(got.body, &account); err != nil || account.Name != "second" {
				return fmt.Errorf("read %q: %v", account.Name, err)
			}
		}
	}
	return nil
}

// applied counts how often each write was carried out, at either datacenter.
func (w *world) applied() map[string]int {
	times := make(map[string]int)
	for _, d := range []*failovertest.Datacenter{w.org.Primary(), w.org.Alternate()} {
		for _, r := range d.Deliveries() {
			if r.Applied {
				times[r.ID]++
			}
		}
	}
	return times
}

// check asserts that the records were written once and are there.
func (w *world) check(t *testing.T, ids []string) {
	times := w.applied()
	assert.Len(t, times, 2*len(ids))
	for request, n := range times {
		assert.Equal(t, 1, n, request)
	}
	for _, id := range ids {
		row, ok := w.org.Primary().Lookup("accounts", id)
		assert.True(t, ok)
		assert.Equal(t, "second", row["name"])
	}
}

func TestNothingOfAnOutageIsVisible(t *testing.T) {
	t.Parallel()
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, p)
			var ids []string
			work := func(at failover.Endpoint) {
				for range 3 {
					ids = append(ids, uuid.NewString())
					require.NoError(t, w.record(t.Context(), ids[len(ids)-1]))
				}
				require.Equal(t, at, w.transport.Status().Active)
			}
			work(failover.Primary)
			w.org.Disaster(failovertest.Refuse()) // the next request is a POST
			work(failover.Alternate)
			w.org.Primary().Heal()
			w.demand()
			w.org.FailBack()
			work(failover.Primary)
			w.check(t, ids)
		})
	}
}

func TestNothingOfAnOutageInTheMiddleOfTrafficIsVisible(t *testing.T) {
	t.Parallel()
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, p)
			var (
				workers sync.WaitGroup
				mu      sync.Mutex
				ids     []string
				stop    atomic.Bool
				done    = make(chan error, 1)
			)
			for range 6 {
				workers.Go(func() {
					for !stop.Load() {
						id := uuid.NewString()
						err := w.record(t.Context(), id)
						mu.Lock()
						ids = append(ids, id)
						mu.Unlock()
						done <- err
					}
				})
			}
			// goOn lets some records be written, until the traffic is at an endpoint.
			goOn := func(at failover.Endpoint) {
				for n := 0; n < 20 || w.transport.Status().Active != at; n++ {
					assert.NoError(t, <-done)
					require.Less(t, n, 10_000, "the traffic does not move")
				}
			}
			goOn(failover.Primary)
			w.org.FailOver() // the primary's fence, for every request at once
			goOn(failover.Alternate)
			w.org.Primary().Fail(failovertest.Refuse())
			goOn(failover.Alternate)
			w.org.Primary().Heal()
			w.demand()
			w.org.FailBack()
			goOn(failover.Primary)
			stop.Store(true)
			go func() { workers.Wait(); close(done) }()
			for err := range done {
				assert.NoError(t, err)
			}
			w.check(t, ids)
		})
	}
}
