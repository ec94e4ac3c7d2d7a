// Package model has only a test: it runs random schedules of traffic, faults and operators against
// a Transport, and checks the invariants of the switching rule. It uses only the exported API.
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

// TestInvariantsHoldInRandomSchedules runs random schedules of traffic, faults and operators against
// a Transport and continuously checks the invariants of the switching rule; see check_test.go. A
// seed determines the schedule, but not the jitter of the Transport's own pauses.
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
		if v := recover(); v != nil { // a bubble that does not end, for one
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

// model knows what is allowed, given what the world has seen.
type model struct {
	*world
	trail
	cfg       failover.Config
	transport *failover.Transport
	ctx       context.Context // of every request
	cancel    context.CancelFunc
	callersWG sync.WaitGroup
	ids       int

	// Guarded by world.mu, as is what follows.
	violation string
	story     string // that led to it
	closing   bool
	ended     bool // Close has returned
	busy      int  // callbacks that run
	vetoes    bool
	vetoed    time.Time // when a veto was last in force
	agreed    map[agreement]bool
	byHand    map[string]bool // reasons given to Switch
	made      map[string]bool // reasons of the switches made
	now       epoch
	history   []epoch
	switched  time.Time   // the last switch, zero for none
	dwells    time.Time   // the last one that was no trial, or the end of one
	dwelt     time.Time   // the one before
	cleared   time.Time   // when a probe last closed the active breaker
	switches  []time.Time // since a hand has cleared them
	checked   int         // of world.arrivals
	downs     []time.Time // when outages were told of
}

// agreement of ConfirmSwitch.
type agreement struct {
	to failover.Endpoint
	at time.Time
}

// epoch is a time in which nothing changed.
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

// fail notes the first violation. world.mu is held.
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
		<-ctx.Done() // no answer is a refusal
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

// orDefault applies the rule of Config to a number.
func orDefault[T int | time.Duration](n, standard, off T) T {
	switch {
	case n == 0:
		return standard
	case n < 0:
		return off
	}
	return n
}

// call is a request that a schedule makes.
type call struct {
	method             string
	marked             bool // safe to repeat
	deadline, cancel   time.Duration
	slowBody, fateIn   time.Duration
	fate               *conduct
	http2, closedEarly bool
}

// send makes a request and checks what comes of it.
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

// requestBody knows whether it was closed.
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

// randomCall returns a request of a schedule.
func randomCall(rng *rand.Rand) call {
	c := call{
		method: pick(rng, []string{"GET", "GET", "POST", "POST", "PUT"}), marked: rng.IntN(4) == 0,
		deadline: pick(rng, []time.Duration{2 * time.Second, 10 * time.Second, time.Minute, 0}),
		http2:    rng.IntN(2) == 0, closedEarly: rng.IntN(8) == 0,
	}
	if rng.IntN(3) == 0 {
		c.cancel = pick(rng, []time.Duration{time.Second, 2500 * time.Millisecond, 20 * time.Second})
	}
	if rng.IntN(6) == 0 {
		c.slowBody = pick(rng, []time.Duration{time.Second, 30 * time.Second})
	}
	return c
}

// randomStep returns a step of a schedule.
func randomStep(rng *rand.Rand) func(*model) {
	e := failover.Endpoint(rng.IntN(2))
	pause := pick(rng, []time.Duration{0, time.Second, 6 * time.Second, 20 * time.Second, 2 * time.Minute})
	switch n := rng.IntN(100); {
	case n < 25: // some callers
		calls := []call{}
		for range 1 + rng.IntN(4) {
			calls = append(calls, randomCall(rng))
		}
		return func(m *model) { m.traffic(calls...); time.Sleep(pause) }
	case n < 50: // the active side goes, the other comes, or says no more than that it wants a token
		how, target := pick(rng, outages), pick(rng, []*conduct{sound, sound, sound, sound, tokenless})
		return func(m *model) {
			active := m.transport.Status().Active
			m.set(active, how, how)
			m.set(active^1, target, target)
			read := call{method: "GET", deadline: 3 * time.Second}
			m.traffic(read, read, read, read)
			time.Sleep(max(pause, 10*time.Second))
		}
	case n < 60: // late faults: of requests that started before, maybe, a switch
		late := call{method: "GET", fate: pick(rng, outages), fateIn: pick(rng, []time.Duration{5 * time.Second, 40 * time.Second}), deadline: time.Minute}
		return func(m *model) { m.traffic(late, late, late) }
	case n < 65: // callers who leave while nothing comes
		gone := call{method: "GET", fate: pick(rng, []*conduct{blackHole, slowBody}), cancel: time.Second, http2: rng.IntN(2) == 0}
		return func(m *model) { m.traffic(gone, gone, gone, gone); time.Sleep(pause) }
	case n < 80:
		requests := pick(rng, append(oddities, outages...))
		probes := pick(rng, []*conduct{requests, requests, pick(rng, oddities)})
		return func(m *model) { m.set(e, requests, probes) }
	case n < 84:
		return func(m *model) { m.add("pin %v", e); m.transport.Pin(e) }
	case n < 89:
		return (*model).unpin
	case n < 92:
		return func(m *model) { m.byTheHand(e) }
	case n < 95:
		return func(m *model) { m.veto(!m.vetoes) }
	case n < 96:
		return func(m *model) { time.Sleep(pause); m.close() }
	case n < 98:
		return func(m *model) { time.Sleep(time.Hour + pause) }
	default:
		return func(*model) { time.Sleep(pause) }
	}
}

// traffic starts requests, whose end is not waited for.
func (m *model) traffic(calls ...call) {
	for _, c := range calls {
		m.callersWG.Add(1)
		go m.send(c)
	}
}

func (m *model) set(e failover.Endpoint, requests, probes *conduct) {
	m.add("the %v %s, its probes find: %s", e, requests.name, probes.name)
	m.behave(e, requests, probes)
}

// byTheHand switches by hand.
func (m *model) byTheHand(e failover.Endpoint) {
	m.mu.Lock()
	m.ids++
	reason := fmt.Sprintf("drill %d", m.ids)
	m.byHand[reason] = true
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.ctx, 4*time.Second)
	defer cancel()
	err := m.transport.Switch(ctx, e, reason)
	m.add("switch to %v: %v", e, err)
	synctest.Wait()
	m.mu.Lock()
	made := m.made[reason]
	m.mu.Unlock()
	if err == nil && !made {
		m.unlatched() // it was there already
	}
}

