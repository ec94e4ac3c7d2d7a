package failover_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every exported name, and every field of an exported struct, has a doc comment.
func TestEverythingExportedIsDocumented(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && (d.Recv == nil || receiverIsExported(d)) && !wellKnown[d.Name.Name] {
					assert.NotEmpty(t, d.Doc.Text(), "%s: %s", name, d.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					checkSpec(t, name, d, spec)
				}
			}
		}
	}
}

// wellKnown methods need no comment.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "Timeout": true, "Temporary": true, "Read": true, "Close": true, "RoundTrip": true}

func receiverIsExported(d *ast.FuncDecl) bool {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	ident, ok := typ.(*ast.Ident)
	return ok && ident.IsExported()
}

func checkSpec(t *testing.T, file string, decl *ast.GenDecl, spec ast.Spec) {
	typ, ok := spec.(*ast.TypeSpec)
	if !ok || !typ.Name.IsExported() {
		return
	}
	assert.NotEmpty(t, decl.Doc.Text()+typ.Doc.Text(), "%s: %s", file, typ.Name)
	fields, ok := typ.Type.(*ast.StructType)
	if !ok || typ.Name.Name != "Config" {
		return
	}
	for _, field := range fields.Fields.List {
		for _, ident := range field.Names {
			assert.NotEmpty(t, field.Doc.Text(), "Config.%s", ident)
		}
	}
}

var updateAPI = flag.Bool("update-api", false, "write testdata/api anew")

// The exported API is as committed, so that no change to it escapes review.
func TestTheAPIIsAsCommitted(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{".", "failovertest", "sharedtest", "failoverredis", "failoverotel"} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			api := strings.Join(exportedDecls(t, dir), "\n") + "\n"
			if api == "\n" {
				t.Skip("a module of its own, which is not here")
			}
			committed := filepath.Join("testdata", "api", filepath.Join("failover", dir)+".txt")
			if *updateAPI {
				require.NoError(t, os.MkdirAll(filepath.Dir(committed), 0o755))
				require.NoError(t, os.WriteFile(committed, []byte(api), 0o644))
			}
			want, err := os.ReadFile(committed)
			require.NoError(t, err)
			assert.Equal(t, string(want), api, "if that is meant: go test -run TheAPI -update-api .")
		})
	}
}

// exportedDecls returns the exported declarations of a package, without comments
// and bodies, sorted.
func exportedDecls(t *testing.T, dir string) []string {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var decls []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		require.NoError(t, err)
		ast.FileExports(parsed)
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				if f.Recv != nil && !receiverIsExported(f) {
					continue
				}
				f.Body = nil
			}
			var text bytes.Buffer
			require.NoError(t, format.Node(&text, set, decl))
			decls = append(decls, regexp.MustCompile(`\n\s*\n`).ReplaceAllString(text.String(), "\n"))
		}
	}
	slices.Sort(decls)
	return decls
}
