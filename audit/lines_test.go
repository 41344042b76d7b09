package audit_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/session-revoker/session-revoker/audit"
)

// verifyEach is Verify with the entries that it hands on.
func verifyEach(t *testing.T, r io.Reader) (audit.Report, []audit.Entry) {
	t.Helper()
	var entries []audit.Entry
	report, err := audit.Verify(r, audit.Options{Each: func(e audit.Entry) { entries = append(entries, e) }})
	if err != nil {
		t.Fatal(err)
	}
	return report, entries
}

func TestVerifyGoesOnAfterALineThatIsTooLong(t *testing.T) {
	lines := written(t, 3)
	text := lines[0] + strings.Repeat("x", 3<<20) + "\n" + strings.Join(lines[1:], "")
	r, entries := verifyEach(t, iotest.HalfReader(strings.NewReader(text)))
	if len(entries) != 4 || r.Unreadable != 1 || r.ProblemCount != 1 || !strings.Contains(r.Problems[0], "line 2") {
		t.Errorf("%d entries; %+v", len(entries), r)
	}
	if entries[1].Line != 3 || entries[1].Decision.UserPrincipalName != "user1@contoso.com" || !entries[3].End {
		t.Errorf("%+v", entries)
	}
}

func TestVerifySaysThatTheLastLineIsIncomplete(t *testing.T) {
	text := strings.Join(written(t, 3), "")
	r, entries := verifyEach(t, strings.NewReader(text[:len(text)-40]))
	if len(entries) != 3 || r.Unreadable != 1 || !strings.Contains(r.Problems[0], "being written") {
		t.Errorf("%d entries; %+v", len(entries), r)
	}
	// Without the last line feed only, it is complete.
	if r, entries = verifyEach(t, strings.NewReader(strings.TrimSuffix(text, "\n"))); len(entries) != 4 || r.ProblemCount != 0 {
		t.Errorf("%d entries; %+v", len(entries), r)
	}
}

func TestVerifyMarksChangedRecords(t *testing.T) {
	lines := written(t, 3)
	lines[1] = strings.Replace(lines[1], "user1@", "user9@", 1)
	r, entries := verifyEach(t, strings.NewReader(strings.Join(lines, "")))
	if len(entries) != 4 || !entries[1].Changed || entries[0].Changed || entries[2].Changed || r.Unreadable != 0 || r.ProblemCount != 1 {
		t.Errorf("%+v; %+v", entries, r)
	}
}

func TestVerifyCountsMoreProblemsThanItLists(t *testing.T) {
	r, _ := verifyEach(t, strings.NewReader(strings.Repeat("rubbish\n", 1000)))
	if len(r.Problems) != 100 || r.ProblemCount != 1000 || r.Unreadable != 1000 {
		t.Errorf("%d of %d listed", len(r.Problems), r.ProblemCount)
	}
}

func TestVerifyReturnsErrorsOfReading(t *testing.T) {
	_, err := audit.Verify(iotest.ErrReader(errors.New("the disk is gone")), audit.Options{})
	if err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("%v", err)
	}
}
