package failover_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readMap returns the rows of the tables in CONTRIBUTING.md.
func readMap(t *testing.T) string {
	page, err := os.ReadFile("CONTRIBUTING.md")
	require.NoError(t, err)
	return strings.Join(regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(string(page), -1), "\n")
}

// The map in CONTRIBUTING.md names every file of the root, and no other; and there are
// few enough of them to be read.
func TestTheMapHasEveryFile(t *testing.T) {
	t.Parallel()
	rows := readMap(t)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	count := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		count++
		assert.True(t, strings.Contains(rows, "`"+file+"`"), "the map lacks %s", file)
	}
	assert.LessOrEqual(t, count, maxFiles, "files of the root that are no tests")
	for _, m := range regexp.MustCompile("`([a-z_]+\\.go)`").FindAllStringSubmatch(rows, -1) {
		assert.True(t, slices.Contains(files, m[1]), "the map has %s, which is not there", m[1])
	}
}

const (
	maxFiles = 30
	maxLines = 500
)

// No Go file of any module, tests included, is too long to be read in one go.
func TestNoFileIsLong(t *testing.T) {
	t.Parallel()
	count := 0
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" {
			return err
		}
		count++
		text, err := os.ReadFile(file)
		assert.LessOrEqual(t, bytes.Count(text, []byte("\n")), maxLines, file)
		return err
	})
	require.NoError(t, err)
	assert.Greater(t, count, 300)
}

// The map names every directory with a package or module that others may look for, and says
// correctly which modules are published.
func TestTheMapHasEveryDirectory(t *testing.T) {
	t.Parallel()
	rows := readMap(t)
	for _, pattern := range []string{"*/*.go", "*/go.mod", "internal/*/*.go", "*/*/go.mod"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			dir := filepath.ToSlash(filepath.Dir(file))
			assert.True(t, regexp.MustCompile("`"+dir+"/?`").MatchString(rows), "the map lacks %s", dir)
		}
	}
	work, err := os.ReadFile("go.work")
	require.NoError(t, err)
	var inWork, published []string
	for _, m := range regexp.MustCompile(`(?m)^\t\./(\S+)$`).FindAllStringSubmatch(string(work), -1) {
		inWork = append(inWork, m[1])
	}
	for _, row := range regexp.MustCompile(`(?m)^.*\| yes \|$`).FindAllString(rows, -1) {
		for _, m := range regexp.MustCompile("`([a-z/]+)/`").FindAllStringSubmatch(strings.SplitN(row, " | ", 2)[0], -1) {
			published = append(published, m[1])
		}
	}
	assert.ElementsMatch(t, inWork, published, "go.work has the modules that are published")
}

// A package of pure functions, or of a state machine without I/O, knows no type of the root.
func TestInternalPackagesDoNotKnowTheRoot(t *testing.T) {
	t.Parallel()
	const root = "github.com/d365failover/failover"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, root).Output()
	require.NoError(t, err)
	require.Contains(t, string(out), root+"/internal/rule ")
	for line := range strings.Lines(string(out)) {
		packages := strings.Fields(line)
		if !strings.HasPrefix(packages[0], root+"/internal/") {
			continue
		}
		for _, imported := range packages[1:] {
			assert.False(t, imported == root || strings.HasPrefix(imported, root+"/") && !strings.HasPrefix(imported, root+"/internal/"),
				"%s imports %s", packages[0], imported)
		}
	}
}
