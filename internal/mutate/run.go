package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover/internal/mutate/mutant"
)

// A program is the tests of a package, with all mutants compiled in.
type program struct {
	name, path, dir string
	overlay, binary string
	once            sync.Once
	err             error
}

// A test is one test of a program. It reaches a mutant if that makes a difference in its run.
type test struct {
	program *program
	name    string
	time    time.Duration // elapsed
	cost    time.Duration // CPU time, which does not depend on how busy the machine is
	reaches []byte
}

func (t *test) String() string { return t.program.name + " " + t.name }

// prepare writes the sources, and returns the programs of all packages that have tests.
func prepare(ctx context.Context, dir string, sources []source) ([]*program, error) {
	replace := make(map[string]string)
	for i, s := range sources {
		name := filepath.Join(dir, fmt.Sprintf("%d_%s", i, filepath.Base(s.path)))
		if err := os.WriteFile(name, []byte(s.text), 0o600); err != nil {
			return nil, err
		}
		replace[s.path] = name
	}
	overlay := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return nil, err
	}
	packages, err := list(ctx, "./...")
	if err != nil {
		return nil, err
	}
	var programs []*program
	for _, p := range packages {
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 || strings.Contains(p.ImportPath, "/internal/mutate") {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, p.Module.Path), "/")
		if name == "" {
			name = "."
		}
		programs = append(programs, &program{name: name, path: p.ImportPath, dir: p.Dir, overlay: overlay,
			binary: filepath.Join(dir, strings.ReplaceAll(name, "/", "_")+".test")})
	}
	return programs, nil
}

// build compiles the tests, once.
func (p *program) build(ctx context.Context) error {
	p.once.Do(func() {
		cmd := command(ctx, "go", "test", "-c", "-vet=off", "-overlay", p.overlay, "-o", p.binary, p.path)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("the tests of %s: %w\n%s", p.path, err, out)
		}
	})
	return p.err
}

// run runs some tests of a program, and returns what they print, what they cost and
// whether they pass.
func (p *program) run(ctx context.Context, names []string, patience time.Duration, env string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := command(ctx, p.binary, "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), env)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		err = errTimeout
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		log.Fatalf("mutate: the tests of %s cannot be run, which says nothing about a mutant: %v", p.path, err)
	}
	var cost time.Duration
	if s := cmd.ProcessState; s != nil {
		cost = s.UserTime() + s.SystemTime()
	}
	return out.String(), cost, err
}

var errTimeout = errors.New("took too long")

// each calls do for every index, jobs at a time, until ctx ends.
func each(ctx context.Context, n, jobs int, do func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, jobs)
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}

// recordTests runs each test alone to see which mutants it reaches, unless kept has that already.
// It leaves out tests that fail, and those that cost too much.
func recordTests(ctx context.Context, dir string, programs []*program, jobs int, longest time.Duration, kept map[string]recording) ([]*test, error) {
	var tests []*test
	for _, p := range programs {
		if err := p.build(ctx); err != nil {
			return nil, err
		}
		out, err := command(ctx, p.binary, "-test.list", "^(Test|Example|Fuzz)").Output()
		if err != nil {
			return nil, err
		}
		for _, name := range strings.Fields(string(out)) {
			tests = append(tests, &test{program: p, name: name})
		}
	}
	each(ctx, len(tests), jobs, func(i int) {
		t := tests[i]
		if k, ok := kept[t.String()]; ok {
			t.time, t.cost, t.reaches = k.Time, k.Cost, k.Reaches
			return
		}
		name, began := filepath.Join(dir, fmt.Sprintf("reach%d", i)), time.Now()
		out, cost, err := t.program.run(ctx, []string{t.name}, 5*time.Minute, mutant.Record+"="+name)
		if t.time, t.cost = time.Since(began), cost; err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "%s fails without a mutant: %v\n%s", t, err, tail(out))
			return
		}
		t.reaches, _ = os.ReadFile(name) // there is no file if the test reaches no mutant
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, t := range tests {
		kept[t.String()] = recording{t.time, t.cost, t.reaches}
	}
	if longest > 0 {
		tests = slices.DeleteFunc(tests, func(t *test) bool { return t.cost > longest })
	}
	slices.SortStableFunc(tests, func(a, b *test) int { return int(a.cost - b.cost) })
	return tests, nil
}

