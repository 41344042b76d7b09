package main

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/replay"
)

func TestListingSplitsLongLists(t *testing.T) {
	some := listing(audit.Operation{Source: "q"}, []int64{20, 5, 7, 10, 11, 12})
	if len(some) != 1 || some[0].Messages != "5,7,10-12,20" || some[0].Count != 6 || some[0].Source != "q" {
		t.Errorf("%+v", some)
	}
	if none := listing(audit.Operation{}, nil); len(none) != 1 || none[0].Count != 0 {
		t.Errorf("%+v", none)
	}
	var odd []int64
	for i := range int64(20_000) {
		odd = append(odd, 1+2*i)
	}
	total := 0
	for _, r := range listing(audit.Operation{}, odd) {
		if total += r.Count; len(r.Messages) > maxMessages+64 {
			t.Errorf("a record lists %d bytes", len(r.Messages))
		}
		if _, err := replay.ParseRanges(strings.Split(r.Messages, ",")); err != nil {
			t.Error(err)
		}
	}
	if total != len(odd) {
		t.Errorf("%d of %d are listed", total, len(odd))
	}
}
