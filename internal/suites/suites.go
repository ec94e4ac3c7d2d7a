package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A suite is the tests of some packages.
type suite struct {
	name     string
	module   string // with its version; "" for the standard library
	dir      string // of the packages, below the module or src
	packages []string
	// edits lead through what wraps clients where a library, or a test, calls an
	// *http.Transport itself.
	edits []edit
	// direct are the tests whose own calls of RoundTrip are led there too, and the prefix
	// that names of net/http have in them.
	direct map[string]string
}

var suites = []suite{
	{
		name: "net/http", dir: "net/http", packages: []string{"."},
		direct: map[string]string{"client_test.go": "", "requestwrite_test.go": "", "transport_dial_test.go": "http.", "transport_test.go": ""},
		edits: []edit{
			{"main_test.go", "\tv := m.Run()\n", "\tv := m.Run()\n\twrap.Close()\n"},
			{"main_test.go", "\n\t\"net/http\"\n", "\n\t\"d365failover/wrap\"\n\t\"net/http\"\n"},
		},
	},
	{name: "net/http/httputil", dir: "net/http/httputil", packages: []string{"."}, direct: map[string]string{"reverseproxy_test.go": "http."}},
	{
		name: "oauth2", module: "golang.org/x/oauth2@v0.36.0", packages: []string{"./..."},
		edits: []edit{
			{"transport.go", "\t\treturn t.Base\n", "\t\treturn http.Through(t.Base)\n"},
			{"transport.go", "\treturn http.DefaultTransport\n", "\treturn http.Through(http.DefaultTransport)\n"},
		},
	},
	{name: "azcore", module: "github.com/Azure/azure-sdk-for-go/sdk/azcore@v1.24.0", packages: []string{"./..."}},
	{
		name: "otelhttp", module: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp@v0.71.0", packages: []string{"./..."},
		edits: []edit{{"transport.go", "rt: base,", "rt: http.Through(base),"}},
	},
	{name: "go-retryablehttp", module: "github.com/hashicorp/go-retryablehttp@v0.7.8", packages: []string{"./..."}},
	{
		name: "elastic-transport-go", module: "github.com/elastic/elastic-transport-go/v8@v8.11.0", packages: []string{"./..."},
		edits: []edit{{"elastictransport/elastictransport.go", "return c.transport.RoundTrip(req)", "return http.Through(c.transport).RoundTrip(req)"}},
	},
}

// runner runs suites and keeps what came of them.
type runner struct {
	toolchain *toolchain
	dir       string
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
	notes                          string // directory
}

func (r *runner) run(ctx context.Context, s suite) error {
	dir, err := r.prepare(ctx, s)
	if err != nil {
		return err
	}
	work := filepath.Join(r.dir, "runs", strings.ReplaceAll(s.name, "/", "-"))
	notes := filepath.Join(work, "notes")
	if err := errors.Join(os.MkdirAll(notes, 0o777), os.MkdirAll(filepath.Join(work, "again"), 0o777)); err != nil {
		return err
	}
	packages, err := r.packages(ctx, dir, s.packages)
	if err != nil {
		return err
	}
	var results [2]results
	for _, m := range []mode{bare, wrapped} {
		results[m] = make(map[name]string)
		for _, pkg := range packages {
			one, err := r.test(ctx, m, dir, notes, filepath.Join(work, m.String()+"-"+strings.ReplaceAll(pkg, "/", "-")), pkg)
			if err != nil {
				return err
			}
			maps.Copy(results[m], one)
		}
		fmt.Printf("%s, %s: %v\n", s.name, m, results[m])
	}
	row := row{suite: s.name, notes: notes, tests: len(results[0]), differences: compare(results[0], results[1])}
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
	if err := r.repeat(ctx, dir, work, row.differences); err != nil {
		return err
	}
	r.rows = append(r.rows, row)
	return nil
}

// prepare returns the directory of the packages of a suite, ready for tests.
func (r *runner) prepare(ctx context.Context, s suite) (string, error) {
	dir := r.toolchain.src()
	if s.module != "" {
		cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", s.module)
		cmd.Dir, cmd.Stderr = r.dir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", err
		}
		var module struct{ Dir string }
		if err := json.Unmarshal(out, &module); err != nil {
			return "", err
		}
		dir = filepath.Join(r.dir, s.name)
		if err := copyTree(module.Dir, dir); err != nil {
			return "", err
		}
	}
	dir = filepath.Join(dir, filepath.FromSlash(s.dir))
	err := apply(dir, s.edits)
	for file, prefix := range s.direct {
		err = errors.Join(err, throughDirect(filepath.Join(dir, file), prefix))
	}
	return dir, errors.Join(err, wrapTests(dir))
}

var roundTrip = regexp.MustCompile(`(\w[\w.()]*)\.RoundTrip\(`)

// throughDirect leads the calls of RoundTrip in a file through what wraps clients.
func throughDirect(file, prefix string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed := roundTrip.ReplaceAll(text, []byte(prefix+"Through($1).RoundTrip("))
	if bytes.Equal(text, changed) {
		return fmt.Errorf("%s calls no RoundTrip", file)
	}
	return os.WriteFile(file, changed, 0o666)
}

// packages returns those that have tests.
func (r *runner) packages(ctx context.Context, dir string, patterns []string) ([]string, error) {
	list := append([]string{"list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`}, patterns...)
	cmd := r.toolchain.command(ctx, bare, dir, "", list...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}

// test runs the tests of a package and keeps what go test has said in files that begin with out. After a
// test that has hung or crashed it goes on with the rest.
func (r *runner) test(ctx context.Context, m mode, dir, notes, out string, args ...string) (results, error) {
	args = append([]string{"test", "-json", "-count=1", "-vet=off", "-p=1", "-timeout=60m"}, args...)
	all := make(results)
	for n := 0; ; n++ {
		file := fmt.Sprintf("%s-%d.json", out, n)
		if err := r.goTest(ctx, m, dir, notes, file, append(args, all.skipped()...)); err != nil {
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

// silence is after how long without a word a test has hung.
const silence = 80 * time.Second

// goTest runs go test until it ends or has hung.
func (r *runner) goTest(ctx context.Context, m mode, dir, notes, file string, args []string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.toolchain.command(ctx, m, dir, notes, args...)
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
			if size > 0 && time.Since(last) > silence {
				hung = true
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			}
		}
	}
}

// repeat runs the tests that came out differently again, in every mode. With -short, those
// of net/http run at the same time.
func (r *runner) repeat(ctx context.Context, dir, work string, differences []difference) error {
	patterns := make(map[string][]string) // by package
	for _, d := range differences {
		patterns[d.name.pkg] = append(patterns[d.name.pkg], d.name.pattern())
	}
	for pkg, patterns := range patterns {
		for n := range r.repeats {
			for m := range mode(modes) {
				out := filepath.Join(work, fmt.Sprintf("again-%d-%d-%s", n, m, strings.ReplaceAll(pkg, "/", "-")))
				results, err := r.test(ctx, m, dir, filepath.Join(work, "again"), out, "-short", "-parallel=32", "-run", strings.Join(patterns, "|"), pkg)
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
