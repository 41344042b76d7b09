package mapping

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// needs returns names of which a body must have at least one for a condition to be true: members of
// the body, or of its first element if it is a list. The names are folded (loosely). It returns nil
// if that cannot be told, and the condition must be evaluated. A message is offered to all mappings,
// and a look at the names is a hundred times as fast as an evaluation.
func needs(condition ast.Expr) []string {
	if condition.Kind() == ast.SelectKind && condition.AsSelect().IsTestOnly() { // has(body.x)
		names, _, _ := memberOf(condition.AsSelect().Operand(), condition.AsSelect().FieldName())
		return names
	}
	if condition.Kind() != ast.CallKind {
		return nil
	}
	call := condition.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd: // either side will do
		left, right := needs(args[0]), needs(args[1])
		if left == nil || right != nil && len(right) < len(left) {
			return right
		}
		return left
	case operators.LogicalOr:
		left, right := needs(args[0]), needs(args[1])
		if left == nil || right == nil {
			return nil
		}
		return append(left, right...)
	case operators.NotEquals:
		if args[1].Kind() == ast.LiteralKind && args[1].AsLiteral() == absent(args[0]) {
			return readNames(args[0])
		}
	case operators.Equals:
		if args[1].Kind() == ast.LiteralKind && !isNothing(args[1]) {
			return readNames(args[0])
		}
	case "startsWith", "endsWith", "contains":
		if args[0].Kind() == ast.LiteralKind && !isNothing(args[0]) {
			return readNames(call.Target())
		}
	}
	return nil
}

// absent returns what an expression yields if all members that it reads are missing: null or "". It
// returns nil if that cannot be told.
func absent(e ast.Expr) ref.Val {
	if e.Kind() != ast.CallKind {
		return nil
	}
	call := e.AsCall()
	switch call.FunctionName() {
	case "get":
		return types.NullValue
	case "text", "fold":
		return types.String("")
	case "orValue":
		if call.Args()[0].Kind() == ast.LiteralKind {
			return call.Args()[0].AsLiteral()
		}
	case "lowerAscii":
		return absent(call.Target())
	case operators.Add, operators.Conditional:
		values := call.Args()[len(call.Args())-2:]
		if first := absent(values[0]); first == absent(values[1]) {
			return first
		}
	}
	return nil
}

// isNothing reports whether an expression is null or "".
func isNothing(e ast.Expr) bool {
	return e.Kind() == ast.LiteralKind && (e.AsLiteral() == types.NullValue || e.AsLiteral() == types.String(""))
}

// readNames returns the names of which one must be present for the expression to be anything but
// null or "", or nil if that cannot be told.
func readNames(e ast.Expr) []string {
	names, isBody, known := origins(e)
	if !known || isBody {
		return nil
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// origins returns the members of the body that the value of an expression comes from. isBody reports
// that it can be the body itself, or its first element.
func origins(e ast.Expr) (names []string, isBody, known bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return nil, true, e.AsIdent() == "body"
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return nil, false, false
		}
		return memberOf(e.AsSelect().Operand(), e.AsSelect().FieldName())
	case ast.CallKind:
		call := e.AsCall()
		args := call.Args()
		switch call.FunctionName() {
		case "get":
			if name, ok := args[0].AsLiteral().(types.String); ok && args[0].Kind() == ast.LiteralKind {
				return memberOf(call.Target(), string(name))
			}
		case operators.OptSelect:
			if name, ok := args[1].AsLiteral().(types.String); ok && args[1].Kind() == ast.LiteralKind {
				return memberOf(args[0], string(name))
			}
		case "orValue":
			if isNothing(args[0]) {
				return origins(call.Target())
			}
		case "text", "fold", "list", "first", "json", "lowerAscii":
			if call.IsMemberFunction() {
				return origins(call.Target())
			}
			return origins(args[0])
		case operators.Add:
			return both(args[0], args[1])
		case operators.Conditional:
			return both(args[1], args[2])
		}
	}
	return nil, false, false
}

func memberOf(of ast.Expr, name string) (names []string, isBody, known bool) {
	names, isBody, known = origins(of)
	if !known {
		return nil, false, false
	}
	if isBody {
		names = append(names, loosely(name))
	}
	return names, false, true
}

func both(a, b ast.Expr) (names []string, isBody, known bool) {
	left, leftBody, leftKnown := origins(a)
	right, rightBody, rightKnown := origins(b)
	return append(left, right...), leftBody || rightBody, leftKnown && rightKnown
}

// hasAny reports whether the body, or its first element if it is a list, has one of the members.
func (s *scope) hasAny(names []string) bool {
	if s.names == nil {
		s.names = map[string]bool{}
		v := s.body
		if l, ok := v.(*list); ok {
			if l.load(); len(l.values) > 0 {
				v = l.values[0]
			}
		}
		if o, ok := v.(*object); ok {
			o.load()
			for _, m := range o.members {
				s.names[loosely(m.name)] = true
			}
		}
	}
	return slices.ContainsFunc(names, func(name string) bool { return s.names[name] })
}
