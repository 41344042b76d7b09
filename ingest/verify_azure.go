package ingest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// eventGridCaller and eventGridRole are Event Grid's own application, and the role that its setup
// creates. The setup gives this role to the person or app that writes the subscription too, so the
// caller is checked as well
// (https://learn.microsoft.com/azure/event-grid/secure-webhook-delivery).
const (
	eventGridCaller = "4962773b-9cdb-44cf-a8bf-237846a00ab7"
	eventGridRole   = "AzureEventGridSecureWebhookSubscriber"
)

// newEventGrid knows Event Grid's webhook deliveries, in its own schema and as CloudEvents: by an
// Entra token, or by a secret in the URL (?code=…).
func newEventGrid(b *builder) (verifier, error) {
	if b.Caller == "" {
		b.Caller = eventGridCaller
	}
	if b.AppRole == "" {
		b.AppRole = eventGridRole
	}
	if len(b.Origins) == 0 {
		b.Origins = []string{"eventgrid.azure.net"}
	}
	authenticate, err := tokenOrSecret(b, func(in *incoming) string { return parameter(in.Request, "code") },
		"the secret in the URL (?code=…) is missing or wrong: compare it with the endpoint of the event subscription")
	subscriptions := b.Subscriptions
	origins := b.Origins
	return verifier{
		methods:       []string{http.MethodOptions},
		headersProven: true,
		before: func(ctx context.Context, in *incoming) *answer {
			if in.Method == http.MethodOptions {
				return allowOrigin(in, origins)
			}
			if a := authenticate(ctx, in); a != nil {
				return a
			}
			if strings.EqualFold(in.Header.Get("aeg-event-type"), "SubscriptionDeletion") {
				return &answer{status: http.StatusOK, result: handshake}
			}
			return nil
		},
		after: func(in *incoming) (delivery, *answer) {
			if !strings.EqualFold(in.Header.Get("aeg-event-type"), "SubscriptionValidation") {
				return delivery{}, nil
			}
			return delivery{}, validateSubscription(in, subscriptions)
		},
		id: oneID,
	}, err
}

// validateSubscription answers the handshake of Event Grid's schema
// (https://learn.microsoft.com/azure/event-grid/end-point-validation-event-grid-events-schema).
func validateSubscription(in *incoming, allowed []string) *answer {
	name := in.Header.Get("aeg-subscription-name")
	if len(allowed) > 0 && !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, name) }) {
		return forbidden("this event subscription is not on the source's list: add its name to subscriptions")
	}
	var events []struct {
		Type string `json:"eventType"`
		Data struct {
			Code string `json:"validationCode"`
		} `json:"data"`
	}
	err := json.Unmarshal(in.body, &events)
	if err != nil || len(events) != 1 || events[0].Type != "Microsoft.EventGrid.SubscriptionValidationEvent" ||
		events[0].Data.Code == "" || len(events[0].Data.Code) > maxChallenge {
		return refuse(http.StatusBadRequest, malformed, "no validation event with a code")
	}
	return jsonAnswer(map[string]string{"validationResponse": events[0].Data.Code})
}

// newCloudEvents knows CloudEvents webhooks (https://github.com/cloudevents/spec, HTTP webhooks): by
// a bearer token, which may be in the parameter access_token, or by an Entra token.
func newCloudEvents(b *builder) (verifier, error) {
	if b.Audience != "" && b.Caller == "" && b.AppRole == "" {
		return verifier{}, errors.New("set caller, app_role, or both: every app of the tenant can get a token for this audience")
	}
	authenticate, err := tokenOrSecret(b, func(in *incoming) string {
		if token := bearer(in.Request); token != "" {
			return token
		}
		return parameter(in.Request, "access_token")
	}, "the bearer token is missing or wrong: compare it with the settings of this webhook")
	origins := b.Origins
	return verifier{
		methods:       []string{http.MethodOptions},
		headersProven: true,
		before: func(ctx context.Context, in *incoming) *answer {
			if in.Method == http.MethodOptions {
				return allowOrigin(in, origins)
			}
			return authenticate(ctx, in)
		},
		id: oneID,
	}, err
}

