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

// claim is what a connection may do with an entity, until its token expires.
type claim struct {
	listen, send, manage bool
	until                time.Time
}

// claimFor returns what was granted for an address: by a token for it, or for what contains it.
func (c *conn) claimFor(address string) claim {
	now := time.Now()
	for path := address; ; {
		if granted, ok := c.claims[path]; ok && now.Before(granted.until) {
			return granted
		}
		cut := strings.LastIndexByte(path, '/')
		if cut < 0 {
			return claim{}
		}
		path = path[:cut]
	}
}

// putToken is the node $cbs: it takes a token for an entity (AMQP claims-based security, put-token).
func (c *conn) putToken(r request) response {
	refuse := func(status int32, description string) response {
		return response{status: status, description: description, dashed: true}
	}
	if r.text("operation") != "put-token" {
		return refuse(400, "The only operation is put-token.")
	}
	audience, err := url.Parse(r.text("name"))
	if err != nil {
		return refuse(400, "The token's name is not a URL.")
	}
	path := strings.ToLower(strings.Trim(audience.Path, "/"))
	if c.b.entity(strings.TrimSuffix(path, "/$management")) == nil {
		return refuse(404, fmt.Sprintf("The messaging entity '%s' could not be found.", audience.Path))
	}
	if kind := r.text("type"); kind != "servicebus.windows.net:sastoken" {
		return refuse(401, fmt.Sprintf("Tokens of the type %q are not accepted here: use a shared access key.", kind))
	}
	token, _ := r.body.(string)
	granted, problem := c.b.verify(token, path)
	if problem != "" {
		return refuse(401, problem)
	}
	if len(c.claims) > 4*maxLinks {
		clear(c.claims) // a client without end of entities signs in again
	}
	c.claims[path] = granted
	return response{status: 202, description: "Accepted", dashed: true}
}

// verify checks a SAS token for a path (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas). The
// signature covers the resource as it is escaped in the token.
func (b *Broker) verify(token, path string) (granted claim, problem string) {
	rest, ok := strings.CutPrefix(token, "SharedAccessSignature ")
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
	resource, _ := url.QueryUnescape(fields["sr"])
	if !strings.Contains(resource, "://") {
		resource = "sb://" + resource // some name the host alone
	}
	scope, err := url.Parse(resource)
	if err != nil {
		return claim{}, "InvalidAudience: The token's resource is not a URL."
	}
	if covered := strings.ToLower(strings.Trim(scope.Path, "/")); covered != "" && path != covered && !strings.HasPrefix(path, covered+"/") {
		return claim{}, "InvalidAudience: The token is for another entity."
	}
	seconds, err := strconv.ParseInt(fields["se"], 10, 64)
	until := time.Unix(seconds, 0)
	if err != nil || !time.Now().Before(until) {
		return claim{}, fmt.Sprintf("ExpiredToken: The token is expired. Expiration time: %s.", until.UTC().Format(time.RFC3339))
	}
	return claim{listen: key.Listen || key.Manage, send: key.Send || key.Manage, manage: key.Manage, until: until}, ""
}
