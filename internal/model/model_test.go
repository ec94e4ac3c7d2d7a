// Package model consists of tests: it runs random schedules of traffic, faults and operators
// against a Transport, and checks the invariants of the switching rule. It uses only the
// exported API.
package model_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

var (
	modelSeed      = flag.Uint64("model.seed", 1, "seed of the first random schedule")
	modelSchedules = flag.Int("model.schedules", 2500, "how many random schedules are run at the most")
	modelTime      = flag.Duration("model.time", 6*time.Second, "no new schedule is begun after this time")
)

// Random schedules of traffic, faults and operators run against a Transport, while the
// invariants of the switching rule are checked; see check_test.go. A seed determines the
// schedule, but not the jitter of the Transport's pauses.
func TestInvariantsHoldInRandomSchedules(t *testing.T) {
	t.Parallel()
	var done atomic.Int64
	limit, shards := *modelSchedules, runtime.GOMAXPROCS(0)
	if testing.Short() {
		limit = min(limit, 200)
	}
	t.Run("shards", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for i, began := shard, time.Now(); i < limit && time.Since(began) < *modelTime && !t.Failed(); i += shards {
					runSchedule(t, *modelSeed+uint64(i))
					done.Add(1)
				}
			})
		}
	})
	t.Logf("%d schedules", done.Load())
	require.True(t, t.Failed() || done.Load() > 0)
}

// runSchedule runs the schedule of one seed.
func runSchedule(t *testing.T, seed uint64) {
	defer func() {
		if v := recover(); v != nil { // such as a deadlock of the bubble
			t.Errorf("replay with -args -model.seed=%d -model.schedules=1", seed)
			panic(v)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := newModel(t, rng)
		for i, n := 0, 5+rng.IntN(30); i < n && m.violation == "" && !m.isClosed(); i++ {
			randomStep(rng)(m)
			synctest.Wait()
			m.check()
		}
		if !m.isClosed() && m.violation == "" && rng.IntN(2) == 0 {
			m.heal(rng)
		}
		m.end()
		if m.violation != "" {
			t.Errorf("%s\nreplay with -args -model.seed=%d -model.schedules=1\n%s", m.violation, seed, m.story)
		}
	})
}

// A model knows what is allowed, given what the world has seen.
type model struct {
	*world
	trail
	cfg       failover.Config
	transport *failover.Transport
	ctx       context.Context // the parent of every request's context
	cancel    context.CancelFunc
	callersWG sync.WaitGroup
	ids       int

	// world.mu guards the rest.
	violation string
	story     string // what led to it
	closing   bool
	ended     bool // Close has returned
	busy      int  // running callbacks
	vetoes    bool
	vetoed    time.Time // when a veto was last in force
	agreed    map[agreement]bool
	byHand    map[string]bool // reasons given to Switch
	made      map[string]bool // reasons of switches that happened
	now       epoch
	history   []epoch
	switched  time.Time   // the last switch; zero: none
	dwells    time.Time   // the last switch for the dwell: provisional ones that were undone do not count
	dwelt     time.Time   // the one before it
	cleared   time.Time   // when a probe last closed the breaker of the active endpoint
	switches  []time.Time // since a person last cleared the latch
	checked   int         // how many of world.arrivals
	downs     []time.Time // when outages were reported
}

// An agreement is a switch that ConfirmSwitch allowed.
type agreement struct {
	to failover.Endpoint
	at time.Time
}

// An epoch is a time in which nothing changed.
type epoch struct {
	from         time.Time
	generation   uint64
	active       failover.Endpoint
	down, pinned bool
}

