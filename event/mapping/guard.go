package mapping

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// actors are the beginnings of names of fields that usually name whoever did something, and not
// whom it was done to: an administrator, a manager, or a program. An expression that tells who the
// user is must not read them, unless the mapping says allow_actor.
//
// A name is compared without case, underscores, hyphens, and spaces, from the beginning of each of
// its words: "initiatedby" covers initiatedByUserPrincipalName, Initiated_By, and deviceInitiatedBy.
var actors = []string{
	"actor", "admin", "analyst", "approvedby", "approver", "assigned", "assignee", "authorizedby", "authorizeduser",
	"caller", "changedby", "changer", "createdby", "creator", "deletedby", "executedby", "executor", "identity", "initiatedby",
	"initiating", "initiator", "invokedby", "issuedby", "issuer", "lastmodifiedby", "lastupdatedby", "manager", "mgr",
	"modifiedby", "modifier", "operator", "performedby", "performer", "reportedby", "reporter", "requestedby", "requester",
	"requestor", "sender", "sentby", "submittedby", "submitter", "supervisor", "technician", "terminatedby", "triggeredby",
	"updatedby", "wipedby",
}

// privates are the beginnings of names of fields that usually hold a private mail address, compared
// in the same way. Such an expression needs allow_private_mail.
var privates = []string{
	"alternateemail", "alternatemail", "alternativeemail", "backupemail", "backupmail", "home", "othermail", "otheremail",
	"personal", "private", "recovery", "secondaryemail", "secondarymail",
}

// guarded returns the entry of names that covers the name of a field, or "".
func guarded(field string, names []string) string {
	starts := wordStarts(field)
	for _, rest := range starts {
		rest = loosely(rest)
		for _, name := range names {
			if strings.HasPrefix(rest, name) {
				return name
			}
		}
	}
	return ""
}

// wordStarts returns the ends of a name that begin with a word: of lastModified_by, these are
// lastModified_by, Modified_by, and by.
func wordStarts(name string) []string {
	alphanumeric := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }
	runes := []rune(name)
	var starts []string
	for i, c := range runes {
		if !alphanumeric(c) {
			continue
		}
		isStart := i == 0 || !alphanumeric(runes[i-1])
		if !isStart && unicode.IsUpper(c) { // camelCase, and the A in UPNActor
			isStart = !unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])
		}
		if isStart {
			starts = append(starts, string(runes[i:]))
		}
	}
	return starts
}

// consent is what a mapping's author has allowed explicitly.
type consent struct{ actor, privateMail bool }

// refuses returns why a field must not tell who the user is, or "".
func (c consent) refuses(field string) string {
	if name := guarded(field, actors); name != "" && !c.actor {
		return fmt.Sprintf("%q usually names whoever acted (%s…), and not whom it happened to: "+
			"name the owner's field; if this is the victim, write allow_actor: true", field, name)
	}
	if name := guarded(field, privates); name != "" && !c.privateMail {
		return fmt.Sprintf("%q usually holds a private address (%s…): name the field with the work address; "+
			"if it is one, write allow_private_mail: true", field, name)
	}
	return ""
}

// check returns why an expression must not tell who the user is, and the id of the node that is the
// reason. It looks at each field that the expression can read, in all ways to write it. A name that
// is not a constant could be any, so it is refused too.
func (c consent) check(root ast.Expr) (id int64, problem string) {
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		if problem != "" {
			return
		}
		switch e.Kind() {
		case ast.SelectKind:
			problem = c.refuses(e.AsSelect().FieldName())
		case ast.CallKind:
			call := e.AsCall()
			if !slices.Contains([]string{operators.Index, operators.OptIndex, operators.OptSelect, "get"}, call.FunctionName()) {
				return
			}
			key := call.Args()[len(call.Args())-1]
			if key.Kind() != ast.LiteralKind {
				problem = "the name or the index is not a constant, so it could name anybody: write it out"
			} else if name, ok := key.AsLiteral().(types.String); ok {
				problem = c.refuses(string(name))
			}
		}
		id = e.ID()
	}))
	return id, problem
}
