package statuspage

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestVerdicts(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]Finding{
		"":                                    {Cause: CauseUs},
		"Most likely us: the load is.":        {Cause: CauseUs, Why: "the load is"},
		"Most likely Microsoft: the load is.": {Cause: CauseMicrosoft, Why: "the load is"},
		"Us or Microsoft? Not clear: the load is.": {Cause: CauseEither, Why: "the load is"},
		"The load is.": {Cause: CauseNone, Why: "the load is"},
	} {
		assert.Equal(t, want, f.Verdict())
	}
}

// Shares of the attempts, and the words for them.
func TestShares(t *testing.T) {
	t.Parallel()
	e := &Endpoint{Name: "primary"}
	for _, row := range []struct {
		n, all int
		level  string
		text   string
	}{
		{0, 0, "", "All 0 attempts at the primary in the last 5 minutes"},
		{0, 1, "", "About 0% of the attempts at the primary in the last 5 minutes (0 of 1)"},
		{1, 1, LevelWarn, "The only attempt at the primary in the last 5 minutes"},
		{2, 2, LevelWarn, "All 2 attempts at the primary in the last 5 minutes"},
		{1, 2, "", "About 50% of the attempts at the primary in the last 5 minutes (1 of 2)"},
		{2, 3, "", "About 67% of the attempts at the primary in the last 5 minutes (2 of 3)"},
		{3, 3, LevelBad, "All 3 attempts at the primary in the last 5 minutes"},
		{3, 6, LevelBad, "About 50% of the attempts at the primary in the last 5 minutes (3 of 6)"},
		{3, 7, "", "About 43% of the attempts at the primary in the last 5 minutes (3 of 7)"},
		{4, 40, "", "About 10% of the attempts at the primary in the last 5 minutes (4 of 40)"},
		{5, 50, LevelWarn, "About 10% of the attempts at the primary in the last 5 minutes (5 of 50)"},
		{5, 51, "", "About 10% of the attempts at the primary in the last 5 minutes (5 of 51)"},
		{100, 201, LevelWarn, "About 50% of the attempts at the primary in the last 5 minutes (100 of 201)"},
		{101, 201, LevelBad, "About 50% of the attempts at the primary in the last 5 minutes (101 of 201)"},
		{1, 200, "", "About 1% of the attempts at the primary in the last 5 minutes (1 of 200)"},
		{1, 201, "", "About 0% of the attempts at the primary in the last 5 minutes (1 of 201)"},
	} {
		level, ok := share(row.n, row.all)
		assert.Equal(t, row.level, level, "%d of %d", row.n, row.all)
		assert.Equal(t, row.level != "", ok)
		assert.Equal(t, row.text, ofAttempts(row.n, &Recent{Minutes: 5, Succeeded: row.all}, e))
	}
}

// found returns the finding with that name, if there is one.
func found(r *Report, name string) *Finding {
	r.Judge()
	for i := range r.Findings {
		if r.Findings[i].Name == name {
			return &r.Findings[i]
		}
	}
	return nil
}

// oneAddress removes the alternate.
func oneAddress(r *Report) { r.Alternate = nil }

