package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// telling is a Transport that records its events, and probes only when it must.
type telling struct {
	*Transport
	events []Event
}

func tellAll(t *testing.T, cfg Config) *telling {
	r := new(telling)
	cfg.OnEvent = func(e Event) { r.events = append(r.events, e) }
	if cfg.Probe == nil {
		cfg.Probe = func(context.Context, *http.Client, *url.URL) error { return errors.New("no route to host") }
	}
	r.Transport = newTestTransport(t, acknowledging, cfg)
	return r
}

// locked runs f under the lock, and returns the texts of the resulting events.
func (r *telling) locked(f func()) (texts []string) {
	synctest.Wait()
	r.events = nil
	r.mu.Lock()
	f()
	r.unlock()
	synctest.Wait()
	for _, e := range r.events {
		if e.Kind != EventProbed {
			texts = append(texts, fmt.Sprintf("%v %v>%v: %s", e.Kind, e.From, e.To, e.Reason))
		}
	}
	return texts
}

const tokensSuspect = "delta tokens, session tokens and ETags that were issued before may not match "

// Of outages that follow each other within ten minutes, the first three are reported.
func TestHowOutagesAreReported(t *testing.T) {
	t.Parallel()
	for alternate, reason := range map[string]string{"": "neither endpoint passes its probe", NoAlternate: "the endpoint does not pass its probe"} {
		synctest.Test(t, func(t *testing.T) {
			transport := tellAll(t, Config{Alternate: alternate, ProbeInterval: -1})
			faults := [2]*Fault{{Status: 503}, {Status: 502}}
			_, retryAfter := transport.downInfo()
			assert.Zero(t, retryAfter)
			var sum time.Duration
			goDown := func(lasts time.Duration) (down, up []string) {
				down = transport.locked(func() {
					transport.rule.Down = true
					transport.downLocked(faults)
					assert.Equal(t, time.Now().Add(time.Second), transport.outage.until)
				})
				if len(down) > 0 {
					assert.Same(t, faults[0], transport.events[0].Fault)
				}
				got, retryAfter := transport.downInfo()
				assert.Equal(t, faults, got)
				assert.InDelta(t, time.Second, retryAfter, float64(time.Second)/5, "jittered, once it is watched")
				transport.mu.Lock()
				transport.lastRefusal = "of before"
				transport.mu.Unlock()
				for range int(lasts / time.Second) { // only the watch probes meanwhile
					time.Sleep(time.Second)
				}
				sum += lasts
				transport.mu.Lock()
				assert.Equal(t, sum, transport.timeDownLocked())
				transport.mu.Unlock()
				up = transport.locked(func() { transport.rule.Down = false; transport.rule.Epoch++; transport.upLocked(nil, "it answers") })
				assert.Empty(t, transport.lastRefusal)
				assert.Nil(t, transport.outage)
				assert.Equal(t, sum, transport.timeDownLocked())
				return down, up
			}
			told := "down primary>primary: " + reason
			up := []string{"up primary>primary: it answers", "tokens suspect primary>primary: " + tokensSuspect + "what the primary serves now"}
			for n := range 5 {
				gotDown, gotUp := goDown(0)
				if n < 3 {
					assert.Equal(t, []string{told}, gotDown, "%d", n)
					assert.Equal(t, up, gotUp)
				} else {
					assert.Empty(t, gotDown, "%d", n)
					assert.Empty(t, gotUp)
				}
				assert.LessOrEqual(t, len(transport.downs), 4)
			}
			time.Sleep(10*time.Minute - 1)
			gotDown, _ := goDown(0)
			assert.Empty(t, gotDown)
			for range 3 { // the earlier ones are forgotten
				time.Sleep(10 * time.Minute)
				gotDown, gotUp := goDown(3 * time.Second)
				assert.Equal(t, []string{told}, gotDown)
				assert.Equal(t, up, gotUp)
			}
			if alternate == "" {
				transport.locked(func() { transport.rule.Down = true; transport.downLocked(faults) })
				assert.Equal(t, []string{"down primary>primary: the primary does not pass its probe, and no switch is allowed"},
					transport.locked(func() { transport.reportDownLocked(Primary, true) }))
			}
			assert.Equal(t, []string{"down primary>primary: " + reason + ", again"}, transport.locked(func() {
				transport.outage = &outage{since: time.Now(), untold: true}
				transport.downs = make([]time.Time, 4)
				transport.reportDownLocked(Primary, false)
				assert.False(t, transport.outage.untold)
				transport.outage.until = time.Now().Add(-1)
				transport.mu.Unlock()
				_, retryAfter := transport.downInfo()
				transport.mu.Lock()
				assert.Zero(t, retryAfter, "it is due")
				transport.rule.Down = false
			}))
		})
	}
}

