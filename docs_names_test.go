package failover_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// These tests keep the documents true as far as a program can: snippets are compiled and run
// elsewhere, and everything that a document names exists.

// snippetSources are the files that the snippets of a document come from.
var snippetSources = map[string][]string{
	"README.md":             {"example_test.go", "readme_test.go", "examples/start/main.go"},
	"docs/authorization.md": {"auth/example_test.go"},
	"docs/clients.md":       {"auth/example_test.go"},
	"docs/operations.md":    {"example_test.go"},
}

// Every snippet is part of a file that is compiled and run by a test.
func TestSnippetsArePartOfExamples(t *testing.T) {
	t.Parallel()
	for document := range snippetSources {
		text := readDocument(t, document)
		assert.NotEmpty(t, snippets(text), document)
		for _, snippet := range snippets(text) {
			_, found := sourceOf(t, document, snippet)
			assert.True(t, found, "a snippet of %s is in none of %v:\n%s", document, snippetSources[document], snippet)
		}
		indented := regexp.MustCompile(`(?m)^ {4}.*:=`).FindString(text)
		assert.Empty(t, indented, "%s: Go that is not marked as such is not compared", document)
	}
}

// Readers can use a snippet as it stands: every name in it is declared there or above, is a
// package, or is explained in the text.
func TestSnippetsUseNothingUndefined(t *testing.T) {
	t.Parallel()
	for document := range snippetSources {
		text := readDocument(t, document)
		prose := withoutSnippets(text)
		above := make(map[string]bool)
		for _, snippet := range snippets(text) {
			source, found := sourceOf(t, document, snippet)
			if !found {
				continue // see TestSnippetsArePartOfExamples
			}
			packages := importsOf(t, source)
			declared, undeclared := namesIn(t, snippet)
			for _, name := range undeclared {
				if !packages[name] && types.Universe.Lookup(name) == nil && !above[name] {
					assert.True(t, strings.Contains(prose, "`"+name+"`"), "%s does not say what %s is:\n%s", document, name, snippet)
				}
			}
			for _, name := range declared {
				above[name] = true
			}
		}
	}
}

// sourceOf returns the file that contains a snippet of a document, whatever its indentation.
func sourceOf(t *testing.T, document, snippet string) (file string, found bool) {
	for _, file := range snippetSources[document] {
		if strings.Contains(withoutIndent(readDocument(t, file)), withoutIndent(snippet)) {
			return file, true
		}
	}
	return "", false
}

var codeBlock = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// snippets returns the Go code in a document.
func snippets(text string) (code []string) {
	for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
		if block[1] == "go" {
			code = append(code, block[2])
		}
	}
	return code
}

func withoutSnippets(text string) string { return codeBlock.ReplaceAllString(text, "") }

func withoutIndent(s string) string {
	return regexp.MustCompile(`(?m)^[\t ]+`).ReplaceAllString(s, "")
}

// namesIn returns the names that a snippet of statements or declarations declares, and those
// that it uses without declaring them.
func namesIn(t *testing.T, snippet string) (declared, undeclared []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+snippet, 0)
	if err != nil {
		file, err = parser.ParseFile(token.NewFileSet(), "", "package p\nfunc _() {\n"+snippet+"\n}", 0)
	}
	require.NoError(t, err, snippet)
	for _, ident := range file.Unresolved {
		undeclared = append(undeclared, ident.Name)
	}
	if f, ok := file.Decls[0].(*ast.FuncDecl); ok && f.Name.Name == "_" {
		for _, statement := range f.Body.List {
			if a, ok := statement.(*ast.AssignStmt); ok && a.Tok == token.DEFINE {
				for _, to := range a.Lhs {
					declared = append(declared, to.(*ast.Ident).Name)
				}
			}
		}
	}
	return declared, undeclared
}

// importsOf returns the names of the packages that a Go file imports.
func importsOf(t *testing.T, file string) map[string]bool {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	require.NoError(t, err)
	names := make(map[string]bool)
	for _, spec := range parsed.Imports {
		names[path.Base(strings.Trim(spec.Path.Value, `"`))] = true
	}
	return names
}

func readDocument(t *testing.T, file string) string {
	text, err := os.ReadFile(filepath.FromSlash(file))
	require.NoError(t, err)
	return string(text)
}

// repository returns what documents may refer to.
var repository = sync.OnceValues(func() (*contents, error) {
	c := &contents{tests: make(map[string]bool), symbols: make(map[string]bool)}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case strings.HasSuffix(name, ".md"):
			c.documents = append(c.documents, filepath.ToSlash(name))
		case strings.HasSuffix(name, ".go"):
			return c.read(name)
		}
		return nil
	})
	return c, err
})

// contents are the documents of the repository, and what they may name.
type contents struct {
	documents []string
	tests     map[string]bool // functions in test files
	symbols   map[string]bool // exported ones: "package.Name", "Type.Member" and "package.Type.Member"
}

// read records what a Go file declares.
func (c *contents) read(name string) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			switch {
			case strings.HasSuffix(name, "_test.go"):
				c.tests[d.Name.Name] = true
			case d.Recv == nil:
				c.add(file.Name.Name, d.Name.Name)
			default:
				c.add(file.Name.Name, receiver(d)+"."+d.Name.Name)
			}
		case *ast.GenDecl:
			if !strings.HasSuffix(name, "_test.go") {
				for _, spec := range d.Specs {
					c.declare(file.Name.Name, spec)
				}
			}
		}
	}
	return nil
}

