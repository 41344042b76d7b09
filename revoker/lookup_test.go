package revoker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

func mustLookup(by event.Lookup, value string) event.User {
	user, err := event.NewLookup(by, value)
	if err != nil {
		panic(err)
	}
	return user
}

const someDevice = "7a1c0c0e-4a5c-4ee1-9a7e-0d3c5a6b0001"

// sought are users of each way to be looked up.
func sought() []event.User {
	return []event.User{
		mustLookup(event.ByMail, "ada@contoso.com"), mustLookup(event.ByManagedDevice, someDevice),
		mustLookup(event.ByEntraDevice, someDevice), mustLookup(event.BySerialNumber, "C02 XL/0"),
	}
}

// A device must never become part of a user's URL: /users/serial-number:C02.
func TestRequestForAUserToBeLookedUpIsRefused(t *testing.T) {
	g := newGraph(t, says(200, revokedOK))
	r := newRevoker(t, g.URL, withRole())
	verifying, _ := r.ByAccount(nil, 0, time.Second)
	off := &revoker.Finding{Graph: r, Next: verifying}
	for _, user := range sought() {
		for name, ask := range map[string]func(context.Context) error{
			"Revoke":            func(ctx context.Context) error { _, err := r.Revoke(ctx, user); return err },
			"Account":           func(ctx context.Context) error { _, err := r.Account(ctx, user); return err },
			"ValidFrom":         func(ctx context.Context) error { _, err := r.ValidFrom(ctx, user); return err },
			"Canary":            func(ctx context.Context) error { _, err := r.Canary(ctx, user); return err },
			"Verifying.Revoke":  func(ctx context.Context) error { _, err := verifying.Revoke(ctx, user); return err },
			"Finding.Revoke":    func(ctx context.Context) error { _, err := off.Revoke(ctx, user); return err },
			"LookUp of a known": func(ctx context.Context) error { _, _, err := r.LookUp(ctx, ada); return err },
		} {
			var failure *revoker.Error
			if err := ask(t.Context()); !errors.As(err, &failure) || failure.Kind != revoker.OwnerUnclear || !failure.Permanent() {
				t.Errorf("%s of %s: %v, want that the owner is unclear", name, user, err)
			}
		}
	}
	if n := len(g.seen()); n > 0 {
		t.Errorf("%d requests", n)
	}
}

func TestLookUpRequests(t *testing.T) {
	for i, want := range []string{
		"/v1.0/users?$filter=mail eq 'ada@contoso.com' or userPrincipalName eq 'ada@contoso.com' or " +
			"proxyAddresses/any(p:p eq 'smtp:ada@contoso.com') or proxyAddresses/any(p:p eq 'SMTP:ada@contoso.com')" +
			"&$select=id,userPrincipalName,userType&$top=2",
		"/beta/deviceManagement/managedDevices/" + someDevice + "?$select=id,userId,userPrincipalName,usersLoggedOn",
		"/v1.0/devices(deviceId='" + someDevice + "')/registeredOwners?$select=id,userPrincipalName,userType",
		"/beta/deviceManagement/managedDevices?$filter=serialNumber eq 'C02 XL/0'" +
			"&$select=id,userId,userPrincipalName,usersLoggedOn&$top=10",
	} {
		g := newGraph(t, says(200, `{"value":[]}`))
		_, _, err := newRevoker(t, g.URL, withRole()).LookUp(t.Context(), sought()[i])
		if len(g.seen()) != 1 {
			t.Fatalf("%d requests: %v", len(g.seen()), err)
		}
		r := g.seen()[0]
		var query []string
		for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
			name, value, _ := strings.Cut(part, "=")
			query = append(query, name+"="+r.URL.Query().Get(name))
			if strings.ContainsAny(value, " +") {
				t.Errorf("not escaped: %s", part)
			}
		}
		if got := r.URL.Path + "?" + strings.Join(query, "&"); r.Method != http.MethodGet || got != want {
			t.Errorf("%s %s\nwant GET %s", r.Method, got, want)
		}
	}
	g := newGraph(t, says(200, `{"value":[]}`))
	_, _, _ = newRevoker(t, g.URL, withRole()).LookUp(t.Context(), mustLookup(event.ByMail, "o'neil@contoso.com"))
	if filter := g.seen()[0].URL.Query().Get("$filter"); !strings.HasPrefix(filter, "mail eq 'o''neil@contoso.com' or ") {
		t.Errorf("a quotation mark is not doubled: %s", filter)
	}
}

