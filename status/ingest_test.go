package status

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"
)

// A machine that runs tests may be busy for longer than a worker.
func init() { askTimeout = time.Minute }

func TestAskIngest(t *testing.T) {
	page := `# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.6e+09
# TYPE session_revoker_ingest_build_info gauge
session_revoker_ingest_build_info{version="1"} 1
# TYPE session_revoker_ingest_last_accepted_timestamp_seconds gauge
session_revoker_ingest_last_accepted_timestamp_seconds{source="okta"} 1.7e+09
session_revoker_ingest_last_accepted_timestamp_seconds{source="jamf"} 0
# TYPE session_revoker_ingest_expected_interval_seconds gauge
session_revoker_ingest_expected_interval_seconds{source="okta"} 3600
`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }))
	defer server.Close()
	heard := time.Unix(1_700_000_000, 0).UTC()
	want := Ingest{
		Address: server.URL, Started: time.Unix(1_600_000_000, 0).UTC(),
		Senders: []Sender{{Name: "jamf"}, {Name: "okta", LastHeard: heard, ExpectSeconds: 3600}},
	}
	got := AskIngest(context.Background(), server.Client(), server.URL)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if okta := got.Senders[1]; okta.Late(heard.Add(time.Hour)) || !okta.Late(heard.Add(time.Hour+time.Second)) ||
		got.Senders[0].Late(heard) {
		t.Error("an event is late at the wrong time")
	}
	page = "up 1\n"
	if got := AskIngest(context.Background(), server.Client(), server.URL); got.Error == "" || len(got.Senders) != 0 {
		t.Errorf("%+v", got)
	}
}
