package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"strconv"
	"strings"
)

func (r *rewriter) isBool(e ast.Expr) bool {
	t := r.info.TypeOf(e)
	return t == types.Typ[types.Bool] || t == types.Typ[types.UntypedBool]
}

// condition mutates a condition as a whole. It makes it always true only if maybe is set:
// elsewhere, the program would merely hang.
func (r *rewriter) condition(e ast.Expr, maybe bool) {
	op := logical(e)
	r.decide(e, maybe && op != token.LAND, op != token.LOR)
}

// logical returns the operator of a conjunction or disjunction, or ILLEGAL.
func logical(e ast.Expr) token.Token {
	if b, ok := ast.Unparen(e).(*ast.BinaryExpr); ok && (b.Op == token.LAND || b.Op == token.LOR) {
		return b.Op
	}
	return token.ILLEGAL
}

// decide makes e true or false. If e joins operands by && or ||, it takes out each of them in
// turn.
func (r *rewriter) decide(e ast.Expr, yes, no bool) {
	if !r.isBool(e) || r.info.Types[e].Value != nil {
		ast.Inspect(e, r.visit)
		return
	}
	if yes {
		r.wrap(e, "(", fmt.Sprintf(" || mutant.On(%d))", r.mutant(e, "true")))
	}
	if no {
		r.wrap(e, "((", fmt.Sprintf(") && !mutant.On(%d))", r.mutant(e, "false")))
	}
	op := logical(e)
	if op == token.ILLEGAL {
		if negation, ok := ast.Unparen(e).(*ast.UnaryExpr); ok && negation.Op == token.NOT && logical(negation.X) != token.ILLEGAL {
			r.parts(negation.X, logical(negation.X))
			return
		}
		if c, ok := ast.Unparen(e).(*ast.BinaryExpr); ok {
			r.comparison(c)
			return
		}
		r.inside(e)
		return
	}
	r.parts(e, op)
}

// parts mutates each operand of a conjunction or disjunction.
func (r *rewriter) parts(e ast.Expr, op token.Token) {
	b := ast.Unparen(e).(*ast.BinaryExpr)
	for _, part := range []ast.Expr{b.X, b.Y} {
		if logical(part) == op {
			r.parts(part, op)
		} else {
			r.decide(part, op == token.LAND, op == token.LOR)
		}
	}
}

// inside mutates the parts of e, but not e itself.
func (r *rewriter) inside(e ast.Expr) {
	e = ast.Unparen(e)
	if call, ok := e.(*ast.CallExpr); ok {
		if r.call(call) {
			ast.Inspect(call.Fun, r.visit)
			for _, arg := range call.Args {
				ast.Inspect(arg, r.visit)
			}
		}
		return
	}
	ast.Inspect(e, func(n ast.Node) bool {
		if n != nil && n != e {
			ast.Inspect(n, r.visit)
		}
		return n == e
	})
}

// comparison mutates the bound of a comparison, and what is compared with it.
func (r *rewriter) comparison(b *ast.BinaryExpr) {
	bounds := map[token.Token]string{token.LSS: "Less", token.LEQ: "LessEqual", token.GTR: "Greater", token.GEQ: "GreaterEqual"}
	name := bounds[b.Op]
	if name != "" {
		at := r.offset(b.OpPos)
		r.wrap(b, fmt.Sprintf("mutant.%s(%d, ", name, r.mutant(b, "at the bound")), ")")
		r.edits = append(r.edits, edit{at, at + len(b.Op.String()), false, ","})
	}
	for _, side := range []ast.Expr{b.X, b.Y} {
		if v := r.info.Types[side].Value; name != "" && v != nil && small(v) {
			continue // the constant is mutated already, by one
		}
		ast.Inspect(side, r.visit)
	}
}

// expression mutates a constant, a condition, a sum or a difference.
func (r *rewriter) expression(e ast.Expr) bool {
	tv, ok := r.info.Types[e]
	if !ok || tv.IsType() {
		return !ok
	}
	if tv.Value != nil {
		r.constant(e, tv, "")
		return false
	}
	switch b := e.(type) {
	case *ast.BinaryExpr:
		switch b.Op {
		case token.LAND, token.LOR, token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
			r.condition(e, true)
			return false
		case token.ADD, token.SUB:
			basic, ok := tv.Type.Underlying().(*types.Basic)
			if !ok || basic.Info()&types.IsNumeric == 0 {
				return true
			}
			name := map[token.Token]string{token.ADD: "Sum", token.SUB: "Difference"}[b.Op]
			at := r.offset(b.OpPos)
			r.wrap(b, fmt.Sprintf("mutant.%s(%d, ", name, r.mutant(b, map[token.Token]string{token.ADD: "-", token.SUB: "+"}[b.Op])), ")")
			r.edits = append(r.edits, edit{at, at + 1, false, ","})
			for _, side := range []ast.Expr{b.X, b.Y} {
				if r.info.Types[side].Value == nil {
					ast.Inspect(side, r.visit)
				}
			}
			return false
		}
	case *ast.UnaryExpr:
		if b.Op == token.NOT {
			r.condition(e, true)
			return false
		}
	case *ast.SelectorExpr:
		ast.Inspect(b.X, r.visit)
		return false
	}
	return true
}

