package ingest_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/config"
)

// event is a body whose content the ingest must not care about.
const event = `{"type":"device.lost","userPrincipalName":"ada@contoso.com"}`

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func sign(newHash func() hash.Hash, key string, parts ...string) []byte {
	mac := hmac.New(newHash, []byte(key))
	for _, p := range parts {
		mac.Write([]byte(p))
	}
	return mac.Sum(nil)
}

func hexMAC(parts ...string) string { return hex.EncodeToString(sign(sha256.New, theKey, parts...)) }

// now is the time in a bubble as senders write it.
func now() string { return strconv.FormatInt(time.Now().Unix(), 10) }

// TestVerifiersAcceptTheirSenderAndNobodyElse sends each kind's right request, and wrong ones.
func TestVerifiersAcceptTheirSenderAndNobodyElse(t *testing.T) {
	type try struct {
		path   string // instead of the source's
		body   string // instead of event
		header []string
		status int // 0 is 200
	}
	for name, c := range map[string]struct {
		source config.IngestSource
		secret string
		tries  func() map[string]try
	}{
		"basic": {
			source: config.IngestSource{Verify: "basic", Username: "jamf"},
			tries: func() map[string]try {
				return map[string]try{
					"right":          {header: []string{"Authorization", basic("jamf", theKey)}},
					"wrong password": {header: []string{"Authorization", basic("jamf", theKey+"x")}, status: 401},
					"wrong user":     {header: []string{"Authorization", basic("jam", theKey)}, status: 401},
					"both wrong":     {header: []string{"Authorization", basic("x", "y")}, status: 401},
					"another scheme": {header: []string{"Authorization", "Bearer " + theKey}, status: 401},
					"nothing":        {status: 401},
				}
			},
		},
		"jamf by header": {
			source: config.IngestSource{Verify: "jamf", Header: "X-Jamf-Key"},
			tries: func() map[string]try {
				return map[string]try{
					"right": {header: []string{"X-Jamf-Key", theKey}},
					"XML":   {header: []string{"X-Jamf-Key", theKey, "Content-Type", "text/xml"}, body: "<JSSEvent/>"},
					"wrong": {header: []string{"X-Jamf-Key", theKey[1:]}, status: 403},
				}
			},
		},
		"jamf by name": {
			source: config.IngestSource{Verify: "jamf", Username: "jamf"},
			tries: func() map[string]try {
				return map[string]try{
					"right": {header: []string{"Authorization", basic("jamf", theKey)}},
					"wrong": {header: []string{"Authorization", basic("jamf", "")}, status: 401},
				}
			},
		},
		"bearer": {
			source: config.IngestSource{Verify: "bearer"},
			tries: func() map[string]try {
				return map[string]try{
					"right":       {header: []string{"Authorization", "Bearer " + theKey}},
					"lower case":  {header: []string{"Authorization", "bearer " + theKey}},
					"wrong":       {header: []string{"Authorization", "Bearer " + theKey + theKey}, status: 401},
					"no scheme":   {header: []string{"Authorization", theKey}, status: 401},
					"empty":       {header: []string{"Authorization", "Bearer "}, status: 401},
					"in the URL":  {path: "/hook?access_token=" + theKey, status: 401},
					"as an extra": {path: "/hook/" + theKey, status: 404},
				}
			},
		},
		"okta": {
			source: config.IngestSource{Verify: "okta"},
			tries: func() map[string]try {
				return map[string]try{
					"right":        {header: []string{"Authorization", theKey}},
					"with Bearer":  {header: []string{"Authorization", "Bearer " + theKey}, status: 403},
					"nothing":      {status: 403},
					"other header": {header: []string{"X-Key", theKey}, status: 403},
				}
			},
		},
		"fleet": {
			source: config.IngestSource{Verify: "fleet"},
			tries: func() map[string]try {
				return map[string]try{
					"in the path":      {path: "/hook/" + theKey},
					"as a parameter":   {path: "/hook?secret=" + theKey},
					"wrong in path":    {path: "/hook/" + theKey + "x", status: 403},
					"wrong parameter":  {path: "/hook?secret=x", status: 403},
					"two parameters":   {path: "/hook?secret=x&secret=" + theKey, status: 403},
					"nothing":          {status: 403},
					"one more segment": {path: "/hook/" + theKey + "/x", status: 404},
				}
			},
		},
		"hmac of id, time, and body": {
			source: config.IngestSource{
				Verify: "hmac", Header: "X-Sig", Prefix: "v0=", Encoding: "base64", Algorithm: "sha512", TimestampHeader: "X-Time",
				IDHeader: "X-ID", Signed: []string{"id", ".", "timestamp", ".", "body"},
			},
			tries: func() map[string]try {
				at := now()
				sig := "v0=" + base64.StdEncoding.EncodeToString(sign(sha512.New, theKey, "7", ".", at, ".", event))
				return map[string]try{
					"right":       {header: []string{"X-Sig", sig, "X-Time", at, "X-ID", "7"}},
					"another id":  {header: []string{"X-Sig", sig, "X-Time", at, "X-ID", "8"}, status: 403},
					"tampered":    {header: []string{"X-Sig", sig, "X-Time", at, "X-ID", "7"}, body: event + " ", status: 403},
					"no prefix":   {header: []string{"X-Sig", sig[3:], "X-Time", at, "X-ID", "7"}, status: 403},
					"no time":     {header: []string{"X-Sig", sig, "X-ID", "7"}, status: 403},
					"half of it":  {header: []string{"X-Sig", sig[:40], "X-Time", at, "X-ID", "7"}, status: 403},
					"no encoding": {header: []string{"X-Sig", "v0=%%", "X-Time", at, "X-ID", "7"}, status: 403},
				}
			},
		},
		"bamboohr": {
			source: config.IngestSource{Verify: "bamboohr"},
			tries: func() map[string]try {
				at := now()
				header := func(sig, at string) []string {
					return []string{"X-BambooHR-Signature", sig, "X-BambooHR-Timestamp", at}
				}
				old := strconv.FormatInt(time.Now().Add(-6*time.Minute).Unix(), 10)
				ahead := strconv.FormatInt(time.Now().Add(6*time.Minute).Unix(), 10)
				return map[string]try{
					"right":        {header: header(hexMAC(event, at), at)},
					"upper case":   {header: header(strings.ToUpper(hexMAC(event+" ", at)), at), body: event + " "},
					"another time": {header: header(hexMAC(event, at), at+"0"), status: 403},
					"too old":      {header: header(hexMAC(event, old), old), status: 403},
					"too new":      {header: header(hexMAC(event, ahead), ahead), status: 403},
					"no number":    {header: header(hexMAC(event, "soon"), "soon"), status: 403},
					"other order":  {header: header(hexMAC(at, event), at), status: 403},
				}
			},
		},
		"hibob": {
			source: config.IngestSource{Verify: "hibob"},
			tries: func() map[string]try {
				sig := base64.StdEncoding.EncodeToString(sign(sha512.New, theKey, event))
				return map[string]try{
					"right": {header: []string{"Bob-Signature", sig}},
					"hex":   {header: []string{"Bob-Signature", hex.EncodeToString(sign(sha512.New, theKey, event))}, status: 403},
				}
			},
		},
		"personio": {
			source: config.IngestSource{Verify: "personio"},
			tries: func() map[string]try {
				return map[string]try{
					"right": {header: []string{"X-Personio-Signature", hexMAC(event)}},
					"wrong": {header: []string{"X-Personio-Signature", hexMAC("")}, status: 403},
				}
			},
		},
		"deel": {
			source: config.IngestSource{Verify: "deel"},
			tries: func() map[string]try {
				return map[string]try{
					"right":     {header: []string{"x-deel-signature", hexMAC("POST", event)}},
					"body only": {header: []string{"x-deel-signature", hexMAC(event)}, status: 403},
				}
			},
		},
		"rippling": {
			source: config.IngestSource{Verify: "rippling"},
			tries: func() map[string]try {
				return map[string]try{
					"right": {header: []string{"X-Rippling-Signature", hexMAC(event)}},
					"wrong": {header: []string{"X-Rippling-Signature", hexMAC(event)[:62]}, status: 403},
				}
			},
		},
		"graph": {
			source: config.IngestSource{Verify: "graph", Tenant: tenant},
			tries: func() map[string]try {
				body := func(state, tenant string) string {
					return fmt.Sprintf(`{"id":"n1","clientState":%q,"tenantId":%q}`, state, tenant)
				}
				list := func(items ...string) string { return `{"value":[` + strings.Join(items, ",") + `]}` }
				return map[string]try{
					"right":          {body: list(body(theKey, tenant), body(theKey, tenant))},
					"one is wrong":   {body: list(body(theKey, tenant), body("x", tenant)), status: 403},
					"another tenant": {body: list(body(theKey, "99999999-0000-0000-0000-000000000000")), status: 403},
					"no state":       {body: `{"value":[{"tenantId":"` + tenant + `"}]}`, status: 403},
					"empty":          {body: list(), status: 400},
					"no JSON":        {body: "x", status: 400},
				}
			},
		},
		"event-grid by secret": {
			source: config.IngestSource{Verify: "event-grid"},
			tries: func() map[string]try {
				return map[string]try{
					"right":   {path: "/hook?code=" + theKey},
					"wrong":   {path: "/hook?code=x", status: 401},
					"nothing": {status: 401},
				}
			},
		},
		"cloudevents by secret": {
			source: config.IngestSource{Verify: "cloudevents"},
			tries: func() map[string]try {
				return map[string]try{
					"header":    {header: []string{"Authorization", "Bearer " + theKey}},
					"parameter": {path: "/hook?access_token=" + theKey},
					"wrong":     {path: "/hook?access_token=x", status: 401},
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.secret == "" {
				c.secret = theKey
			}
			c.source.Name, c.source.Path, c.source.SecretFile = "hook", "/hook", secretFile(t, c.secret)
			inWorld(t, settings{sources: []config.IngestSource{c.source}}, func(w *world) {
				expected := 0
				for what, try := range c.tries() {
					path, body, status := try.path, try.body, try.status
					if path == "" {
						path = "/hook"
					}
					if body == "" {
						body = event
					}
					if status == 0 {
						status = http.StatusOK
						expected++
					}
					got := w.post(path, body, try.header...)
					w.want(what, got, status)
					if strings.Contains(got.Body.String(), theKey) || strings.Contains(got.Body.String(), "ada") {
						t.Errorf("%s: the answer repeats the request: %s", what, got.Body)
					}
					if status == http.StatusUnauthorized && got.Header().Get("WWW-Authenticate") == "" {
						t.Errorf("%s: 401 without WWW-Authenticate (RFC 9110 §15.5.2)", what)
					}
				}
				w.wantQueued("accepted requests", expected)
			})
		})
	}
}

// TestGitHubsDocumentedSignature has the values of
// https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries.
func TestGitHubsDocumentedSignature(t *testing.T) {
	source := config.IngestSource{Name: "github", Path: "/hook", Verify: "github", SecretFile: secretFile(t, "It's a Secret to Everybody")}
	const sig = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		header := []string{
			"X-Hub-Signature-256", sig, "X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958", "Content-Type", "text/plain",
		}
		w.want("the documented request", w.post("/hook", "Hello, World!", header...), 200)
		m := w.wantQueued("the documented request", 1)
		if string(m.Body) != "Hello, World!" || !strings.HasPrefix(m.MessageID, "github:72d3162e-cc78-11e3-81ab-4c9367dc0958:") {
			t.Errorf("%s: %s", m.MessageID, m.Body)
		}
		w.want("another body", w.post("/hook", "Hello, world!", header...), 403)
		header[1] = strings.Replace(sig, "sha256", "sha1", 1)
		w.want("another algorithm", w.post("/hook", "Hello, World!", header...), 403)
		w.wantQueued("refused requests", 1)
	})
}

