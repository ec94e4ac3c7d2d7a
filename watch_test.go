package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// The intervals between probes, and the time for which a refused question is not raised again,
// are jittered by a fifth.
func TestTheTimesOfProbesAndQuestions(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: 20 * time.Second, MaxProbeInterval: 40 * time.Second})
	weak := []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59, 8, 8, 8}
	for name, row := range map[string]struct {
		next func() time.Duration
		want []float64 // seconds
	}{
		"away":     {transport.schedule(&state{active: Alternate}).NextBackOff, []float64{20, 30, 40, 40, 40}},
		"pinned":   {transport.schedule(&state{pinned: true}).NextBackOff, []float64{20, 30, 40, 40, 40}},
		"down":     {transport.schedule(&state{down: true}).NextBackOff, weak},
		"on trial": {transport.schedule(&state{provisional: true}).NextBackOff, weak},
		"held":     {transport.holdLocked, []float64{1, 2, 4, 4, 4}},
	} {
		for i, want := range row.want {
			got := row.next().Seconds()
			assert.InDelta(t, want, got, want*0.201, "%s, %d", name, i)
		}
	}
	transport.growth = nil
	assert.InDelta(t, 1, transport.holdLocked().Seconds(), 0.201)
}

// The next probe comes as scheduled, or at the end of the dwell if only that is missing.
func TestWhenTheNextProbeIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, row := range map[string]struct {
			st    state
			dwell time.Duration // that remains
			risen bool
			want  time.Duration
		}{
			"the dwell ends before":   {state{active: Alternate}, 5 * time.Second, true, 5 * time.Second},
			"the dwell ends later":    {state{active: Alternate}, 50 * time.Second, true, 10 * time.Second},
			"the dwell is over":       {state{active: Alternate}, 0, true, 10 * time.Second},
			"the dwell was over":      {state{active: Alternate}, -time.Second, true, 10 * time.Second},
			"the primary is not well": {state{active: Alternate}, 5 * time.Second, false, 10 * time.Second},
			"on trial":                {state{active: Alternate, provisional: true}, 5 * time.Second, true, 10 * time.Second},
			"pinned":                  {state{active: Alternate, pinned: true}, 5 * time.Second, true, 10 * time.Second},
			"down":                    {state{active: Alternate, down: true}, 5 * time.Second, true, 10 * time.Second},
		} {
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, MinDwell: time.Minute})
			transport.mu.Lock()
			transport.rule.SwitchTo(time.Now().Add(row.dwell-time.Minute), rule.Alternate, false)
			if !row.risen {
				transport.endpoints[Primary].trip()
			}
			if row.st.down {
				transport.outage = &outage{since: time.Now()}
			}
			due := transport.nextProbeLocked(&row.st, intervals(10*time.Second, 10*time.Second, 1))
			assert.InDelta(t, row.want, time.Until(due), float64(row.want)/5, name)
			if row.want == 5*time.Second {
				assert.Equal(t, time.Now().Add(row.want), due)
			}
			if row.st.down {
				assert.Equal(t, due, transport.outage.until, "callers are told")
				transport.outage = nil
			}
			transport.mu.Unlock()
		}
	})
}

// The faults of a request that undo a provisional switch.
func TestWhatUndoesAProvisionalSwitch(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		f            Fault
		own, settled bool
		ends         bool
	}{
		"transient":              {f: Fault{Class: ClassTransient, Endpoint: Alternate}, ends: true},
		"unavailable":            {f: Fault{Class: ClassUnavailable, Endpoint: Alternate}, ends: true},
		"a token is wanted":      {f: Fault{Class: ClassAuth, Endpoint: Alternate}, ends: true},
		"throttled":              {f: Fault{Class: ClassThrottled, Endpoint: Alternate}, ends: true},
		"the caller's deadline":  {f: Fault{Class: ClassTransient, Endpoint: Alternate}, own: true},
		"given up":               {f: Fault{Class: ClassCanceled, Endpoint: Alternate}},
		"this machine":           {f: Fault{Class: ClassLocal, Endpoint: Alternate}},
		"the service is fine":    {f: Fault{Class: ClassApplication, Endpoint: Alternate}},
		"where a redirect leads": {f: Fault{Class: ClassTransient, Endpoint: Primary}},
		"confirmed before":       {f: Fault{Class: ClassTransient, Endpoint: Alternate}, settled: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := tellAll(t, Config{ProbeInterval: -1})
			p := transport.newPool()
			transport.locked(func() {
				transport.switchLocked(switchover{to: Alternate, provisional: !row.settled}, p, func(now time.Time) bool {
					return transport.rule.SwitchTo(now, rule.Alternate, !row.settled)
				})
			})
			st := transport.state.Load()
			texts := transport.locked(func() {
				transport.mu.Unlock()
				defer transport.mu.Lock()
				assert.Equal(t, row.ends, transport.undoIfProvisional(st, &row.f, row.own), name)
				assert.Equal(t, row.ends, transport.undoIfProvisional(st, &row.f, row.own), "the traffic has left it: %s", name)
			})
			if row.ends {
				require.Len(t, texts, 2, "once")
				assert.Equal(t, "switched alternate>primary: the alternate does not answer requests in good health", texts[0])
				assert.Equal(t, &row.f, transport.events[0].Fault)
				transport.mu.Lock()
				assert.Equal(t, rule.Inconclusive, transport.rule.Weigh(time.Now(), rule.PassedWeakly), "it is not tried again at once")
				transport.mu.Unlock()
			} else {
				assert.Empty(t, texts, name)
			}
		})
	}
}

