package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// toolchain is a copy of GOROOT whose net/http has the hook that wraps clients, and in which this
// library is a package of the standard library, because net/http's own tests can import no other.
type toolchain struct{ root string }

//go:embed testdata/through.go
var through []byte

//go:embed testdata/wrap.go
var wrapper []byte

// wrapPackage is the package that a test binary imports to have its clients wrapped.
const wrapPackage = "d365failover/wrap"

// An edit replaces a text that a file has exactly once.
type edit struct{ file, old, new string }

var toolchainEdits = []edit{
	{"net/http/client.go", "\t\treturn c.Transport\n", "\t\treturn Through(c.Transport)\n"},
	{"net/http/client.go", "\treturn DefaultTransport\n", "\treturn Through(DefaultTransport)\n"},
	{"net/http/httputil/reverseproxy.go", "\n\tctx := req.Context()\n", "\n\ttransport = http.Through(transport)\n\tctx := req.Context()\n"},
	// No test may use an external network.
	{"internal/testenv/testenv.go", "func HasExternalNetwork() bool {\n", "func HasExternalNetwork() bool {\n\treturn false\n"},
}

// newToolchain makes the copy at root.
func newToolchain(ctx context.Context, root string) (*toolchain, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	from := strings.TrimSpace(string(out))
	for _, name := range []string{"bin", "go.env", "lib", "pkg", "src", "VERSION"} {
		if err := copyTree(filepath.Join(from, name), filepath.Join(root, name)); err != nil {
			return nil, err
		}
	}
	t := &toolchain{root}
	if err := apply(t.src(), toolchainEdits); err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(t.src(), "net/http/through.go"), through, 0o666),
		t.addPackage(wrapPackage, map[string][]byte{"wrap.go": wrapper}),
	); err != nil {
		return nil, err
	}
	return t, t.addLibrary(ctx)
}

func (t *toolchain) src() string { return filepath.Join(t.root, "src") }

// mode is how clients are run.
type mode int

// Every mode after wrapped turns off more of the library than the one before it.
const (
	bare      mode = iota // without the library
	wrapped               // with it
	noErrors              // clients get the error of the last attempt, not the library's
	noRepeats             // and nothing is sent again
	noProbes              // and nothing is probed
	noHolding             // and no body is buffered
	modes
)

// off is what a mode turns off, for testdata/wrap.go.
var off = [modes]string{noErrors: "errors", noRepeats: "errors,repeats", noProbes: "errors,repeats,probes", noHolding: "errors,repeats,probes,holding"}

func (m mode) String() string {
	return [...]string{"bare", "wrapped", "with bare errors", "without repeats", "without probes", "without reading ahead"}[m]
}

// conditions are those under which the toolchain runs.
type conditions struct {
	mode       mode
	dir, notes string        // where it runs, and where wrapped clients note what they do
	silence    time.Duration // after which a test has hung
}

func (t *toolchain) command(ctx context.Context, c conditions, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(t.root, "bin", "go"), args...)
	cmd.Dir = c.dir
	wrap := ""
	if c.mode != bare {
		wrap = c.notes
	}
	cmd.Env = append(os.Environ(), "GOROOT="+t.root, "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-mod=mod",
		"FAILOVER_SUITES="+wrap, "FAILOVER_SUITES_OFF="+off[c.mode])
	return cmd
}

// renamed are the modules that become part of the copy, where the first element of a path has no
// dot.
var renamed = strings.NewReplacer(
	`"github.com/d365failover/failover`, `"d365failover/failover`,
	`"github.com/cenkalti/backoff/v4`, `"d365failover/backoff`,
	`"github.com/sony/gobreaker/v2`, `"d365failover/gobreaker`,
)

// addLibrary adds this library, and what it imports.
func (t *toolchain) addLibrary(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Standard,ImportPath,Dir,GoFiles,EmbedFiles", ".")
	cmd.Dir, cmd.Stderr = filepath.Join("..", ".."), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Standard            bool
			ImportPath, Dir     string
			GoFiles, EmbedFiles []string
		}
		if err := list.Decode(&p); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if p.Standard {
			continue
		}
		files := make(map[string][]byte)
		for _, name := range append(p.GoFiles, p.EmbedFiles...) {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return err
			}
			if strings.HasSuffix(name, ".go") {
				text = []byte(renamed.Replace(string(text)))
			}
			files[name] = text
		}
		path := strings.Trim(renamed.Replace(`"`+p.ImportPath), `"`)
		if err := t.addPackage(path, files); err != nil {
			return err
		}
	}
}

func (t *toolchain) addPackage(path string, files map[string][]byte) error {
	dir := filepath.Join(t.src(), filepath.FromSlash(path))
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(name, text, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// apply makes edits to the files below dir.
func apply(dir string, edits []edit) error {
	for _, e := range edits {
		name := filepath.Join(dir, filepath.FromSlash(e.file))
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			return fmt.Errorf("%s has %q %d times, and is no file that these edits were made for", e.file, e.old, n)
		}
		if err := os.WriteFile(name, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o666); err != nil {
			return err
		}
	}
	return nil
}

// wrapTests makes the tests of every package below dir import wrapPackage.
func wrapTests(dir string) error {
	names := make(map[string]string) // of packages, by directory
	clause := regexp.MustCompile(`(?m)^package (\w+)`)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if err == nil && entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if m := clause.FindSubmatch(text); m != nil {
			names[filepath.Dir(path)] = strings.TrimSuffix(string(m[1]), "_test")
		}
		return nil
	})
	for dir, name := range names {
		text := fmt.Sprintf("package %s_test\n\nimport _ %q\n", name, wrapPackage)
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "zz_wrap_test.go"), []byte(text), 0o666))
	}
	return err
}

// copyTree copies a file, or a directory with its content, and makes the copy writable.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := entry.Info()
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.MkdirAll(target, 0o777)
		case !info.Mode().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm()|0o200)
	})
}
