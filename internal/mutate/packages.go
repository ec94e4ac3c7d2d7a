package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A goPackage is what the go command reports about a package.
type goPackage struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	TestGoFiles             []string
	XTestGoFiles            []string
	Module                  *struct {
		Path, Dir string
		Main      bool
	}
}

// list asks the go command about packages.
func list(ctx context.Context, args ...string) ([]goPackage, error) {
	cmd := command(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,Export,GoFiles,TestGoFiles,XTestGoFiles,Module"}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), "GOWORK=off"), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// A source is a file with mutants compiled in.
type source struct{ path, text string }

// mutateModule finds the mutants of the package in the working directory and of what it
// imports from its module.
func mutateModule(ctx context.Context) ([]source, []*mutation, error) {
	packages, err := list(ctx, "-deps", "-export", ".")
	if err != nil {
		return nil, nil, err
	}
	exports := make(map[string]string)
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	set := token.NewFileSet()
	imports := importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	var sources []source
	var mutations []*mutation
	for _, p := range packages {
		if p.Module == nil || !p.Module.Main {
			continue
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, file)
		}
		info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object)}
		pkg, err := (&types.Config{Importer: imports}).Check(p.ImportPath, set, files, info)
		if err != nil {
			return nil, nil, err
		}
		for i, file := range files {
			path := filepath.Join(p.Dir, p.GoFiles[i])
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, nil, err
			}
			name, err := filepath.Rel(p.Module.Dir, path)
			if err != nil {
				return nil, nil, err
			}
			r := &rewriter{set: set, info: info, pkg: pkg, file: file, name: filepath.ToSlash(name), text: string(text), first: len(mutations)}
			r.rewrite()
			sources = append(sources, source{path, r.result(p.Module.Path + "/internal/mutate/mutant")})
			mutations = append(mutations, r.mutations...)
		}
	}
	return sources, mutations, nil
}
