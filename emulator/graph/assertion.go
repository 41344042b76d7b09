package graph

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// assertionType marks a signed statement by which an app proves its identity (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Federation is a foreign issuer whose statements an app may sign in with instead of its own: a
// workload identity federation
// (https://learn.microsoft.com/entra/workload-id/workload-identity-federation).
type Federation struct {
	// Issuer and Subject are the statement's. Key verifies the issuer's signature.
	Issuer, Subject string
	Key             *rsa.PublicKey
}

// federatedAudience is the audience of a federated statement.
const federatedAudience = "api://AzureADTokenExchange"

// assertion is the part of the signed statement that matters here.
type assertion struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
}

// proves returns the reason, in Entra's words, why the statement does not prove that the caller is
// the app; "" if it does. endpoint is the token endpoint's URL, which is the audience of an app's
// own statements.
func (app App) proves(statement, endpoint string) (problem string) {
	header, rest, ok := strings.Cut(statement, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return "the assertion is not a JWT"
	}
	var h struct {
		Algorithm string `json:"alg"`
	}
	var a assertion
	if err := errors.Join(decodePart(header, &h), decodePart(payload, &a)); err != nil {
		return "the assertion cannot be read"
	}
	now := time.Now().Unix()
	if now >= a.Expires || now < a.NotBefore {
		return "AADSTS700024: Client assertion is not within its valid time range."
	}
	key, audience := app.Certificate, endpoint
	if a.Issuer != app.ClientID {
		key, audience = nil, federatedAudience
		for _, f := range app.Federated {
			if f.Issuer == a.Issuer && f.Subject == a.Subject {
				key = f.Key
			}
		}
		if key == nil {
			return fmt.Sprintf("AADSTS70021: No matching federated identity record found for presented assertion. "+
				"Assertion Issuer: '%s'. Assertion Subject: '%s'.", a.Issuer, a.Subject)
		}
	}
	if key == nil {
		return "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application."
	}
	if a.Audience != audience {
		return fmt.Sprintf("AADSTS700212: No matching audience: '%s' is not '%s'.", a.Audience, audience)
	}
	signed, err := base64URL.DecodeString(signature)
	if err != nil {
		return "the assertion's signature cannot be read"
	}
	sum := sha256.Sum256([]byte(header + "." + payload))
	switch h.Algorithm {
	case "RS256":
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signed)
	case "PS256":
		err = rsa.VerifyPSS(key, crypto.SHA256, sum[:], signed, nil)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return "AADSTS700027: Client assertion failed signature validation."
	}
	return ""
}

func decodePart(part string, into any) error {
	text, err := base64URL.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