// What a switch changes, and what it reports.
func TestWhatASwitchDoes(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]switchover{
		"to the alternate": {to: Alternate}, "to the primary": {to: Primary}, "on trial": {to: Alternate, provisional: true},
		"away from silence": {to: Alternate, abandon: true}, "away from silence, on trial": {to: Alternate, abandon: true, provisional: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				transport := tellAll(t, Config{ProbeInterval: -1})
				m.reason, m.fault = "because", &Fault{Status: 503}
				from := m.to.other()
				if from == Alternate {
					transport.Pin(Alternate)
					transport.Unpin()
				}
				old := transport.state.Load().pool
				p := transport.newPool()
				texts := transport.locked(func() {
					transport.endpoints[Primary].fault(&Fault{Definitive: true})
					transport.endpoints[Alternate].fault(&Fault{Definitive: true})
					transport.holdLocked()
					transport.lastRefusal, transport.leftProvisionally = "of before", new(pool)
					transport.rule.Down, transport.outage = true, &outage{since: time.Now().Add(-time.Minute)}
					transport.switchLocked(m, p, func(time.Time) bool {
						transport.rule.SwitchTo(time.Now(), rule.Side(m.to), m.provisional)
						return m.provisional // as if that were one switch too many
					})
					assert.Nil(t, transport.growth)
					assert.Empty(t, transport.lastRefusal)
					assert.Nil(t, transport.outage)
					assert.Equal(t, time.Minute, transport.timeDown)
				})
				want := []string{
					fmt.Sprintf("switched %v>%v: because", from, m.to),
					fmt.Sprintf("tokens suspect %v>%v: %sthe content of the %v", from, m.to, tokensSuspect, m.to),
				}
				if m.provisional {
					want = append(want, fmt.Sprintf("latched %v>%v: 4 switches within an hour", m.to, m.to))
				}
				assert.Equal(t, want, texts)
				assert.Same(t, m.fault, transport.events[0].Fault)
				assert.NotNil(t, transport.events[0].Loss)
				assert.Same(t, p, transport.state.Load().pool)
				assert.True(t, old.retired.Load())
				assert.Nil(t, transport.left)
				assert.Equal(t, m.abandon && !m.provisional, old.waits.left.Load(), "who waits there is given up")
				assert.Equal(t, m.abandon && m.provisional, transport.leftProvisionally == old, "or once the trial has passed")
				assert.True(t, transport.leftProvisionally == nil || m.provisional)
				states := [2]State{transport.endpoints[0].breaker.state(), transport.endpoints[1].breaker.state()}
				if m.to == Alternate {
					assert.Equal(t, [2]State{StateOpen, StateClosed}, states)
				} else {
					assert.Equal(t, [2]State{StateClosed, StateClosed}, states)
				}
				assert.Equal(t, m.provisional, transport.endpoints[m.to].suspect.Load(), "its first success is waited for")
			})
		})
	}
}

func TestHowAFalseAlarmIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := tellAll(t, Config{ProbeInterval: -1})
		q := &question{st: transport.state.Load(), fault: &Fault{Status: 503}, loud: true}
		for _, moved := range []string{"", "its name resolves to other addresses"} {
			old := transport.state.Load().pool
			p := transport.newPool()
			texts := transport.locked(func() {
				transport.endpoints[Primary].fault(q.fault)
				transport.rule.Epoch++
				transport.renewLocked(p, "it passes", moved, q)
			})
			if moved == "" {
				assert.Equal(t, []string{"switch refused primary>alternate: it passes"}, texts)
				assert.Nil(t, transport.events[0].Loss)
			} else {
				assert.Equal(t, []string{"renewed primary>primary: it passes; " + moved, "tokens suspect primary>primary: " + tokensSuspect + "what the primary serves now"}, texts)
				assert.NotNil(t, transport.events[0].Loss)
			}
			assert.Same(t, q.fault, transport.events[0].Fault)
			assert.True(t, old.retired.Load())
			assert.False(t, transport.endpoints[Primary].suspect.Load())
		}
		var moves []time.Time
		for n := 1; n <= 6; n++ {
			moves = append(moves, time.Now())
			texts := transport.locked(func() { transport.rememberLocked(moves) })
			assert.Equal(t, n == 4, len(texts) == 1, "told once: %v", texts)
			if len(texts) == 1 {
				assert.Equal(t, "latched primary>primary: 4 switches within an hour", texts[0])
			}
		}
	})
}

func TestTheLimitsOfTheRule(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{MinDwell: 7 * time.Minute, ManualFailback: true})
	assert.Equal(t, rule.Limits{Manual: true, MinDwell: 7 * time.Minute, Damping: time.Hour, FenceDamping: time.Minute,
		MaxSwitches: 4, Keep: 16, Fresh: 2 * time.Second, ProvisionalPause: time.Minute}, transport.rule.Limits)
	assert.True(t, newTestTransport(t, acknowledging, Config{Alternate: NoAlternate}).rule.Single)
}

