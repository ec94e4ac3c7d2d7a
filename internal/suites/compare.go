package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A name identifies a test.
type name struct{ pkg, test string }

func (n name) String() string { return n.pkg + " " + n.test }

// results are "pass", "fail" or "skip", or "hang" for a test that did not end.
type results map[name]string

func (r results) String() string {
	counts := make(map[string]int)
	for _, result := range r {
		counts[result]++
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", counts["pass"], counts["fail"], counts["skip"])
}

// read adds the output of go test -json, and reports whether all tests ended. If they hung, it
// marks the running tests; if they crashed, the test that is reported as failed.
func (r results) read(file string, hung bool) (complete bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return r.parse(f, hung)
}

func (r results) parse(in io.Reader, hung bool) (complete bool, err error) {
	running, blamed := make(map[name]bool), false // the value is false while the test is paused
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		var event struct{ Action, Package, Test, Output, FailedBuild string }
		if json.Unmarshal(line, &event) == nil && event.Package != "" {
			n := name{event.Package, event.Test}
			switch event.Action {
			case "pass", "fail", "skip":
				if event.FailedBuild != "" {
					return false, fmt.Errorf("%s does not build", event.Package)
				}
				delete(running, n)
				if event.Test != "" {
					r[n], blamed = event.Action, blamed || event.Action == "fail"
				}
			case "run", "cont":
				running[n] = true
			case "pause":
				running[n] = false
			case "output": // the last line of a test binary that ends
				complete = complete || event.Test == "" && (event.Output == "PASS\n" || event.Output == "FAIL\n")
			}
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return false, err
		}
	}
	for n, active := range running {
		complete = false
		if active && (hung || !blamed) && !slices.ContainsFunc(slices.Collect(maps.Keys(running)), n.isAbove) {
			r[n] = "hang"
		}
	}
	return complete, nil
}

// isAbove reports whether sub is a subtest of n.
func (n name) isAbove(sub name) bool {
	return n.pkg == sub.pkg && strings.HasPrefix(sub.test, n.test+"/")
}

// pattern returns the pattern that makes go test select the test.
func (n name) pattern() string {
	return "^" + strings.ReplaceAll(regexp.QuoteMeta(n.test), "/", "$/^") + "$"
}

// skipped returns the arguments that make go test skip tests whose results are known.
func (r results) skipped() []string {
	var patterns []string
	for n := range r {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(r)), func(above name) bool { return above.isAbove(n) }) {
			patterns = append(patterns, n.pattern())
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	slices.Sort(patterns)
	return []string{"-skip", strings.Join(patterns, "|")}
}

// A difference is a test whose result changed.
type difference struct {
	name          name
	bare, wrapped string
	passed        [modes]int // of the repeats
}

// compare returns the tests whose results differ. Of a test with subtests, it returns only the
// subtests.
func compare(a, b results) []difference {
	var list []difference
	names := maps.Clone(a)
	maps.Copy(names, b)
	for n := range names {
		if a[n] != b[n] {
			list = append(list, difference{name: n, bare: cmp.Or(a[n], "absent"), wrapped: cmp.Or(b[n], "absent")})
		}
	}
	slices.SortFunc(list, func(a, b difference) int {
		return cmp.Or(cmp.Compare(a.name.pkg, b.name.pkg), cmp.Compare(a.name.test, b.name.test))
	})
	all := list
	return slices.DeleteFunc(slices.Clone(list), func(d difference) bool {
		return slices.ContainsFunc(all, func(sub difference) bool {
			return d.name.isAbove(sub.name)
		})
	})
}

// cause returns the first mode in which every repeat of the test had the same result as
// without the library. What that mode turns off is what the test notices. If there is no such
// mode, cause returns modes.
func (d *difference) cause(repeats int) mode {
	for m := wrapped; m < modes; m++ {
		if d.passed[m] == repeats {
			return m
		}
	}
	return modes
}

// open reports whether to run the test in a mode after that many repeats: only if no earlier
// mode is the cause. The mode noErrors is skipped for a test that hangs, because another error
// would not end it.
func (d *difference) open(m mode, repeats int) bool {
	return m == bare || d.cause(repeats+1) >= m && (d.wrapped != "hang" || m > noErrors)
}

var causes = [modes + 1]string{
	wrapped: "none: it passes when it is repeated", noErrors: "the error that comes back is the library's",
	noRepeats: "requests are sent again", noProbes: "the endpoint is probed, and reads have contexts of their own",
	noHolding: "bodies are read ahead", modes: "to be found",
}

// print prints the table, and every difference with its cause.
func (r *runner) print(out io.Writer) {
	fmt.Fprint(out, "\n| suite | tests | skipped | round trips | not through the library | faults | made again | differ |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %d | %d | %d |\n", row.suite, row.tests, row.skipped,
			row.through+row.beside, row.beside, row.faults, row.again, len(row.differences))
	}
	for _, row := range r.rows {
		for _, name := range row.bareFailed {
			fmt.Fprintf(out, "\n%v fails without the library", name)
		}
		for cause := wrapped; cause <= modes; cause++ {
			heading := fmt.Sprintf("\n\n%s, %s:\n", row.suite, causes[cause])
			for _, d := range row.differences {
				if d.cause(r.repeats) == cause {
					fmt.Fprintf(out, "%s  %v: %s without, %s with it; of %d repeats passed:", heading, d.name, d.bare, d.wrapped, r.repeats)
					for m, n := range d.passed {
						fmt.Fprintf(out, " %d %s,", n, mode(m))
					}
					heading = "\n"
				}
			}
		}
	}
	fmt.Fprintln(out)
}
