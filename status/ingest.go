package status

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Ingest is what one worker ingest says about the sources of its webhooks.
type Ingest struct {
	Address string `json:"address"`
	// Error says why it could not be asked. Then nothing else is known.
	Error string `json:"error,omitempty"`
	// Started is when it started. It is zero if that is not known.
	Started time.Time `json:"started,omitzero"`
	Senders []Sender  `json:"senders"`
}

// Sender is a source of webhooks.
type Sender struct {
	Name string `json:"name"`
	// LastHeard is when an event of the source was last put on the queue. It is zero if none was since
	// worker ingest started. ExpectSeconds is the longest time without an event that is normal, or 0.
	LastHeard     time.Time `json:"lastHeard,omitzero"`
	ExpectSeconds float64   `json:"expectSeconds,omitempty"`
}

// Late reports whether an event should have come by now.
func (s Sender) Late(now time.Time) bool {
	return s.ExpectSeconds > 0 && !s.LastHeard.IsZero() && now.Sub(s.LastHeard).Seconds() > s.ExpectSeconds
}

// AskIngest asks one worker ingest at an address that Address has returned.
func AskIngest(ctx context.Context, client *http.Client, address string) Ingest {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	i := Ingest{Address: address, Senders: []Sender{}}
	page, err := get(ctx, client, address+"/metrics", http.StatusOK)
	if err == nil {
		err = i.read(page)
	}
	if err != nil {
		return Ingest{Address: address, Error: reason(err), Senders: []Sender{}}
	}
	return i
}

// read reads the metrics.
func (i *Ingest) read(page []byte) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil || families[namespace+"ingest_build_info"] == nil {
		return errors.New("/metrics does not answer as worker ingest does: is this its operations port?")
	}
	for _, m := range families["process_start_time_seconds"].GetMetric() {
		i.Started = unix(m.GetGauge().GetValue())
	}
	senders := map[string]*Sender{}
	each := func(name string, do func(*Sender, float64)) {
		for _, m := range families[namespace+name].GetMetric() {
			for _, label := range m.GetLabel() {
				if source := label.GetValue(); label.GetName() == "source" {
					if senders[source] == nil {
						senders[source] = &Sender{Name: source}
					}
					do(senders[source], m.GetGauge().GetValue())
				}
			}
		}
	}
	each("ingest_last_accepted_timestamp_seconds", func(s *Sender, value float64) { s.LastHeard = unix(value) })
	each("ingest_expected_interval_seconds", func(s *Sender, value float64) { s.ExpectSeconds = float64(whole(value)) })
	for _, name := range sortedKeys(senders) {
		i.Senders = append(i.Senders, *senders[name])
	}
	return nil
}
