package mapping

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/session-revoker/session-revoker/event"
)

// expression is a compiled expression. It is immutable and safe for concurrent use.
type expression struct {
	text    string
	program cel.Program
	// needs has names of which a body must have at least one for a condition to be true. It is nil
	// if that cannot be told.
	needs []string
}

// The kinds of result that an expression may have. An expression whose kind is known only when it is
// evaluated is accepted for each of them.
var (
	aBool = []*cel.Type{cel.BoolType}
	aList = []*cel.Type{cel.ListType(cel.DynType)}
	aText = []*cel.Type{cel.StringType}
	texts = []*cel.Type{cel.StringType, cel.ListType(cel.DynType), cel.NullType}
	aTime = []*cel.Type{cel.StringType, cel.IntType, cel.UintType, cel.DoubleType, cel.TimestampType}
)

// compileError is a problem with the text of an expression. Line and column count from 1.
type compileError struct {
	line, column int
	problem      string
}

// compile compiles an expression. If it tells who the user is, c says what it may read.
func compile(env *cel.Env, text string, kinds []*cel.Type, c *consent) (*expression, *compileError) {
	if strings.TrimSpace(text) == "" {
		return nil, &compileError{1, 1, "empty: write an expression, or leave the key out"}
	}
	checked, issues := env.Compile(text)
	if problems := issues.Errors(); len(problems) > 0 {
		first := problems[0]
		return nil, &compileError{max(1, first.Location.Line()), first.Location.Column() + 1, strings.TrimSpace(first.Message)}
	}
	at := func(id int64, problem string) *compileError {
		start := checked.NativeRep().SourceInfo().GetStartLocation(id)
		return &compileError{max(1, start.Line()), start.Column() + 1, problem}
	}
	if !hasKind(checked.OutputType(), kinds) {
		names := make([]string, len(kinds))
		for i, k := range kinds {
			names[i] = k.String()
		}
		return nil, &compileError{1, 1, fmt.Sprintf("the result is %s, not %s", checked.OutputType(), strings.Join(names, " or "))}
	}
	if c != nil {
		if id, problem := c.check(checked.NativeRep().Expr()); problem != "" {
			return nil, at(id, problem)
		}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if hasLoop(checked.NativeRep().Expr()) {
		// Counting the cost takes time. Without a loop, an evaluation takes as many steps as the
		// expression has parts.
		options = append(options, cel.CostLimit(maxCost))
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		return nil, &compileError{1, 1, err.Error()}
	}
	return &expression{text: text, program: program, needs: needs(checked.NativeRep().Expr())}, nil
}

func hasKind(t *cel.Type, kinds []*cel.Type) bool {
	if t.Kind() == types.OpaqueKind && t.TypeName() == "optional_type" && len(t.Parameters()) == 1 {
		t = t.Parameters()[0]
	}
	if t.Kind() == types.DynKind {
		return true
	}
	for _, k := range kinds {
		if t.Kind() == k.Kind() {
			return true
		}
	}
	return false
}

func hasLoop(root ast.Expr) (found bool) {
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.ComprehensionKind
	}))
	return found
}

// scope is what an expression can read.
type scope struct {
	doc                  *document
	body, item           ref.Val
	index                int
	properties           *object
	contentType, subject string
	// names has the names of the body's members, for hasAny.
	names map[string]bool
}

// ResolveName returns the value of a name. It is a method of cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	switch name {
	case "body":
		return s.body, true
	case "item":
		return s.item, true
	case "index":
		return types.Int(s.index), true
	case "properties":
		return s.properties, true
	case "contentType":
		return types.String(s.contentType), true
	case "subject":
		return types.String(s.subject), true
	}
	return nil, false
}

// Parent returns nil. It is a method of cel.Activation.
func (s *scope) Parent() cel.Activation { return nil }