func TestLookUpAnswers(t *testing.T) {
	person := `{"id":"` + adaID + `","userPrincipalName":"ada@contoso.com","userType":"Member"}`
	device := `{"userId":"` + adaID + `","userPrincipalName":"ada@contoso.com","usersLoggedOn":[%s]}`
	for name, c := range map[string]struct {
		by     event.Lookup
		status int
		body   string
		want   revoker.Kind // "" is Ada
	}{
		"one": {event.ByMail, 200, `{"value":[` + person + `]}`, ""},
		"one whose name Graph does not tell": {
			event.ByEntraDevice,
			200,
			`{"value":[{"@odata.type":"#microsoft.graph.user","id":"` + adaID + `","userPrincipalName":null}]}`,
			"",
		},
		"one, on more than one page": {
			event.ByMail,
			200,
			`{"value":[` + person + `],"@odata.nextLink":"https://graph.example/next"}`,
			revoker.OwnerUnclear,
		},
		"the same one twice": {event.ByMail, 200, `{"value":[` + person + `,` + person + `]}`, revoker.OwnerUnclear},
		"an owner that is no person": {
			event.ByEntraDevice,
			200,
			`{"value":[{"@odata.type":"#microsoft.graph.servicePrincipal","id":"` + adaID + `"}]}`,
			revoker.OwnerUnclear,
		},
		"a guest without #EXT#": {
			event.ByMail,
			200,
			`{"value":[` + strings.Replace(person, "Member", "Guest", 1) + `]}`,
			revoker.External,
		},
		"a name that no call accepts": {
			event.ByManagedDevice,
			200,
			strings.Replace(fmt.Sprintf(device, ""), "ada@contoso.com", "ada lovelace", 1),
			"",
		},
		"an id that no call accepts":     {event.ByManagedDevice, 200, `{"userId":"../me"}`, revoker.OwnerUnclear},
		"a phone, which knows no logons": {event.ByManagedDevice, 200, `{"userId":"` + adaID + `"}`, ""},
		"a logon at an unknown time": {
			event.ByManagedDevice,
			200,
			fmt.Sprintf(device, `{"userId":"`+someDevice+`"}`),
			revoker.OwnerUnclear,
		},
		"a logon of nobody": {
			event.ByManagedDevice,
			200,
			fmt.Sprintf(device, `{"userId":""},{"userId":"00000000-0000-0000-0000-000000000000"}`),
			"",
		},
		"an empty object":              {event.ByManagedDevice, 200, `{}`, revoker.OwnerUnclear},
		"a list in place of an object": {event.ByManagedDevice, 200, `[]`, revoker.Unavailable},
		"null":                         {event.ByMail, 200, `null`, revoker.Unavailable},
		"half an answer":               {event.ByMail, 200, `{"value":[`, revoker.Unavailable},
		"an error":                     {event.ByMail, 200, `{"value":[],"error":{}}`, revoker.Unavailable},
		"a value of another kind":      {event.ByMail, 200, `{"value":true}`, revoker.Unavailable},
		"an answer without a list":     {event.ByMail, 200, `{}`, revoker.OwnerUnclear},
		"unknown":                      {event.ByEntraDevice, 404, graphError("Request_ResourceNotFound"), revoker.OwnerUnclear},
		"a proxy's 404":                {event.ByEntraDevice, 404, "", revoker.Unavailable},
		"too large": {
			event.ByMail,
			200,
			`{"value":[` + strings.Repeat(person+",", 1000) + person + `]}`,
			revoker.Unreachable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGraph(t, says(c.status, c.body))
			value := someDevice
			if c.by == event.ByMail {
				value = "ada@contoso.com"
			}
			account, attempt, err := newRevoker(t, g.URL, withRole()).LookUp(t.Context(), mustLookup(c.by, value))
			var failure *revoker.Error
			errors.As(err, &failure)
			if kindOf(failure) != c.want || c.want == "" && account.ID() != adaID || c.want != "" && !account.IsZero() {
				t.Errorf("%v, %v, want %q", account, err, c.want)
			}
			if attempt.Sent {
				t.Error("the attempt looks as if somebody was to be revoked")
			}
		})
	}
}