func receiver(d *ast.FuncDecl) string {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if ident, ok := typ.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

func (c *contents) declare(pkg string, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, ident := range s.Names {
			c.add(pkg, ident.Name)
		}
	case *ast.TypeSpec:
		c.add(pkg, s.Name.Name)
		var members *ast.FieldList
		switch typ := s.Type.(type) {
		case *ast.StructType:
			members = typ.Fields
		case *ast.InterfaceType:
			members = typ.Methods
		default:
			return
		}
		for _, field := range members.List {
			for _, ident := range field.Names {
				c.add(pkg, s.Name.Name+"."+ident.Name)
			}
		}
	}
}

func (c *contents) add(pkg, name string) {
	c.symbols[name], c.symbols[pkg+"."+name] = true, true
}

// hasTest reports whether there is a test with a name, or, if orBegins is set, with that
// prefix.
func (c *contents) hasTest(name string, orBegins bool) bool {
	if orBegins {
		for test := range c.tests {
			if strings.HasPrefix(test, name) {
				return true
			}
		}
	}
	return c.tests[name]
}

// Tests, benchmarks and exported names that documents put in backticks exist.
func TestDocumentsNameWhatExists(t *testing.T) {
	t.Parallel()
	c, err := repository()
	require.NoError(t, err)
	code := regexp.MustCompile("`[^`\n]+`")
	tests := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark|Example)[A-Z]\w*`)
	ours := regexp.MustCompile(`\b(?:failover|failovertest|failoverredis|failoverotel|sharedtest|auth|authtest)\.[A-Z]\w*(?:\.[A-Z]\w*)?`)
	members := regexp.MustCompile(`(?:^|[^\w.])((?:Config|Transport|Status|EndpointStatus|Error|Event|Fault|LossReport|Org|Policy|Verification|Attempt)\.[A-Z]\w*)`)
	for _, document := range c.documents {
		if document == "CHANGELOG.md" {
			continue // names removed ones too
		}
		for _, span := range code.FindAllString(withoutSnippets(readDocument(t, document)), -1) {
			for _, name := range tests.FindAllString(span, -1) {
				assert.True(t, c.hasTest(name, strings.Contains(span, "-run")), "%s: %s: no such test", document, name)
			}
			for _, name := range ours.FindAllString(span, -1) {
				assert.True(t, c.symbols[name], "%s: %s: no such name", document, name)
			}
			for _, match := range members.FindAllStringSubmatch(span, -1) {
				assert.True(t, c.symbols[match[1]], "%s: %s: no such member", document, match[1])
			}
		}
	}
}

// Log lines that the runbook quotes are those of events, or begin with a text in the source.
func TestTheRunbookNamesLogLines(t *testing.T) {
	t.Parallel()
	var lines []string
	for kind := failover.EventTripped; kind.String() != "unknown"; kind++ {
		lines = append(lines, "failover: "+kind.String())
	}
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, source := range sources {
		for _, match := range regexp.MustCompile(`Logger\.\w+\((?:ctx, [\w.]+, )?"(failover: [^"]+)"`).FindAllStringSubmatch(readDocument(t, source), -1) {
			lines = append(lines, match[1])
		}
	}
	named := regexp.MustCompile("`(failover: [a-zA-Z ]+)`").FindAllStringSubmatch(readDocument(t, "docs/operations.md"), -1)
	require.NotEmpty(t, named)
	for _, match := range named {
		assert.True(t, slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(match[1], line) }), "%s", match[1])
	}
	text := readDocument(t, "docs/operations.md")
	for _, line := range lines {
		assert.True(t, strings.Contains(text, strings.TrimPrefix(line, "failover: ")), "a log line that the runbook does not explain: %s", line)
	}
}

// Links within the repository lead to an existing file, and to an existing heading.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	c, err := repository()
	require.NoError(t, err)
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	for _, document := range c.documents {
		for _, match := range link.FindAllStringSubmatch(withoutSnippets(readDocument(t, document)), -1) {
			target, fragment, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, ":") {
				continue // on the web
			}
			file := document
			if target != "" {
				file = path.Join(path.Dir(document), target)
			}
			if _, err := os.Stat(filepath.FromSlash(file)); !assert.NoError(t, err, "%s: a link to %s", document, match[1]) || fragment == "" {
				continue
			}
			assert.True(t, headings(readDocument(t, file))[fragment], "%s: a link to %s: no such heading", document, match[1])
		}
	}
}

// headings returns the fragments that lead to the headings of a document.
func headings(text string) map[string]bool {
	fragments := make(map[string]bool)
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(withoutSnippets(text), -1) {
		words := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(match[1]), "")
		fragments[strings.ReplaceAll(words, " ", "-")] = true
	}
	return fragments
}

// Links in doc comments lead to exported names.
func TestDocCommentsLinkToWhatExists(t *testing.T) {
	t.Parallel()
	c, err := repository()
	require.NoError(t, err)
	link := regexp.MustCompile(`\[\*?([A-Z]\w*(?:\.[A-Z]\w*)?)\]`)
	for _, pkg := range []string{".", "failovertest", "sharedtest", "failoverredis", "failoverotel", "auth", "auth/authtest"} {
		files, err := filepath.Glob(filepath.Join(filepath.FromSlash(pkg), "*.go"))
		require.NoError(t, err)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			require.NoError(t, err)
			for _, group := range file.Comments {
				for _, match := range link.FindAllStringSubmatch(group.Text(), -1) {
					assert.True(t, c.symbols[file.Name.Name+"."+match[1]], "%s: [%s]", name, match[1])
				}
			}
		}
	}
}
