package trail

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxLine bounds one record, in bytes.
const maxLine = 1 << 20

// Report is what Verify found.
type Report struct {
	// Chains is how many processes have written, Records how many records there are, the ends of chains included.
	Chains  int `json:"chains"`
	Records int `json:"records"`
	// Open are chains without an end: their process was killed, runs still, or the end was taken away.
	Open []string `json:"open,omitempty"`
	// Problems are records that were changed, added or taken away: the first hundred.
	Problems []string `json:"problems,omitempty"`
}

// maxProblems bounds what is reported.
const maxProblems = 100

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// state is how far a chain was read.
type state struct {
	number   int
	previous string
	ended    bool
}

// Verify reads an audit trail, of one or several processes, and looks whether every record is as it was written, and none is missing
// between the first and the last of its chain. The error is one of reading.
//
// What it cannot see: records that were taken from the end of a chain which is open, and a whole chain that is gone. Whoever may write the file can
// write a whole new one: keep a copy elsewhere, the topic for example.
func Verify(r io.Reader) (Report, error) {
	var report Report
	chains := map[string]*state{}
	var order []string
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	for n := 1; scanner.Scan(); n++ {
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		report.Records++
		var written line
		var rec record
		if err := errors.Join(json.Unmarshal(scanner.Bytes(), &written), json.Unmarshal(written.Record, &rec)); err != nil {
			report.problem("line %d: not a record", n)
			continue
		}
		sum := sha256.Sum256(written.Record)
		if hex.EncodeToString(sum[:]) != written.Hash {
			report.problem("line %d: the record was changed", n)
		}
		chain := chains[rec.Chain]
		if chain == nil {
			chain = &state{}
			chains[rec.Chain] = chain
			order = append(order, rec.Chain)
		}
		switch {
		case rec.Number != chain.number+1:
			report.problem("line %d: record %d of chain %s follows record %d", n, rec.Number, rec.Chain, chain.number)
		case rec.Previous != chain.previous:
			report.problem("line %d: record %d of chain %s does not continue the one before", n, rec.Number, rec.Chain)
		case chain.ended:
			report.problem("line %d: chain %s had ended before", n, rec.Chain)
		}
		*chain = state{rec.Number, written.Hash, rec.End}
	}
	report.Chains = len(chains)
	for _, name := range slices.Clip(order) {
		if !chains[name].ended {
			report.Open = append(report.Open, name)
		}
	}
	return report, scanner.Err()
}
