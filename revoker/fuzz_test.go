package revoker_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/revoker"
)

// foreign gives every request the same answer.
type foreign struct {
	status                                                   int
	body, contentType, retryAfter, date, percentage, demands string
}

func (a foreign) RoundTrip(r *http.Request) (*http.Response, error) {
	header := http.Header{}
	for name, value := range map[string]string{
		"Content-Type": a.contentType, "Retry-After": a.retryAfter, "Date": a.date, "x-ms-throttle-limit-percentage": a.percentage,
		"WWW-Authenticate": a.demands,
	} {
		if value != "" {
			header.Set(name, value)
		}
	}
	return &http.Response{
		StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r,
	}, nil
}

// FuzzAnswer gives any answer in Graph's place. Its property: Revoke succeeds only if the status is
// 2xx and the body does not contradict that; anything else is an *Error with bounded fields.
func FuzzAnswer(f *testing.F) {
	const date = "Sun, 01 Mar 2026 12:00:00 GMT"
	for _, a := range []foreign{
		{200, revokedOK, jsonType, "", date, "0.9", ""},
		{200, `{"value":false}`, jsonType, "", date, "", ""},
		{200, `{"value":null}`, jsonType, "", "", "NaN", ""},
		{200, `{"value":"true"}`, jsonType, "", "", "+Inf", ""},
		{200, `[{"value":true}]`, jsonType, "", "", "-1", ""},
		{200, `null`, jsonType, "", "Mon, 01 Jan 1601 00:00:00 GMT", "", ""},
		{200, `{"value":true}{"value":true}`, jsonType, "", "", "", ""},
		{200, `{"value":true,"Value":false,"error":{}}`, jsonType, "", "", "", ""},
		{200, "<html>", "text/html", "", "", "", ""},
		{204, "", "", "", "", "", ""},
		{302, "", "", "", "", "", ""},
		{
			401, graphError("InvalidAuthenticationToken"), jsonType, "", "", "",
			`Bearer error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="`,
		},
		{401, "", "", "", "", "", "Bearer claims=x"},
		{403, graphError("Authorization_RequestDenied"), jsonType, "", "", "", ""},
		{404, graphError("Request_ResourceNotFound"), jsonType, "", "", "", ""},
		{429, graphError("TooManyRequests"), jsonType, "10", "", "1.8", ""},
		{429, "", "", "Sun, 01 Mar 2026 12:01:00 GMT", date, "", ""},
		{429, "", "", "-5", date, "", ""},
		{429, "", "", "99999999999999999999", date, "", ""},
		{503, `{"error":{"code":1}}`, jsonType, "Sun, 01 Mar 1026 12:01:00 GMT", date, "", ""},
		{599, `{"error":{"innerError":{"date":"never"},"details":[null]}}`, jsonType, " 7 ", "soon", "", ""},
	} {
		f.Add(a.status, a.body, a.contentType, a.retryAfter, a.date, a.percentage, a.demands)
	}
	f.Fuzz(func(t *testing.T, status int, body, contentType, retryAfter, date, percentage, demands string) {
		if status < 200 || status > 999 {
			return // net/http handles these itself
		}
		r, err := revoker.New(revoker.Config{
			Root: "https://graph.test", Credential: withRole(),
			Transport: foreign{status, body, contentType, retryAfter, date, percentage, demands},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 2 { // the second time with the state that the first one left
			attempt, err := r.Revoke(t.Context(), ada)
			var failure *revoker.Error
			switch {
			case err == nil:
				if status/100 != 2 {
					t.Fatalf("HTTP %d is a success", status)
				}
				if len(body) > 0 && !strings.Contains(strings.ToLower(contentType), "json") {
					t.Fatalf("%q of type %q is a success", body, contentType)
				}
				var answer map[string]any
				if err := json.Unmarshal([]byte(body), &answer); body != "" && (err != nil || answer == nil) {
					t.Fatalf("%q is a success: %v", body, err)
				}
				for name, value := range answer {
					if strings.EqualFold(name, "error") || strings.EqualFold(name, "value") && value != true && value != nil {
						t.Fatalf("%q is a success", body)
					}
				}
			case !errors.As(err, &failure):
				t.Fatalf("%T: %v", err, err)
			case failure.RetryAfter() < 0:
				t.Fatalf("Retry-After %s", failure.RetryAfter())
			case len(failure.Error()) > 4096 || utf8.ValidString(body) && !utf8.ValidString(failure.Error()):
				t.Fatalf("an error of %d bytes: %q", len(failure.Error()), failure.Error())
			}
			if attempt.Usage < 0 || attempt.Usage >= 100 || attempt.Usage != attempt.Usage {
				t.Fatalf("usage %v", attempt.Usage)
			}
		}
	})
}