// value evaluates the expression. It returns nil for no value: x is nil, the result is null or an
// empty optional, or a field is missing. missing tells the latter apart. problem is an evaluation
// that failed otherwise.
func (x *expression) value(s *scope) (v ref.Val, missing string, problem *event.Error) {
	if x == nil {
		return nil, "", nil
	}
	v, _, err := x.program.Eval(s)
	if s.doc.problem != nil {
		return nil, "", s.doc.problem
	}
	if err != nil {
		text := err.Error()
		if strings.HasPrefix(text, noSuchKey) || strings.HasPrefix(text, outOfBounds) {
			return nil, text, nil
		}
		return nil, "", invalid(x.path(s), "cannot be evaluated: %s", quote(text))
	}
	return plain(v), "", nil
}

// isTrue evaluates a condition. A condition that cannot be decided is a problem.
func (x *expression) isTrue(s *scope) (bool, *event.Error) {
	v, missing, problem := x.value(s)
	if problem != nil || x == nil {
		return false, problem
	}
	if b, ok := v.(types.Bool); ok {
		return bool(b), nil
	}
	if missing == "" {
		missing = "it is neither true nor false"
	}
	return false, invalid(x.path(s), "cannot be decided: %s", quote(missing))
}

// one evaluates an expression that has one text as its result. It returns "" for no value. A number
// becomes text, since ids can be numbers.
func (x *expression) one(s *scope) (string, *event.Error) {
	v, _, problem := x.value(s)
	if v == nil || problem != nil {
		return "", problem
	}
	switch v.(type) {
	case types.String, types.Int, types.Uint, types.Double, types.Bool:
		return textOf(v), nil
	}
	return "", invalid(x.path(s), "must be a string, not %s", v.Type().TypeName())
}

// maxPeople is how many different texts distinct looks for. More than one are too many already.
const maxPeople = 100

// distinct evaluates an expression that has a text or a list of texts as its result. It returns the
// first maxPeople texts that are not empty, each once in whatever case.
func (x *expression) distinct(s *scope) ([]string, *event.Error) {
	v, _, problem := x.value(s)
	if v == nil || problem != nil {
		return nil, problem
	}
	var found []string
	add := func(v ref.Val) bool {
		text, ok := v.(types.String)
		if ok {
			found = appendFolded(found, strings.TrimSpace(string(text)))
		}
		return ok || v == types.NullValue
	}
	switch v := v.(type) {
	case types.String:
		add(v)
		return found, nil
	case traits.Lister:
		for i := v.Iterator(); len(found) < maxPeople && i.HasNext() == types.True; {
			if !add(i.Next()) {
				return nil, invalid(x.path(s), "must be a list of strings")
			}
		}
		return found, nil
	}
	return nil, invalid(x.path(s), "must be a string, not %s", v.Type().TypeName())
}

func appendFolded(list []string, text string) []string {
	if text == "" {
		return list
	}
	for _, known := range list {
		if strings.EqualFold(known, text) {
			return list
		}
	}
	return append(list, text)
}

var (
	itemWord  = lazily(`\bitem\b`)
	getCall   = lazily(`\.get\("([A-Za-z_][A-Za-z0-9_]*)"\)`)
	textCall  = lazily(`^(?:text|fold)\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)$`)
	optionals = strings.NewReplacer(".?", ".", "[?", "[", `.orValue("")`, "")
)

// path returns the text of the expression in the form of a path, where item is the element's own
// path. It is for people.
func (x *expression) path(s *scope) string {
	path := strings.Join(strings.Fields(x.text), " ")
	if within := textCall().FindStringSubmatch(path); within != nil {
		path = within[1]
	}
	path = getCall().ReplaceAllString(optionals.Replace(path), ".$1")
	if place := placeOf(s.item); place != "" {
		path = itemWord().ReplaceAllLiteralString(path, place)
	}
	const limit = 120
	if len(path) > limit {
		path = strings.ToValidUTF8(path[:limit], "") + "…"
	}
	return path
}

// placeOf returns the path of an object or a list of the document, or "".
func placeOf(v ref.Val) string {
	switch v := v.(type) {
	case *object:
		return v.String()
	case *list:
		return v.String()
	}
	return ""
}