// The reason why the traffic stays is reported once, and again when it changes.
func TestARefusalIsReportedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := tellAll(t, Config{ProbeInterval: -1})
		st := transport.state.Load()
		for i, row := range []struct {
			st   *state
			err  error
			told bool
		}{
			{st, errors.New("a"), true}, {st, errors.New("a"), false}, {st, errors.New("b"), true}, {st, errors.New("a"), true},
			{st, nil, false}, {st, errOvertaken, false}, {st, fmt.Errorf("x: %w", errOvertaken), false},
			{&state{epoch: 7}, errors.New("c"), false}, {st, errors.New("c"), true},
		} {
			texts := transport.locked(func() {
				transport.mu.Unlock()
				defer transport.mu.Lock()
				assert.Equal(t, row.err == nil, transport.reportRefusal(row.st, Alternate, row.err))
			})
			if row.told {
				assert.Equal(t, []string{"switch refused primary>alternate: " + row.err.Error()}, texts, "%d", i)
			} else {
				assert.Empty(t, texts, "%d", i)
			}
		}
	})
}

// A call pauses before a repeat at the same endpoint only if it has the time, the endpoint did
// not ask for a longer wait, and the budget allows the repeat. A judgement ends the pause.
func TestWhenACallPauses(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		f                Fault
		throttled, broke bool
		deadline         time.Duration
		then             func(*Transport, context.CancelFunc, *question) // after 10 ms
		want             bool
		least, most      time.Duration
		paid             int
		never            bool
	}{
		"as is":                          {want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
		"a fence":                        {f: Fault{Definitive: true}},
		"asked to wait for longer":       {f: Fault{RetryAfter: time.Second}},
		"asked to wait for less":         {f: Fault{RetryAfter: 40 * time.Millisecond}, want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
		"throttled":                      {f: Fault{RetryAfter: time.Second}, throttled: true, want: true, least: time.Second, most: time.Second, paid: 1},
		"it would be too late":           {deadline: 40 * time.Millisecond},
		"it is in time":                  {deadline: time.Second, want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
		"no budget":                      {broke: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond},
		"no pause":                       {never: true, want: true, paid: 1},
		"no pause, no budget":            {never: true, broke: true},
		"a judgement":                    {then: func(r *Transport, _ context.CancelFunc, _ *question) { r.Pin(Alternate) }, want: true, least: 10 * time.Millisecond, most: 10 * time.Millisecond},
		"a judgement, no budget":         {broke: true, then: func(r *Transport, _ context.CancelFunc, _ *question) { r.Pin(Alternate) }, want: true, least: 10 * time.Millisecond, most: 10 * time.Millisecond},
		"a change that is no judgement":  {then: func(r *Transport, _ context.CancelFunc, _ *question) { r.Pin(Primary) }, want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
		"the caller gives up":            {then: func(_ *Transport, cancel context.CancelFunc, _ *question) { cancel() }, least: 10 * time.Millisecond, most: 10 * time.Millisecond, paid: 1},
		"closed":                         {then: func(r *Transport, _ context.CancelFunc, _ *question) { r.Close() }, least: 10 * time.Millisecond, most: 10 * time.Millisecond, paid: 1},
		"the traffic is to move":         {then: func(_ *Transport, _ context.CancelFunc, q *question) { q.toSwitch = true; close(q.done) }, want: true, least: 10 * time.Millisecond, most: 10 * time.Millisecond, paid: 1},
		"it is to move, no budget":       {broke: true, then: func(_ *Transport, _ context.CancelFunc, q *question) { q.toSwitch = true; close(q.done) }, least: 50 * time.Millisecond, most: 150 * time.Millisecond},
		"it is to stay":                  {then: func(_ *Transport, _ context.CancelFunc, q *question) { close(q.done) }, want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
		"it is to move, but throttled":   {f: Fault{RetryAfter: time.Second}, throttled: true, then: func(_ *Transport, _ context.CancelFunc, q *question) { q.toSwitch = true; close(q.done) }, want: true, least: time.Second, most: time.Second, paid: 1},
		"a deadline that is just enough": {deadline: 150 * time.Millisecond, want: true, least: 50 * time.Millisecond, most: 150 * time.Millisecond, paid: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{ProbeInterval: -1, SuspectAfter: -1}
				if row.never {
					cfg.RetryBackoff = -1
				}
				transport := newTestTransport(t, acknowledging, cfg)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if row.deadline > 0 {
					ctx, cancel = context.WithTimeout(ctx, row.deadline)
					defer cancel()
				}
				if row.broke {
					for transport.budget.take() {
					}
				}
				req, err := http.NewRequestWithContext(ctx, "GET", "https://contoso.api.crm.dynamics.com/", nil)
				require.NoError(t, err)
				c := &call{t: transport, req: req}
				q := &question{done: make(chan struct{})}
				if row.then != nil {
					time.AfterFunc(10*time.Millisecond, func() { row.then(transport, cancel, q) })
				}
				start, before := time.Now(), transport.budget.shares.Load()
				assert.Equal(t, row.want, c.pause(transport.state.Load(), &row.f, row.throttled, q))
				took := time.Since(start)
				assert.True(t, row.least <= took && took <= row.most, took)
				assert.EqualValues(t, row.paid, (before-transport.budget.shares.Load())/10)
				time.Sleep(time.Second)
			})
		})
	}
}
