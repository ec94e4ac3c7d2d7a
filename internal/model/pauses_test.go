package model_test

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// thoughtfully delays the answers of a conduct by three seconds.
func thoughtfully(c *conduct) *conduct {
	slower := *c
	slower.answer = func(req *http.Request) (*http.Response, error) {
		if err := await(req, 3*time.Second); err != nil {
			return nil, err
		}
		return c.answer(req)
	}
	return &slower
}

func TestRetryAfterIsHeededThoughTheProbePasses(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		d.behave(failover.Primary, busy, sound)
		d.behave(failover.Alternate, refusing, refusing)
		began := time.Now()
		assert.Equal(d, 503, d.get(time.Hour))
		assert.Equal(d, 1, d.count())
		assert.Less(d, time.Since(began), time.Second)
	})
}

func TestCloseEndsThePauseOfACall(t *testing.T) {
	run(t, failover.Config{RetryBackoff: time.Hour}, func(d *drill) {
		d.behave(failover.Primary, outage, sound)
		done := make(chan time.Time)
		go func() {
			d.do(d.Context())
			done <- time.Now()
		}()
		synctest.Wait()
		d.transport.Close()
		assert.Zero(d, time.Since(<-done))
		assert.Equal(d, 1, d.count())
	})
}

func TestWhatIsThrottledWithoutATimeIsNotRepeated(t *testing.T) {
	run(t, failover.Config{RetryThrottled: time.Minute}, func(d *drill) {
		d.behave(failover.Primary, &conduct{name: "429", answer: answering(429, asJSON, "")}, sound)
		assert.Equal(d, 429, d.get(time.Minute))
		assert.Equal(d, 1, d.count())
	})
}

// A repeat at the same endpoint is paid for from the budget; one after a switch is free.
func TestASwitchEndsThePauseAndCostsNoRepeat(t *testing.T) {
	t.Parallel()
	for _, spent := range []int{0, 10} {
		t.Run(fmt.Sprint(spent, " of 10 repeats spent"), func(t *testing.T) {
			run(t, failover.Config{MaxAttempts: 2, FailureThreshold: -1, RetryBackoff: time.Minute}, func(d *drill) {
				d.behave(failover.Primary, outage, sound)
				repeats := func() (n int) { // how many are left
					for before := d.count(); ; n++ {
						d.get(time.Hour)
						if got := d.count() - before; got == 1 {
							return n
						}
						before = d.count()
					}
				}
				for range spent {
					d.get(time.Hour)
				}
				began, done := time.Now(), make(chan int)
				go func() { done <- d.get(time.Hour) }()
				time.Sleep(time.Second)
				d.transport.Pin(failover.Alternate)
				assert.Equal(d, 200, <-done)
				assert.Equal(d, time.Second, time.Since(began))
				d.transport.Pin(failover.Primary)
				assert.Equal(d, 10-spent, repeats())
			})
		})
	}
}

func TestAPauseThatEndsAfterTheDeadlineIsNotBegun(t *testing.T) {
	run(t, failover.Config{RetryBackoff: time.Minute}, func(d *drill) {
		d.behave(failover.Primary, outage, sound)
		began := time.Now()
		assert.Equal(d, 503, d.get(10*time.Second))
		assert.Less(d, time.Since(began), time.Second)
	})
}

// The primary is probed after 10 s, 15 s and so on. After a passed probe, the interval starts
// again at 10 s. Each is jittered by a fifth.
func TestTimesBetweenProbes(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg  failover.Config
		want []float64 // three failed probes, three passed ones
	}{
		"as is":           {failover.Config{}, []float64{10, 15, 22.5, 33.75, 10, 10}},
		"at the most":     {failover.Config{MaxProbeInterval: 12 * time.Second}, []float64{10, 12, 12, 12, 10, 10}},
		"without growth":  {failover.Config{MaxProbeInterval: -1}, []float64{10, 10, 10, 10, 10, 10}},
		"a long interval": {failover.Config{ProbeInterval: 5 * time.Minute}, []float64{300, 300, 300, 300, 300, 300}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := row.cfg
			cfg.MinDwell, cfg.ConfirmSwitch = 24*time.Hour, nil
			run(t, cfg, func(d *drill) {
				d.behave(failover.Primary, refusing, refusing)
				require.Equal(d, 200, d.get(time.Minute))
				d.mu.Lock()
				last, before := time.Now(), len(d.probes[failover.Primary])
				d.mu.Unlock()
				for i, want := range row.want {
					if i == 3 {
						d.behave(failover.Primary, sound, sound)
					}
					d.await(func(w *world) bool { return len(w.probes[failover.Primary]) > before+i })
					d.mu.Lock()
					at := d.probes[failover.Primary][before+i].started
					d.mu.Unlock()
					got := at.Sub(last).Seconds()
					assert.LessOrEqual(d, math.Abs(got-want), want/5+0.1, "%d: %v s", i, got)
					last = at
				}
			})
		})
	}
}
