package report

import "testing"

func TestCSVCellIsNoFormula(t *testing.T) {
	for cell, want := range map[string]string{
		"": "", "ada@contoso.com": "ada@contoso.com", "=1": "'=1", " =1": "' =1", "＝1": "'＝1", "-5": "'-5", "@x": "'@x", "5": "5",
	} {
		if got := harmless(cell); got != want {
			t.Errorf("%q: %q, want %q", cell, got, want)
		}
	}
}