// The values that the libraries of https://github.com/standard-webhooks/standard-webhooks test with.
const (
	standardSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	standardID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	standardTime      = 1614265330
	standardBody      = `{"test": 2432232314}`
	standardSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestStandardWebhooksDocumentedSignature(t *testing.T) {
	source := config.IngestSource{
		Name: "svix", Path: "/hook", Verify: "standard-webhooks", SecretFile: secretFile(t, standardSecret),
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Unix(standardTime, 0)))
		w := newWorld(t, settings{sources: []config.IngestSource{source}})
		at := strconv.Itoa(standardTime)
		headers := func(prefix, id, at, sig string) []string {
			return []string{prefix + "-id", id, prefix + "-timestamp", at, prefix + "-signature", sig}
		}
		right := headers("webhook", standardID, at, standardSignature)
		for what, c := range map[string]struct {
			header []string
			status int
		}{
			"as documented":       {right, 200},
			"Svix's headers":      {headers("svix", standardID, at, standardSignature), 200},
			"a second signature":  {headers("webhook", standardID, at, "v1,AAAA v2,x "+standardSignature), 200},
			"no version":          {headers("webhook", standardID, at, standardSignature[3:]), 403},
			"another version":     {headers("webhook", standardID, at, "v1a,"+standardSignature[3:]), 403},
			"another id":          {headers("webhook", standardID+"x", at, standardSignature), 403},
			"another time":        {headers("webhook", standardID, "1614265331", standardSignature), 403},
			"no signature":        {headers("webhook", standardID, at, ""), 403},
			"an empty secret's":   {headers("webhook", standardID, at, "v1,"), 403},
			"headers of two ways": {append(headers("webhook", "x", at, ""), headers("svix", standardID, at, standardSignature)...), 403},
		} {
			w.want(what, w.post("/hook", standardBody, c.header...), c.status)
		}
		if m := w.wantQueued("one delivery", 1); !strings.HasPrefix(m.MessageID, "svix:"+standardID+":") {
			t.Errorf("MessageID %q", m.MessageID)
		}
		time.Sleep(5*time.Minute + time.Second)
		w.want("a replay after the tolerance", w.post("/hook", standardBody, right...), 403)
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		w.noSecrets()
	})
}

func TestStandardWebhooksPublicKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	source := config.IngestSource{
		Name: "hook", Path: "/hook", Verify: "standard-webhooks",
		SecretFile: secretFile(t, "whpk_"+base64.StdEncoding.EncodeToString(public)),
	}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		sig := base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte("m1."+now()+"."+event)))
		w.want("signed", w.post("/hook", event, "webhook-id", "m1", "webhook-timestamp", now(), "webhook-signature", "v1a,"+sig), 200)
		w.want("as v1", w.post("/hook", event, "webhook-id", "m1", "webhook-timestamp", now(), "webhook-signature", "v1,"+sig), 403)
		w.want("tampered", w.post("/hook", event+" ", "webhook-id", "m1", "webhook-timestamp", now(), "webhook-signature", "v1a,"+sig), 403)
		w.wantQueued("one", 1)
	})
}

func TestRotationAcceptsBothSecretsWithoutARestart(t *testing.T) {
	current, previous := secretFile(t, theKey), secretFile(t, "")
	source := config.IngestSource{Name: "hook", Path: "/hook", Verify: "bearer", SecretFile: current, PreviousSecretFile: previous}
	write := func(file, value string) {
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
	}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		const newKey = "the-secret-that-comes-next"
		with := func(key string) int { return w.post("/hook", event, "Authorization", "Bearer "+key).Code }
		status := func(step string, current, previous, next int) {
			t.Helper()
			if got := []int{with(theKey), with(otherKey), with(newKey)}; got[0] != current || got[1] != previous || got[2] != next {
				t.Errorf("%s: %v", step, got)
			}
		}
		status("before", 200, 401, 401)
		write(previous, otherKey)
		status("with a previous secret", 200, 200, 401)
		write(previous, theKey)
		write(current, newKey)
		status("rotated", 200, 401, 200)
		write(previous, "")
		status("after", 401, 401, 200)
		write(current, "short")
		status("a file that is not usable", 401, 401, 200)
		if err := os.Remove(current); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		status("a file that is gone", 401, 401, 200)
		if w.health.Warnings()["secret of hook"] == "" || w.logs.FilterMessageSnippet("a file is not usable").Len() == 0 {
			t.Errorf("no warning about the file: %v", w.health.Warnings())
		}
	})
}
