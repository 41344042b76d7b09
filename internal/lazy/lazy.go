// Package lazy compiles regular expressions when they are first needed. A start of the worker needs
// few of them, and to compile all took a tenth of it.
package lazy

import (
	"regexp"
	"sync"
)

// Regexp returns a function that returns the compiled expression. The function is safe for concurrent
// use. It panics if the expression is invalid, so that a test must need each expression once.
func Regexp(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
