package ingest

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
)

// newStandardWebhooks knows the Standard Webhooks of https://www.standardwebhooks.com, and Svix's
// headers of the same scheme: an HMAC (v1, with a secret whsec_…) or an Ed25519 signature (v1a, with
// a public key whpk_…) of id, time, and body.
func newStandardWebhooks(b *builder) (verifier, error) {
	key, err := b.secret(func(value string) error {
		_, err := standardKey(value)
		return err
	})
	tolerance := b.Tolerance
	return verifier{
		after: func(in *incoming) (delivery, *answer) {
			id, timestamp, signatures := standardHeaders(in.Header)
			if id == "" || timestamp == "" || signatures == "" || len(signatures) > maxSignatures {
				return delivery{}, forbidden("webhook-id, webhook-timestamp, or webhook-signature is missing")
			}
			signed := append([]byte(id+"."+timestamp+"."), in.body...)
			right := false
			for _, value := range key.all(in.now) {
				// What the file holds was checked when it was read.
				if k, err := standardKey(value); err == nil {
					right = k.signed(signed, signatures) || right
				}
			}
			if !right {
				return delivery{}, forbidden("no signature matches: check the secret of this webhook, " +
					"and that nothing on the way changes the body")
			}
			if a := checkTimestamp(timestamp, in.now, tolerance); a != nil {
				return delivery{}, a
			}
			return delivery{once: id + "." + timestamp}, nil
		},
		id: func(in *incoming) string {
			id, _, _ := standardHeaders(in.Header)
			return id
		},
	}, err
}

// maxSignatures bounds webhook-signature, in bytes.
const maxSignatures = 4096

func standardHeaders(h http.Header) (id, timestamp, signatures string) {
	for _, prefix := range []string{"Webhook-", "Svix-"} {
		if h.Get(prefix+"Id") != "" {
			return single(h, prefix+"Id"), single(h, prefix+"Timestamp"), single(h, prefix+"Signature")
		}
	}
	return "", "", ""
}

// standard is a key of one of the two schemes.
type standard struct {
	secret []byte
	public ed25519.PublicKey
}

func standardKey(text string) (standard, error) {
	if encoded, ok := strings.CutPrefix(text, "whpk_"); ok {
		public, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(public) != ed25519.PublicKeySize {
			return standard{}, errors.New("whpk_ must be followed by an Ed25519 public key in Base64")
		}
		return standard{public: public}, nil
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
	if err != nil || len(secret) < minSecret {
		return standard{}, errors.New("whsec_ must be followed by at least 16 bytes in Base64, as the sender shows them")
	}
	return standard{secret: secret}, nil
}

// signed reports whether one of the signatures, which spaces separate, is right.
func (k standard) signed(message []byte, signatures string) bool {
	var want []byte
	version := "v1a"
	if k.public == nil {
		version = "v1"
		mac := hmac.New(sha256.New, k.secret)
		mac.Write(message)
		want = mac.Sum(nil)
	}
	right := false
	for one := range strings.FieldsSeq(signatures) {
		v, encoded, _ := strings.Cut(one, ",")
		given, err := base64.StdEncoding.DecodeString(encoded)
		if v != version || err != nil {
			continue
		}
		if k.public != nil {
			right = len(given) == ed25519.SignatureSize && ed25519.Verify(k.public, message, given) || right
		} else {
			right = hmac.Equal(want, given) || right
		}
	}
	return right
}
