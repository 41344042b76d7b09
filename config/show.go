package config

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// What stands in a problem is read by many: a secret that was put into the wrong place must not.

const (
	// shownPrefix is how many characters are shown of what may be a secret: enough to find it in the file.
	shownPrefix = 4
	// longestName bounds what is shown whole, in bytes: host and entity names, addresses, ids.
	longestName = 100
	// shortestSecret is the length from which a word of capitals, small letters and digits is taken for a secret; a client secret has 40
	// characters, a shared access key 44.
	shortestSecret = 16
)

// show quotes a value for a problem; what looks like a secret is cut to a short prefix.
func show(value string) string {
	if u, err := url.Parse(value); err == nil && u.Host != "" && len(value) <= longestName {
		// Of a URL the user and the query can hold a secret.
		bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
		if !looksSecret(u.Path) && !looksSecret(u.Host) {
			if bare.String() == value {
				return fmt.Sprintf("%q", value)
			}
			return fmt.Sprintf("%q…", bare.String())
		}
	}
	if looksSecret(value) {
		return fmt.Sprintf("%q…", prefix(value, shownPrefix))
	}
	return fmt.Sprintf("%q", value)
}

// secretWords stand in connection strings, signatures and URLs with a password.
var secretWords = regexp.MustCompile(`(?i)sharedaccess|accountkey|password|secret|sig=|=|;|://[^/]*@|:[^/]*@|@[^/]*:`)

func looksSecret(value string) bool {
	if len(value) > longestName || secretWords.MatchString(value) {
		return true
	}
	for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/,@:", r) }) {
		if len(word) >= shortestSecret && strings.ContainsFunc(word, unicode.IsUpper) && strings.ContainsFunc(word, unicode.IsLower) && strings.ContainsFunc(word, unicode.IsDigit) {
			return true
		}
	}
	return false
}

// showKey quotes the name of a setting or variable that nobody knows. Where a known one is near it is a slip of the finger, and shown
// whole. Else it may be a secret that stands where a key belongs: what it has in common with a known name is shown, and a few characters.
func showKey(unknown string) string {
	near := hint(unknown)
	if near != "" {
		return fmt.Sprintf("%q%s", unknown, near)
	}
	common := 0
	for _, o := range Options() {
		for _, known := range []string{o.Key, o.Env} {
			n := 0
			for n < min(len(known), len(unknown)) && known[n] == unknown[n] {
				n++
			}
			common = max(common, n)
		}
	}
	cut := unknown[:common] + prefix(unknown[common:], shownPrefix)
	if cut == unknown {
		return fmt.Sprintf("%q", unknown)
	}
	return fmt.Sprintf("%q…", cut)
}

// prefix is the first n characters.
func prefix(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// quoted is what the YAML parser quotes of the file, in a line of its error.
var quoted = regexp.MustCompile("[`\"'].*[`\"']")

// yamlProblem is an error of the YAML parser without what stands in the file: a value that begins with an asterisk, for one, is an anchor
// that it cannot find, and names.
func yamlProblem(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = quoted.ReplaceAllStringFunc(line, func(s string) string {
			if len(s) <= len(`':'`) {
				return s // a mark of YAML's
			}
			return s[:1] + "…" + s[len(s)-1:]
		})
	}
	return strings.Join(lines, "\n")
}
