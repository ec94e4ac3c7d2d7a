package rule

import (
	"slices"
	"testing"
	"time"
)

// What is held, for how long, and what is not.
func TestHold(t *testing.T) {
	t.Parallel()
	refuse := func(r *Rule, at int64, k Kind, hold time.Duration) {
		t.Helper()
		if r.See(time.Unix(at, 0), 0, Evidence{Kinds: k, Decides: true}) != Ask {
			t.Fatalf("evidence %v at %d is held", k, at)
		}
		r.Refuse(time.Unix(at, 0), r.question, hold)
	}
	asks := func(r Rule, at int64, k Kind) bool {
		return r.See(time.Unix(at, 0), 0, Evidence{Kinds: k, Decides: true}) == Ask
	}
	var r Rule
	refuse(&r, 0, Answered, 4*time.Second)
	if asks(r, 3, Answered) || !asks(r, 4, Answered) {
		t.Error("a hold does not last for its time")
	}
	refuse(&r, 1, Unreachable, 4*time.Second)
	if asks(r, 2, Answered) || asks(r, 2, Unreachable) || asks(r, 2, Answered|Unreachable) || !asks(r, 2, Fenced|Answered) {
		t.Error("a second hold is not about both kinds of evidence, or about more")
	}
	refuse(&r, 9, Answered, 4*time.Second)
	if !asks(r, 10, Unreachable) {
		t.Error("a hold that is over has become part of another")
	}
	refuse(&r, 10, Slow, 100*time.Second)
	if asks(r, 12, Answered) || !asks(r, 13, Answered) || !asks(r, 11, Slow) {
		t.Error("a slow request has changed what is held")
	}
}

// For a while, the findings of an early question make another one unnecessary.
func TestFindingsAreFreshForAWhile(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Fresh: 2 * time.Second}}
	if _, ok := r.Kept(time.Unix(0, 0)); ok {
		t.Error("findings before any question")
	}
	r.See(time.Unix(0, 0), 0, Evidence{Kinds: Answered})
	r.Conclude(time.Unix(0, 0), r.question, Findings{Active: Failed, Other: Passed}, time.Second)
	for at, want := range []bool{true, true, false, false} {
		if f, ok := r.Kept(time.Unix(int64(at), 0)); ok != want || ok && f.Active != Failed {
			t.Errorf("after %d s: %v, %+v", at, ok, f)
		}
	}
}

// What a history of switches means, in hours and minutes.
func TestDwellAndLatch(t *testing.T) {
	t.Parallel()
	limits := Limits{MinDwell: 10 * time.Minute, Damping: time.Hour, FenceDamping: time.Minute, MaxSwitches: 4, Keep: 6}
	for _, row := range []struct {
		name    string
		minutes []int // when the switches were made, the last at 0
		dwell   int
		latched bool
	}{
		{"one switch", []int{0}, 10, false},
		{"the second within the hour", []int{-30, 0}, 20, false},
		{"the third", []int{-59, -30, 0}, 40, false},
		{"the hour is the most", []int{-59, -40, -30, 0}, 60, true},
		{"an hour ago is long ago", []int{-60, 0}, 10, false},
		{"and does not latch", []int{-60, -30, -20, 0}, 40, false},
	} {
		r := Rule{Limits: limits, View: View{Active: Alternate}}
		now := time.Unix(1e9, 0)
		latched := false
		var switches []time.Time
		for _, m := range row.minutes {
			switches = append(switches, now.Add(time.Duration(m)*time.Minute))
			latched = r.SwitchTo(switches[len(switches)-1], Alternate, false)
		}
		home := now.Add(time.Duration(row.dwell) * time.Minute)
		if got := r.DwellUntil(); !got.Equal(home) {
			t.Errorf("%s: home after %v", row.name, got.Sub(now))
		}
		if r.MayReturn(home.Add(-1), r.View, true) || !r.MayReturn(home, r.View, true) {
			t.Errorf("%s: not home when the dwell is over", row.name)
		}
		if latched != row.latched || r.Latched(now) != row.latched || (r.MaySwitch(now, r.View, time.Hour) == ErrLatched) != row.latched {
			t.Errorf("%s: latched: %v", row.name, latched)
		}
		if r.MaySwitch(now, r.View, time.Minute) != nil {
			t.Errorf("%s: a fence switches nothing", row.name)
		}
		if again := r.SwitchTo(now, Primary, false); row.latched && again {
			t.Errorf("%s: latched a second time", row.name)
		}
		fleet := Rule{Limits: limits, View: View{Active: Alternate, Since: now.Add(time.Hour)}}
		if got := fleet.Remember(now, switches); got != row.latched || fleet.Remember(now, fleet.switches) {
			t.Errorf("%s: latched by a fleet: %v", row.name, got)
		}
		if got := fleet.DwellUntil(); !got.Equal(home) {
			t.Errorf("%s: the fleet goes home after %v", row.name, got.Sub(now))
		}
	}
	for switches := range 3 {
		r := Rule{Limits: Limits{MinDwell: 2 * time.Hour, Damping: time.Hour, Keep: 9}}
		for range switches {
			r.SwitchTo(time.Unix(1e9, 0), Alternate, false)
		}
		if r.DwellUntil() != r.Since.Add(2*time.Hour) {
			t.Error("MinDwell is shortened, or longer than it has to be")
		}
	}
}

