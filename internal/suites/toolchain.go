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

// A toolchain is a copy of GOROOT. Its net/http has the hook that wraps clients, and this
// library is part of its standard library, because net/http's own tests can import nothing
// else.
type toolchain struct{ root string }

//go:embed testdata/through.go
var through []byte

//go:embed testdata/wrap.go
var wrapper []byte

// wrapPackage is the package that a test binary imports to have its clients wrapped.
const wrapPackage = "d365failover/wrap"

// An edit replaces a text that occurs exactly once in a file.
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

// A mode says how much of the library clients get.
type mode int

// The modes after wrapped turn off parts of the library, each one more than the mode before
// it.
const (
	bare mode = iota // without the library
	wrapped
	noErrors  // the library's errors: clients get the error of the last attempt
	noRepeats // sending anything again
	noProbes  // probes
	noHolding // buffering bodies
	modes
)

// off is what a mode turns off, in the words of testdata/wrap.go.
var off = [modes]string{noErrors: "errors", noRepeats: "errors,repeats", noProbes: "errors,repeats,probes", noHolding: "errors,repeats,probes,holding"}

func (m mode) String() string {
	return [...]string{"bare", "wrapped", "with bare errors", "without repeats", "without probes", "without reading ahead"}[m]
}

// conditions are those under which the toolchain runs.
type conditions struct {
	mode       mode
	dir, notes string        // the working directory, and the directory for the notes of wrapped clients
	silence    time.Duration // after which a test counts as hung
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

// renamed maps import paths of modules to paths within the copy, where the first element has
// no dot.
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

// apply applies edits to files below dir.
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
	names := make(map[string]string) // package names by directory
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

// copyTree copies a file or a directory tree, and makes the copy writable.
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
