package replay

import (
	"strings"
	"testing"
)

// FuzzReadRecord: a line of a file is a record, or an error.
func FuzzReadRecord(f *testing.F) {
	for _, line := range []string{
		`{}`, `null`, `{"sequenceNumber":1,"messageId":"x","body":"{}"}`, `{"bodyBase64":"%%%"}`, `{"bodyAmqp":"AFN3"}`, `{"unknown":1}`, `[1]`, strings.Repeat("[", 10000),
		`{"applicationProperties":{"a":{"type":"uuid","value":"x"}}}`, `{"applicationProperties":{"a":{"type":"binary","value":"AA=="}}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ReadRecord(line)
		if err != nil {
			return
		}
		_, _ = r.Message(Run{})
	})
}
