package publish_test

import (
	"io"
	"testing"

	"github.com/session-revoker/session-revoker/audit/publish"
)

func TestOperatorLogIsAFileBesideTheWorkers(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "-": "-", "/var/log/audit.ndjson": "/var/log/audit-operators.ndjson",
		"audit": "audit-operators",
	} {
		if got := publish.OperatorFile(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestOperatorLogIsNilWithoutFileAndTopic(t *testing.T) {
	log, err := publish.OpenOperatorLog(t.Context(), publish.Config{}, io.Discard, nil)
	if log != nil || err != nil {
		t.Errorf("%v, %v", log, err)
	}
}
