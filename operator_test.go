package failover_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestAPinnedTransportStaysAndDoesNotFailFast(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.transport.Pin(failover.Primary)
		s.org.Disaster(failovertest.OutagePage())
		for range 10 {
			assert.Equal(s, 503, s.get(accounts))
		}
		assert.Equal(s, failover.Primary, s.active())
		time.Sleep(time.Minute)
		status := s.transport.Status()
		assert.True(s, status.Pinned)
		assert.False(s, status.Down)
		assert.Error(s, status.Primary.ProbeError, "probes go on")
		assert.NoError(s, status.Alternate.ProbeError)

		s.transport.Unpin()
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestPinMovesWithoutAProbe(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.transport.Pin(failover.Alternate) // the alternate is fenced
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 503, s.get(accounts))
		s.transport.Pin(failover.Primary)
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, []failover.EventKind{
			failover.EventPinned, failover.EventSwitched, failover.EventTripped, failover.EventPinned, failover.EventSwitched,
		}, s.kinds())
	})
}

func TestSwitchByHandNeedsAProbeThatPasses(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		err := s.transport.Switch(s.Context(), failover.Alternate, "drill")
		var f *failover.Fault
		require.ErrorAs(s, err, &f)
		assert.Equal(s, "0x8004B065", f.Code)
		assert.Equal(s, failover.Primary, s.active())

		s.org.FailOver()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "drill"))
		assert.Equal(s, failover.Alternate, s.active())
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "again"), "already there")
		assert.EqualValues(s, 1, s.transport.Status().Generation)
		assert.Error(s, s.transport.Switch(s.Context(), failover.Endpoint(7), "typo"))

		canceled, cancel := context.WithCancel(s.Context())
		cancel()
		assert.ErrorIs(s, s.transport.Switch(canceled, failover.Primary, "late"), context.Canceled)
	})
}

func TestAManualSwitchEndsTheDecisionInProgress(t *testing.T) {
	var asked atomic.Int32
	confirm := func(context.Context, failover.Switch) error { asked.Add(1); return nil }
	tell(t, failover.Config{AttemptTimeout: time.Second, ConfirmSwitch: confirm}, func(s *story) {
		s.org.Disaster(failovertest.BlackHole())
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { assert.Equal(s, 200, s.get(accounts)) })
		time.Sleep(4 * time.Second) // the alternate has passed; the primary is still being probed
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		wg.Wait()
		assert.Less(s, time.Since(start), 5*time.Second)
		assert.Zero(s, asked.Load(), "there was nothing left to confirm")
	})
}

func TestFourSwitchesWithinAnHourLatch(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1, ProbeInterval: time.Second}, func(s *story) {
		s.org.Alternate().Serve()
		round := func() {
			s.org.Primary().Fail(failovertest.Refuse())
			s.get(accounts)
			s.org.Primary().Heal()
			time.Sleep(time.Minute)
		}
		round()
		round()
		status := s.transport.Status()
		require.EqualValues(s, 4, status.Generation)
		require.True(s, status.Latched)
		require.Equal(s, 1, s.count(failover.EventLatched))

		s.org.Primary().Fail(failovertest.OutagePage())
		for range 10 {
			assert.Equal(s, 503, s.get(accounts))
		}
		assert.Equal(s, failover.Primary, s.active(), "latched")

		s.org.FailOver() // a fence is exempt
		s.org.Primary().Heal()
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
		s.org.Primary().Serve()
		time.Sleep(30 * time.Minute)
		assert.Equal(s, failover.Alternate, s.active(), "the fail-back is latched, too")
		require.NoError(s, s.transport.Switch(s.Context(), failover.Primary, "all clear"))
		assert.False(s, s.transport.Status().Latched)
	})
}

func TestTheLatchIsForgivenAfterAnHour(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1, ProbeInterval: time.Second}, func(s *story) {
		s.org.Alternate().Serve()
		for range 2 {
			s.org.Primary().Fail(failovertest.Refuse())
			s.get(accounts)
			s.org.Primary().Heal()
			time.Sleep(time.Minute)
		}
		require.True(s, s.transport.Status().Latched)
		time.Sleep(time.Hour)
		assert.False(s, s.transport.Status().Latched)
		s.org.Primary().Fail(failovertest.Refuse())
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestManualFailback(t *testing.T) {
	tell(t, failover.Config{ManualFailback: true}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts)
		s.org.Primary().Heal()
		s.org.Primary().Serve()
		time.Sleep(2 * time.Hour)
		assert.Equal(s, failover.Alternate, s.active())
		assert.NoError(s, s.transport.Status().Primary.ProbeError)
		assert.NotZero(s, s.transport.Status().Primary.LastProbe)
		s.org.FailBack() // fences the alternate
		s.get(accounts)
		assert.Equal(s, failover.Primary, s.active())
	})
}

func TestConfirmSwitchMayObject(t *testing.T) {
	t.Parallel()
	objections := map[string]func(context.Context, failover.Switch) error{
		"no":        func(context.Context, failover.Switch) error { return errors.New("month-end closing") },
		"no answer": func(ctx context.Context, _ failover.Switch) error { <-ctx.Done(); return nil },
	}
	for name, objection := range objections {
		t.Run(name, func(t *testing.T) {
			var asked []failover.Switch
			tell(t, failover.Config{ConfirmSwitch: func(ctx context.Context, proposal failover.Switch) error {
				asked = append(asked, proposal)
				return objection(ctx, proposal)
			}}, func(s *story) {
				s.org.FailOver()
				start := time.Now()
				assert.Equal(s, 503, s.get(accounts))
				assert.Equal(s, map[string]time.Duration{"no": 0, "no answer": 30 * time.Second}[name], time.Since(start))
				assert.Equal(s, failover.Primary, s.active())
				synctest.Wait()
				require.Len(s, asked, 1)
				assert.Equal(s, failover.Alternate, asked[0].To)
				assert.Equal(s, "0x8004B065", asked[0].Fault.Code)
				assert.Equal(s, []failover.EventKind{failover.EventTripped, failover.EventSwitchRefused}, s.kinds())
				s.get(accounts)
				synctest.Wait()
				assert.Len(s, asked, 1, "not asked again at once")
				time.Sleep(time.Minute)
				s.get(accounts)
				synctest.Wait()
				assert.Len(s, asked, 2)
			})
		})
	}
}

func TestConfirmSwitchMayAgree(t *testing.T) {
	var asked []failover.Switch
	tell(t, failover.Config{ConfirmSwitch: func(_ context.Context, proposal failover.Switch) error {
		asked = append(asked, proposal)
		return nil
	}}, func(s *story) {
		s.org.FailOver()
		assert.Equal(s, 200, s.get(accounts))
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(10 * time.Minute)
		assert.Equal(s, failover.Primary, s.active())
		synctest.Wait()
		require.Len(s, asked, 2)
		assert.Equal(s, failover.Primary, asked[1].To)
	})
}
