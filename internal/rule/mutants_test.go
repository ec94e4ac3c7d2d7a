package rule

import (
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var mutantsTried = flag.Int("mutants", 3, "how many guards of the rule are taken out by TestEveryGuardIsNeeded; negative: all of them")

// Each mutant is the rule with one guard removed. The text from must occur exactly once in the
// function in.
var mutants = []struct{ name, in, from, to string }{
	{"evidence after Close", "See", "r.Closed || epoch", "epoch"},
	{"evidence of an old epoch", "See", "epoch != r.Epoch || ", ""},
	{"evidence while down", "See", " || r.Down || r.Pinned", " || r.Pinned"},
	{"evidence while pinned", "See", " || r.Down || r.Pinned", " || r.Down"},
	{"one question at a time", "See", "case r.asking:", "case false:"},
	{"kinds join", "See", "r.evidence.Kinds |= e.Kinds", ""},
	{"decisions join", "See", "r.evidence.Decides || e.Decides", "r.evidence.Decides"},
	{"a question that decides goes on deciding", "See", "r.evidence.Decides || e.Decides", "e.Decides"},
	{"hold", "See", "case now.Before(r.heldUntil) && e.Kinds&^r.heldBy == 0:", "case false:"},
	{"end of the hold", "See", "now.Before(r.heldUntil) && ", ""},
	{"evidence of another kind", "See", " && e.Kinds&^r.heldBy == 0", ""},
	{"quiet", "See", "case !e.Decides && now.Before(r.quietTill):", "case false:"},
	{"end of the quiet", "See", " && now.Before(r.quietTill)", ""},
	{"quiet is for early questions", "See", "!e.Decides && now", "now"},
	{"a question that does not decide", "See", "r.evidence.Decides || e.Decides", "true"},
	{"a question begins", "See", "r.asking, r.evidence = true, e", "r.evidence = e"},
	{"evidence is that of the question", "See", "r.asking, r.evidence = true, e", "r.asking = true; r.evidence.Kinds |= e.Kinds; r.evidence.Decides = r.evidence.Decides || e.Decides"},
	{"questions have numbers", "See", "r.question++", ""},

	{"findings grow old", "Kept", "now.Sub(r.keptAt) < r.Fresh", "true"},
	{"findings are kept", "Kept", "now.Sub(r.keptAt) < r.Fresh", "false"},
	{"findings at the very end", "Kept", "< r.Fresh", "<= r.Fresh"},

	{"a question that has ended", "open", "r.asking && ", ""},
	{"a question that was overtaken", "open", " && r.question == question", ""},

	{"conclusion of an open question", "Conclude", "if !r.open(question) {", "if false {"},
	{"early questions decide nothing", "Conclude", "!r.evidence.Decides && ", "false && "},
	{"but that there is another place", "Conclude", " && !(f.NewAddress && f.Active == Passed)", ""},
	{"another place that passes", "Conclude", "f.NewAddress && f.Active == Passed", "f.NewAddress"},
	{"another place", "Conclude", "f.NewAddress && f.Active == Passed", "f.Active == Passed"},
	{"only a switch is kept", "Conclude", "Judge(false, f) == Switch {", "true {"},
	{"early questions end", "Conclude", "\t\tr.asking = false\n", ""},
	{"what early questions find", "Conclude", "r.kept, r.keptAt = f, now", ""},
	{"quiet after early questions", "Conclude", "if r.quietTill = now.Add(hold); ", "if "},
	{"the fence is definite", "Conclude", "r.evidence.Definite()", "false"},
	{"only the fence is definite", "Conclude", "r.evidence.Definite()", "true"},
	{"a verdict in any case", "Conclude", "\t\tv = Stay\n", ""},
	{"down", "Conclude", "r.asking, r.Down = false, true", "r.asking = false"},
	{"down ends the question", "Conclude", "r.asking, r.Down = false, true", "r.Down = true"},
	{"false alarms are held", "Conclude", "\t\tr.refuse(now, hold)\n", "r.asking = false\n"},
	{"renewal takes an answer", "Conclude", "f.Reached && !(slow", "!(slow"},
	{"renewal of what is not slow only", "Conclude", "!(slow && f.Alive)", "!(slow && false)"},
	{"renewal of what is not alive only", "Conclude", "!(slow && f.Alive)", "!slow"},
	{"renewal of what is alive but failed", "Conclude", "!(slow && f.Alive)", "!(slow || f.Alive)"},
	{"renewal", "Conclude", "\t\t\tr.beginEpoch()\n", ""},

	{"refusal of an open question", "Refuse", "if r.open(question) {", "if true {"},
	{"refusal", "Refuse", "\t\tr.refuse(now, hold)\n", ""},
	{"kinds that are held already", "refuse", "kinds |= r.heldBy", ""},
	{"kinds that were held", "refuse", "if now.Before(r.heldUntil) {", "if true {"},
	{"slow requests hold nothing", "refuse", "kinds != Slow {", "true {"},
	{"the hold of a refusal", "refuse", "now.Add(hold)", "now"},
	{"what is held", "refuse", "now.Add(hold), kinds", "now.Add(hold), 0"},
	{"a refusal ends the question", "refuse", "\tr.asking = false\n", ""},

	{"judgements", "beginEpoch", "\tr.Epoch++\n", ""},
	{"judgements end questions", "beginEpoch", "r.asking, r.keptAt = false, time.Time{}", "r.keptAt = time.Time{}"},
	{"judgements forget findings", "beginEpoch", "r.asking, r.keptAt = false, time.Time{}", "r.asking = false"},

	{"one address", "MaySwitch", "case r.Single:", "case false:"},
	{"switches after Close", "MaySwitch", "r.Closed || r.Pinned || ", "r.Pinned || "},
	{"switches while pinned", "MaySwitch", "r.Closed || r.Pinned || ", "r.Closed || "},
	{"switches from an old epoch", "MaySwitch", "r.Epoch != at.Epoch || ", ""},
	{"switches from before Down", "MaySwitch", " || r.Down != at.Down", ""},
	{"latch", "MaySwitch", "case r.switchesWithin(now, window) >= r.MaxSwitches:", "case false:"},
	{"latch at the limit", "MaySwitch", ">= r.MaxSwitches", "> r.MaxSwitches"},
	{"latch before the limit", "MaySwitch", ">= r.MaxSwitches", ">= r.MaxSwitches-1"},
	{"fences wait less", "Window", "return r.FenceDamping", "return r.Damping"},
	{"others wait", "Window", "return r.Damping", "return r.FenceDamping"},

	{"latched before", "SwitchTo", "before := r.Latched(now)", "before := false"},
	{"latched now", "SwitchTo", "!before && r.Latched(now)", "!before"},
	{"switches are bounded", "SwitchTo", "min(r.switchesWithin(now, r.Damping), r.Keep-1)", "r.switchesWithin(now, r.Damping)"},
	{"old switches are forgotten", "SwitchTo", "min(r.switchesWithin(now, r.Damping), r.Keep-1)", "min(len(r.switches), r.Keep-1)"},
	{"the newest switches are kept", "SwitchTo", "r.switches[len(r.switches)-keep:]...", "r.switches[:keep]..."},
	{"a switch ends the hold", "SwitchTo", "r.heldUntil, r.quietTill = time.Time{}, time.Time{}", "r.quietTill = time.Time{}"},
	{"a switch ends the quiet", "SwitchTo", "r.heldUntil, r.quietTill = time.Time{}, time.Time{}", "r.heldUntil = time.Time{}"},
	{"a switch ends Down", "SwitchTo", "r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional", "r.Active, r.Since, r.Provisional = to, now, provisional"},
	{"a switch is provisional", "SwitchTo", "now, false, provisional", "now, false, false"},
	{"a switch may be provisional", "SwitchTo", "now, false, provisional", "now, false, r.Provisional || provisional"},
	{"a switch has a time", "SwitchTo", "r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional", "r.Active, r.Down, r.Provisional = to, false, provisional"},
	{"generations count switches", "SwitchTo", "\tr.Generation++\n", ""},
	{"a switch is a judgement", "SwitchTo", "\tr.beginEpoch()\n", ""},

	{"life after Close", "Healthy", "r.Closed || epoch", "epoch"},
	{"life in an old epoch", "Healthy", " || epoch != r.Epoch", ""},
	{"life ends Down", "Healthy", "r.Down, r.Provisional = false, false", "r.Provisional = false"},
	{"life confirms a switch", "Healthy", "r.Down, r.Provisional = false, false", "r.Down = false"},
	{"an end of Down is a judgement", "Healthy", "\t\tr.beginEpoch()\n", ""},
	{"other answers are no judgement", "Healthy", "if up {", "if true {"},
	{"hold after a brown-out", "Healthy", "r.heldUntil, r.heldBy = now.Add(hold), Answered|Unreachable|TimedOut", ""},
	{"a fence is not held after a brown-out", "Healthy", "Answered|Unreachable|TimedOut", "Answered|Unreachable|TimedOut|Fenced|Slow"},

	{"recovery after Close", "Recover", "r.Closed || !r.Down", "!r.Down"},
	{"recovery from Down only", "Recover", " || !r.Down", ""},
	{"recovery in an old epoch", "Recover", " || r.Epoch != at.Epoch", ""},
	{"recovery takes an answer", "Recover", "v == Stay && !f.Reached", "false"},
	{"recovery ends Down", "Recover", "\t\tr.Down = false\n", ""},
	{"recovery is a judgement", "Recover", "\t\tr.beginEpoch()\n", ""},
	{"recovery switches where it can", "Recover", "v == Stay && !f.Reached", "!f.Reached"},
	{"recovery stays where it can", "Recover", "Judge(false, f)", "Judge(true, f)"},

	{"return after Close", "MayReturn", "!r.Closed && ", ""},
	{"return in an old epoch", "MayReturn", "r.Epoch == at.Epoch && ", ""},
	{"return from the alternate", "MayReturn", "r.Active == Alternate && ", ""},
	{"return while pinned", "MayReturn", "!r.Pinned && ", ""},
	{"return while down", "MayReturn", " && !r.Down", ""},
	{"return to what has risen", "MayReturn", "risen && ", ""},
	{"return by hand", "MayReturn", "!r.Manual && ", ""},
	{"dwell", "MayReturn", " && !now.Before(r.DwellUntil())", ""},

	{"take back after Close", "MayUndo", "!r.Closed && ", ""},
	{"take back in an old epoch", "MayUndo", "r.Epoch == at.Epoch && ", ""},
	{"take back what is provisional", "MayUndo", "r.Provisional && ", ""},
	{"take back while down", "MayUndo", " && !r.Down", ""},

	{"a provisional switch does not count", "Undo", "switches = switches[:n-1]", ""},
	{"what was before a provisional switch counts", "Undo", "n > 0 && switches[n-1].Equal(r.Since)", "n > 0"},
	{"its end does not count", "Undo", "r.switches = switches", ""},
	{"the end of a provisional switch", "Undo", "r.SwitchTo(now, r.Active.Other(), false)", "r.SwitchTo(now, r.Active, false)"},
	{"the pause doubles", "Undo", "2*r.pause", "r.pause"},
	{"up to a bound", "Undo", "max(r.Damping, r.ProvisionalPause))", "1<<62)"},
	{"a pause after a provisional switch", "Undo", "r.nextProvisional = now.Add(r.pause)", ""},
	{"a confirmed provisional switch", "Healthy", "\t\tr.pause = 0\n", ""},
	{"a provisional switch that is not confirmed", "Healthy", "if confirmed {", "if true {"},
	{"no provisional switch in the pause", "Weigh", "return Inconclusive", "return other"},
	{"a provisional switch after the pause", "Weigh", " && now.Before(r.nextProvisional)", ""},
	{"what passes is none", "Weigh", "other == PassedWeakly && ", ""},

	{"dwell from the fleet's switch", "DwellUntil", "since = r.switches[n-1]", ""},
	{"dwell doubles", "DwellUntil", "2*dwell", "dwell"},
	{"dwell of a first switch", "DwellUntil", "n > 1;", "n > 0;"},
	{"dwell is bounded", "DwellUntil", "min(2*dwell, max(r.Damping, r.MinDwell))", "2 * dwell"},
	{"dwell of MinDwell", "DwellUntil", "max(r.Damping, r.MinDwell)", "r.Damping"},

	{"latch and its report", "Latched", ">= r.MaxSwitches", "> r.MaxSwitches"},
	{"latched by a fleet", "Remember", "before := r.Latched(now)", "before := false"},
	{"a fleet's switches are bounded", "Remember", "switches[max(0, len(switches)-r.Keep):]", "switches"},
	{"a fleet's switches are its own", "Remember", "append([]time.Time(nil), switches[max(0, len(switches)-r.Keep):]...)", "switches[max(0, len(switches)-r.Keep):]"},
	{"switches at the very end", "switchesWithin", "< window", "<= window"},

	{"pin after Close", "Pin", "r.Closed || ", ""},
	{"pin what there is", "Pin", " || r.Single && to == Alternate", ""},
	{"pinned", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Down, r.Provisional, r.asking = false, false, false"},
	{"a pin ends Down", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Provisional, r.asking = true, false, false"},
	{"a pin is not provisional", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Down, r.asking = true, false, false"},
	{"a pin ends questions", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Down, r.Provisional = true, false, false"},
	{"a pin switches once", "Pin", "if r.Active == to {", "if false {"},

	{"unpin forgets switches", "Unpin", "\tr.switches = nil\n", ""},
	{"unpinned", "Unpin", "r.Pinned = false", ""},
	{"unpin after Close", "Unpin", "if !r.Closed {", "if true {"},

	{"switch after Close", "Switch", "r.Closed || ", ""},
	{"switch to what there is", "Switch", " || r.Single && to == Alternate", ""},
	{"switch forgets switches", "Switch", "r.switches, r.Provisional = nil, false", "r.Provisional = false"},
	{"switch to where it is", "Switch", "case r.Active != to:", "case true:"},
	{"switch ends Down", "Switch", "\t\tr.Down = false\n", ""},
	{"that is a judgement", "Switch", "\t\tr.beginEpoch()\n", ""},
	{"switch confirms a switch", "Switch", "r.switches, r.Provisional = nil, false", "r.switches = nil"},

	{"closed", "Close", "r.Closed, r.asking = true, false", "r.asking = false"},
	{"close ends questions", "Close", "r.Closed, r.asking = true, false", "r.Closed = true"},

	{"watch after Close", "NeedsWatch", "!r.Closed && (", "("},
	{"watch while down", "NeedsWatch", "r.Down || ", ""},
	{"watch what is provisional", "NeedsWatch", "r.Provisional || ", ""},
	{"watch for the way home", "NeedsWatch", "r.Active == Alternate || r.Pinned", "r.Pinned"},
	{"watch while pinned", "NeedsWatch", "r.Active == Alternate || r.Pinned", "r.Active == Alternate"},
	{"no watch without probes", "NeedsWatch", " && failback", ""},

	{"the active side has failed", "Judge", "f.Active == Failed", "true"},
	{"a switch to what passes", "Judge", "f.Other == Passed && (definite || failed)", "(definite || failed)"},
	{"a switch away from what fails", "Judge", "f.Other == Passed && (definite || failed)", "f.Other == Passed"},
	{"a switch away from what is fenced", "Judge", "f.Other == Passed && (definite || failed)", "f.Other == Passed && failed"},
	{"weak evidence switches", "Judge", ", f.Other == PassedWeakly && failed:", ":"},
	{"weak evidence switches from what fails", "Judge", "f.Other == PassedWeakly && failed", "f.Other == PassedWeakly && (definite || failed)"},
	{"a verdict waits for the active side", "Judge", "f.Active == Pending || ", ""},
	{"a verdict waits for the other side", "Judge", " || (definite || failed) && f.Other == Pending", ""},
	{"a verdict does not wait for long", "Judge", "(definite || failed) && f.Other == Pending", "f.Other == Pending"},
}

// Each guard is taken out of the rule in turn, and the other tests of this package must
// notice.
func TestEveryGuardIsNeeded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the package again and again")
	}
	source, err := os.ReadFile("rule.go")
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs("rule.go")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	chosen := rand.Perm(len(mutants))
	if *mutantsTried >= 0 {
		chosen = chosen[:min(*mutantsTried, len(chosen))]
	}
	for i, m := range mutants {
		if names[m.name] {
			t.Errorf("%s: a second row", m.name)
		}
		names[m.name] = true
		mutated, ok := mutate(string(source), m.in, m.from, m.to)
		if !ok {
			t.Errorf("%s: %s has not got %q once", m.name, m.in, m.from)
		}
		if !ok || !slices.Contains(chosen, i) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			if out, killed := tryMutant(t, path, mutated); !killed {
				t.Errorf("nothing misses it\n%s", out)
			}
		})
	}
}

// mutate replaces the one occurrence of from in a function.
func mutate(source, function, from, to string) (string, bool) {
	at := strings.Index(source, "\nfunc "+function+"(")
	if method := strings.Index(source, "\nfunc (r *Rule) "+function+"("); at < 0 {
		at = method
	}
	if at < 0 {
		return "", false
	}
	end := at + strings.Index(source[at+1:], "\n}\n") + 3
	if body := source[at:end]; strings.Contains(body, " {") {
		return source[:at] + strings.Replace(body, from, to, 1) + source[end:], strings.Count(body, from) == 1
	}
	return "", false
}

// tryMutant runs the tests with another rule.go, the quick ones first, and reports whether
// they fail.
func tryMutant(t *testing.T, path, source string) (out []byte, killed bool) {
	dir := t.TempDir()
	mutated, overlay, binary := filepath.Join(dir, "rule.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "rule.test")
	replace, _ := json.Marshal(map[string]map[string]string{"Replace": {path: mutated}})
	if os.WriteFile(mutated, []byte(source), 0o600) != nil || os.WriteFile(overlay, replace, 0o600) != nil {
		t.Fatal("no room for a mutant")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run := func(name string, args ...string) error {
		var err error
		out, err = exec.CommandContext(ctx, name, args...).CombinedOutput()
		return err
	}
	if run("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, ".") != nil {
		return out, false // does not compile
	}
	defer os.Remove(binary)
	killed = run(binary, "-test.skip", "TestEvery") != nil || run(binary, "-test.run", "TestEveryOrderOfEvents") != nil
	return out, killed && ctx.Err() == nil
}