// A recording is what is known about a test.
type recording struct {
	Time, Cost time.Duration
	Reaches    []byte
}

// readRecordings reads the recordings of tests, nothing if the sum of the sources has changed.
func readRecordings(name, sum string) (map[string]recording, error) {
	var file struct {
		Sum   string
		Tests map[string]recording
	}
	text, err := os.ReadFile(name)
	if name == "" || errors.Is(err, fs.ErrNotExist) {
		return make(map[string]recording), nil
	}
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if file.Sum != sum {
		return make(map[string]recording), err
	}
	return file.Tests, err
}

// writeRecordings saves the recordings of tests.
func writeRecordings(name, sum string, tests map[string]recording) error {
	text, err := json.Marshal(map[string]any{"Sum": sum, "Tests": tests})
	if err != nil || name == "" {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}

// sum returns a checksum of the sources.
func sum(sources []source) string {
	h := sha256.New()
	for _, s := range sources {
		h.Write([]byte(s.text))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func tail(s string) string { return s[max(0, len(s)-1000):] }

func (t *test) reach(m *mutation) bool { return m.id < len(t.reaches) && t.reaches[m.id] == 1 }

// An outcome says whether a mutant was killed, by which test, or survived.
type outcome struct {
	*mutation
	killer  string
	reached bool
	timeout bool
	gone    bool // it is in the file of killers, but no longer in the code
}

// end says which test killed the mutant, or why none did.
func (o outcome) end() string {
	switch {
	case o.killer != "":
		return o.killer
	case o.reached:
		return "survived"
	case o.gone:
		return "gone"
	}
	return "not reached"
}

// try runs the tests that reach the mutant, those first that have killed others of its
// function, then the fast ones.
func try(ctx context.Context, m *mutation, tests []*test, favourites []string) outcome {
	o := outcome{mutation: m}
	rest := make(map[*program][]*test)
	var order []*program
	for _, t := range tests {
		if !t.reach(m) {
			continue
		}
		o.reached = true
		if slices.Contains(favourites, t.String()) && o.runs(ctx, m, t.program, []*test{t}) {
			return o
		}
		if rest[t.program] == nil {
			order = append(order, t.program)
		}
		rest[t.program] = append(rest[t.program], t)
	}
	for budget := time.Second; len(rest) > 0; budget *= 5 {
		for _, p := range order {
			var batch []*test
			sum := time.Duration(0)
			for len(rest[p]) > 0 && (len(batch) == 0 || sum+rest[p][0].cost < budget) {
				sum += rest[p][0].cost
				batch, rest[p] = append(batch, rest[p][0]), rest[p][1:]
			}
			if len(batch) > 0 && o.runs(ctx, m, p, batch) {
				return o
			}
			if len(rest[p]) == 0 {
				delete(rest, p)
			}
		}
	}
	return o
}

var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// runs runs tests with the mutant and reports whether they kill it: one of them fails, and fails
// again alone, so that a test that fails only on a busy machine kills nothing.
func (o *outcome) runs(ctx context.Context, m *mutation, p *program, tests []*test) bool {
	for range 2 {
		patience := 10 * time.Second
		var names []string
		for _, t := range tests {
			patience += 10 * t.time
			names = append(names, t.name)
		}
		env := fmt.Sprintf("%s=%d", mutant.Active, m.id)
		out, _, err := p.run(ctx, names, patience, env)
		if err == nil {
			return false
		}
		o.killer, o.timeout = p.name+" "+names[0], errors.Is(err, errTimeout)
		found := failed.FindStringSubmatch(out)
		switch {
		case found != nil:
			o.killer = p.name + " " + found[1]
		case len(names) > 1:
			o.killer = p.name + " ?" // the whole: it hung, or left goroutines behind
			return true
		}
		if _, _, err := p.run(ctx, []string{strings.Fields(o.killer)[1]}, patience, env); err != nil {
			return true
		}
	}
	o.killer, o.timeout = "", false
	return false
}
