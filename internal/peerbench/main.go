// Command peerbench measures what a failover.Transport costs compared with a bare
// [http.RoundTripper], and with other libraries that do the same work, and prints the results as
// Markdown.
//
//	GOWORK=off go run .                     # about 20 minutes
//	GOWORK=off go run . -quick              # a minute, rough
//	GOWORK=off go run . -docs ../../docs    # also replaces the figures in docs/performance.md
//	GOWORK=off go run . -only 'memory|TLS'  # the sections whose titles match; with -docs, the others stay
//
// Floor and peer take turns in short batches, and the result is the median of the ratios of the
// pairs. Absolute times mean little on a shared machine, and ratios over minutes not much more.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

func main() {
	docs := flag.String("docs", "", "directory of performance.md, whose figures are replaced, and of the plots")
	quick := flag.Bool("quick", false, "measure only a few pairs")
	only := flag.String("only", "", "`regexp` that the titles of sections must match")
	flag.Parse()
	r := full
	if *quick {
		r = rough
	}
	r.only = regexp.MustCompile(*only)
	text, charts := r.report()
	fmt.Print(text)
	if *docs == "" {
		return
	}
	if err := publish(*docs, text, charts, *only != ""); err != nil {
		log.Fatal(err)
	}
}

// A run says how thoroughly to measure.
type run struct {
	memory, network, scaling      pairing
	outages                       int
	goroutines, size, orgs, peers int           // peers: 0 means all
	sizes, callers                []int         // over TLS
	cell                          time.Duration // for each pair of these
	most                          load          // over TLS
	only                          *regexp.Regexp
}

var (
	full = run{
		memory:  pairing{batch: 300 * time.Microsecond, pairs: 400, rounds: 6},
		network: pairing{batch: 10 * time.Millisecond, pairs: 60, rounds: 5},
		scaling: pairing{batch: 300 * time.Microsecond, pairs: 200, rounds: 5},
		outages: 15, goroutines: 256, size: 4 << 20, orgs: 10_000,
		sizes: []int{1 << 10, 1 << 20, 64 << 20}, callers: []int{1, 16, 256}, cell: 30 * time.Second, most: load{64 << 20, 256},
	}
	rough = run{
		memory:  pairing{batch: 300 * time.Microsecond, pairs: 40, rounds: 3},
		network: pairing{batch: 10 * time.Millisecond, pairs: 10, rounds: 2},
		scaling: pairing{batch: 300 * time.Microsecond, pairs: 40, rounds: 3},
		outages: 3, goroutines: 256, size: 4 << 20, orgs: 1000,
		sizes: []int{1 << 10, 1 << 20}, callers: []int{1, 16}, cell: time.Second, most: load{1 << 20, 256},
	}
)

// report measures everything, and returns the charts by file name.
func (r run) report() (text string, charts map[string]chart) {
	peers, others := healthyPeers, movedPeers
	if r.peers > 0 {
		peers, others = peers[:r.peers], others[:r.peers]
	}
	p := page{only: r.only, charts: make(map[string]chart)}
	fmt.Fprintf(&p.text, "%s\n\n", setting())
	p.section("Healthy, in memory", "The bare RoundTripper answers at once. POST creates a record from 1 KiB with `GetBody`.",
		func() []table { return healthy(r.memory, peers) })
	p.section("A healthy GET and one gobreaker", "Whole calls, the bare RoundTripper's part included; and what a call takes of the cores when all of them make calls, to when one does.", func() []table { return []table{againstBreaker(r.memory)} })
	p.section("Other calls, in memory", "What each adds to the bare RoundTripper.", func() []table { return []table{otherCalls(r.memory)} })
	p.section("Classification", "Bodies of many small values, which is what costs most.", func() []table { return []table{classification(r.memory)} })
	p.section("Failed over, in memory", "The primary refuses connections for good; 60 calls were made before.",
		func() []table { return []table{failedOver(r.memory, others)} })
	p.section("Down", "Neither endpoint serves.", func() []table { return []table{failingFast(r.memory)} })
	p.section("Outage", "Every round trip takes 20 ms; the defaults of Config.", func() []table { return []table{firstAnswer(r.outages)} })
	p.section("Over TLS on the loopback interface", "HTTP/1.1, connections kept, the server in the same process.",
		func() []table { return []table{overTLS(r.network, peers)} })
	p.section("Over TLS by size and callers", "The medians of turns; more than 1 GiB at once is left out.",
		func() []table { return []table{bySizeAndCallers(r.network, r.cell, 9, loads(r.sizes, r.callers))} })
	p.section("Over TLS, many long answers at once", "The same. Answers are read as they come, and not kept.",
		func() []table { return []table{bySizeAndCallers(r.network, 0, 3, []load{r.most})} })
	p.plot("By callers", "callers.svg", func() (table, chart) { return byGoroutines(r.scaling, r.goroutines) })
	p.plot("By size of the answer", "size.svg", func() (table, chart) { return bySize(r.scaling, r.size) })
	p.plot("By organizations", "organizations.svg", func() (table, chart) { return byOrganizations(r.scaling, r.orgs) })
	return p.text.String(), p.charts
}