// A provisional switch that is undone leaves nothing behind but a pause, in minutes, before
// the next one.
func TestProvisionalSwitches(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Damping: 30 * time.Minute, MaxSwitches: 3, Keep: 9, ProvisionalPause: 5 * time.Minute}}
	now := time.Unix(1e9, 0)
	r.SwitchTo(now, Alternate, false)
	r.SwitchTo(now, Primary, false)
	for i, pause := range append([]time.Duration{5, 10, 20}, slices.Repeat([]time.Duration{30}, 99)...) {
		began := now.Add(time.Duration(i) * time.Second)
		r.SwitchTo(began, Alternate, true)
		if r.Undo(began.Add(1)) || r.Active != Primary || r.Provisional || len(r.Switches()) != 2 || r.Latched(now) {
			t.Errorf("provisional switch %d: %+v after it", i, r)
		}
		if pause *= time.Minute; r.Weigh(began.Add(pause), PassedWeakly) != Inconclusive || r.Weigh(began.Add(pause+1), PassedWeakly) != PassedWeakly {
			t.Errorf("provisional switch %d: the next one is not tried after %v", i, pause)
		}
		if r.Weigh(began, Passed) != Passed || r.Weigh(began, Failed) != Failed {
			t.Error("a provisional switch that has failed says something about what passes or fails")
		}
		r.Healthy(began, r.Epoch, 0) // of the endpoint that was returned to: confirms nothing
	}
	r.SwitchTo(now, Alternate, true)
	r.Healthy(now, r.Epoch, 0)
	r.SwitchTo(now, Primary, false)
	r.SwitchTo(now.Add(time.Second), Alternate, true)
	before := len(r.Switches())
	r.Remember(now, r.Switches()[:before-1]) // from a fleet that does not know of the provisional switch
	if r.Undo(now.Add(time.Second)); len(r.Switches()) != before-1 || r.Weigh(now.Add(5*time.Minute+time.Second), PassedWeakly) != PassedWeakly {
		t.Error("a provisional switch that was confirmed counts, or the switches of a fleet do not")
	}
}

// Few switches are remembered: the newest, in a copy of the rule's own.
func TestMovesThatAreRemembered(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Damping: time.Hour, Keep: 3}}
	theirs := make([]time.Time, 5)
	for i := range theirs {
		theirs[i] = time.Unix(int64(i), 0)
	}
	r.Remember(theirs[4], theirs)
	theirs[4] = time.Time{}
	if m := r.Switches(); len(m) != 3 || m[0] != time.Unix(2, 0) || m[2] != time.Unix(4, 0) {
		t.Error(m)
	}
	r.SwitchTo(time.Unix(5, 0), Alternate, false)
	if m := r.Switches(); len(m) != 3 || m[0] != time.Unix(3, 0) || m[2] != time.Unix(5, 0) {
		t.Error(m)
	}
}
