package model_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing/synctest"
	"time"

	"github.com/d365failover/failover"
)

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
	case n < 50: // the active side fails; the other serves, or at least asks for a token
		how, target := pick(rng, outages), pick(rng, []*conduct{sound, sound, sound, sound, tokenless})
		return func(m *model) {
			active := m.transport.Status().Active
			m.set(active, how, how)
			m.set(active^1, target, target)
			read := call{method: "GET", deadline: 3 * time.Second}
			m.traffic(read, read, read, read)
			time.Sleep(max(pause, 10*time.Second))
		}
	case n < 60: // faults that arrive late, perhaps after a switch
		late := call{method: "GET", fate: pick(rng, outages), fateIn: pick(rng, []time.Duration{5 * time.Second, 40 * time.Second}), deadline: time.Minute}
		return func(m *model) { m.traffic(late, late, late) }
	case n < 65: // callers that give up while waiting
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

// traffic starts requests without waiting for their results.
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

// byTheHand calls Switch.
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
		m.unlatched() // nothing to switch, but the latch is released
	}
}

// unpin also releases the latch, pinned or not.
func (m *model) unpin() {
	m.add("unpin")
	m.transport.Unpin()
	m.unlatched()
}

// unlatched forgets the switches so far, as the Transport does.
func (m *model) unlatched() {
	synctest.Wait() // for their events
	m.mu.Lock()
	defer m.mu.Unlock()
	m.switches = nil
}

// veto turns on or off that ConfirmSwitch objects to leaving the primary.
func (m *model) veto(on bool) {
	m.add("veto %v", on)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vetoes = on
	m.vetoed = time.Now()
}

// heal makes one side serve, and perhaps the other, and expects that traffic flows within two
// minutes.
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

// close closes the Transport, which must return at once and leave nothing running.
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

// end ends the schedule. After Close, only calls in progress go on.
func (m *model) end() {
	if !m.isClosed() {
		m.close()
	}
	before, probes := m.transport.Status(), m.probesBegun()
	time.Sleep(time.Minute) // for the faults of calls in progress
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
