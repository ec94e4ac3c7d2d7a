package failover

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rule of switching, written out: what has to be done once both endpoints
// have been heard.
var rules = []struct {
	name       string
	definitive bool
	active     outcome
	other      outcome
	want       verdict
	reason     string
}{
	{"healthy, healthy", false, passed, passed, stay, "a false alarm: the active endpoint passes its probe"},
	{"healthy, dead", false, passed, failed, stay, "a false alarm, and nowhere to go"},
	{"healthy, unclear", false, passed, inconclusive, stay, "a false alarm, and nowhere to go"},
	{"dead, healthy", false, failed, passed, move, "the active endpoint fails its probe and the other passes"},
	{"dead, dead", false, failed, failed, down, "neither passes"},
	{"dead, unclear", false, failed, inconclusive, down, "an endpoint that proves nothing is not moved to"},
	{"unclear, healthy", false, inconclusive, passed, stay, "an endpoint that proves nothing is not left for it"},
	{"unclear, dead", false, inconclusive, failed, stay, "something answers there: requests may as well try"},
	{"unclear, unclear", false, inconclusive, inconclusive, stay, "nothing is proved"},
	{"fenced, but healthy, healthy", true, passed, passed, move, "the fence is the server's word and the other passes: go"},
	{"fenced, but healthy, dead", true, passed, failed, stay, "the other does not pass, and the active one serves again"},
	{"fenced, but healthy, unclear", true, passed, inconclusive, stay, "the other does not pass, and the active one serves again"},
	{"fenced, dead, healthy", true, failed, passed, move, "a failover as it should be"},
	{"fenced, dead, dead", true, failed, failed, down, "neither passes"},
	{"fenced, dead, unclear", true, failed, inconclusive, down, "an endpoint that proves nothing is not moved to"},
	{"fenced, unclear, healthy", true, inconclusive, passed, move, "the fence is the server's word and the other passes: go"},
	{"fenced, unclear, dead", true, inconclusive, failed, stay, "something answers there: requests may as well try"},
	{"fenced, unclear, unclear", true, inconclusive, inconclusive, stay, "nothing is proved"},
}

var outcomes = []outcome{pending, passed, failed, inconclusive}

func TestJudgeFollowsTheRule(t *testing.T) {
	t.Parallel()
	names, cases := make(map[string]bool), make(map[string]bool)
	for _, r := range rules {
		require.NotEmpty(t, r.reason, r.name)
		require.False(t, names[r.name], "second row named %q", r.name)
		names[r.name] = true
		cases[fmt.Sprint(r.definitive, r.active, r.other)] = true
		assert.Equal(t, r.want, judge(r.definitive, r.active, r.other), "%s: %s", r.name, r.reason)
	}
	assert.Len(t, cases, 2*3*3, "every combination has a row")
}

// TestJudgeIsPromptAndNeverHasty: with a probe still under way there is a
// verdict if, and only if, the rest of the evidence cannot change it.
func TestJudgeIsPromptAndNeverHasty(t *testing.T) {
	t.Parallel()
	full := make(map[string]verdict)
	for _, r := range rules {
		full[fmt.Sprint(r.definitive, r.active, r.other)] = r.want
	}
	ends := func(o outcome) []outcome {
		if o == pending {
			return outcomes[1:]
		}
		return []outcome{o}
	}
	for _, definitive := range []bool{false, true} {
		for _, active := range outcomes {
			for _, other := range outcomes {
				possible := make(map[verdict]bool)
				want := undecided
				for _, a := range ends(active) {
					for _, o := range ends(other) {
						want = full[fmt.Sprint(definitive, a, o)]
						possible[want] = true
					}
				}
				if len(possible) > 1 {
					want = undecided
				}
				assert.Equal(t, want, judge(definitive, active, other), "definitive %v, active %v, other %v", definitive, active, other)
			}
		}
	}
}
