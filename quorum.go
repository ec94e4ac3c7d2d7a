package failover

import (
	"context"
	"errors"
	"fmt"
	random "math/rand/v2"
	"time"

	"github.com/d365failover/failover/internal/redact"
	"github.com/d365failover/failover/internal/rule"
)

// This file holds what the members of a fleet do together: they count the witnesses of an
// outage, ask each other to probe, take turns at probes, and freeze.

const (
	// witnessTime is how long a process counts as a witness of an outage.
	witnessTime = time.Minute
	// Members that are asked probe within askSpread. The one that asks waits for askWait, and
	// counts every askPoll.
	askSpread = 500 * time.Millisecond
	askWait   = 1500 * time.Millisecond
	askPoll   = 150 * time.Millisecond
	// A fleet raises a question at most once in firstPace. For a member whose questions find
	// no quorum, the interval grows to lastPace.
	firstPace = 5 * time.Second
	lastPace  = time.Minute
	// downTurn is how long a turn to probe while down lasts.
	downTurn = time.Second
)

// Topics of claims.
const (
	writingTopic  = "writing"
	questionTopic = "question"
	recoveryTopic = "recovery"
	downTopic     = "probes while down"
	failbackTopic = "fail-back"
	stayTopic     = "probes of those who stay" // with Config.ManualFailback
	outageTopic   = "outage of the "           // followed by the endpoint
)

// quorum returns how many witnesses a switch to an endpoint requires. A fail-back requires one,
// and so does leaving an endpoint that has answered with a fence.
func (t *Transport) quorum(to Endpoint, fenced bool) int {
	if to == Primary || fenced {
		return 1
	}
	return t.cfg.Quorum
}

// reportFailure records this process as a witness that an endpoint failed. If quorum exceeds
// one, it counts the witnesses, and asks the other members if there are too few; it returns an
// error if there still are. Alone: the store failed, so the quorum is unknown.
func (t *Transport) reportFailure(at Endpoint, quorum int) (alone bool, err error) {
	if t.fleet == nil {
		return false, nil
	}
	defer t.fleet.wakeUp() // for the list of witnesses
	return t.testify(at, quorum)
}

