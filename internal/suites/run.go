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

// runner runs suites and keeps what came of them.
type runner struct {
	toolchain *toolchain
	dir       string
	race      bool
	repeats   int
	rows      []row
}

// row is what came of a suite.
type row struct {
	suite                          string
	tests, skipped                 int
	through, beside, faults, again int64
	differences                    []difference
	bareFailed                     []string
}

// run runs a suite.
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

// arguments returns those of go test for the suite, and others.
func (s suite) arguments(others ...string) []string {
	return append(append([]string{"-tags", s.tags}, s.args...), others...)
}

// packages returns those that have tests.
func (r *runner) packages(ctx context.Context, dir string, s suite) ([]string, error) {
	list := append([]string{"list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`, "-tags", s.tags}, s.packages...)
	cmd := r.toolchain.command(ctx, conditions{dir: dir}, list...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}

// test runs the tests of a package and keeps what go test has said in files that begin
// with out. After a test that has hung or crashed it goes on with the rest.
func (r *runner) test(ctx context.Context, c conditions, out string, args ...string) (results, error) {
	args = append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout=60m", "-race=" + strconv.FormatBool(r.race)}, args...)
	all := make(results)
	for n := 0; ; n++ {
		file := fmt.Sprintf("%s-%d.json", out, n)
		if err := r.goTest(ctx, c, file, append(args, all.skipped()...)); err != nil {
			return nil, err
		}
		known := len(all)
		complete, err := all.read(file)
		if complete || err != nil {
			return all, err
		}
		if len(all) == known {
			return nil, fmt.Errorf("%s does not end, and no test is to blame", file)
		}
	}
}

const (
	// longSilence is after how long without a word a test has hung. The library waits for a
	// minute for a body to end.
	longSilence = 80 * time.Second
	// shortSilence is enough to find out what makes a test pass.
	shortSilence = 25 * time.Second
)

// goTest runs go test until it ends or has hung.
func (r *runner) goTest(ctx context.Context, c conditions, file string, args []string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.toolchain.command(ctx, c, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var size int64
	last, hung := time.Now(), false
	for {
		select {
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) && (hung || ctx.Err() == nil) {
				return nil
			}
			return err
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

// repeat runs the tests that came out differently again, in one mode after the other until
// they come out as they do without the library.
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
