package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzReadObject compares what readArray and readObject return with what the standard library's
// decoder finds, token by token.
func FuzzReadObject(f *testing.F) {
	f.Add(`{"userId":"a","UserId":"b","us\u0065rId":null}`)
	f.Add(`{"data":{"userId":[1,{"type":"x"}]},"type":1e5,"id" : "\\\"}" , "":0}`)
	f.Add(`[{"id":"1"}, 2,null ,"]",[]]`)
	f.Add(`{"\ud800id":1,"type":"\u00e9","time":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		raw, problem := checkJSON("body", []byte(text))
		if problem != nil {
			return
		}
		if values, problem := readArray(string(raw)); problem == nil {
			var want []json.RawMessage
			if err := json.Unmarshal(raw, &want); err != nil || len(want) != len(values) {
				t.Fatalf("%d values, want %d (%v)", len(values), len(want), err)
			}
			for i := range want {
				if values[i] != string(want[i]) {
					t.Errorf("value %d is %s, want %s", i, values[i], want[i])
				}
			}
		}
		o, problem := readObject("event", "", string(raw), eventNames)
		if problem != nil {
			if raw[0] == '{' {
				t.Fatal(problem)
			}
			return
		}
		for _, name := range eventNames {
			got := o.member(name)
			want := byDecoder(t, raw, name)
			if got.value != want.value || got.written != want.written || got.times != want.times {
				t.Errorf("%s is %+v, want %+v", name, got, want)
			}
		}
	})
}

func byDecoder(t *testing.T, raw json.RawMessage, name string) (m member) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if _, err := decoder.Token(); err != nil {
		t.Fatal(err)
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			t.Fatal(err)
		}
		written := token.(string)
		if !strings.EqualFold(written, name) {
			continue
		}
		m.times++
		m.written = written
		if written == name && string(value) != "null" {
			m.value = string(value)
		}
	}
	return m
}
