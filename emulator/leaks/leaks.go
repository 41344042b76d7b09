// Package leaks searches logs for what must never appear in them: tokens, keys, secrets and bodies
// of messages. Test harnesses give it the log of every worker that they ran.
package leaks

import (
	"fmt"
	"regexp"
	"strings"
)

// patterns match the forms of secrets, whatever their value. A log line is JSON, so a body in it
// has escaped quotes. Each match has the text in it, in any case: a log without the text, which most
// are, is searched much faster.
var patterns = []struct {
	what, text string
	form       *regexp.Regexp
}{
	{"a token (JWT)", ".eyj", regexp.MustCompile(`eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*`)},
	{"an authorization header", "bearer ", regexp.MustCompile(`(?i)bearer [\w.~+/-]{12,}`)},
	{"a shared access key", "sharedaccesskey=", regexp.MustCompile(`(?i)SharedAccessKey=[^;\s"\\]`)},
	{"a shared access signature", "sig=", regexp.MustCompile(`(?i)\bsig=[\w%+/-]{16,}`)},
	{"a client assertion", "client_", regexp.MustCompile(`(?i)client_(secret|assertion)=\w`)},
	{"a private key", "-----begin ", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY`)},
	{"a message's body", `\"`, regexp.MustCompile(`\\"(type|userId|userPrincipalName|specversion)\\"\s*:`)},
}

// Find returns a sentence for each kind of secret in the log, and for each of the given secrets,
// with the text around it. Given secrets must have at least eight characters, since shorter ones
// may be ordinary words.
func Find(log string, secrets ...string) []string {
	var found []string
	report := func(what string, at int) {
		from, to := max(0, at-60), min(len(log), at+60)
		found = append(found, fmt.Sprintf("%s in the log: …%s…", what, log[from:to]))
	}
	lower := strings.ToLower(log)
	for _, p := range patterns {
		if !strings.Contains(lower, p.text) {
			continue
		}
		if at := p.form.FindStringIndex(log); at != nil {
			report(p.what, at[0])
		}
	}
	for _, secret := range secrets {
		if at := strings.Index(log, secret); at >= 0 && len(secret) >= 8 {
			report("a secret", at)
		}
	}
	return found
}
