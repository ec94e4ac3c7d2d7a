package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// events returns the output of go test -json for lines of the form "action test" or "output
// text".
func events(lines ...string) *strings.Reader {
	var b strings.Builder
	for _, line := range lines {
		action, rest, _ := strings.Cut(line, " ")
		key := "Test"
		if action == "output" { // it belongs to the package
			key = "Output"
		}
		fmt.Fprintf(&b, "{%q: %q, %q: %q, %q: %q}\n", "Action", action, "Package", "contoso", key, rest)
	}
	return strings.NewReader(b.String())
}

func TestResultsOfARun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		lines    []string
		want     map[string]string
		complete bool
	}{
		{"a crash beside others", []string{"run A", "run B", "fail A", "output panic: contoso\n", "fail "},
			map[string]string{"A": "fail"}, false},
		{"all ended", []string{"run A", "pass A", "run B", "skip B", "run C", "fail C", "output FAIL\n", "fail "},
			map[string]string{"A": "pass", "B": "skip", "C": "fail"}, true},
		{"one hangs", []string{"run A", "pass A", "run B", "run B/x"},
			map[string]string{"A": "pass", "B/x": "hang"}, false},
		{"one hangs, another waits for its turn", []string{"run A", "pause A", "run B"},
			map[string]string{"B": "hang"}, false},
		{"one waits no more", []string{"run A", "pause A", "cont A"},
			map[string]string{"A": "hang"}, false},
		{"a crash before the rest began", []string{"run A", "fail A", "output panic: contoso\n", "fail "},
			map[string]string{"A": "fail"}, false},
		{"killed", []string{"run A", "pass A", "output signal: killed\n", "fail "},
			map[string]string{"A": "pass"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := make(results)
			complete, err := got.parse(events(test.lines...), strings.Contains(test.name, "hangs"))
			if err != nil || complete != test.complete {
				t.Errorf("complete = %t, %v", complete, err)
			}
			want := make(results)
			for test, result := range test.want {
				want[name{"contoso", test}] = result
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", map[name]string(got), map[name]string(want))
			}
		})
	}
}

// Tests with results are not run again. The other subtests of a test that hung in one of them
// are.
func TestWhatIsSkipped(t *testing.T) {
	t.Parallel()
	known := results{{"contoso", "A"}: "pass", {"contoso", "A/x"}: "pass", {"contoso", "B/y(1)"}: "fail"}
	want := []string{"-skip", `^A$|^B$/^y\(1\)$`}
	if got := known.skipped(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (results{}).skipped(); got != nil {
		t.Errorf("got %q", got)
	}
}

// A difference is reported for the subtest, and not again for each test that contains it.
func TestDifferences(t *testing.T) {
	t.Parallel()
	got := compare(
		results{{"contoso", "A"}: "pass", {"contoso", "A/x"}: "pass", {"contoso", "A/y"}: "pass", {"contoso", "B"}: "skip", {"contoso", "C"}: "pass"},
		results{{"contoso", "A"}: "fail", {"contoso", "A/x"}: "fail", {"contoso", "A/y"}: "pass", {"contoso", "B"}: "skip"},
	)
	want := []difference{
		{name: name{"contoso", "A/x"}, bare: "pass", wrapped: "fail"},
		{name: name{"contoso", "C"}, bare: "pass", wrapped: "absent"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The cause is what the test passes without.
func TestCause(t *testing.T) {
	t.Parallel()
	fails, hangs := difference{wrapped: "fail"}, difference{wrapped: "hang"}
	for m := range mode(modes) {
		if !fails.open(m, 0) || hangs.open(m, 0) != (m == bare || m > noErrors) {
			t.Errorf("%v: open = %t, %t", m, fails.open(m, 0), hangs.open(m, 0))
		}
	}
	fails.passed = [modes]int{bare: 2, wrapped: 1, noProbes: 2}
	if got := fails.cause(2); got != noProbes {
		t.Errorf("cause = %v", got)
	}
	if fails.passed[noProbes]--; fails.cause(2) != modes {
		t.Errorf("cause = %v", fails.cause(2))
	}
	if fails.passed[noErrors] = 1; fails.open(noHolding, 0) {
		t.Error("goes on after the cause is found")
	}
}
