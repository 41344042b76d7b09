package servicebus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// grant returns what the key allows.
func (k Key) grant(until time.Time) Grant {
	return Grant{Listen: k.Listen, Send: k.Send, Manage: k.Manage, Until: until}.whole()
}

// whole adds the rights that Manage includes.
func (g Grant) whole() Grant {
	g.Listen, g.Send = g.Listen || g.Manage, g.Send || g.Manage
	return g
}

// verifyAccessToken checks a token of Entra, whose rights do not depend on the path. It returns what
// the token allows, or a problem in the words of the service.
func (b *Broker) verifyAccessToken(token string) (granted Grant, problem string) {
	if b.authorize == nil {
		return Grant{}, "InvalidToken: This emulator runs without the sign-in of Entra: use a shared access key."
	}
	grant, err := b.authorize(token)
	switch {
	case err != nil:
		return Grant{}, "InvalidToken: " + err.Error()
	case !time.Now().Before(grant.Until):
		return Grant{}, expiredToken(grant.Until)
	}
	return grant.whole(), ""
}

func expiredToken(at time.Time) string {
	return fmt.Sprintf("ExpiredToken: The token is expired. Expiration time: %s.", at.UTC().Format(time.RFC3339))
}

// sasPrefix begins every shared access signature.
const sasPrefix = "SharedAccessSignature "

// verifySignature checks a shared access signature for a path
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas). It returns what the
// token allows, or a problem in the words of the service. The signature covers the resource in the
// escaped form of the token.
func (b *Broker) verifySignature(token, path string) (granted Grant, problem string) {
	rest, ok := strings.CutPrefix(token, sasPrefix)
	if !ok {
		return Grant{}, "InvalidSignature: not a SharedAccessSignature."
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	keyName, _ := url.QueryUnescape(fields["skn"])
	signature, _ := url.QueryUnescape(fields["sig"])
	key, ok := b.keys[keyName]
	if !ok {
		return Grant{}, "InvalidSignature: The token has an invalid signature."
	}
	mac := hmac.New(sha256.New, []byte(key.Value))
	mac.Write([]byte(fields["sr"] + "\n" + fields["se"]))
	if !hmac.Equal([]byte(signature), []byte(base64.StdEncoding.EncodeToString(mac.Sum(nil)))) {
		return Grant{}, "InvalidSignature: The token has an invalid signature."
	}
	if problem := checkAudience(fields["sr"], path); problem != "" {
		return Grant{}, problem
	}
	seconds, err := strconv.ParseInt(fields["se"], 10, 64)
	until := time.Unix(seconds, 0)
	if err != nil || !time.Now().Before(until) {
		return Grant{}, expiredToken(until)
	}
	return key.grant(until), ""
}

// checkAudience returns why a token for the escaped resource does not cover the path, or "" if it
// does.
func checkAudience(escaped, path string) (problem string) {
	resource, _ := url.QueryUnescape(escaped)
	if !strings.Contains(resource, "://") {
		resource = "sb://" + resource // some clients name only the host
	}
	covered := entityKey(nodeOf(resource))
	if covered != "" && path != covered && !strings.HasPrefix(path, covered+"/") {
		return "InvalidAudience: The token is for another entity."
	}
	return ""
}