// unpin is also what releases the latch, pinned or not.
func (m *model) unpin() {
	m.add("unpin")
	m.transport.Unpin()
	m.unlatched()
}

// unlatched forgets the switches so far, as the Transport does.
func (m *model) unlatched() {
	synctest.Wait() // for the events of those
	m.mu.Lock()
	defer m.mu.Unlock()
	m.switches = nil
}

// veto makes ConfirmSwitch object to leaving the primary, or not.
func (m *model) veto(on bool) {
	m.add("veto %v", on)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vetoes = on
	m.vetoed = time.Now()
}

// heal makes the world whole, or one side of it, and expects traffic to flow
// within the time of the longest hold, a probe and some faults.
func (m *model) heal(rng *rand.Rand) {
	serving := failover.Endpoint(rng.IntN(2))
	if m.single() {
		serving = failover.Primary
	}
	standby := pick(rng, []*conduct{sound, refusing, fencing, blackHole, outage})
	m.veto(false)
	m.set(serving, sound, sound)
	m.set(serving^1, standby, standby)
	m.unpin()
	const bound = 2 * time.Minute
	for healed := time.Now(); time.Since(healed) < bound; time.Sleep(2 * time.Second) {
		m.traffic(call{method: "GET", deadline: 5 * time.Second})
	}
	synctest.Wait()
	m.check()
	status := m.transport.Status()
	if status.Down || standby != sound && status.Active != serving {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.fail("after %v the %v is active (down %v), but the %v serves", bound, status.Active, status.Down, serving)
		return
	}
	req, err := http.NewRequestWithContext(m.ctx, http.MethodGet, orgURL+accounts, nil)
	if err != nil {
		panic(err)
	}
	m.mu.Lock()
	m.callers[""] = &caller{ctx: m.ctx}
	m.mu.Unlock()
	resp, err := m.transport.RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.fail("after healing: %v, %v", resp, err)
		return
	}
	m.read(resp, false)
}

// close closes the Transport, which has to end at once and everything with it.
func (m *model) close() {
	m.add("close")
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	start := time.Now()
	m.transport.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	if d := time.Since(start); d > 0 {
		m.fail("Close took %v", d)
	}
	if probes := len(m.probing[0]) + len(m.probing[1]); m.busy > 0 || probes > 0 {
		m.fail("after Close, %d callbacks and %d probes run", m.busy, probes)
	}
}

// end ends the schedule: nothing goes on after Close but the calls under way.
func (m *model) end() {
	if !m.isClosed() {
		m.close()
	}
	before, probes := m.transport.Status(), m.probesBegun()
	time.Sleep(time.Minute) // for the faults of calls under way
	m.cancel()
	m.callersWG.Wait()
	time.Sleep(time.Hour)
	m.check()
	probes = m.probesBegun() - probes
	req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
	if err != nil {
		panic(err)
	}
	_, err = m.transport.RoundTrip(req)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !errors.Is(err, failover.ErrClosed) || probes > 0 {
		m.fail("after Close: %v, %d more probes", err, probes)
	}
	if after := m.transport.Status(); after.Generation != before.Generation || after.Active != before.Active || after.Down != before.Down {
		m.fail("after Close, the state went from %+v to %+v", before, after)
	}
}
