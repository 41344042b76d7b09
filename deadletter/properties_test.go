package deadletter_test

import (
	"maps"
	"reflect"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

func TestOverwriteLeavesNoneOfOurProperties(t *testing.T) {
	whole := map[string]any{
		deadletter.PropertyReplays: "2", deadletter.PropertyRun: "6c9bbefc-0597-4d45-b4e1-ba7ea47a1d46",
		deadletter.PropertyReplayedBy: "me", deadletter.PropertyReplayedAt: "2026-03-01T12:00:00Z",
		deadletter.PropertyOriginalID: "first",
	}
	one := func(name string, value any) map[string]any { return map[string]any{name: value} }
	with := func(base map[string]any, name string, value any) map[string]any {
		more := maps.Clone(base)
		more[name] = value
		return more
	}
	for name, c := range map[string]struct{ carried, written, want map[string]any }{
		"nothing": {nil, one("a", "1"), one("a", "1")},
		"a property that is written now": {
			one(deadletter.PropertyFailed, "0"), one(deadletter.PropertyFailed, "1"), one(deadletter.PropertyFailed, "1"),
		},
		"another type":        {one(deadletter.PropertyCode, []byte("x")), nil, one(deadletter.PropertyCode, "")},
		"an empty property":   {one(deadletter.PropertyCode, ""), nil, nil},
		"someone else's":      {map[string]any{"mine": "x", "revoker-unknown": "y"}, nil, nil},
		"complete replays":    {whole, nil, nil},
		"incomplete replays":  {one(deadletter.PropertyReplays, "2"), nil, one(deadletter.PropertyReplays, "")},
		"indexes of a replay": {with(whole, deadletter.PropertyOnly, "1"), nil, one(deadletter.PropertyOnly, "")},
		"replays with a negative count": {
			with(whole, deadletter.PropertyReplays, "-1"), nil, map[string]any{
				deadletter.PropertyReplays: "", deadletter.PropertyRun: "", deadletter.PropertyReplayedBy: "",
				deadletter.PropertyReplayedAt: "", deadletter.PropertyOriginalID: "",
			},
		},
	} {
		written := map[string]any{}
		maps.Copy(written, c.written)
		got := deadletter.Overwrite(&azservicebus.ReceivedMessage{ApplicationProperties: c.carried}, written)
		if len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestIndexesOfAMalformedListMeanAll(t *testing.T) {
	for text, want := range map[string][]int{"0,7": {0, 7}, "": nil, "x": nil, "1,": nil, "-1": nil, "1000": nil, "1;2": nil} {
		if got := deadletter.Indexes(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
