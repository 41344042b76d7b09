package config

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// Many people read problems. A secret that is in the wrong place must not appear in them.

const (
	// shownPrefix is the number of characters that are shown of what may be a secret. They suffice
	// to find it in the file.
	shownPrefix = 4
	// longestName is the maximum size in bytes of what is shown in full: names of hosts and
	// entities, addresses, IDs.
	longestName = 100
	// shortestSecret is the minimum length of a secret. A longer word of capitals, small letters,
	// and digits may be one. A client secret has 40 characters, and a shared access key has 44.
	shortestSecret = 16
)

// show quotes a value for a problem. It cuts what looks like a secret to a short prefix.
func show(value string) string {
	if u, err := url.Parse(value); err == nil && u.Host != "" && len(value) <= longestName {
		// The user and the query of a URL can contain a secret.
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

// secretWords matches connection strings, signatures, and URLs with a password.
var secretWords = regexp.MustCompile(`(?i)sharedaccess|accountkey|password|secret|sig=|=|;|://[^/]*@|:[^/]*@|@[^/]*:`)

func looksSecret(value string) bool {
	if len(value) > longestName || secretWords.MatchString(value) {
		return true
	}
	separates := func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/,@:", r) }
	for word := range strings.FieldsFuncSeq(value, separates) {
		if len(word) >= shortestSecret && strings.ContainsFunc(word, unicode.IsUpper) &&
			strings.ContainsFunc(word, unicode.IsLower) && strings.ContainsFunc(word, unicode.IsDigit) {
			return true
		}
	}
	return false
}

// showKey quotes the name of an unknown setting or variable. A name that is close to a known one is
// a typing error and is shown in full. Another may be a secret in the place of a key: showKey shows
// the prefix that it shares with a known name, and a few characters.
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

// prefix returns the first n characters of s.
func prefix(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// quoted matches what the YAML parser quotes of the file in a line of its error.
var quoted = regexp.MustCompile("[`\"'].*[`\"']")

// yamlProblem returns an error of the YAML parser without text of the file. For example, the parser
// takes a value that begins with an asterisk for an unknown anchor, and quotes it.
func yamlProblem(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = quoted.ReplaceAllStringFunc(line, func(s string) string {
			if len(s) <= len(`':'`) {
				return s // punctuation of YAML
			}
			return s[:1] + "…" + s[len(s)-1:]
		})
	}
	return strings.Join(lines, "\n")
}
