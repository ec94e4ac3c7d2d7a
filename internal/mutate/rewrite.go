package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// A mutation is a fault that can be switched on.
type mutation struct {
	id   int
	key  string // does not depend on where in the file the function stands
	file string
	line int
}

// A rewriter compiles mutations into a file. It leaves the line numbers unchanged.
type rewriter struct {
	set       *token.FileSet
	info      *types.Info
	pkg       *types.Package
	file      *ast.File
	name      string
	text      string
	first     int
	function  string
	mutations []*mutation
	keys      map[string]int
	edits     []edit
}

// An edit replaces the text from start to end.
type edit struct {
	start, end int
	closes     bool
	text       string
}

func (r *rewriter) offset(p token.Pos) int { return r.set.Position(p).Offset }

// source returns the text of a node on one line.
func (r *rewriter) source(n ast.Node) string {
	text := strings.Join(strings.Fields(r.text[r.offset(n.Pos()):r.offset(n.End())]), " ")
	if len(text) > 120 {
		text = text[:120] + "…"
	}
	return text
}

// mutant adds a mutation and returns its number.
func (r *rewriter) mutant(n ast.Node, what string) int {
	key := r.name + ": " + r.function + ": " + r.source(n) + ": " + what
	if r.keys[key]++; r.keys[key] > 1 {
		key += " (" + strconv.Itoa(r.keys[key]) + ")"
	}
	m := &mutation{r.first + len(r.mutations), key, r.name, r.set.Position(n.Pos()).Line}
	r.mutations = append(r.mutations, m)
	return m.id
}

// wrap puts text around a node, inside what was put around it before.
func (r *rewriter) wrap(n ast.Node, before, after string) {
	start, end := r.offset(n.Pos()), r.offset(n.End())
	r.edits = append(r.edits, edit{start, start, false, before}, edit{end, end, true, after})
}

// result returns the edited file. name is the import path of the package mutant.
func (r *rewriter) result(name string) string {
	var closing, opening []edit
	for _, e := range r.edits {
		if e.closes {
			closing = append(closing, e)
		} else {
			opening = append(opening, e)
		}
	}
	slices.Reverse(closing) // the innermost is closed first
	edits := append(closing, opening...)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out strings.Builder
	at := r.offset(r.file.Name.End())
	out.WriteString(r.text[:at])
	if len(r.mutations) > 0 {
		fmt.Fprintf(&out, "; import mutant %q", name)
	}
	for _, e := range edits {
		out.WriteString(r.text[at:e.start])
		out.WriteString(e.text)
		at = e.end
	}
	out.WriteString(r.text[at:])
	return out.String()
}

func (r *rewriter) rewrite() {
	r.keys = make(map[string]int)
	for _, decl := range r.file.Decls {
		r.function = "var"
		switch d := decl.(type) {
		case *ast.FuncDecl:
			r.function = d.Name.Name
			if d.Recv != nil {
				r.function = strings.TrimPrefix(r.source(d.Recv.List[0].Type), "*") + "." + r.function
			}
			if d.Body != nil {
				ast.Inspect(d.Body, r.visit)
			}
		case *ast.GenDecl:
			if d.Tok == token.VAR {
				ast.Inspect(d, r.visit)
			}
		}
	}
}

// visit adds the mutations of a node, and reports whether to visit its children.
func (r *rewriter) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR // constants are mutated where they are used
	case *ast.ArrayType, *ast.StructType, *ast.FuncType, *ast.InterfaceType:
		return false
	case *ast.BlockStmt:
		r.statements(n.List)
	case *ast.CaseClause:
		r.statements(n.Body)
	case *ast.CommClause:
		r.statements(n.Body)
	case *ast.IfStmt:
		if n.Init != nil {
			ast.Inspect(n.Init, r.visit)
		}
		r.condition(n.Cond, true)
		if n.Else == nil && len(n.Body.List) > 1 { // otherwise leaving it out is the same as a false condition
			switch last := n.Body.List[len(n.Body.List)-1].(type) {
			case *ast.ReturnStmt, *ast.BranchStmt:
				r.remove(last)
			}
		}
		ast.Inspect(n.Body, r.visit)
		if n.Else != nil {
			ast.Inspect(n.Else, r.visit)
		}
		return false
	case *ast.ForStmt:
		for _, part := range []ast.Node{n.Init, n.Post, n.Body} {
			if part != nil {
				ast.Inspect(part, r.visit)
			}
		}
		if n.Cond != nil {
			r.condition(n.Cond, false)
		}
		return false
	case *ast.SwitchStmt:
		if n.Init != nil {
			ast.Inspect(n.Init, r.visit)
		}
		if n.Tag != nil {
			ast.Inspect(n.Tag, r.visit)
		}
		for _, stmt := range n.Body.List {
			clause := stmt.(*ast.CaseClause)
			for _, e := range clause.List {
				if n.Tag == nil {
					r.condition(e, true)
				} else {
					r.caseOf(e)
				}
			}
			r.statements(clause.Body)
			for _, s := range clause.Body {
				ast.Inspect(s, r.visit)
			}
		}
		return false
	case *ast.TypeSwitchStmt:
		ast.Inspect(n.Body, func(b ast.Node) bool {
			if clause, ok := b.(*ast.CaseClause); ok {
				r.statements(clause.Body)
				for _, s := range clause.Body {
					ast.Inspect(s, r.visit)
				}
				return false
			}
			return true
		})
		return false
	case *ast.ReturnStmt:
		for _, e := range n.Results {
			if call, ok := e.(*ast.CallExpr); ok && r.isBool(call) {
				r.condition(e, true)
			} else {
				ast.Inspect(e, r.visit)
			}
		}
		return false
	case *ast.CompositeLit:
		_, isMap := r.info.TypeOf(n).Underlying().(*types.Map)
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if isMap {
					ast.Inspect(kv.Key, r.visit)
				}
				e = kv.Value
			}
			ast.Inspect(e, r.visit)
		}
		return false
	case *ast.CallExpr:
		return r.call(n)
	case ast.Expr:
		return r.expression(n)
	}
	return true
}

// statements lets each statement be left out.
func (r *rewriter) statements(list []ast.Stmt) {
	for _, stmt := range list {
		switch s := stmt.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && exempt[lastName(call.Fun)] {
				continue
			}
			r.remove(stmt)
		case *ast.AssignStmt:
			blank := func(e ast.Expr) bool { i, ok := e.(*ast.Ident); return ok && i.Name == "_" }
			if s.Tok != token.DEFINE && !(len(s.Lhs) == 1 && blank(s.Lhs[0])) {
				r.remove(stmt)
			}
		case *ast.DeferStmt:
			if !exempt[lastName(s.Call.Fun)] {
				r.remove(stmt)
			}
		case *ast.IncDecStmt, *ast.SendStmt, *ast.GoStmt:
			r.remove(stmt)
		}
	}
}

// exempt are the functions whose calls are never left out. Without them, a program hangs or
// does not compile, which would count as killed although no test noticed.
var exempt = map[string]bool{"panic": true, "Lock": true, "Unlock": true, "RLock": true, "RUnlock": true}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func (r *rewriter) remove(s ast.Stmt) {
	r.wrap(s, fmt.Sprintf("if !mutant.On(%d) { ", r.mutant(s, "left out")), " }")
}