// testify is reportFailure for the fleet's goroutine.
func (t *Transport) testify(at Endpoint, quorum int) (alone bool, err error) {
	f := t.fleet
	t.mu.Lock()
	f.witnessed, f.status.Failed = time.Now().Add(witnessTime), at
	failing := f.failing()
	t.mu.Unlock()
	if quorum <= 1 || failing != nil {
		return quorum > 1, nil
	}
	outage := Claim{Topic: outageTopic + at.String(), Member: f.member, TTL: witnessTime}
	seen, err := t.claim(t.ctx, outage)
	if err == nil && seen.Count < quorum && t.askOthers() {
		for patience := time.Now().Add(askWait); err == nil && seen.Count < quorum && time.Now().Before(patience) && t.ctx.Err() == nil; {
			sleep(t.ctx, askPoll)
			seen, err = t.claim(t.ctx, outage)
		}
	}
	switch {
	case err != nil:
		return true, nil
	case seen.Count < quorum:
		return false, fmt.Errorf("seen by %d of the %d processes required", seen.Count, quorum)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.askAfter = time.Time{}
	f.pace.Reset()
	return false, nil
}

// askOthers asks the other members to probe their active endpoint. It reports whether there will
// be answers to wait for.
func (t *Transport) askOthers() bool {
	f := t.fleet
	t.mu.Lock()
	now := time.Now()
	may := !now.Before(f.askAfter) && f.failing() == nil
	if may {
		f.askAfter = now.Add(f.pace.NextBackOff())
	}
	t.mu.Unlock()
	if may && t.turn(questionTopic, firstPace) { // otherwise, another member has just asked
		t.raise(func(r *Record) { r.Questions++ })
	}
	return may
}

// announceRecovery asks the members that are down to probe again.
func (t *Transport) announceRecovery() {
	if t.fleet != nil && t.turn(recoveryTopic, firstPace) {
		t.raise(func(r *Record) { r.Recoveries++ })
	}
}

// raise puts a question into the record, and marks it as answered here.
func (t *Transport) raise(question func(*Record)) {
	t.amend(func(r *Record) bool {
		question(r)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fleet.asked = [2]uint64{r.Questions, r.Recoveries}
		return true
	})
}

// answer answers the questions in a record, if they are new.
func (t *Transport) answer(rec Record) {
	f := t.fleet
	t.mu.Lock()
	st := t.state.Load()
	now := time.Now()
	asked := rec.Questions != f.asked[0] && !now.Before(f.answerAfter) || rec.Recoveries != f.asked[1] && st.down
	asked = asked && !f.answering && !st.closed
	f.asked = [2]uint64{rec.Questions, rec.Recoveries}
	if asked {
		f.answering, f.answerAfter = true, now.Add(firstPace/2)
	}
	t.mu.Unlock()
	if asked {
		t.wg.Go(func() { t.look(st) })
	}
}

// look probes the active endpoint, and reports its failure. While down, it has the watch probe
// instead.
func (t *Transport) look(st *state) {
	sleep(t.ctx, random.N(askSpread))
	t.mu.Lock()
	t.fleet.answering = false
	demanded := t.rule.Down
	if demanded {
		t.demanded = true
		t.wakeWatch()
	}
	overtaken := t.rule.Epoch != st.epoch
	t.mu.Unlock()
	if demanded || overtaken {
		return
	}
	began := time.Now()
	p := t.probe(t.ctx, st.active)
	if outcome, _ := p.outcome(); outcome == rule.Failed && t.ctx.Err() == nil && !t.succeededSince(st.active, began) {
		t.reportFailure(st.active, 1)
	}
}

// renewWitness updates the witnesses of FleetStatus. Quiet: this process is no witness.
func (t *Transport) renewWitness() (quiet bool) {
	t.mu.Lock()
	at, left := t.fleet.status.Failed, time.Until(t.fleet.witnessed)
	t.mu.Unlock()
	var seen Holders
	if left > 0 {
		seen, _ = t.claim(t.ctx, Claim{Topic: outageTopic + at.String(), Member: t.fleet.member, TTL: left})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fleet.status.Witnesses, t.fleet.status.WitnessCount = seen.Names, seen.Count
	return left <= 0
}

// turn claims the only place of a topic, and reports whether this Transport has it, or the store
// failed.
func (t *Transport) turn(topic string, ttl time.Duration) bool {
	holders, _ := t.claim(t.ctx, Claim{Topic: topic, Member: t.fleet.claimant, TTL: ttl, Places: 1})
	return len(holders.Names) == 0 || holders.Names[0] == t.fleet.claimant
}

// mayProbe reports whether this Transport should probe now. Of a fleet that is down or failed
// over, one member probes for all. A turn outlasts the interval after a passed probe, but not
// the longer one after a failed probe: a member whose probe passed keeps its turn, and otherwise
// another one gets it.
func (t *Transport) mayProbe(st *state) bool {
	if t.fleet == nil || st.pinned || st.provisional {
		return true
	}
	topic, ttl := failbackTopic, min(t.cfg.ProbeInterval, MaxClaim/2)*3/2
	switch {
	case st.down:
		topic, ttl = downTopic, downTurn
	case t.cfg.ManualFailback:
		topic = stayTopic
	}
	t.mu.Lock()
	failing := t.fleet.failing()
	t.mu.Unlock()
	if failing != nil {
		return true
	}
	mine := t.turn(topic, ttl)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fleet.holds = ""; mine {
		t.fleet.holds = topic
	}
	return mine
}

// giveUpTurn withdraws the claim on a turn. It works after Close, too.
func (t *Transport) giveUpTurn() {
	if t.fleet == nil {
		return
	}
	t.mu.Lock()
	topic, failing := t.fleet.holds, t.fleet.failing()
	t.fleet.holds = ""
	t.mu.Unlock()
	if topic != "" && failing == nil {
		ctx, cancel := context.WithTimeout(context.Background(), fleetTimeout)
		defer cancel()
		t.protect("Shared", func() { t.fleet.store.Claim(ctx, t.fleet.organization, Claim{Topic: topic, Member: t.fleet.claimant}) })
	}
}

// countProbe counts a probe of the primary for the fleet, if it was this Transport's turn.
func (t *Transport) countProbe(good bool) {
	if t.fleet == nil || t.cfg.ManualFailback {
		return
	}
	t.mu.Lock()
	rec, mine := t.fleet.status.Record, t.fleet.holds == failbackTopic
	known := t.fleet.known.Generation
	t.mu.Unlock()
	counted := func(r *Record) bool { return good && r.Risen >= uint64(t.cfg.Rise) || !good && r.Risen == 0 }
	if !mine || counted(&rec) {
		return
	}
	t.amend(func(r *Record) bool {
		switch {
		case r.Generation != known || r.Active != Alternate || counted(r):
			return false
		case good:
			r.Risen++
		default:
			r.Risen = 0
		}
		return true
	})
}

// primaryRisen reports whether the fleet has counted enough passed probes in a row, and it is
// this Transport's turn. Transport.mu is held.
func (f *fleet) primaryRisen(rise int) bool {
	return f != nil && f.holds == failbackTopic && f.status.Record.Generation == f.known.Generation && f.status.Record.Risen >= uint64(rise)
}

// claim claims a topic in the store.
func (t *Transport) claim(ctx context.Context, c Claim) (Holders, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetTimeout)
	defer cancel()
	began := time.Now()
	c.TTL = min(c.TTL, MaxClaim)
	holders, err := useStore(ctx, t, func() (Holders, error) { return t.fleet.store.Claim(ctx, t.fleet.organization, c) })
	t.noteWrite(began, err)
	names := make([]string, min(len(holders.Names), MaxHolders))
	for i := range names {
		names[i] = redact.Line(holders.Names[i], maxErrorText)
	}
	holders.Names = names
	return holders, err
}

// Freeze disables automatic switches in every Transport of the fleet until
// [Transport.Unfreeze]: there is no failover and no fail-back, whatever the probes say. Each
// stays at its endpoint, even if that is down; [Transport.Switch] still switches the fleet,
// and [Transport.Pin] one Transport. The reason is for people: [Record.Frozen]. A Transport
// that loses the store stays frozen if it was. Freeze returns an error if it cannot write the
// record, and [errors.ErrUnsupported] without [Config.Shared]; use Pin there.
func (t *Transport) Freeze(ctx context.Context, reason string) error {
	if reason == "" {
		reason = "by hand"
	}
	return t.freeze(ctx, redact.Line(redact.Text(reason), maxErrorText))
}

// Unfreeze enables automatic switches again after [Transport.Freeze] in any member. Its errors
// are those of Freeze.
func (t *Transport) Unfreeze(ctx context.Context) error { return t.freeze(ctx, "") }

func (t *Transport) freeze(ctx context.Context, reason string) error {
	if t.fleet == nil {
		return fmt.Errorf("failover: there is no fleet: %w", errors.ErrUnsupported)
	}
	for ctx.Err() == nil {
		if t.amend(func(r *Record) bool { r.Frozen = reason; return true }) {
			return nil
		}
		t.mu.Lock()
		err := t.fleet.failing()
		t.mu.Unlock()
		switch {
		case t.ctx.Err() != nil:
			return ErrClosed
		case err != nil:
			return fmt.Errorf("failover: the fleet's store: %w", redacted(err))
		}
		sleep(ctx, changePause)
	}
	return ctx.Err()
}

// frozen returns an error if the fleet is frozen and m does not follow the fleet.
func (t *Transport) frozen(m switchover) error {
	if t.fleet == nil || m.follows {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if why := t.fleet.status.Record.Frozen; why != "" {
		return fmt.Errorf("the fleet is frozen: %s", why)
	}
	return nil
}
