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

// claim is what a token allows with an entity, and until when.
type claim struct {
	listen, send, manage bool
	until                time.Time
}

// claim returns what the key allows.
func (k Key) claim(until time.Time) claim {
	return claim{listen: k.Listen || k.Manage, send: k.Send || k.Manage, manage: k.Manage, until: until}
}

// verifyToken checks an access token, whose rights do not depend on the path. It returns what the
// token allows, or a problem in the words of the service.
func (b *Broker) verifyToken(token string) (granted claim, problem string) {
	if b.authorize == nil {
		return claim{}, "InvalidToken: This emulator runs without the sign-in of Entra: use a shared access key."
	}
	grant, err := b.authorize(token)
	switch {
	case err != nil:
		return claim{}, "InvalidToken: " + err.Error()
	case !time.Now().Before(grant.Until):
		return claim{}, expiredToken(grant.Until)
	}
	return Key{Listen: grant.Listen, Send: grant.Send, Manage: grant.Manage}.claim(grant.Until), ""
}

func expiredToken(at time.Time) string {
	return fmt.Sprintf("ExpiredToken: The token is expired. Expiration time: %s.", at.UTC().Format(time.RFC3339))
}

// sasPrefix begins every shared access signature.
const sasPrefix = "SharedAccessSignature "

// verify checks a SAS token for a path
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas). It returns what the
// token allows, or a problem in the words of the service. The signature covers the resource in the
// escaped form of the token.
func (b *Broker) verify(token, path string) (granted claim, problem string) {
	rest, ok := strings.CutPrefix(token, sasPrefix)
	if !ok {
		return claim{}, "InvalidSignature: not a SharedAccessSignature."
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
		return claim{}, "InvalidSignature: The token has an invalid signature."
	}
	mac := hmac.New(sha256.New, []byte(key.Value))
	mac.Write([]byte(fields["sr"] + "\n" + fields["se"]))
	if !hmac.Equal([]byte(signature), []byte(base64.StdEncoding.EncodeToString(mac.Sum(nil)))) {
		return claim{}, "InvalidSignature: The token has an invalid signature."
	}
	if problem := checkAudience(fields["sr"], path); problem != "" {
		return claim{}, problem
	}
	seconds, err := strconv.ParseInt(fields["se"], 10, 64)
	until := time.Unix(seconds, 0)
	if err != nil || !time.Now().Before(until) {
		return claim{}, expiredToken(until)
	}
	return key.claim(until), ""
}

// checkAudience returns why a token for the escaped resource does not cover the path, or "" if it
// does.
func checkAudience(escaped, path string) (problem string) {
	resource, _ := url.QueryUnescape(escaped)
	if !strings.Contains(resource, "://") {
		resource = "sb://" + resource // some clients name only the host
	}
	scope, err := url.Parse(resource)
	if err != nil {
		return "InvalidAudience: The token's resource is not a URL."
	}
	covered := entityKey(scope.Path)
	if covered != "" && path != covered && !strings.HasPrefix(path, covered+"/") {
		return "InvalidAudience: The token is for another entity."
	}
	return ""
}