// A healthy answer while down does not lead to a renewal, unless it came over a new
// connection, or from another place.
func TestAnAnswerEndsAnOutage(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		marks          uint32
		unknown, moved bool
		renewed        bool
	}{
		"over an old connection":       {marks: sawGotConn | sawReuse},
		"over a new one":               {marks: sawGotConn, renewed: true},
		"not to be told":               {unknown: true},
		"old, and the name has moved":  {marks: sawGotConn | sawReuse, moved: true, renewed: true},
		"moved, over who knows what":   {unknown: true, moved: true, renewed: true},
		"a connection was only asked":  {marks: 0},
		"a connection, seen elsewhere": {marks: sawGotConn | sawReuse},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				transport := tellAll(t, Config{ProbeInterval: -1})
				e := &transport.endpoints[Primary]
				e.addresses.see(at("192.0.2.1"), time.Now())
				if row.moved {
					e.addresses.see(at("192.0.2.2"), time.Now())
				}
				var w *sendWatch
				if !row.unknown {
					w = attempted(t, accountA, "", "", row.marks).sending
					if name == "a connection, seen elsewhere" {
						w.address = at("192.0.2.9")
						row.renewed = true
					}
				}
				transport.locked(func() { transport.rule.Down = true; transport.downLocked([2]*Fault{}) })
				old := transport.state.Load()
				texts := transport.locked(func() {
					transport.mu.Unlock()
					defer transport.mu.Lock()
					stale, news := attempted(t, accountA, "", "", sawGotConn|sawReuse).sending, e.addresses.news(time.Now())
					stale.address = at("192.0.2.8")
					transport.answered(&state{epoch: old.epoch + 1}, stale)
					assert.True(t, transport.state.Load().down, "an answer to a request from another time")
					assert.Equal(t, news, e.addresses.news(time.Now()), "nor does it say where the endpoint is now")
					transport.answered(old, w)
					transport.answered(old, w) // again
				})
				require.Len(t, texts, 2)
				assert.True(t, strings.HasPrefix(texts[0], "up primary>primary: the primary answers a request"), texts[0])
				assert.Equal(t, row.moved || w != nil && w.address != nil, strings.Contains(texts[0], "(192.0.2.1 before"), texts[0])
				assert.Equal(t, row.renewed, transport.state.Load().pool != old.pool)
				assert.Equal(t, row.renewed, old.pool.retired.Load())
				assert.Equal(t, time.Since(transport.started), e.lastWhole)
			})
		})
	}
}

// The first healthy answer confirms a provisional switch: it is reported to the fleet, and
// reads that wait at the endpoint that was left are abandoned.
func TestAnAnswerConfirmsAProvisionalSwitch(t *testing.T) {
	t.Parallel()
	for _, pinned := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			transport := tellAll(t, Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return errors.New("no route to host") }})
			transport.fleet = &fleet{wake: make(chan struct{}, 1)}
			old := transport.state.Load().pool
			p := transport.newPool()
			transport.locked(func() {
				transport.switchLocked(switchover{to: Alternate, provisional: true, abandon: true}, p, func(now time.Time) bool {
					return transport.rule.SwitchTo(now, rule.Alternate, true)
				})
				transport.rule.Pinned = pinned
			})
			assert.False(t, old.waits.left.Load() || transport.fleet.untold)
			st := transport.state.Load()
			require.True(t, st.provisional)
			assert.Empty(t, transport.locked(func() { transport.mu.Unlock(); transport.answered(st, nil); transport.mu.Lock() }), "nothing has changed")
			assert.False(t, transport.state.Load().provisional)
			assert.Same(t, p, transport.state.Load().pool)
			assert.True(t, old.waits.left.Load())
			assert.Nil(t, transport.leftProvisionally)
			assert.Equal(t, !pinned, transport.fleet.untold, "a pin is this process's own")
			if !pinned {
				assert.Equal(t, "the alternate answers requests", transport.fleet.reason)
			}
			transport.answered(st, nil)
		})
	}
}

// However often the state changes, there is one watch, which runs no longer than needed.
func TestThereIsOneWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int32
		transport := tellAll(t, Config{ProbeInterval: 10 * time.Second, Probe: func(context.Context, *http.Client, *url.URL) error { probes.Add(1); return nil }})
		watching := func() bool {
			transport.mu.Lock()
			defer transport.mu.Unlock()
			return transport.watching
		}
		for round := range 3 {
			for n := range 10 {
				transport.Pin(Endpoint(n % 2))
			}
			synctest.Wait()
			probes.Store(0)
			time.Sleep(10 * time.Minute)
			assert.InDelta(t, 2*60, probes.Load(), 26, "both, every ten seconds, give or take a fifth: round %d", round)
			assert.True(t, watching())
			transport.Pin(Primary)
			transport.Unpin()
			synctest.Wait()
			assert.False(t, watching())
			probes.Store(0)
			time.Sleep(time.Hour)
			assert.Zero(t, probes.Load())
		}
	})
}
