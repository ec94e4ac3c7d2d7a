package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A runner runs suites and keeps the results.
type runner struct {
	toolchain *toolchain
	dir       string
	race      bool
	repeats   int
	rows      []row
}

// A row is the result of a suite.
type row struct {
	suite                          string
	tests, skipped                 int
	through, beside, faults, again int64
	differences                    []difference
	bareFailed                     []string
}

func (r *runner) run(ctx context.Context, s suite) error {
	dir, err := r.prepare(ctx, s)
	if err != nil {
		return err
	}
	work := filepath.Join(r.dir, "runs", fileName(s.name))
	notes := filepath.Join(work, "notes")
	if err := errors.Join(os.MkdirAll(notes, 0o777), os.MkdirAll(filepath.Join(work, "again"), 0o777)); err != nil {
		return err
	}
	packages, err := r.packages(ctx, dir, s)
	if err != nil {
		return err
	}
	var results [2]results
	for _, m := range []mode{bare, wrapped} {
		results[m] = make(map[name]string)
		for _, pkg := range packages {
			one, err := r.test(ctx, conditions{mode: m, dir: dir, notes: notes, silence: longSilence}, filepath.Join(work, m.String()+"-"+fileName(pkg)), s.arguments(pkg)...)
			if err != nil {
				return err
			}
			maps.Copy(results[m], one)
		}
		fmt.Printf("%s, %s: %v\n", s.name, m, results[m])
	}
	row := row{suite: s.name, tests: len(results[0]), differences: compare(results[0], results[1])}
	for name, result := range results[0] {
		switch result {
		case "skip":
			row.skipped++
		case "fail":
			row.bareFailed = append(row.bareFailed, name.String())
		}
	}
	for name, n := range map[string]*int64{"through": &row.through, "beside": &row.beside, "faults": &row.faults, "again": &row.again} {
		info, err := os.Stat(filepath.Join(notes, name))
		if err != nil {
			return fmt.Errorf("nothing was wrapped: %w", err)
		}
		*n = info.Size()
	}
	if err := r.repeat(ctx, s, dir, work, row.differences); err != nil {
		return err
	}
	r.rows = append(r.rows, row)
	return nil
}

// arguments returns the arguments of go test for the suite, followed by the others.
func (s suite) arguments(others ...string) []string {
	return append(append([]string{"-tags", s.tags}, s.args...), others...)
}

// packages returns those packages of a suite that have tests.
func (r *runner) packages(ctx context.Context, dir string, s suite) ([]string, error) {
	list := append([]string{"list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`, "-tags", s.tags}, s.packages...)
	cmd := r.toolchain.command(ctx, conditions{dir: dir}, list...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}

// test runs the tests of a package, and saves the output of go test in files whose names begin
// with out. When a test hangs or crashes, it continues with the remaining tests.
func (r *runner) test(ctx context.Context, c conditions, out string, args ...string) (results, error) {
	args = append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout=60m", "-race=" + strconv.FormatBool(r.race)}, args...)
	all := make(results)
	for n := 0; ; n++ {
		file := fmt.Sprintf("%s-%d.json", out, n)
		hung, err := r.goTest(ctx, c, file, append(args, all.skipped()...))
		if err != nil {
			return nil, err
		}
		known := len(all)
		complete, err := all.read(file, hung)
		if complete || err != nil {
			return all, err
		}
		if len(all) == known {
			return nil, fmt.Errorf("%s does not end, and no test is to blame", file)
		}
	}
}

const (
	// After this time without output, a test counts as hung. The library waits up to a minute
	// for the end of a body.
	longSilence = 80 * time.Second
	// shortSilence is the same while looking for the mode in which a test passes.
	shortSilence = 25 * time.Second
)

// goTest runs go test until it ends or hangs.
func (r *runner) goTest(ctx context.Context, c conditions, file string, args []string) (hung bool, err error) {
	out, err := os.Create(file)
	if err != nil {
		return false, err
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.toolchain.command(ctx, c, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var size int64
	last := time.Now()
	for {
		select {
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) && (hung || ctx.Err() == nil) {
				return hung, nil
			}
			return hung, err
		case <-ticker.C:
			info, err := out.Stat()
			if err == nil && info.Size() != size {
				size, last = info.Size(), time.Now()
			}
			if size > 0 && time.Since(last) > c.silence {
				hung = true
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			}
		}
	}
}

// repeat repeats the tests whose results differ, in one mode after the other, until their
// results are the same as without the library.
func (r *runner) repeat(ctx context.Context, s suite, dir, work string, differences []difference) error {
	for n := range r.repeats {
		for m := range mode(modes) {
			patterns := make(map[string][]string) // by package
			for _, d := range differences {
				if d.open(m, n) {
					patterns[d.name.pkg] = append(patterns[d.name.pkg], d.name.pattern())
				}
			}
			for pkg, patterns := range patterns {
				c := conditions{mode: m, dir: dir, notes: filepath.Join(work, "again"), silence: shortSilence}
				out := filepath.Join(work, fmt.Sprintf("again-%d-%d-%s", n, m, fileName(pkg)))
				results, err := r.test(ctx, c, out, s.arguments("-run", strings.Join(patterns, "|"), pkg)...)
				if err != nil {
					return err
				}
				for i := range differences {
					if d := &differences[i]; results[d.name] == "pass" {
						d.passed[m]++
					}
				}
			}
		}
	}
	return nil
}
