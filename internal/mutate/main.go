// Command mutate measures the strength of the core's tests by mutation: it makes one fault at a
// time in the code and counts the mutants that a test kills.
//
// It compiles all mutants into one test binary for each package, and turns them on by an
// environment variable. It first runs each test alone to find out which mutants the test reaches,
// and then runs only those tests against a mutant. Run it in the directory of the core:
//
//	go run ./internal/mutate -sample 300 -only '^replay.go:'
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	only       = flag.String("only", "", "a `regexp` for the mutants to try, which have the form \"file: function: code: what\"")
	sample     = flag.Int("sample", 0, "the number of mutants to try; 0: all")
	seed       = flag.Int("seed", 1, "the seed of the sample")
	least      = flag.Float64("least", 0.95, "the `share` that must be killed")
	listOnly   = flag.Bool("list", false, "list the mutants without trying them")
	jobs       = flag.Int("jobs", 2, "the number of mutants to try at a time")
	equivalent = flag.String("equivalent", "internal/mutate/equivalent.txt", "a `file` of equivalent mutants, with the reason below each")
	longest    = flag.Duration("longest", 0, "leave out tests that take more CPU time than this; 0: none")
	verbose    = flag.Bool("v", false, "print the result of each mutant at once")
	reach      = flag.String("reach", "", "a `file` to cache which mutants each test reaches, valid until the code changes; remove it if a test changes")
	killers    = flag.String("killers", "", "a `file` with the test that last killed each mutant, which is tried first")
	update     = flag.Bool("update", false, "rewrite the file of -killers")
	recheck    = flag.Bool("recheck", false, "try only the mutants in the file of -killers, each with its test; a mutant that is no longer in the code counts as not killed")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	share, err := measure(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if share < *least {
		os.Exit(1)
	}
}

func measure(ctx context.Context) (share float64, err error) {
	sources, all, err := mutateModule(ctx)
	if err != nil {
		return 0, err
	}
	known, err := readPairs(*killers)
	if err != nil {
		return 0, err
	}
	chosen, spared, err := choose(all, known)
	if err != nil {
		return 0, err
	}
	if *listOnly {
		for _, m := range chosen {
			fmt.Printf("%s:%d\t%s\n", m.file, m.line, m.key)
		}
		return 1, nil
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	programs, err := prepare(ctx, dir, sources)
	if err != nil {
		return 0, err
	}
	s := &session{dir: dir, sum: sum(sources), programs: programs, known: known, favourites: make(map[string][]string)}
	outcomes := make([]outcome, len(chosen))
	errs := make([]error, len(chosen))
	began := time.Now()
	each(ctx, len(chosen), *jobs, func(i int) {
		outcomes[i], errs[i] = s.try(ctx, chosen[i])
	})
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	if *recheck {
		for key := range known {
			if !slices.ContainsFunc(chosen, func(m *mutation) bool { return m.key == key }) {
				outcomes = append(outcomes, outcome{mutation: &mutation{key: key}, gone: true})
			}
		}
	}
	share = report(outcomes, len(all), spared, time.Since(began))
	if *update {
		err = s.write(*killers, outcomes)
	}
	return share, err
}

// choose returns the mutants to try, and the number of equivalent ones that it left out.
func choose(all []*mutation, known map[string]string) (chosen []*mutation, spared int, err error) {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return nil, 0, err
	}
	equal, err := readPairs(*equivalent)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range all {
		reason, none := equal[m.key]
		if none && reason == "" {
			return nil, 0, fmt.Errorf("%s: no reason for %s", *equivalent, m.key)
		}
		delete(equal, m.key)
		switch {
		case !pattern.MatchString(m.key):
		case *recheck && known[m.key] == "":
		case none:
			spared++
		default:
			chosen = append(chosen, m)
		}
	}
	for key := range equal {
		return nil, 0, fmt.Errorf("%s: there is no mutant %s", *equivalent, key)
	}
	if *sample > 0 && *sample < len(chosen) { // so that a sample does not change with mutants outside it
		slices.SortFunc(chosen, func(a, b *mutation) int { return cmp.Compare(place(a), place(b)) })
		chosen = chosen[:*sample]
		slices.SortFunc(chosen, func(a, b *mutation) int { return a.id - b.id })
	}
	return chosen, spared, nil
}

