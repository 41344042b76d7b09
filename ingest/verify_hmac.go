package ingest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// These senders sign the body with a shared secret (HMAC, RFC 2104).

// signature is how a sender signs.
type signature struct {
	header, prefix            string
	timestampHeader, idHeader string
	new                       func() hash.Hash
	decode                    func(string) ([]byte, error)
	signed                    []string
}

// presets are the signatures of known senders.
var presets = map[string]signature{
	"github": {
		header: "X-Hub-Signature-256", prefix: "sha256=", idHeader: "X-GitHub-Delivery",
		new: sha256.New, decode: hex.DecodeString, signed: []string{"body"},
	},
	"bamboohr": {
		header: "X-BambooHR-Signature", timestampHeader: "X-BambooHR-Timestamp",
		new: sha256.New, decode: hex.DecodeString, signed: []string{"body", "timestamp"},
	},
	"hibob": {header: "Bob-Signature", new: sha512.New, decode: base64.StdEncoding.DecodeString, signed: []string{"body"}},
	"personio": {
		header: "X-Personio-Signature", new: sha256.New, decode: hex.DecodeString, signed: []string{"body"},
	},
	"deel": {header: "X-Deel-Signature", new: sha256.New, decode: hex.DecodeString, signed: []string{"method", "body"}},
	"rippling": {
		header: "X-Rippling-Signature", new: sha256.New, decode: hex.DecodeString, signed: []string{"body"},
	},
}

// preset builds the verifier of a known sender.
func preset(name string) func(b *builder) (verifier, error) {
	return func(b *builder) (verifier, error) {
		s := presets[name]
		if b.Encoding != "" {
			var err error
			if s.decode, err = decoding(b.Encoding); err != nil {
				return verifier{}, err
			}
		}
		return newSigned(b, s)
	}
}

// newHMAC knows a sender that signs in a way that the settings describe.
func newHMAC(b *builder) (verifier, error) {
	s := signature{
		header: b.Header, prefix: b.Prefix, timestampHeader: b.TimestampHeader, idHeader: b.IDHeader,
		new: sha256.New, signed: b.Signed,
	}
	for _, name := range []string{b.Header, b.TimestampHeader, b.IDHeader} {
		if name != "" && !httpguts.ValidHeaderFieldName(name) {
			return verifier{}, errors.New("header, timestamp_header, id_header: not the name of a header")
		}
	}
	switch b.Algorithm {
	case "", "sha256":
	case "sha512":
		s.new = sha512.New
	default:
		return verifier{}, errors.New("algorithm: sha256 or sha512")
	}
	var err error
	if s.decode, err = decoding(b.Encoding); err != nil {
		return verifier{}, err
	}
	if len(s.signed) == 0 {
		s.signed = []string{"body"}
	}
	count := map[string]int{}
	for _, part := range s.signed {
		count[part]++
	}
	switch {
	case count["body"] != 1:
		return verifier{}, errors.New("signed: must have body once")
	case (count["timestamp"] > 0) != (b.TimestampHeader != ""):
		return verifier{}, errors.New("signed: timestamp and timestamp_header belong together; a time that is not signed proves nothing")
	case count["id"] > 0 && b.IDHeader == "":
		return verifier{}, errors.New("signed: id needs id_header")
	}
	return newSigned(b, s)
}

func decoding(name string) (func(string) ([]byte, error), error) {
	switch name {
	case "", "hex":
		return hex.DecodeString, nil
	case "base64":
		return base64.StdEncoding.DecodeString, nil
	}
	return nil, errors.New("encoding: hex or base64")
}

func newSigned(b *builder, s signature) (verifier, error) {
	key, err := b.secret(nil)
	tolerance := b.Tolerance
	return verifier{
		after: func(in *incoming) (delivery, *answer) {
			text, prefixed := strings.CutPrefix(single(in.Header, s.header), s.prefix)
			given, err := s.decode(text)
			if text == "" || !prefixed || err != nil || len(given) != s.new().Size() {
				return delivery{}, forbidden("the header " + s.header + " is missing, or holds no signature of the expected form")
			}
			right := false
			for _, value := range key.all(in.now) {
				right = hmac.Equal(s.sum(value, in), given) || right
			}
			if !right {
				return delivery{}, forbidden("the signature does not match: check the secret of this webhook, " +
					"and that nothing on the way changes the body")
			}
			if s.timestampHeader == "" {
				return delivery{}, nil
			}
			if a := checkTimestamp(single(in.Header, s.timestampHeader), in.now, tolerance); a != nil {
				return delivery{}, a
			}
			return delivery{once: string(given)}, nil
		},
		id: func(in *incoming) string {
			if s.idHeader == "" {
				return ""
			}
			return single(in.Header, s.idHeader)
		},
	}, err
}

// sum computes the signature that the request should have.
func (s signature) sum(key string, in *incoming) []byte {
	mac := hmac.New(s.new, []byte(key))
	for _, part := range s.signed {
		switch part {
		case "body":
			mac.Write(in.body)
		case "timestamp":
			mac.Write([]byte(single(in.Header, s.timestampHeader)))
		case "id":
			mac.Write([]byte(single(in.Header, s.idHeader)))
		case "method":
			mac.Write([]byte(in.Method))
		default:
			mac.Write([]byte(part))
		}
	}
	return mac.Sum(nil)
}

// checkTimestamp checks the time of a signature, in seconds since 1970.
func checkTimestamp(text string, now time.Time, tolerance time.Duration) *answer {
	seconds, err := strconv.ParseInt(text, 10, 64)
	// Seconds of this size cannot overflow a duration.
	if err != nil || seconds < 0 || seconds > 1<<33 {
		return forbidden("the time of the signature is not in seconds since 1970")
	}
	if off := now.Sub(time.Unix(seconds, 0)); off > tolerance || off < -tolerance {
		return forbidden("the time of the signature differs from now by more than " + tolerance.String() +
			": check both clocks; an old request is not accepted again")
	}
	return nil
}
