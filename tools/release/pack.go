package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

// repository is a checkout.
type repository struct {
	root    string
	version string   // of all modules, the next to be tagged
	files   []string // relative to root, with slashes
	modules []*mod   // that are published
}

// mod is a module that is published.
type mod struct {
	dir, path      string // dir relative to the root, with slashes
	gomod          []byte
	gosum          string
	zipSum, modSum string // as go.sum has them; pack sets them
}

func read(root string) (*repository, error) {
	repo := &repository{root: root}
	changes, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	heading := regexp.MustCompile(`(?m)^## (v\S+)`).FindSubmatch(changes)
	if heading == nil {
		return nil, errors.New("CHANGELOG.md has no heading with a version")
	}
	repo.version = string(heading[1])
	listed, err := output(root, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(listed, "\x00"), "\x00") {
		if info, err := os.Lstat(filepath.Join(root, name)); err == nil && info.Mode().IsRegular() {
			repo.files = append(repo.files, name)
		}
	}
	slices.Sort(repo.files)
	for _, name := range repo.files {
		dir, isMod := strings.CutSuffix("/"+name, "/go.mod")
		dir = strings.TrimPrefix(dir, "/")
		if !isMod || strings.HasPrefix(dir, "internal/") || dir == "tools" {
			continue // nobody fetches these
		}
		m := &mod{dir: dir}
		if m.gomod, err = os.ReadFile(filepath.Join(root, name)); err != nil {
			return nil, err
		}
		if m.path = modfile.ModulePath(m.gomod); m.path != strings.TrimSuffix(family+"/"+dir, "/") {
			return nil, fmt.Errorf("%s: module %s is in another directory than its path says", name, m.path)
		}
		sums, err := os.ReadFile(filepath.Join(root, dir, "go.sum"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		m.gosum = string(sums)
		repo.modules = append(repo.modules, m)
	}
	slices.SortFunc(repo.modules, func(a, b *mod) int { return strings.Compare(a.path, b.path) }) // the core first
	return repo, nil
}

func (r *repository) module(path string) *mod {
	for _, m := range r.modules {
		if m.path == path {
			return m
		}
	}
	return nil
}

// pack writes what a module proxy serves of the module.
func (m *mod) pack(repo *repository, proxy string) error {
	dir := filepath.Join(proxy, escaped(m.path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var files []zip.File
	licensed := false
	for _, name := range repo.files {
		inside, ok := name, true
		if m.dir != "" {
			inside, ok = strings.CutPrefix(name, m.dir+"/")
		}
		if ok {
			files = append(files, file{inside, filepath.Join(repo.root, name)})
			licensed = licensed || inside == "LICENSE"
		}
	}
	if !licensed { // the go command adds that of the root
		files = append(files, file{"LICENSE", filepath.Join(repo.root, "LICENSE")})
	}
	archive := filepath.Join(dir, repo.version+".zip")
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	// Create leaves out the modules below this one.
	err = errors.Join(zip.Create(out, module.Version{Path: m.path, Version: repo.version}, files), out.Close())
	if err != nil {
		return fmt.Errorf("%s: %w", m.path, err)
	}
	if m.zipSum, err = dirhash.HashZip(archive, dirhash.Hash1); err != nil {
		return err
	}
	m.modSum, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(m.gomod)), nil
	})
	if err != nil {
		return err
	}
	info := fmt.Sprintf(`{"Version":%q,"Time":%q}`, repo.version, time.Now().UTC().Format(time.RFC3339))
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "list"), []byte(repo.version+"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, repo.version+".info"), []byte(info), 0o644),
		os.WriteFile(filepath.Join(dir, repo.version+".mod"), m.gomod, 0o644),
	)
}

// file is a file of the checkout and its name in a module.
type file struct{ name, path string }

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(f.path) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(f.path) }