// call mutates min and max. The sizes given to make are left alone, because no promise depends
// on them.
func (r *rewriter) call(c *ast.CallExpr) bool {
	if tv := r.info.Types[c]; tv.Value != nil {
		return r.expression(c)
	}
	name, ok := ast.Unparen(c.Fun).(*ast.Ident)
	if !ok {
		return true
	}
	if _, builtin := r.info.Uses[name].(*types.Builtin); !builtin {
		return true
	}
	switch name.Name {
	case "make", "new":
		return false
	case "min", "max":
		if len(c.Args) != 2 {
			return true
		}
		other := map[string]string{"min": "max", "max": "min"}[name.Name]
		start, end := r.offset(c.Pos()), r.offset(c.Lparen)+1
		replaced := fmt.Sprintf("mutant.%s(%d, ", strings.ToUpper(name.Name[:1])+name.Name[1:], r.mutant(c, other))
		r.edits = append(r.edits, edit{start, end, false, replaced})
	}
	for _, arg := range c.Args {
		ast.Inspect(arg, r.visit)
	}
	return false
}

// caseOf replaces the value of a case with one that does not occur.
func (r *rewriter) caseOf(e ast.Expr) {
	if tv := r.info.Types[e]; tv.Value != nil {
		r.constant(e, tv, "another")
	}
}

func small(v constant.Value) bool {
	n, exact := constant.Int64Val(constant.ToInt(v))
	return v.Kind() == constant.Int && exact && n > -16 && n < 16
}

// constant mutates a constant: it negates a truth value, adds one to a small number, and
// multiplies a larger one by four. Strings are mutated only in cases.
func (r *rewriter) constant(e ast.Expr, tv types.TypeAndValue, what string) {
	basic, ok := tv.Type.Underlying().(*types.Basic)
	if !ok {
		return
	}
	var other constant.Value
	switch v := tv.Value; {
	case v.Kind() == constant.Bool:
		other = constant.MakeBool(!constant.BoolVal(v))
	case v.Kind() == constant.String && what != "":
		other = constant.MakeString(constant.StringVal(v) + "~")
	case v.Kind() != constant.Int && v.Kind() != constant.Float:
		return
	case what != "":
		other = constant.BinaryOp(v, token.ADD, constant.MakeInt64(97))
	case small(v) || constant.Sign(v) == 0 || basic.Kind() == types.Uint8 || basic.Kind() == types.Int32:
		other = constant.BinaryOp(v, token.ADD, constant.MakeInt64(1))
	default:
		other = constant.BinaryOp(v, token.MUL, constant.MakeInt64(4))
	}
	name, ok := r.typeName(types.Default(tv.Type), e.Pos())
	if name = "[" + name + "]"; !ok && r.isTyped(e) {
		name, ok = "", true // the constant itself has the type
	}
	if !ok || !fits(other, basic) {
		return
	}
	text := other.ExactString()
	if other.Kind() == constant.Float {
		text = other.String()
	}
	id := r.mutant(e, strings.TrimSpace(what+" "+text))
	r.wrap(e, fmt.Sprintf("mutant.Is%s(%d, ", name, id), ", "+text+")")
}

// isTyped reports whether e names a typed constant.
func (r *rewriter) isTyped(e ast.Expr) bool {
	if selector, ok := e.(*ast.SelectorExpr); ok {
		e = selector.Sel
	}
	name, ok := e.(*ast.Ident)
	if !ok {
		return false
	}
	c, ok := r.info.Uses[name].(*types.Const)
	if !ok {
		return false
	}
	basic, ok := c.Type().(*types.Basic)
	return !ok || basic.Info()&types.IsUntyped == 0
}

// fits reports whether v is representable in a type.
func fits(v constant.Value, basic *types.Basic) bool {
	if basic.Info()&types.IsInteger == 0 {
		return true
	}
	bits := map[types.BasicKind]int{types.Int8: 7, types.Uint8: 8, types.Int16: 15, types.Uint16: 16, types.Int32: 31, types.Uint32: 32}[basic.Kind()]
	if bits == 0 {
		bits = 63
	}
	return constant.BitLen(constant.ToInt(v)) <= bits
}

// typeName returns how the file refers to a type at a position.
func (r *rewriter) typeName(t types.Type, at token.Pos) (string, bool) {
	switch t := t.(type) {
	case *types.Basic:
	case *types.Named:
		if _, found := r.pkg.Scope().Innermost(at).LookupParent(t.Obj().Name(), at); t.Obj().Pkg() == r.pkg && found != t.Obj() {
			return "", false // another declaration shadows it
		}
	default:
		return "", false
	}
	known := true
	name := types.TypeString(t, func(p *types.Package) string {
		if p == r.pkg {
			return ""
		}
		for _, spec := range r.file.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); path == p.Path() && spec.Name == nil {
				return p.Name()
			}
		}
		known = false
		return ""
	})
	return name, known
}
