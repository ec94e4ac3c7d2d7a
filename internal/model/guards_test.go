package model_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Guards that random schedules rarely exercise.

// A drill is a Transport over a world.
type drill struct {
	*testing.T
	*world
	transport *failover.Transport
	tripped   atomic.Int32
	up        atomic.Int32
	told      func(failover.Event) // called for every event, if set
}

// run runs a drill in a bubble. Both sides serve at first. The Transport logs to log.
func run(t *testing.T, cfg failover.Config, plot func(*drill), log ...slog.Handler) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &drill{T: t, world: newWorld()}
		d.behave(failover.Primary, sound, sound)
		d.behave(failover.Alternate, sound, sound)
		cfg.Base, cfg.Logger = d, slog.New(append(log, slog.DiscardHandler)[0])
		cfg.OnEvent = func(e failover.Event) {
			if d.told != nil {
				d.told(e)
			}
			switch e.Kind {
			case failover.EventTripped:
				d.tripped.Add(1)
			case failover.EventUp:
				d.up.Add(1)
			}
		}
		var err error
		d.transport, err = failover.New(orgURL, &cfg)
		require.NoError(t, err)
		defer d.transport.Close()
		plot(d)
	})
}

// get reads the accounts and returns the status, or 0 for an error.
func (d *drill) get(deadline time.Duration) int {
	ctx, cancel := context.WithTimeout(d.Context(), deadline)
	defer cancel()
	d.mu.Lock()
	d.callers[""] = &caller{ctx: ctx}
	d.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, orgURL+accounts, nil)
	require.NoError(d, err)
	resp, err := d.transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// await sleeps until the world is as wanted, for at most an hour.
func (d *drill) await(wanted func(*world) bool) {
	for start := time.Now(); ; {
		require.Less(d, time.Since(start), time.Hour)
		d.mu.Lock()
		ok := wanted(d.world)
		d.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestAPinDuringRecoveryHasTheLastWord(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		d.behave(failover.Primary, refusing, refusing)
		d.behave(failover.Alternate, refusing, refusing)
		require.Zero(d, d.get(time.Minute))
		require.True(d, d.transport.Status().Down)
		d.behave(failover.Primary, sound, slow)
		d.await(func(w *world) bool { return len(w.probing[failover.Primary]) > 0 })
		d.transport.Pin(failover.Primary)
		time.Sleep(10 * time.Second)
		assert.Zero(d, d.up.Load(), "the probe ended after there was something to recover from")
	})
}

func TestASwitchForgetsWhatWasRefusedBefore(t *testing.T) {
	run(t, failover.Config{FailureThreshold: 1}, func(d *drill) {
		for range 6 { // false alarms, which lengthen the hold after them
			d.behave(failover.Primary, outage, sound)
			d.get(time.Minute)
			time.Sleep(10 * time.Second)
		}
		d.get(time.Minute)
		require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		d.behave(failover.Primary, sound, sound)
		d.behave(failover.Alternate, refusing, refusing)
		assert.Equal(d, 200, d.get(time.Minute))
		assert.Equal(d, failover.Primary, d.transport.Status().Active)
	})
}

func TestAFalseAlarmClosesTheBreaker(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		d.behave(failover.Primary, outage, sound)
		d.get(time.Minute)
		synctest.Wait()
		assert.EqualValues(d, 1, d.tripped.Load())
		assert.Equal(d, failover.StateClosed, d.transport.Status().Primary.State)
	})
}

func TestALateProbeDoesNotClearTheFaultsOfANewGeneration(t *testing.T) {
	run(t, failover.Config{MaxAttempts: -1}, func(d *drill) {
		require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		d.behave(failover.Primary, outage, slow)
		d.await(func(w *world) bool { return len(w.probing[failover.Primary]) > 0 })
		d.transport.Pin(failover.Primary)
		d.transport.Unpin()
		d.get(time.Minute)
		d.get(time.Minute)
		d.await(func(w *world) bool { return len(w.probing[failover.Primary]) == 0 })
		synctest.Wait() // the probe passes
		require.Zero(d, d.tripped.Load())
		d.get(time.Minute)
		synctest.Wait()
		assert.EqualValues(d, 1, d.tripped.Load(), "three faults in a row")
	})
}

