package failovertest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The simulator is usable outside test binaries, and does not depend on the library that it tests.
func TestImportsTheStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{join .Deps "\n"}}`, ".").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.NotEmpty(t, deps)
	for _, dep := range deps {
		assert.NotEqual(t, "testing", dep)
		first, _, _ := strings.Cut(dep, "/")
		assert.False(t, strings.Contains(first, ".") && first != "vendor", dep)
	}
}

func TestEveryConfigFieldHasItsDocumentation(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("failovertest.go")
	require.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), "failovertest.go", src, parser.ParseComments)
	require.NoError(t, err)
	fields := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			fields++
			assert.True(t, strings.HasPrefix(f.Doc.Text(), f.Names[0].Name), "%s", f.Names[0])
		}
		return false
	})
	assert.Positive(t, fields)
}
