package servicebus

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// nameKind is what a name is for, in the words of errors.
type nameKind string

const (
	queueName        nameKind = "queue"
	topicName        nameKind = "topic"
	subscriptionName nameKind = "subscription"
	ruleName         nameKind = "rule"
)

// defaultRule is the rule of a subscription that is created without one.
const defaultRule = "$Default"

// The maximum lengths of names in characters
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const (
	maxPathName = 260 // queues and topics
	maxPartName = 50  // subscriptions and rules
)

// checkName returns why the service would not create an entity or a rule with the name. The
// forbidden characters are those that its clients refuse
// (https://github.com/Azure/azure-sdk-for-net, EntityNameFormatter.CheckValidEntityName), and control
// characters. Names of queues and topics may have slashes in the middle.
func checkName(kind nameKind, name string) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%q is not a name for a %s: %s", shortName(name), kind, fmt.Sprintf(format, args...))
	}
	isPart := kind == subscriptionName || kind == ruleName
	longest := maxPathName
	if isPart {
		longest = maxPartName
	}
	forbidden := strings.IndexFunc(name, func(r rune) bool {
		return strings.ContainsRune(`@?#*\`, r) || unicode.IsControl(r) || r == utf8.RuneError
	})
	switch {
	case name == "":
		return fail("it is empty")
	case utf8.RuneCountInString(name) > longest:
		return fail("it has %d characters; at most %d are allowed", utf8.RuneCountInString(name), longest)
	case forbidden >= 0:
		r, _ := utf8.DecodeRuneInString(name[forbidden:])
		return fail("the character %q is not allowed", r)
	case kind == ruleName && name == defaultRule:
		return nil
	case strings.Contains(name, "$"):
		return fail("$ is reserved")
	case strings.TrimSpace(name) != name:
		return fail("it must not begin or end with a space")
	case isPart && strings.Contains(name, "/"):
		return fail("/ is not allowed")
	case strings.HasPrefix(name, "/"), strings.HasSuffix(name, "/"), strings.Contains(name, "//"):
		return fail("it must not begin or end with / or have an empty part")
	case !isPart && containsPart(name, "subscriptions"):
		return fail("the part \"subscriptions\" is reserved for the addresses of subscriptions")
	}
	return nil
}

// containsPart reports whether a path has a part between slashes, without regard to case.
func containsPart(path, part string) bool {
	for p := range strings.SplitSeq(path, "/") {
		if strings.EqualFold(p, part) {
			return true
		}
	}
	return false
}

// shortName shortens a name for an error.
func shortName(name string) string {
	if characters := []rune(name); len(characters) > maxPathName {
		return string(characters[:maxPathName]) + "…"
	}
	return name
}