// A look-up that fails must not stop the attempts for others.
func TestLookUpFailuresAreNotEveryones(t *testing.T) {
	for name, c := range map[string]struct {
		status    int
		roles     string
		kind      revoker.Kind
		postponed bool
	}{
		"throttled":          {429, `"Device.Read.All"`, revoker.Throttled, true},
		"without permission": {403, `"User.RevokeSessions.All"`, revoker.MissingPermission, true},
		"refused":            {403, `"Device.Read.All"`, revoker.Forbidden, false},
		"rejected":           {400, `"Device.Read.All"`, revoker.Rejected, false},
	} {
		g := newGraph(t, says(c.status, graphError("x")))
		_, _, err := newRevoker(t, g.URL, &credential{roles: c.roles}).LookUp(t.Context(), mustLookup(event.ByEntraDevice, someDevice))
		var failure *revoker.Error
		if !errors.As(err, &failure) || failure.Kind != c.kind || failure.Postponed() != c.postponed {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if failure.Systemic() || failure.Throttled() || failure.Suspicious() || failure.Permanent() {
			t.Errorf("%s: it counts for others, or against the device", name)
		}
		if c.kind == revoker.MissingPermission && !strings.Contains(failure.Brief(), "Device.Read.All") {
			t.Errorf("%s: %s", name, failure.Brief())
		}
	}
}

// cached is a credential whose tokens stay the same until a new one is demanded, which it can hang
// on.
type cached struct {
	roles  string // of the next token
	hangs  bool
	issued []string
}

func (c *cached) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if o.Claims != "" && c.hangs {
		<-ctx.Done()
		return azcore.AccessToken{}, ctx.Err()
	}
	if o.Claims != "" || len(c.issued) == 0 {
		c.issued = append(c.issued, (&credential{roles: c.roles, issued: len(c.issued)}).token())
	}
	return azcore.AccessToken{Token: c.issued[len(c.issued)-1]}, nil
}

// A permission that was granted meanwhile takes effect with a new token. While none can be had, the
// old one still revokes.
func TestTokenIsReplacedAfterALookUpWithoutPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := &cached{roles: `"User.RevokeSessions.All"`}
		allowed := ""
		answer := func(r *http.Request) (*http.Response, error) {
			status, body := http.StatusOK, revokedOK
			if r.Method == http.MethodGet {
				body = `{"userId":"` + adaID + `"}`
				if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); token != allowed {
					status, body = http.StatusForbidden, graphError("Forbidden")
				}
			}
			return (&response{header: http.Header{"Content-Type": {jsonType}}, status: status}).of(r, body), nil
		}
		r, err := revoker.New(revoker.Config{Root: "https://graph.example", Credential: tokens, Transport: roundTrip(answer)})
		if err != nil {
			t.Fatal(err)
		}
		device := mustLookup(event.ByManagedDevice, someDevice)
		if _, _, err := r.LookUp(t.Context(), device); err == nil {
			t.Fatal("allowed without the permission")
		}
		tokens.hangs = true
		began := time.Now()
		_, _, _ = r.LookUp(t.Context(), device)
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("a token that cannot be had delays attempts by %v", took)
		}
		if _, err := r.Revoke(t.Context(), ada); err != nil {
			t.Errorf("the old token does not revoke any more: %v", err)
		}
		tokens.hangs, tokens.roles = false, `"User.RevokeSessions.All","DeviceManagementManagedDevices.Read.All"`
		allowed = (&credential{roles: tokens.roles, issued: 1}).token()
		if _, _, err := r.LookUp(t.Context(), device); err != nil {
			t.Errorf("not allowed although the permission was granted: %v", err)
		}
	})
}

func TestFindingRemembersOnlyForEventsFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := directory{account: `{"userId":"` + adaID + `"}`}
		r, err := revoker.New(revoker.Config{Root: "https://graph.example", Credential: withRole(), Transport: &d})
		if err != nil {
			t.Fatal(err)
		}
		f := &revoker.Finding{Graph: r, Next: r, Devices: true, SkewMargin: 5 * time.Second}
		device := mustLookup(event.ByManagedDevice, someDevice)
		before := time.Now().Add(-time.Minute)
		if _, ok := f.Known(device, before); ok {
			t.Error("known without a look-up")
		}
		began := time.Now()
		_, err = f.Revoke(t.Context(), device)
		var failure *revoker.Error
		if !errors.As(err, &failure) || failure.Kind != revoker.Named || failure.Account.ID() != adaID {
			t.Fatalf("%v, want the account", err)
		}
		for enqueued, want := range map[time.Time]bool{
			before: true, began.Add(-6 * time.Second): true, began.Add(-4 * time.Second): false, // the clocks may differ
			began: false, began.Add(time.Second): false, {}: false,
		} {
			if account, ok := f.Known(device, enqueued); ok != want || ok && account.ID() != adaID {
				t.Errorf("an event from %v after the look-up: known is %v", enqueued.Sub(began), ok)
			}
		}
		time.Sleep(time.Hour)
		if _, ok := f.Known(device, before); ok {
			t.Error("known for an hour: devices are given to others")
		}
	})
}
