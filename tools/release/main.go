// Command release checks that this repository can be published as it stands.
//
// It packs every published module as a module proxy serves it, at the version that heads
// CHANGELOG.md, and then does what a user does: it fetches each one into a new module,
// without go.work, builds a small program with it, and runs that. It leaves no files behind,
// and adds none to the module cache, where they would hide the version that is tagged later.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// family is the path of the core; those of the other modules begin with it.
const family = "github.com/d365failover/failover"

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: release\n\nChecks that the modules of the checkout around it can be published.\n")
	}
	flag.Parse()
	if err := check(); err != nil {
		log.Fatal(err)
	}
}

func check() error {
	root, err := output(".", nil, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	repo, err := read(strings.TrimSpace(root))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	proxy := filepath.Join(dir, "proxy")
	var errs []error
	for _, m := range repo.modules {
		errs = append(errs, m.pack(repo, proxy))
	}
	for _, m := range repo.modules {
		errs = append(errs, m.mistakes(repo))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	env, err := environment(dir, proxy)
	if err != nil {
		return err
	}
	for _, m := range repo.modules {
		start := time.Now()
		if err := m.use(repo, dir, env); err != nil {
			return fmt.Errorf("%s, as its users get it: %w", m.path, err)
		}
		fmt.Printf("ok  %s %s  %.0fs\n", m.path, repo.version, time.Since(start).Seconds())
	}
	return nil
}

// mistakes returns what would prevent users from getting the module, such as directives that
// their builds ignore or that go install rejects.
func (m *mod) mistakes(repo *repository) error {
	file, err := modfile.Parse(filepath.Join(m.dir, "go.mod"), m.gomod, nil)
	if err != nil {
		return err
	}
	var errs []error
	complain := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(filepath.Join(m.dir, "go.mod")+": "+format, args...))
	}
	if len(file.Replace) > 0 || len(file.Exclude) > 0 {
		complain("replace and exclude are for go.work")
	}
	for _, r := range file.Require {
		if !isFamily(r.Mod.Path) {
			continue
		}
		if repo.module(r.Mod.Path) == nil {
			complain("%s is not published", r.Mod.Path)
		} else if r.Mod.Version != repo.version {
			complain("requires %s, but %s is what CHANGELOG.md says comes next", r.Mod, repo.version)
		}
	}
	// go.sum may contain the sum of a sibling that is not tagged yet, but it must be right.
	for line := range strings.Lines(m.gosum) {
		fields := strings.Fields(line)
		if len(fields) != 3 || !isFamily(fields[0]) {
			continue
		}
		version, isMod := strings.CutSuffix(fields[1], "/go.mod")
		sibling := repo.module(fields[0])
		switch {
		case sibling == nil || version != repo.version:
			complain("go.sum has %s %s, which nothing requires", fields[0], fields[1])
		case isMod && fields[2] != sibling.modSum, !isMod && fields[2] != sibling.zipSum:
			complain("go.sum has another sum for %s %s than its files make", fields[0], fields[1])
		}
	}
	return errors.Join(errs...)
}

func isFamily(path string) bool { return path == family || strings.HasPrefix(path, family+"/") }

// environment is the environment of a user whose module proxy has the packed modules. All others
// come from where this machine gets them.
func environment(home, proxy string) ([]string, error) {
	const names = "GOPROXY GOMODCACHE GONOSUMDB"
	out, err := output(".", nil, "go", append([]string{"env"}, strings.Fields(names)...)...)
	if err != nil {
		return nil, err
	}
	values := strings.Split(out, "\n")
	return append(os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-modcacherw -trimpath",
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(filepath.Join(values[1], "cache", "download"))+","+values[0],
		"GOMODCACHE="+filepath.Join(home, "cache"),
		"GONOSUMDB="+strings.TrimPrefix(values[2]+","+family, ","), // it learns their sums once they are tagged
		"GOBIN="+filepath.Join(home, "bin"),
	), nil
}

// use does what users do with the module, in its own directories below home.
func (m *mod) use(repo *repository, home string, env []string) error {
	dir := filepath.Join(home, "users", m.dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	uses, ok := users[m.path]
	if !ok {
		return errors.New("no program in users.go uses it")
	}
	for _, command := range uses.commands {
		if _, err := output(dir, env, "go", "install", command+"@"+repo.version); err != nil {
			return err
		}
		if _, err := output(dir, env, filepath.Join(home, "bin", filepath.Base(command)), "-h"); err != nil {
			return err
		}
	}
	if uses.program == "" {
		return nil
	}
	for name, text := range map[string]string{"go.mod": "module example.com/user\n\ngo 1.25.0\n", "main.go": uses.program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"get", m.path + "@" + repo.version},
		{"mod", "tidy"},
		{"run", "."},
		{"mod", "verify"},
	} {
		if _, err := output(dir, env, "go", args...); err != nil {
			return err
		}
	}
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return err
	}
	for _, line := range []string{
		fmt.Sprintf("%s %s %s\n", m.path, repo.version, m.zipSum),
		fmt.Sprintf("%s %s/go.mod %s\n", m.path, repo.version, m.modSum),
	} {
		if !strings.Contains(string(sums), line) {
			return fmt.Errorf("go.sum lacks %s", line)
		}
	}
	return nil
}

// output runs a command and returns its output, as the error if it fails.
func output(dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, env
	var said, all strings.Builder
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&said, &all), &all
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, all.String())
	}
	return said.String(), nil
}

// escaped is the path of a module in a module proxy. The modules of the family have no capitals.
func escaped(path string) string {
	path, err := module.EscapePath(path)
	if err != nil {
		panic(err)
	}
	return filepath.FromSlash(path)
}
