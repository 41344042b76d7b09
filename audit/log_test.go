package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/audit"
)

func decision(i int) audit.Decision {
	return audit.Decision{
		Time: time.Date(2026, 3, 1, 12, 0, i, 0, time.UTC), Outcome: "revoked",
		UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), Source: "q", SequenceNumber: int64(i),
	}
}

// written returns the lines of an audit log with n decisions and its end.
func written(t *testing.T, n int) []string { return writtenWith(t, n, audit.Key{}) }

func writtenWith(t *testing.T, n int, key audit.Key) []string {
	t.Helper()
	var b bytes.Buffer
	tr := audit.New(&b, key)
	for i := range n {
		if _, err := tr.Write(decision(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tr.Close(), tr.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Write(decision(0)); err == nil {
		t.Error("written after the end")
	}
	return slices.Collect(strings.Lines(b.String()))
}

func verify(t *testing.T, lines ...string) audit.Report {
	t.Helper()
	report, err := audit.Verify(strings.NewReader(strings.Join(lines, "")), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestVerifyAcceptsAnUnchangedLog(t *testing.T) {
	one, two := written(t, 20), written(t, 3)
	if r := verify(t, one...); r.Records != 21 || r.Chains != 1 || len(r.Open)+len(r.Problems) != 0 {
		t.Errorf("%+v", r)
	}
	// Two processes write into one file.
	var mixed []string
	for i, line := range one {
		mixed = append(mixed, line)
		if i < len(two) {
			mixed = append(mixed, two[i])
		}
	}
	if r := verify(t, mixed...); r.Chains != 2 || r.Records != 25 || len(r.Open)+len(r.Problems) != 0 {
		t.Errorf("%+v", r)
	}
	if r := verify(t, one[:20]...); len(r.Open) != 1 || len(r.Problems) != 0 {
		t.Errorf("without its end: %+v", r)
	}
	if r := verify(t); r.Records != 0 || len(r.Problems) != 0 {
		t.Errorf("an empty audit log: %+v", r)
	}
}

func TestVerifyShowsChangedAddedAndRemovedRecords(t *testing.T) {
	lines := written(t, 10)
	other := written(t, 10)
	change := func(f func([]string) []string) []string { return f(slices.Clone(lines)) }
	for name, tampered := range map[string][]string{
		"changed":     change(func(l []string) []string { l[4] = strings.Replace(l[4], "user4@", "user5@", 1); return l }),
		"taken away":  change(func(l []string) []string { return slices.Delete(l, 4, 5) }),
		"the first":   change(func(l []string) []string { return l[1:] }),
		"swapped":     change(func(l []string) []string { l[4], l[5] = l[5], l[4]; return l }),
		"repeated":    change(func(l []string) []string { return slices.Insert(l, 4, l[4]) }),
		"half a line": change(func(l []string) []string { l[4] = l[4][:40] + "\n"; return l }),
		"rubbish":     change(func(l []string) []string { return slices.Insert(l, 4, "rubbish\n") }),
		"of another":  change(func(l []string) []string { l[4] = other[4]; return l }),
		"gone on":     change(func(l []string) []string { return append(l, l[3]) }),
		"its hash": change(func(l []string) []string {
			l[4] = strings.Replace(l[4], `"hash":"`, `"hash":"0`, 1)
			return l
		}),
	} {
		if r := verify(t, tampered...); len(r.Problems) == 0 {
			t.Errorf("%s: nothing was noticed: %+v", name, r)
		}
	}
}

func TestLogOfManyWritersIsOneChain(t *testing.T) {
	var b bytes.Buffer
	tr := audit.New(&b, audit.Key{})
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() {
			for range 50 {
				if _, err := tr.Write(decision(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := audit.Verify(&b, audit.Options{}); err != nil || r.Records != 801 || len(r.Problems) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// full accepts a number of bytes. After that it fails, in the middle of a record.
type full struct {
	bytes.Buffer
	room int
}

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	_, _ = f.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errors.New("disk full")
	}
	return n, nil
}

func TestVerifyMissesARecordThatCouldNotBeWritten(t *testing.T) {
	f := &full{room: 700}
	tr := audit.New(f, audit.Key{})
	failed := 0
	for i := range 5 {
		if _, err := tr.Write(decision(i)); err != nil {
			failed++
		}
		if i == 3 {
			f.room = 1 << 20 // there is room again
		}
	}
	_ = tr.Close()
	if r, err := audit.Verify(&f.Buffer, audit.Options{}); err != nil || failed == 0 || len(r.Problems) == 0 {
		t.Errorf("%d failed; %+v, %v", failed, r, err)
	}
}