func place(m *mutation) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, *seed, m.key)
	return h.Sum64() * 0x9e3779b97f4a7c15
}

// readPairs reads a file of lines, each with an indented line below it.
func readPairs(name string) (map[string]string, error) {
	pairs := make(map[string]string)
	if name == "" {
		return pairs, nil
	}
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	last := ""
	for line := range strings.Lines(string(text)) {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "" || trimmed[0] == '#':
		case line[0] == '\t':
			pairs[last] = trimmed
		default:
			last, pairs[trimmed] = trimmed, ""
		}
	}
	return pairs, nil
}

// A session is the state of trying mutants.
type session struct {
	dir, sum string
	programs []*program
	known    map[string]string
	record   sync.Once
	tests    []*test
	err      error

	mu         sync.Mutex
	favourites map[string][]string // of a function, the latest tests that have killed a mutant of it
	done       int
}

func (s *session) try(ctx context.Context, m *mutation) (outcome, error) {
	o := outcome{mutation: m, reached: true}
	if program, name, ok := strings.Cut(s.known[m.key], " "); ok {
		for _, p := range s.programs {
			if p.name != program {
				continue
			}
			if err := p.build(ctx); err != nil || o.runs(ctx, m, p, []*test{{program: p, name: name}}) {
				return o, err
			}
		}
	}
	if *recheck {
		return o, nil
	}
	s.record.Do(func() {
		var kept map[string]recording
		if kept, s.err = readRecordings(*reach, s.sum); s.err != nil {
			return
		}
		if s.tests, s.err = recordTests(ctx, s.dir, s.programs, *jobs, *longest, kept); s.err == nil {
			s.err = writeRecordings(*reach, s.sum, kept)
		}
	})
	if s.err != nil {
		return o, s.err
	}
	function := strings.Join(strings.SplitN(m.key, ": ", 3)[:2], ": ")
	s.mu.Lock()
	favourites := slices.Clone(s.favourites[function])
	s.mu.Unlock()
	if o = try(ctx, m, s.tests, favourites); ctx.Err() != nil {
		return o, nil // which says nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.killer != "" && !slices.Contains(favourites, o.killer) {
		s.favourites[function] = append(favourites[max(0, len(favourites)-4):], o.killer)
	}
	if s.done++; *verbose {
		fmt.Fprintf(os.Stderr, "%d: line %d: %s: %s\n", s.done, m.line, m.key, o.end())
	}
	return o, nil
}

// write saves the test that killed each mutant.
func (s *session) write(name string, outcomes []outcome) error {
	var text strings.Builder
	for _, o := range outcomes {
		if o.killer != "" && !strings.HasSuffix(o.killer, "?") {
			fmt.Fprintf(&text, "%s\n\t%s\n", o.key, o.killer)
		}
	}
	return os.WriteFile(name, []byte(text.String()), 0o644)
}

// report prints the survivors, and returns the share of the mutants that were killed.
func report(outcomes []outcome, all, spared int, took time.Duration) float64 {
	killed, late := 0, 0
	for _, o := range outcomes {
		switch {
		case o.killer != "":
			killed++
			if o.timeout {
				late++
			}
		case o.gone:
			fmt.Printf("gone:\t%s\n", o.key)
		default:
			fmt.Printf("%s: %s:%d\t%s\n", o.end(), o.file, o.line, o.key)
		}
	}
	share := float64(killed) / float64(max(1, len(outcomes)))
	fmt.Printf("%d of %d mutants tried, and %d that are no faults left out, in %.0f s: %d killed (%d of them by time), %d survived: %.1f %%\n",
		len(outcomes), all, spared, took.Seconds(), killed, late, len(outcomes)-killed, 100*share)
	return share
}