// A page is a report in the making.
type page struct {
	text   strings.Builder
	charts map[string]chart
	only   *regexp.Regexp // selects sections by title; nil selects all
}

func (p *page) wants(title string) bool { return p.only == nil || p.only.MatchString(title) }

// section measures and appends a section.
func (p *page) section(title, note string, measure func() []table) {
	if !p.wants(title) {
		return
	}
	fmt.Fprintf(&p.text, "%s%s\n\n%s\n\n    GOWORK=off go run . -only '^%s$'\n\n", heading, title, note, title)
	for _, t := range measure() {
		fmt.Fprintf(&p.text, "%s\n", t)
	}
}

// plot measures and appends a section with a plot.
func (p *page) plot(title, file string, measure func() (table, chart)) {
	if !p.wants(title) {
		return
	}
	t, c := measure()
	p.charts[file] = c
	p.section(title, fmt.Sprintf("![%s](%s)", c.title, file), func() []table { return []table{t} })
}

// setting describes the machine and the versions that the figures come from.
func setting() string {
	s := fmt.Sprintf("%s %s/%s, %d cores, %s.", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), time.Now().Format("January 2006"))
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return s
	}
	measured := []string{"gobreaker", "failsafe-go", "elastic-transport-go", "go-retryablehttp", "rehttp", "resty", "azcore"}
	for _, dep := range info.Deps {
		for _, name := range measured {
			if strings.Contains(dep.Path, name) {
				s += fmt.Sprintf("\n%s %s;", dep.Path, dep.Version)
			}
		}
	}
	return strings.TrimSuffix(s, ";") + "."
}

const begin, end = "<!-- figures: written by peerbench -->\n", "<!-- end of figures -->\n"

// publish writes the plots, and puts text between the marks in performance.md. If inPart is
// set, sections that text lacks stay as they are.
func publish(dir, text string, charts map[string]chart, inPart bool) error {
	for name, c := range charts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.svg()), 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "performance.md")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), begin)
	figures, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s: no marks to write between", path)
	}
	if inPart {
		text = merge(strings.TrimPrefix(figures, "\n"), text)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+after), 0o644)
}

const heading = "### "

// merge replaces the sections of old that text has as well, by title. New sections are
// appended.
func merge(old, text string) string {
	parts := func(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n\n"), "\n\n"+heading) }
	title := func(part string) string { first, _, _ := strings.Cut(part, "\n"); return first }
	merged, fresh := parts(old), parts(text)
	merged[0] = fresh[0] // the setting
	for _, part := range fresh[1:] {
		at := slices.IndexFunc(merged[1:], func(p string) bool { return title(p) == title(part) }) + 1
		if at == 0 {
			merged = append(merged, part)
		} else {
			merged[at] = part
		}
	}
	return strings.Join(merged, "\n\n"+heading) + "\n\n"
}