// tokenOrSecret returns the check of an Entra token if audience is set, and of a secret otherwise.
func tokenOrSecret(b *builder, given func(*incoming) string, wrong string) (func(context.Context, *incoming) *answer, error) {
	switch {
	case (b.Audience == "") == (b.SecretFile == ""):
		return nil, errors.New("set audience and tenant for Entra tokens, or secret_file for a shared secret")
	case b.Audience != "":
		t, err := newTokens(b)
		if err != nil {
			return nil, err
		}
		return t.authenticate, nil
	}
	key, err := b.secret(plainInURL)
	return func(_ context.Context, in *incoming) *answer {
		if !key.is(given(in), in.now) {
			return noToken(wrong)
		}
		return nil
	}, err
}

// allowOrigin answers the handshake of CloudEvents: may this origin send events here? It is no
// authentication.
func allowOrigin(in *incoming, origins []string) *answer {
	origin := in.Header.Get("WebHook-Request-Origin")
	if origin == "" || !slices.ContainsFunc(origins, func(o string) bool { return strings.EqualFold(o, origin) }) {
		return forbidden("WebHook-Request-Origin is not on the source's list: add it to origins")
	}
	return &answer{status: http.StatusOK, result: handshake, header: []string{
		"WebHook-Allowed-Origin", origin, "WebHook-Allowed-Rate", strconv.Itoa(60 * in.source.Rate), "Allow", in.source.allow(),
	}}
}

// oneID returns the id of the one event in a body, with its source where it has one, or the id in
// the headers of a CloudEvent in binary form. Of several events, it returns "".
func oneID(in *incoming) string {
	if id := single(in.Header, "Ce-Id"); id != "" {
		return join(single(in.Header, "Ce-Source"), id)
	}
	type named struct {
		ID     string `json:"id"`
		Source string `json:"source"`
	}
	var one named
	if json.Unmarshal(in.body, &one) == nil {
		return join(one.Source, one.ID)
	}
	var several []named
	if json.Unmarshal(in.body, &several) == nil && len(several) == 1 {
		return join(several[0].Source, several[0].ID)
	}
	return ""
}

func join(source, id string) string {
	if source == "" || id == "" {
		return id
	}
	return source + " " + id
}

// newGraph knows the change notifications of Microsoft Graph: by the secret that each of them
// carries as clientState
// (https://learn.microsoft.com/graph/change-notifications-delivery-webhooks).
func newGraph(b *builder) (verifier, error) {
	if b.Tenant != "" {
		if _, err := uuid.Parse(b.Tenant); err != nil {
			return verifier{}, errors.New("tenant: the tenant's ID, a GUID")
		}
	}
	state, err := b.secret(nil)
	tenant := b.Tenant
	type notifications struct {
		Value []struct {
			ID          string  `json:"id"`
			ClientState *string `json:"clientState"`
			TenantID    string  `json:"tenantId"`
		} `json:"value"`
	}
	return verifier{
		before: func(_ context.Context, in *incoming) *answer {
			token := parameter(in.Request, "validationToken")
			switch {
			case token == "":
				return nil
			case len(token) > maxChallenge:
				return refuse(http.StatusBadRequest, malformed, "validationToken is too long")
			}
			return &answer{status: http.StatusOK, result: handshake, text: token}
		},
		after: func(in *incoming) (delivery, *answer) {
			var all notifications
			if json.Unmarshal(in.body, &all) != nil || len(all.Value) == 0 {
				return delivery{}, refuse(http.StatusBadRequest, malformed, "no change notifications: value is missing or empty")
			}
			right := true
			for _, n := range all.Value {
				right = n.ClientState != nil && state.is(*n.ClientState, in.now) && right
				right = (tenant == "" || strings.EqualFold(n.TenantID, tenant)) && right
			}
			if !right {
				return delivery{}, forbidden("clientState or tenantId is wrong: compare them with the Graph subscription")
			}
			return delivery{}, nil
		},
		id: func(in *incoming) string {
			var all notifications
			if json.Unmarshal(in.body, &all) != nil || len(all.Value) != 1 {
				return ""
			}
			return all.Value[0].ID
		},
	}, err
}

// equal compares two texts in a time that depends on neither.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