func newModel(t *testing.T, rng *rand.Rand) *model {
	m := &model{world: newWorld(), byHand: make(map[string]bool), made: make(map[string]bool), agreed: make(map[agreement]bool)}
	m.trail.origin = time.Now()
	m.ctx, m.cancel = context.WithCancel(t.Context())
	m.now.from = time.Now()
	m.history = []epoch{m.now}
	m.behave(failover.Primary, sound, sound)
	standby := pick(rng, append(slices.Clone(outages), sound, sound, sound, tokenless))
	m.behave(failover.Alternate, standby, standby)
	m.cfg = failover.Config{
		Base:           m,
		MinDwell:       pick(rng, []time.Duration{0, -1, -1, time.Minute}),
		ProbeInterval:  pick(rng, []time.Duration{0, 0, time.Second}),
		Rise:           pick(rng, []int{0, -1, 2}),
		MaxAttempts:    pick(rng, []int{0, 0, -1, 2}),
		AttemptTimeout: pick(rng, []time.Duration{0, 0, 2 * time.Second, 10 * time.Second}),
		SuspectAfter:   pick(rng, []time.Duration{0, 2 * time.Second, 5 * time.Second, -1}),
		RetryThrottled: pick(rng, []time.Duration{0, 10 * time.Second}),
		FailFast:       rng.IntN(4) == 0,
		ManualFailback: rng.IntN(8) == 0,
		ConfirmSwitch:  m.confirm,
		OnEvent:        m.observe,
		Logger:         slog.New(slog.DiscardHandler),
	}
	m.cfg.FailureThreshold = pick(rng, []int{0, 0, 1, 2})
	if rng.IntN(8) == 0 {
		m.cfg.Alternate = failover.NoAlternate
	}
	var err error
	m.transport, err = failover.New(orgURL, &m.cfg)
	require.NoError(t, err)
	m.add("alternate %q, threshold %d, rise %d, dwell %v, attempts %d, attempt timeout %v, suspect after %v, fail fast %v, manual %v", m.cfg.Alternate,
		m.cfg.FailureThreshold, m.cfg.Rise, m.cfg.MinDwell, m.cfg.MaxAttempts, m.cfg.AttemptTimeout, m.cfg.SuspectAfter, m.cfg.FailFast, m.cfg.ManualFailback)
	return m
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// fail records the first violation. The caller holds world.mu.
func (m *model) fail(format string, args ...any) {
	if m.violation != "" {
		return
	}
	m.violation = fmt.Sprintf(format, args...)
	m.story = m.last()
}

func (m *model) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing
}

// confirm is Config.ConfirmSwitch.
func (m *model) confirm(ctx context.Context, s failover.Switch) error {
	m.mu.Lock()
	m.busy++
	veto := m.vetoes
	m.mu.Unlock()
	if veto && s.To == failover.Alternate {
		<-ctx.Done() // running out of time counts as a refusal
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy--
	if veto {
		m.vetoed = time.Now()
		return errors.New("contoso closes its books")
	}
	m.agreed[agreement{s.To, time.Now().Round(0)}] = true
	return nil
}

// orDefault applies Config's rule for zero and negative numbers.
func orDefault[T int | time.Duration](n, standard, off T) T {
	switch {
	case n == 0:
		return standard
	case n < 0:
		return off
	}
	return n
}

// A call is one request of a schedule.
type call struct {
	method             string
	marked             bool // marked as safe to repeat
	deadline, cancel   time.Duration
	slowBody, fateIn   time.Duration
	fate               *conduct
	http2, closedEarly bool
}

// send makes a request and checks its result.
func (m *model) send(c call) {
	defer m.callersWG.Done()
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	if c.deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.deadline)
		defer cancel()
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	if c.cancel > 0 {
		defer time.AfterFunc(c.cancel, func() { giveUp(errors.New("the user has left")) }).Stop()
	}
	m.mu.Lock()
	m.ids++
	id := fmt.Sprintf("many-%d", m.ids)
	if c.method == http.MethodPost && !c.marked {
		id = fmt.Sprintf("once-%d", m.ids)
	}
	m.callers[id] = &caller{ctx: ctx, fate: c.fate, after: c.fateIn}
	m.mu.Unlock()

	req, err := http.NewRequestWithContext(ctx, c.method, orgURL+accounts, nil)
	if err != nil {
		panic(err)
	}
	req.Header.Set("Model-Id", id)
	if c.http2 {
		req.Header.Set("Model-Http2", "1")
	}
	if c.marked {
		req.Header.Set("Idempotency-Key", id)
	}
	body := &requestBody{Reader: strings.NewReader(`{"name":"Contoso"}`)}
	if c.method == http.MethodPost {
		if req.Body = body; c.slowBody > 0 {
			body.Reader = io.MultiReader(&pausingReader{func() error { time.Sleep(c.slowBody); return nil }}, body.Reader)
		} else {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(`{"name":"Contoso"}`)), nil }
		}
	}
	m.add("%s %+v", id, c)
	resp, err := m.transport.RoundTrip(req)
	m.add("%s ends: %v", id, err)
	m.mu.Lock()
	if (resp == nil) == (err == nil) {
		m.fail("RoundTrip returned %v, %v", resp, err)
	}
	if req.Body != nil && !body.closed.Load() {
		m.fail("the body of %s was not closed", id)
	}
	m.mu.Unlock()
	if resp != nil {
		m.read(resp, c.closedEarly)
	}
}

// requestBody records whether it was closed.
type requestBody struct {
	io.Reader
	closed atomic.Bool
}

func (b *requestBody) Close() error { b.closed.Store(true); return nil }

// read consumes a response.
func (m *model) read(resp *http.Response, closedEarly bool) {
	if !closedEarly {
		io.Copy(io.Discard, resp.Body)
	}
	resp.Body.Close()
}