// What a finding says depends on what else is known: each row changes a report and has the
// finding's words.
func TestWhatFindingsSay(t *testing.T) {
	t.Parallel()
	nonsense := &Fault{Class: "unavailable", Delivery: "unknown", Status: 503}
	const sent, both = "Requests are still sent to the ", "both endpoints are probed every few seconds."
	down := func(primary, alternate *Fault) *Report {
		return with(downReport(), func(r *Report) {
			r.Primary.Probe, r.Alternate.Probe = failedProbe(primary, statusNow), failedProbe(alternate, statusNow)
		})
	}
	failing := func(failed, succeeded int) *Report {
		return with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: succeeded, Faults: map[string]int{"unavailable": failed}}
		})
	}
	refusedFor := func(r *Report, reason string) *Report {
		r.Events = append(r.Events, Event{Kind: "switch refused", Time: statusNow, To: "alternate", Reason: reason})
		r.Primary.Recent.RefusedSwitches = 1
		return r
	}
	for name, row := range map[string]struct {
		report             *Report
		finding            string
		cause, why, advice string // complete
	}{
		"pinned to one that has tripped": {with(failedOverReport(), func(r *Report) { r.Pinned, r.Alternate.Breaker, r.Alternate.Probe = true, "open", nil }), "pinned",
			CauseUs, "somebody has pinned it, so there are no automatic switches", "Call Unpin to let the Transport find the endpoint that serves, or pin the primary."},
		"pinned to the only one, which fails": {with(trippedReport(), func(r *Report) { oneAddress(r); r.Pinned = true }), "pinned",
			CauseUs, "somebody has pinned it, so there are no automatic switches", "Find out whether the endpoint serves."},
		"latched at the only one": {with(trippedReport(), func(r *Report) { oneAddress(r); r.Latched = true }), "latched",
			CauseEither, "the endpoints fail by turns", "Find out which endpoint serves. If it is the other endpoint, call Switch."},

		"down, active fenced": {down(refused, fence), "down",
			CauseMicrosoft, "the alternate answers, and says that it does not serve: no failover is complete", "Wait, and open a ticket. " + sent + "alternate; " + both},
		"down, other fenced": {down(fence, refused), "down",
			CauseMicrosoft, "the primary answers, and says that it does not serve: no failover is complete", "Wait, and open a ticket. " + sent + "alternate; " + both},
		"down, one fenced": {with(trippedReport(), func(r *Report) { oneAddress(r); r.Down, r.Primary.Probe = true, failedProbe(fence, statusNow) }), "down",
			CauseMicrosoft, "the organization answers, and says that it does not serve", "Wait, and open a ticket. " + sent + "primary; it is probed every few seconds."},
		"down, one out of reach": {with(trippedReport(), func(r *Report) { oneAddress(r); r.Down, r.Primary.Probe = true, failedProbe(refused, statusNow) }), "down",
			CauseEither, "the results of the probes fit both", "Check Microsoft's service health and this machine's network. " + sent + "primary; it is probed every few seconds."},
		"down, both out of reach": {down(refused, refused), "down",
			CauseUs, "this machine can reach neither endpoint, which is more often its own network than both regions", "Check this machine's network, DNS and proxy, and whether other processes report the same. " + sent + "alternate; " + both},
		"down, active out of reach": {down(nonsense, refused), "down",
			CauseEither, "the results of the probes fit both", "Check Microsoft's service health and this machine's network. " + sent + "alternate; " + both},
		"down, other out of reach": {down(refused, nonsense), "down",
			CauseEither, "the results of the probes fit both", "Check Microsoft's service health and this machine's network. " + sent + "alternate; " + both},

		"tripped": {trippedReport(), "tripped", CauseEither, "the faults alone do not show it", "The traffic switches automatically if the alternate passes its probe."},
		"tripped, only one, frozen": {with(trippedReport(), func(r *Report) { oneAddress(r); r.Fleet = &Fleet{Frozen: "migration"} }), "tripped",
			CauseEither, "the faults alone do not show it", "There is no other endpoint to switch to: find out what fails."},
		"tripped, refused": {refusedFor(trippedReport(), "not confirmed"), "tripped",
			CauseEither, "the faults alone do not show it", "The switch to the alternate was refused: not confirmed. If that persists, call Switch."},
		"tripped, answers": {refusedFor(trippedReport(), "the primary answers its probe"), "tripped",
			CauseEither, whyPartial, "The switch to the alternate was refused: the primary answers its probe. If that persists, call Switch."},

		"refused": {refusedFor(quietReport(), "not confirmed"), "switches refused",
			CauseEither, "the faults are real; the reason says what prevents a switch", "The last reason: not confirmed. Find out what fails."},
		"refused, answers": {refusedFor(quietReport(), "the primary answers its probe"), "switches refused",
			CauseEither, whyPartial, "The last reason: the primary answers its probe. Find out what fails."},
		"refused, not on record": {with(quietReport(), func(r *Report) { r.Primary.Recent.RefusedSwitches = 1 }), "switches refused",
			CauseEither, "the faults are real; the reason says what prevents a switch", "Find out what fails."},

		"some fail": {failing(10, 90), "failing", CauseEither, "the endpoint serves some requests and fails others", "Check which requests fail, and the last fault."},
		"most fail": {failing(50, 50), "failing", CauseEither, "the endpoint serves some requests and fails others",
			"Check which requests fail, and the last fault. If this persists and the alternate passes its probe, call Switch."},
		"most fail at the only one": {with(failing(50, 50), oneAddress), "failing", CauseEither, "the endpoint serves some requests and fails others", "Check which requests fail, and the last fault."},

		"apart": {fleetReport(func(f *Fleet) { f.Apart = true }), "fleet", CauseUs, "this process's network, ConfirmSwitch or a pin", "Find out why this process does not follow."},
	} {
		f := found(row.report, row.finding)
		require.NotNil(t, f, name)
		assert.Equal(t, []string{row.cause, row.why, row.advice}, []string{f.Cause, f.Why, f.Advice}, name)
	}
	assert.Nil(t, found(with(failing(50, 50), func(r *Report) { r.Down = true }), "failing"), "that it is down says it")
	assert.Nil(t, found(with(failing(50, 50), func(r *Report) { r.Primary.Breaker = "open" }), "failing"), "that it has tripped says it")
	assert.Nil(t, found(refusedFor(trippedReport(), "x"), "switches refused"), "that it has tripped says it")
	for _, kind := range []string{"up", "switched"} {
		for age, want := range map[time.Duration]bool{5*time.Minute - 1: false, 5 * time.Minute: true} {
			r := failing(50, 50)
			r.Events = []Event{{Kind: kind, Time: statusNow.Add(-age), From: "primary", To: "primary"}}
			assert.Equal(t, want, found(r, "failing") != nil, "%s %v ago", kind, age)
		}
	}
	for age, want := range map[time.Duration]bool{doubtful - 1: true, doubtful: false} {
		r := quietReport()
		r.Events = []Event{{Kind: "outcome unknown", Time: statusNow.Add(-age), From: "primary", To: "primary"}}
		assert.Equal(t, want, found(r, "writes in doubt") != nil, age)
	}
}

