package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/audit"
)

func newKey(t *testing.T, text string) audit.Key {
	t.Helper()
	key, err := audit.NewKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verifyWith(t *testing.T, options audit.Options, lines ...string) audit.Report {
	t.Helper()
	report, err := audit.Verify(strings.NewReader(strings.Join(lines, "")), options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// forge changes the record at an index and recomputes the chain after it, as anyone can who may
// write to the file. It leaves the MACs as they were.
func forge(t *testing.T, lines []string, at int) []string {
	t.Helper()
	lines = slices.Clone(lines)
	previous := ""
	for i := range lines {
		var l struct {
			Record json.RawMessage `json:"record"`
			Hash   string          `json:"hash"`
			MAC    string          `json:"mac,omitempty"`
		}
		if err := json.Unmarshal([]byte(lines[i]), &l); err != nil {
			t.Fatal(err)
		}
		if i == at {
			l.Record = bytes.Replace(l.Record, []byte("user4@"), []byte("eve@"), 1)
		}
		if i > at {
			var was struct {
				Previous string `json:"previous"`
			}
			if err := json.Unmarshal(l.Record, &was); err != nil {
				t.Fatal(err)
			}
			l.Record = bytes.Replace(l.Record, []byte(was.Previous), []byte(previous), 1)
		}
		sum := sha256.Sum256(l.Record)
		l.Hash = hex.EncodeToString(sum[:])
		previous = l.Hash
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(text) + "\n"
	}
	return lines
}

func TestVerifyWithKeyShowsRewritingAndTruncation(t *testing.T) {
	key := newKey(t, strings.Repeat("k", 32))
	lines := writtenWith(t, 10, key)
	with := audit.Options{Keys: []audit.Key{key}}
	if r := verifyWith(t, with,
		lines...); len(r.Problems)+len(r.Open) != 0 || r.Records != 11 || !r.Keyed || !strings.HasPrefix(r.Claim, "authentic") {
		t.Fatalf("%+v", r)
	}
	for name, c := range map[string]struct {
		options audit.Options
		lines   []string
		problem string
	}{
		"the middle rewritten, the chain mended": {with, forge(t, lines, 4), "the MAC of record 5"},
		"the whole file replaced":                {with, written(t, 10), "without a MAC"},
		"replaced, under a key of their own":     {with, writtenWith(t, 10, newKey(t, strings.Repeat("e", 32))), "another key"},
		"the wrong key": {
			audit.Options{Keys: []audit.Key{newKey(t, strings.Repeat("w", 40))}},
			lines,
			"another key",
		},
		"an end put behind a cut": {with, append(slices.Clone(lines[:8]), lines[10]), "follows record 8"},
	} {
		r := verifyWith(t, c.options, c.lines...)
		if len(r.Problems) == 0 || r.Claim != "" || !strings.Contains(strings.Join(r.Problems, "\n"), c.problem) {
			t.Errorf("%s: %q is missing: %+v", name, c.problem, r)
		}
	}
	// The tail was cut. Then the chain is open, and nothing shows how long it was.
	for _, n := range []int{10, 5, 1} {
		r := verifyWith(t, with, lines[:n]...)
		if len(r.Open) != 1 || r.Open[0].Last != n || r.Open[0].Sealed {
			t.Errorf("cut behind %d records: %+v", n, r)
		}
	}
	// The file has chains from before and after a change of the key.
	other := newKey(t, strings.Repeat("o", 32))
	if r := verifyWith(t, audit.Options{Keys: []audit.Key{other, key}},
		append(slices.Clone(lines), writtenWith(t, 3, other)...)...); len(r.Problems) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestVerifyWithoutKeyClaimsNoMoreThanHolds(t *testing.T) {
	lines := written(t, 10)
	r := verify(t, forge(t, lines, 4)...)
	if len(r.Problems) != 0 || r.Keyed || !strings.Contains(r.Claim, "not proof against somebody who can rewrite the file") {
		t.Errorf("a mended chain without a key verifies, and the claim says so: %+v", r)
	}
	if r := verify(t, writtenWith(t, 3, newKey(t, strings.Repeat("k", 32)))...); r.Unchecked != 4 || len(r.Problems) != 0 || r.Keyed {
		t.Errorf("MACs that nobody checked: %+v", r)
	}
}

// opened writes n decisions to the file, as one process does. The process ends the chain if end is
// set. Otherwise it is killed.
func opened(t *testing.T, name string, key audit.Key, n int, end bool) []audit.Receipt {
	t.Helper()
	tr, err := audit.Open(name, key)
	if err != nil {
		t.Fatal(err)
	}
	var receipts []audit.Receipt
	for i := range n {
		receipt, err := tr.Write(decision(i))
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, receipt)
	}
	if end {
		err = tr.Close()
	} else {
		err = tr.Sync() // the process is killed afterwards
	}
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

func linesOf(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

func TestChainNamesTheOneBeforeIt(t *testing.T) {
	key := newKey(t, strings.Repeat("k", 32))
	name := filepath.Join(t.TempDir(), "audit.ndjson")
	opened(t, name, key, 3, true)  // lines 0 to 3
	opened(t, name, key, 2, false) // lines 4 and 5: killed
	opened(t, name, key, 4, true)  // lines 6 to 10
	lines := linesOf(t, name)
	with := audit.Options{Keys: []audit.Key{key}}
	if r := verifyWith(t, with, lines...); len(r.Problems) != 0 || len(r.Open) != 1 || !r.Open[0].Sealed || r.Chains != 3 {
		t.Errorf("the killed chain is sealed by the next one: %+v", r)
	}
	for name, cut := range map[string][]string{
		"a whole chain":            slices.Delete(slices.Clone(lines), 4, 6),
		"the end of the first":     slices.Delete(slices.Clone(lines), 3, 4),
		"the end of a killed one":  slices.Delete(slices.Clone(lines), 5, 6),
		"everything before a line": lines[6:],
	} {
		if r := verifyWith(t, with, cut...); len(r.Problems) == 0 {
			t.Errorf("%s was taken away unseen: %+v", name, r)
		}
	}
	// A process was killed while it wrote a record. The half record must not swallow the next one.
	if err := os.WriteFile(name, []byte(strings.Join(lines[:4], "")+lines[4][:50]), 0o600); err != nil {
		t.Fatal(err)
	}
	opened(t, name, key, 2, true)
	if r := verifyWith(t, with, linesOf(t, name)...); len(r.Problems) != 1 || r.Chains != 2 || len(r.Open) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestReceiptsShowWhatTheFileCannot(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.ndjson")
	first := opened(t, name, audit.Key{}, 10, true)
	second := opened(t, name, audit.Key{}, 3, true)
	lines := linesOf(t, name)
	published, err := audit.ReadReceipts(strings.NewReader(
		`{"specversion":"1.0","type":"session.revoked","data":{"outcome":"revoked","receipt":` + asJSON(t, first[8]) + "}}\n\n" +
			asJSON(t, second[1]) + "\n" + `{"specversion":"1.0","type":"other"}` + "\n"))
	if err != nil || len(published) != 2 {
		t.Fatalf("%+v, %v", published, err)
	}
	with := audit.Options{Receipts: published}
	if r := verifyWith(t, with, lines...); len(r.Problems)+len(r.Open) != 0 || r.Receipts != 2 {
		t.Errorf("%+v", r)
	}
	for name, cut := range map[string][]string{
		"the last chain":                 lines[:11],
		"the middle, rewritten":          append(forge(t, lines[:11], 4), lines[11:]...),
		"everything":                     nil,
		"the end of a chain that is cut": append(slices.Clone(lines[:7]), lines[11:]...),
	} {
		if r := verifyWith(t, with, cut...); len(r.Problems) == 0 {
			t.Errorf("%s was changed unseen: %+v", name, r)
		}
	}
	if r := verifyWith(t, with, lines[:13]...); len(r.Open) != 1 || !r.Open[0].Sealed {
		t.Errorf("a receipt seals what was there: %+v", r)
	}
	if _, err := audit.ReadReceipts(strings.NewReader("rubbish")); err == nil {
		t.Error("rubbish is read as receipts")
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestKeyThatIsUnusableIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, text := range map[string]string{
		"short": strings.Repeat("secret", 5) + "\n\n\n", "empty": "",
		"large": strings.Repeat("x", 5000),
	} {
		if _, err := audit.ReadKey(file(name, text)); err == nil || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := audit.ReadKey(filepath.Join(dir, "nowhere")); err == nil || strings.Contains(err.Error(), "nowhere") {
		t.Error("a key file that is not there")
	}
	if _, err := audit.ReadKey(file("good", strings.Repeat("x", 64)+"\n")); err != nil {
		t.Error(err)
	}
}

func TestRecordIsASCIIWhateverAProducerSends(t *testing.T) {
	var b bytes.Buffer
	tr := audit.New(&b, audit.Key{})
	const hostile = "a\u009b2J\u202e\u2066\u200b\x7f\U000e0041ö\x1b[31m\n"
	d := decision(0)
	d.MessageID = hostile
	if _, err := tr.Write(d); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.WriteOperation(audit.Operation{Command: "revoke", Why: hostile, Outcome: audit.Started}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range strings.ReplaceAll(b.String(), "\n", "") {
		if c < 0x20 || c > 0x7e {
			t.Errorf("%U in the file", c)
		}
	}
	var l struct {
		Record struct{ Decision audit.Decision }
	}
	if err := json.Unmarshal([]byte(strings.SplitN(b.String(), "\n", 2)[0]), &l); err != nil || l.Record.Decision.MessageID != hostile {
		t.Errorf("%q, %v", l.Record.Decision.MessageID, err)
	}
	if r := verify(t, b.String()); len(r.Problems) != 0 || r.Records != 3 {
		t.Errorf("%+v", r)
	}
}
