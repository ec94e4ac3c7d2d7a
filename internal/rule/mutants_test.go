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
	{"but that there is another place", "Conclude", " && !(f.Moved && f.Active == Passed)", ""},
	{"another place that passes", "Conclude", "f.Moved && f.Active == Passed", "f.Moved"},
	{"another place", "Conclude", "f.Moved && f.Active == Passed", "f.Active == Passed"},
	{"only a move is kept", "Conclude", "Judge(false, f) == Move {", "true {"},
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
	{"renewal", "Conclude", "\t\t\tr.judged()\n", ""},

	{"refusal of an open question", "Refuse", "if r.open(question) {", "if true {"},
	{"refusal", "Refuse", "\t\tr.refuse(now, hold)\n", ""},
	{"kinds that are held already", "refuse", "kinds |= r.heldBy", ""},
	{"kinds that were held", "refuse", "if now.Before(r.heldUntil) {", "if true {"},
	{"slow requests hold nothing", "refuse", "kinds != Slow {", "true {"},
	{"the hold of a refusal", "refuse", "now.Add(hold)", "now"},
	{"what is held", "refuse", "now.Add(hold), kinds", "now.Add(hold), 0"},
	{"a refusal ends the question", "refuse", "\tr.asking = false\n", ""},

	{"judgements", "judged", "\tr.Epoch++\n", ""},
	{"judgements end questions", "judged", "r.asking, r.keptAt = false, time.Time{}", "r.keptAt = time.Time{}"},
	{"judgements forget findings", "judged", "r.asking, r.keptAt = false, time.Time{}", "r.asking = false"},

	{"one address", "MayMove", "case r.Single:", "case false:"},
	{"moves after Close", "MayMove", "r.Closed || r.Pinned || ", "r.Pinned || "},
	{"moves while pinned", "MayMove", "r.Closed || r.Pinned || ", "r.Closed || "},
	{"moves from an old epoch", "MayMove", "r.Epoch != at.Epoch || ", ""},
	{"moves from before Down", "MayMove", " || r.Down != at.Down", ""},
	{"latch", "MayMove", "case r.movesWithin(now, memory) >= r.MaxMoves:", "case false:"},
	{"latch at the limit", "MayMove", ">= r.MaxMoves", "> r.MaxMoves"},
	{"latch before the limit", "MayMove", ">= r.MaxMoves", ">= r.MaxMoves-1"},
	{"fences wait less", "Memory", "return r.FenceDamping", "return r.Damping"},
	{"others wait", "Memory", "return r.Damping", "return r.FenceDamping"},

	{"latched before", "MoveTo", "before := r.Latched(now)", "before := false"},
	{"latched now", "MoveTo", "!before && r.Latched(now)", "!before"},
	{"moves are bounded", "MoveTo", "min(r.movesWithin(now, r.Damping), r.Keep-1)", "r.movesWithin(now, r.Damping)"},
	{"old moves are forgotten", "MoveTo", "min(r.movesWithin(now, r.Damping), r.Keep-1)", "min(len(r.moves), r.Keep-1)"},
	{"the newest moves are kept", "MoveTo", "r.moves[len(r.moves)-keep:]...", "r.moves[:keep]..."},
	{"a move ends the hold", "MoveTo", "r.heldUntil, r.quietTill = time.Time{}, time.Time{}", "r.quietTill = time.Time{}"},
	{"a move ends the quiet", "MoveTo", "r.heldUntil, r.quietTill = time.Time{}, time.Time{}", "r.heldUntil = time.Time{}"},
	{"a move ends Down", "MoveTo", "r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional", "r.Active, r.Since, r.Provisional = to, now, provisional"},
	{"a move is provisional", "MoveTo", "now, false, provisional", "now, false, false"},
	{"a move may be provisional", "MoveTo", "now, false, provisional", "now, false, r.Provisional || provisional"},
	{"a move has a time", "MoveTo", "r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional", "r.Active, r.Down, r.Provisional = to, false, provisional"},
	{"generations count moves", "MoveTo", "\tr.Generation++\n", ""},
	{"a move is a judgement", "MoveTo", "\tr.judged()\n", ""},

	{"life after Close", "Healthy", "r.Closed || epoch", "epoch"},
	{"life in an old epoch", "Healthy", " || epoch != r.Epoch", ""},
	{"life ends Down", "Healthy", "r.Down, r.Provisional = false, false", "r.Provisional = false"},
	{"life confirms a move", "Healthy", "r.Down, r.Provisional = false, false", "r.Down = false"},
	{"an end of Down is a judgement", "Healthy", "\t\tr.judged()\n", ""},
	{"other answers are no judgement", "Healthy", "if up {", "if true {"},
	{"hold after a brown-out", "Healthy", "r.heldUntil, r.heldBy = now.Add(hold), Answered|Unreachable|TimedOut", ""},
	{"a fence is not held after a brown-out", "Healthy", "Answered|Unreachable|TimedOut", "Answered|Unreachable|TimedOut|Fenced|Slow"},

	{"recovery after Close", "Recover", "r.Closed || !r.Down", "!r.Down"},
	{"recovery from Down only", "Recover", " || !r.Down", ""},
	{"recovery in an old epoch", "Recover", " || r.Epoch != at.Epoch", ""},
	{"recovery takes an answer", "Recover", "v == Stay && !f.Reached", "false"},
	{"recovery ends Down", "Recover", "\t\tr.Down = false\n", ""},
	{"recovery is a judgement", "Recover", "\t\tr.judged()\n", ""},
	{"recovery moves where it can", "Recover", "v == Stay && !f.Reached", "!f.Reached"},
	{"recovery stays where it can", "Recover", "Judge(false, f)", "Judge(true, f)"},

	{"return after Close", "MayReturn", "!r.Closed && ", ""},
	{"return in an old epoch", "MayReturn", "r.Epoch == at.Epoch && ", ""},
	{"return from the alternate", "MayReturn", "r.Active == Alternate && ", ""},
	{"return while pinned", "MayReturn", "!r.Pinned && ", ""},
	{"return while down", "MayReturn", " && !r.Down", ""},
	{"return to what has risen", "MayReturn", "risen && ", ""},
	{"return by hand", "MayReturn", "!r.Manual && ", ""},
	{"dwell", "MayReturn", " && !now.Before(r.DwellUntil())", ""},

	{"take back after Close", "MayTakeBack", "!r.Closed && ", ""},
	{"take back in an old epoch", "MayTakeBack", "r.Epoch == at.Epoch && ", ""},
	{"take back what is provisional", "MayTakeBack", "r.Provisional && ", ""},
	{"take back while down", "MayTakeBack", " && !r.Down", ""},

	{"a trial does not count", "TakeBack", "moves = moves[:n-1]", ""},
	{"what was before a trial counts", "TakeBack", "n > 0 && moves[n-1].Equal(r.Since)", "n > 0"},
	{"its end does not count", "TakeBack", "r.moves = moves", ""},
	{"the end of a trial", "TakeBack", "r.MoveTo(now, r.Active.Other(), false)", "r.MoveTo(now, r.Active, false)"},
	{"the pause doubles", "TakeBack", "2*r.pause", "r.pause"},
	{"up to a bound", "TakeBack", "max(r.Damping, r.TrialPause))", "1<<62)"},
	{"a pause after a trial", "TakeBack", "r.nextTrial = now.Add(r.pause)", ""},
	{"a confirmed trial", "Healthy", "\t\tr.pause = 0\n", ""},
	{"a trial that is not confirmed", "Healthy", "if confirmed {", "if true {"},
	{"no trial in the pause", "Weigh", "return Inconclusive", "return other"},
	{"a trial after the pause", "Weigh", " && now.Before(r.nextTrial)", ""},
	{"what passes is none", "Weigh", "other == PassedWeakly && ", ""},

	{"dwell from the fleet's move", "DwellUntil", "since = r.moves[n-1]", ""},
	{"dwell doubles", "DwellUntil", "2*dwell", "dwell"},
	{"dwell of a first move", "DwellUntil", "n > 1;", "n > 0;"},
	{"dwell is bounded", "DwellUntil", "min(2*dwell, max(r.Damping, r.MinDwell))", "2 * dwell"},
	{"dwell of MinDwell", "DwellUntil", "max(r.Damping, r.MinDwell)", "r.Damping"},

	{"latch and its report", "Latched", ">= r.MaxMoves", "> r.MaxMoves"},
	{"latched by a fleet", "Remember", "before := r.Latched(now)", "before := false"},
	{"a fleet's moves are bounded", "Remember", "moves[max(0, len(moves)-r.Keep):]", "moves"},
	{"a fleet's moves are its own", "Remember", "append([]time.Time(nil), moves[max(0, len(moves)-r.Keep):]...)", "moves[max(0, len(moves)-r.Keep):]"},
	{"moves at the very end", "movesWithin", "< memory", "<= memory"},

	{"pin after Close", "Pin", "r.Closed || ", ""},
	{"pin what there is", "Pin", " || r.Single && to == Alternate", ""},
	{"pinned", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Down, r.Provisional, r.asking = false, false, false"},
	{"a pin ends Down", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Provisional, r.asking = true, false, false"},
	{"a pin is not provisional", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Down, r.asking = true, false, false"},
	{"a pin ends questions", "Pin", "r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false", "r.Pinned, r.Down, r.Provisional = true, false, false"},
	{"a pin moves once", "Pin", "if r.Active == to {", "if false {"},

	{"unpin forgets moves", "Unpin", "\tr.moves = nil\n", ""},
	{"unpinned", "Unpin", "r.Pinned = false", ""},
	{"unpin after Close", "Unpin", "if !r.Closed {", "if true {"},

	{"switch after Close", "Switch", "r.Closed || ", ""},
	{"switch to what there is", "Switch", " || r.Single && to == Alternate", ""},
	{"switch forgets moves", "Switch", "r.moves, r.Provisional = nil, false", "r.Provisional = false"},
	{"switch to where it is", "Switch", "case r.Active != to:", "case true:"},
	{"switch ends Down", "Switch", "\t\tr.Down = false\n", ""},
	{"that is a judgement", "Switch", "\t\tr.judged()\n", ""},
	{"switch confirms a move", "Switch", "r.moves, r.Provisional = nil, false", "r.moves = nil"},

	{"closed", "Close", "r.Closed, r.asking = true, false", "r.asking = false"},
	{"close ends questions", "Close", "r.Closed, r.asking = true, false", "r.Closed = true"},

	{"watch after Close", "NeedsWatch", "!r.Closed && (", "("},
	{"watch while down", "NeedsWatch", "r.Down || ", ""},
	{"watch what is provisional", "NeedsWatch", "r.Provisional || ", ""},
	{"watch for the way home", "NeedsWatch", "r.Active == Alternate || r.Pinned", "r.Pinned"},
	{"watch while pinned", "NeedsWatch", "r.Active == Alternate || r.Pinned", "r.Active == Alternate"},
	{"no watch without probes", "NeedsWatch", " && failback", ""},

	{"the active side has failed", "Judge", "f.Active == Failed", "true"},
	{"a move to what passes", "Judge", "f.Other == Passed && (definite || failed)", "(definite || failed)"},
	{"a move away from what fails", "Judge", "f.Other == Passed && (definite || failed)", "f.Other == Passed"},
	{"a move away from what is fenced", "Judge", "f.Other == Passed && (definite || failed)", "f.Other == Passed && failed"},
	{"weak evidence moves", "Judge", ", f.Other == PassedWeakly && failed:", ":"},
	{"weak evidence moves from what fails", "Judge", "f.Other == PassedWeakly && failed", "f.Other == PassedWeakly && (definite || failed)"},
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
