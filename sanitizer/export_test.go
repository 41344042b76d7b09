package sanitizer

import "testing"

// Attack is one of the messages that stopped the worker, for tests with the real client.
type Attack struct {
	Name    string
	Encoded []byte
	Mended  bool
}

// Attacks lists the attacks that a broker accepts. A broker checks everything except the body and
// the footer.
func Attacks() (list []Attack) {
	for _, a := range attacks {
		switch a.name {
		case "garbage", "data that is a string", "an unknown type":
			continue
		}
		list = append(list, Attack{a.name, a.message(), a.mended != ""})
	}
	for name, depth := range map[string]int{
		"255 KB of nested lists": 255_000 / 9, "1 MB of nested lists": 1 << 20 / 9, "4 MB of nested lists": (4<<20 - 100) / 9,
	} {
		list = append(list, Attack{name, append([]byte{0, codeSmallUlong, sectionValue}, nested2(depth)...), false})
	}
	return list
}

// Random returns a function that makes random messages. stream selects one of several sequences.
func Random(t testing.TB, stream uint64) func() []byte {
	m := newMaker(t, stream)
	return func() []byte { return m.message(false) }
}
