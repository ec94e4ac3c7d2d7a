package failover

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// brokenStore is a store of a program that does not keep to the rules.
type brokenStore struct {
	fail   func(ctx context.Context) error
	inLoad bool // or else in whatever writes
}

func (s *brokenStore) Load(ctx context.Context, _ string) (r Record, _ time.Time, err error) {
	if s.inLoad {
		err = s.fail(ctx)
	}
	return r, time.Now(), err
}

func (s *brokenStore) CompareAndSwap(ctx context.Context, _ string, _ uint64, _ Record) (bool, error) {
	return false, s.fail(ctx)
}

func (s *brokenStore) Changes(ctx context.Context, _ string) <-chan struct{} {
	_ = s.fail(ctx)
	return nil
}

func (s *brokenStore) Claim(ctx context.Context, _ string, _ Claim) (Holders, error) {
	return Holders{}, s.fail(ctx)
}

// A store that panics, or does not come back, is a store that fails: the process lives, and
// each Transport decides on its own.
func TestAStoreThatBreaksTheRulesOnlyFails(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]func(release chan struct{}) error{
		"panics":              func(chan struct{}) error { panic("contoso") },
		"exits":               func(chan struct{}) error { runtime.Goexit(); return nil },
		"has been closed":     func(chan struct{}) error { return ErrClosed },
		"ignores the context": func(release chan struct{}) error { <-release; return nil },
	} {
		for where, inLoad := range map[string]bool{"reading": true, "writing": false} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					release := make(chan struct{})
					store := &brokenStore{inLoad: inLoad, fail: func(context.Context) error { return kind(release) }}
					var broken atomic.Bool
					began := time.Now()
					transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
						if broken.Load() && req.URL.Host == "contoso.api.crm.dynamics.com" {
							return nil, errors.New("no route to host")
						}
						return acknowledging(req)
					}), Config{
						Shared: store, Quorum: 2, RetryBackoff: -1, FailureThreshold: 1,
						Probe: func(_ context.Context, _ *http.Client, u *url.URL) error {
							if broken.Load() && u.Host == "contoso.api.crm.dynamics.com" {
								return errors.New("no route to host")
							}
							return nil
						},
					})
					assert.LessOrEqual(t, time.Since(began), 2*time.Second, "New has waited")
					time.Sleep(time.Minute)
					broken.Store(true)
					post(t, transport, "/api/data/v9.2/accounts", "", "", "")
					time.Sleep(time.Minute)
					require.Equal(t, Alternate, transport.Status().Active)
					assert.Error(t, transport.Status().Fleet.Err)
					broken.Store(false)
					time.Sleep(10 * time.Minute)
					assert.Equal(t, Primary, transport.Status().Active, "the watch goes on")
					if name == "ignores the context" {
						assert.EqualValues(t, maxStoreCalls, transport.fleet.calls.Load(), "calls do not pile up")
					}
					close(release)
					transport.Close()
					synctest.Wait()
					assert.Zero(t, transport.fleet.calls.Load(), "all calls have ended")
				})
			})
		}
	}
}