func TestALateSuccessDoesNotCountForTheRise(t *testing.T) {
	run(t, failover.Config{MinDwell: -1, Rise: 1}, func(d *drill) {
		d.behave(failover.Primary, slowBody, outage)
		d.mu.Lock()
		d.callers[""] = &caller{ctx: d.Context()}
		d.mu.Unlock()
		req, err := http.NewRequestWithContext(d.Context(), http.MethodGet, orgURL+accounts, nil)
		require.NoError(d, err)
		late, err := d.transport.RoundTrip(req)
		require.NoError(d, err)
		require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		time.Sleep(6 * time.Second) // half-open
		_, err = io.Copy(io.Discard, late.Body)
		require.NoError(d, err)
		require.NoError(d, late.Body.Close())
		assert.NotEqual(d, failover.StateClosed, d.transport.Status().Primary.State)
	})
}

func TestAFencedEndpointThatAsksForATokenDoesNotServe(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		d.behave(failover.Primary, fencing, fencing)
		require.Equal(d, 200, d.get(time.Minute))
		d.behave(failover.Primary, tokenless, tokenless)
		time.Sleep(time.Hour)
		assert.Equal(d, failover.Alternate, d.transport.Status().Active)
		d.behave(failover.Primary, sound, sound)
		time.Sleep(10 * time.Minute)
		assert.Equal(d, failover.Primary, d.transport.Status().Active)
	})
}

func TestAFailedProbeStartsTheRiseAgain(t *testing.T) {
	run(t, failover.Config{MinDwell: -1}, func(d *drill) {
		require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		probes := func(n int) func(*world) bool {
			return func(w *world) bool { return len(w.probes[failover.Primary]) == n }
		}
		d.await(probes(2))
		d.behave(failover.Primary, outage, outage)
		d.await(probes(3))
		d.behave(failover.Primary, sound, sound)
		d.await(probes(5))
		synctest.Wait()
		assert.Equal(d, failover.Alternate, d.transport.Status().Active, "two in a row")
		d.await(probes(6))
		synctest.Wait()
		assert.Equal(d, failover.Primary, d.transport.Status().Active, "three in a row")
	})
}

func TestSwitchEndsWithClose(t *testing.T) {
	run(t, failover.Config{ProbeTimeout: -1}, func(d *drill) {
		d.behave(failover.Alternate, blackHole, blackHole)
		done := make(chan error)
		go func() { done <- d.transport.Switch(context.Background(), failover.Alternate, "drill") }()
		synctest.Wait()
		require.NoError(d, d.transport.Close())
		assert.ErrorIs(d, <-done, failover.ErrClosed)
	})
}

func TestACallerDoesNotWaitForADecisionBeyondItsDeadline(t *testing.T) {
	run(t, failover.Config{FailureThreshold: 1}, func(d *drill) {
		d.behave(failover.Primary, refusing, blackHole)
		d.behave(failover.Alternate, blackHole, blackHole)
		start := time.Now()
		assert.Zero(d, d.get(time.Second))
		assert.Equal(d, time.Second, time.Since(start))
	})
}

// Close waits for a probe or a callback that is slow to notice the end of its context.
func TestCloseWaitsForWhatLingers(t *testing.T) {
	t.Parallel()
	linger := func(ctx context.Context, running *atomic.Int32) {
		running.Add(1)
		defer running.Add(-1)
		<-ctx.Done()
		time.Sleep(time.Second)
	}
	play := func(t *testing.T, cfg failover.Config, running *atomic.Int32) {
		run(t, cfg, func(d *drill) {
			d.behave(failover.Primary, fencing, fencing)
			d.behave(failover.Alternate, sound, sound)
			go d.get(time.Second)
			synctest.Wait()
			require.EqualValues(d, 1, running.Load())
			require.NoError(d, d.transport.Close())
			assert.Zero(d, running.Load())
		})
	}
	t.Run("a probe whose result is not needed", func(t *testing.T) {
		var running atomic.Int32
		play(t, failover.Config{Probe: func(ctx context.Context, _ *http.Client, endpoint *url.URL) error {
			if !strings.Contains(endpoint.Host, "--s.") {
				linger(ctx, &running)
			}
			return nil
		}}, &running)
	})
	t.Run("ConfirmSwitch", func(t *testing.T) {
		var running atomic.Int32
		play(t, failover.Config{ConfirmSwitch: func(ctx context.Context, _ failover.Switch) error {
			linger(ctx, &running)
			return errors.New("contoso does not answer")
		}}, &running)
	})
}

// When AttemptTimeout ends an attempt, a Base that speaks HTTP/2 returns context.Canceled
// instead of the cause. It is a black hole nevertheless.
func TestABlackHoleOverHTTP2IsEscapedByAttemptTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Host, "--s.") {
				return sound.answer(req)
			}
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		transport, err := failover.New(orgURL, &failover.Config{Base: base, AttemptTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, failover.Alternate, transport.Status().Active)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
