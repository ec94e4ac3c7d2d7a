// Command peerbench measures what the failover transport costs over a bare
// [http.RoundTripper], beside other libraries doing the same work, and prints
// the results as Markdown.
//
//	GOWORK=off go run .                     # about 10 minutes
//	GOWORK=off go run . -quick              # a minute, rough
//	GOWORK=off go run . -docs ../../docs    # also replaces the figures in docs/performance.md
//
// Floor and peer take turns in short batches, and the median of the ratios of
// the pairs counts, because times on a shared machine are worth little and
// ratios over minutes not much more.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

func main() {
	docs := flag.String("docs", "", "directory of performance.md, which gets the figures, and of the plots")
	quick := flag.Bool("quick", false, "a few pairs only")
	flag.Parse()
	r := full
	if *quick {
		r = rough
	}
	text, charts := r.report()
	fmt.Print(text)
	if *docs == "" {
		return
	}
	if err := publish(*docs, text, charts); err != nil {
		log.Fatal(err)
	}
}

// run is how thoroughly to measure.
type run struct {
	memory, network, scaling      pairing
	outages                       int
	goroutines, size, orgs, peers int // peers: 0 is all
}

var (
	full = run{
		memory:  pairing{batch: 300 * time.Microsecond, pairs: 400, rounds: 6},
		network: pairing{batch: 10 * time.Millisecond, pairs: 60, rounds: 5},
		scaling: pairing{batch: 300 * time.Microsecond, pairs: 200, rounds: 5},
		outages: 15, goroutines: 256, size: 4 << 20, orgs: 10_000,
	}
	rough = run{
		memory:  pairing{batch: 300 * time.Microsecond, pairs: 40, rounds: 3},
		network: pairing{batch: 10 * time.Millisecond, pairs: 10, rounds: 2},
		scaling: pairing{batch: 300 * time.Microsecond, pairs: 40, rounds: 3},
		outages: 3, goroutines: 256, size: 4 << 20, orgs: 1000,
	}
)

// report measures everything. The charts are by file name.
func (r run) report() (text string, charts map[string]chart) {
	peers, others := healthyPeers, movedPeers
	if r.peers > 0 {
		peers, others = peers[:r.peers], others[:r.peers]
	}
	var b strings.Builder
	section := func(title, note string, tables ...table) {
		fmt.Fprintf(&b, "### %s\n\n%s\n\n", title, note)
		for _, t := range tables {
			fmt.Fprintf(&b, "%s\n", t)
		}
	}
	fmt.Fprintf(&b, "%s\n\n", setting())
	gets, posts := healthy(r.memory, peers)
	section("Healthy, in memory", "The bare RoundTripper answers at once. POST creates a record from 1 KiB with `GetBody`.", gets, posts)
	section("Failed over, in memory", "The primary refuses connections for good; 60 calls were made before.", failedOver(r.memory, others))
	section("Down", "Neither endpoint serves.", failingFast(r.memory))
	section("Outage", "Every round trip takes 20 ms; the defaults of Config.", firstAnswer(r.outages))
	section("Over TLS on the loopback interface", "HTTP/1.1, connections kept, the server in the same process.", overTLS(r.network, peers))

	charts = make(map[string]chart)
	plot := func(title, file string, t table, c chart) {
		charts[file] = c
		section(title, fmt.Sprintf("![%s](%s)", c.title, file), t)
	}
	t, c := byGoroutines(r.scaling, r.goroutines)
	plot("By callers", "callers.svg", t, c)
	t, c = bySize(r.scaling, r.size)
	plot("By size of the answer", "size.svg", t, c)
	t, c = byOrganizations(r.scaling, r.orgs)
	plot("By organizations", "organizations.svg", t, c)
	return b.String(), charts
}

// setting says what the figures were measured with.
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

// publish writes the plots, and text between the marks in performance.md.
func publish(dir, text string, charts map[string]chart) error {
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
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s: no marks to write between", path)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+after), 0o644)
}