// What is known about an endpoint, in words.
func TestBreakerNotes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		breaker         string
		probe           *Probe
		active, standby string
	}{
		{"closed", nil, "", "; whether it serves is unknown"},
		{"closed", &Probe{Result: ProbePassed}, "", ", and it passed its last probe"},
		{"closed", &Probe{Result: ProbeInconclusive}, "", "; whether it serves is unknown"},
		{"closed", failedProbe(refused, statusNow), ", but it did not pass its last probe", ", but it did not pass its last probe"},
		{"closed", failedProbe(fence, statusNow), ", but it did not pass its last probe", ", but the endpoint says that it does not serve, as a standby does"},
		{"closed", &Probe{Result: ProbeFailed}, ", but it did not pass its last probe", ", but it did not pass its last probe"},
	} {
		e := Endpoint{Breaker: row.breaker, Probe: row.probe}
		assert.Equal(t, "no faults in a row"+row.standby, e.BreakerNote())
		assert.Equal(t, row.probe != nil && row.probe.Fault == refused, e.unreachable())
		assert.Equal(t, row.probe != nil && row.probe.Fault == fence, e.fenced())
		e.Active = true
		assert.Equal(t, "no faults in a row"+row.active, e.BreakerNote())
		for _, e.Active = range []bool{false, true} {
			e.Breaker = "open"
			assert.Equal(t, "it has failed", e.BreakerNote())
			e.Breaker = "half-open"
			assert.Equal(t, "it has failed; good probes will close it", e.BreakerNote())
		}
	}
	e := Endpoint{Faults: map[string]uint64{"unavailable": 2, "auth": 0, "application": 1}}
	assert.Equal(t, []FaultCount{{"application", 1}, {"unavailable", 2}}, e.Counts())
}

func TestWhatAnEventSays(t *testing.T) {
	t.Parallel()
	f := &Fault{Text: "fault"}
	for _, row := range []struct {
		event Event
		want  string
	}{
		{Event{}, ""},
		{Event{Error: "error"}, "error"},
		{Event{Error: "error", Fault: f}, "fault"},
		{Event{Reason: "reason", Error: "error"}, "reason"},
		{Event{Reason: "reason", Fault: f}, "reason; fault"},
		{Event{Reason: "fault", Fault: f}, "fault"},
	} {
		assert.Equal(t, row.want, row.event.Detail(), "%+v", row.event)
	}
	assert.Equal(t, "primary to alternate", (&Event{From: "primary", To: "alternate"}).Which())
	assert.Equal(t, "primary", (&Event{From: "primary", To: "primary"}).Which())
	newest := view{&Report{Events: []Event{{Kind: "down"}, {Kind: "up"}}}, nil}.Newest()
	assert.Equal(t, []Event{{Kind: "up"}, {Kind: "down"}}, newest)
}

// What the forms ask for.
func TestActions(t *testing.T) {
	t.Parallel()
	var got []string
	for _, a := range Actions() {
		got = append(got, fmt.Sprintf("%s %s %t", a.Name, a.Field, a.NeedsReason))
		if a.Name != "verify" {
			assert.Equal(t, a.text, formView{view{lossReport(), nil}, &Form{Action: &a}}.Text())
		}
	}
	assert.Equal(t, []string{"switch to true", "pin endpoint true", "unpin  true", "freeze  true", "unfreeze  false", "verify  false"}, got)
	r := with(quietReport(), func(r *Report) { r.Latched = true })
	assert.Contains(t, view{r, nil}.Actions(), actionLink{"./unpin", "Unpin …"}, "it releases the latch as well")
}

func TestNumbersInWords(t *testing.T) {
	t.Parallel()
	for names, row := range map[int]struct{ count, more int }{0: {0, 0}, 2: {2, 0}, 8: {37, 29}, 3: {1, 0}} {
		assert.Equal(t, row.more, (&Fleet{Witnesses: make([]string, names), WitnessCount: row.count}).MoreWitnesses())
	}
	for d, want := range map[time.Duration]string{
		-time.Minute: "now", 0: "now", time.Second - 1: "now", time.Second: "1 s ago", 2 * time.Second: "2 s ago", time.Minute - 1: "59 s ago", time.Minute: "1 min ago",
		time.Hour - 1: "59 min ago", time.Hour: "1 h 0 min ago", 24*time.Hour - 1: "23 h 59 min ago", 24 * time.Hour: "1 d 0 h ago", 49 * time.Hour: "2 d 1 h ago",
	} {
		assert.Equal(t, want, ago(statusNow.Add(-d), statusNow), d)
	}
	assert.Equal(t, "0 s", inWords(-time.Second))
}
