package rule

import (
	"fmt"
	"testing"
)

// The rule of switching as a table: what follows from the probes of both endpoints.
var judgements = []struct {
	name          string
	definite      bool
	active, other Outcome
	want          Verdict
	reason        string
}{
	{"healthy, healthy", false, Passed, Passed, Stay, "a false alarm: the active side passes its probe"},
	{"healthy, weak", false, Passed, PassedWeakly, Stay, "a false alarm"},
	{"healthy, dead", false, Passed, Failed, Stay, "a false alarm, and nowhere to go"},
	{"healthy, unclear", false, Passed, Inconclusive, Stay, "a false alarm, and nowhere to go"},
	{"weak, healthy", false, PassedWeakly, Passed, Stay, "a 401 is enough to stay"},
	{"weak, weak", false, PassedWeakly, PassedWeakly, Stay, "a 401 is enough to stay"},
	{"weak, dead", false, PassedWeakly, Failed, Stay, "a 401 is enough to stay"},
	{"weak, unclear", false, PassedWeakly, Inconclusive, Stay, "a 401 is enough to stay"},
	{"dead, healthy", false, Failed, Passed, Switch, "the active side fails its probe and the other passes"},
	{"dead, weak", false, Failed, PassedWeakly, Switch, "to where something answers, until the side that was left does"},
	{"dead, dead", false, Failed, Failed, GoDown, "neither passes"},
	{"dead, unclear", false, Failed, Inconclusive, GoDown, "a side that proves nothing is not switched to"},
	{"unclear, healthy", false, Inconclusive, Passed, Stay, "a side that proves nothing is not left for it"},
	{"unclear, weak", false, Inconclusive, PassedWeakly, Stay, "nothing is proved"},
	{"unclear, dead", false, Inconclusive, Failed, Stay, "something answers there: requests may as well try"},
	{"unclear, unclear", false, Inconclusive, Inconclusive, Stay, "nothing is proved"},
	{"fenced, but healthy, healthy", true, Passed, Passed, Switch, "the fence is the server's word and the other passes: go"},
	{"fenced, but healthy, weak", true, Passed, PassedWeakly, Stay, "weak evidence switches nothing away from a side that passes"},
	{"fenced, but healthy, dead", true, Passed, Failed, Stay, "the other does not pass, and the active one serves again"},
	{"fenced, but healthy, unclear", true, Passed, Inconclusive, Stay, "the other does not pass, and the active one serves again"},
	{"fenced, weak, healthy", true, PassedWeakly, Passed, Switch, "the fence is the server's word and the other passes: go"},
	{"fenced, weak, weak", true, PassedWeakly, PassedWeakly, Stay, "nothing is proved"},
	{"fenced, weak, dead", true, PassedWeakly, Failed, Stay, "something answers there: requests may as well try"},
	{"fenced, weak, unclear", true, PassedWeakly, Inconclusive, Stay, "something answers there: requests may as well try"},
	{"fenced, dead, healthy", true, Failed, Passed, Switch, "a failover as it should be"},
	{"fenced, dead, weak", true, Failed, PassedWeakly, Switch, "to where something answers, until the side that was left does"},
	{"fenced, dead, dead", true, Failed, Failed, GoDown, "neither passes"},
	{"fenced, dead, unclear", true, Failed, Inconclusive, GoDown, "a side that proves nothing is not switched to"},
	{"fenced, unclear, healthy", true, Inconclusive, Passed, Switch, "the fence is the server's word and the other passes: go"},
	{"fenced, unclear, weak", true, Inconclusive, PassedWeakly, Stay, "nothing is proved"},
	{"fenced, unclear, dead", true, Inconclusive, Failed, Stay, "something answers there: requests may as well try"},
	{"fenced, unclear, unclear", true, Inconclusive, Inconclusive, Stay, "nothing is proved"},
}

func TestJudgeFollowsTheRule(t *testing.T) {
	t.Parallel()
	names, cases := make(map[string]bool), make(map[string]bool)
	for _, r := range judgements {
		if r.reason == "" || names[r.name] {
			t.Errorf("%q: a second row, or one without a reason", r.name)
		}
		names[r.name] = true
		cases[fmt.Sprint(r.definite, r.active, r.other)] = true
		if got := Judge(r.definite, Findings{Active: r.active, Other: r.other}); got != r.want {
			t.Errorf("%s: %v instead of %v: %s", r.name, got, r.want, r.reason)
		}
	}
	if len(cases) != 2*4*4 {
		t.Error("not every combination has a row")
	}
}

// While a probe is still running, there is a verdict if and only if its result cannot change
// the verdict.
func TestJudgeIsPromptAndNeverHasty(t *testing.T) {
	t.Parallel()
	full := make(map[string]Verdict)
	for _, r := range judgements {
		full[fmt.Sprint(r.definite, r.active, r.other)] = r.want
	}
	ends := func(o Outcome) []Outcome {
		if o == Pending {
			return outcomes
		}
		return []Outcome{o}
	}
	all := append([]Outcome{Pending}, outcomes...)
	for _, definite := range []bool{false, true} {
		for _, active := range all {
			for _, other := range all {
				possible := make(map[Verdict]bool)
				want := Undecided
				for _, a := range ends(active) {
					for _, o := range ends(other) {
						want = full[fmt.Sprint(definite, a, o)]
						possible[want] = true
					}
				}
				if len(possible) > 1 {
					want = Undecided
				}
				if got := Judge(definite, Findings{Active: active, Other: other}); got != want {
					t.Errorf("definite %v, active %v, other %v: %v instead of %v", definite, active, other, got, want)
				}
			}
		}
	}
}
