package audit

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// maxLine is the maximum size of a record in bytes.
const maxLine = 1 << 20

// Report is the result of Verify.
type Report struct {
	// Chains is the number of chains, one for each run of a process. Records includes the records
	// that end chains.
	Chains  int `json:"chains"`
	Records int `json:"records"`
	// Keyed reports whether a key was given and each MAC was checked. Unchecked is the number of
	// MACs that were not checked.
	Keyed     bool `json:"keyed"`
	Unchecked int  `json:"macsNotChecked,omitempty"`
	// Receipts is the number of receipts that were compared with the records.
	Receipts int `json:"receipts,omitempty"`
	// Open lists the chains without an end. Verify cannot tell whether records after their last one
	// were cut off.
	Open []OpenChain `json:"open,omitempty"`
	// Last is the last record. Only receipts show that whole chains after it were removed.
	Last *Receipt `json:"last,omitempty"`
	// Problems lists the first hundred records that were changed, added, or removed. ProblemCount is
	// the number of all of them. Unreadable is the number of lines among them that are no records.
	Problems     []string `json:"problems,omitempty"`
	ProblemCount int      `json:"problemCount,omitempty"`
	Unreadable   int      `json:"unreadable,omitempty"`
	// Claim says what is proven. It is empty if there are problems.
	Claim string `json:"claim,omitempty"`
}

// OpenChain is a chain without an end. Its process was killed or is still running, or the end was
// removed.
type OpenChain struct {
	Chain string `json:"chain"`
	// Last is the number of its last record in the file, and Time the time of that record.
	Last int       `json:"last"`
	Time time.Time `json:"time,omitzero"`
	// Sealed reports whether a later chain or a receipt names its last record. Then nothing was cut
	// off that existed at that time.
	Sealed bool `json:"sealed"`
}

// What is proven about a file without problems.
const (
	claimUnkeyed = "consistent: nobody changed or removed a record without computing the hashes after it again; " +
		"not proof against somebody who can rewrite the file (give --key-file)"
	claimKeyed = "authentic: in the chains of this file, nobody without the key has changed, added or removed a record " +
		"before the last one; " +
		"a closed chain is complete"
)

const (
	// maxProblems is the maximum number of problems that are listed.
	maxProblems = 100
	// maxChains is the maximum number of chains. Each one costs about 300 bytes of memory.
	maxChains = 200_000
)

func (r *Report) problem(format string, args ...any) {
	r.ProblemCount++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Options holds what the file is checked against.
type Options struct {
	// Keys are the keys of the chains. Without a key, Verify does not check MACs.
	Keys []Key
	// Receipts were kept elsewhere. The record of each must be in the file.
	Receipts []Receipt
	// Each, if not nil, is called with every record that can be read, in the order of the lines. It
	// may keep what the entry points to.
	Each func(Entry)
}

// Entry is a record of the log. Decision and Operation are nil in a record that ends a chain, and in
// one of a kind that this version does not know.
type Entry struct {
	// Line is the number of the line, from 1.
	Line      int
	Chain     string
	Number    int
	Decision  *Decision
	Operation *Operation
	// End reports whether the record ends its chain.
	End bool
	// Changed reports whether the record's hash or, if it was checked, its MAC is wrong.
	Changed bool
}

// chain is the state of a chain while the file is read.
type chain struct {
	number   int
	previous string
	ended    bool
	time     time.Time
	sealed   int // the greatest number that a later chain or a receipt names
	noMAC    bool
	// want holds the hashes of receipts, by number.
	want map[int]string
}

// verifier checks the lines of a file.
type verifier struct {
	Options
	report *Report
	chains map[string]*chain
	order  []string
}

// Verify reads an audit log of one or several processes. It checks that every record is unchanged,
// and that no record is missing between the first and the last of its chain. Report.Claim says what
// this proves. The error is one of reading.
//
// Even with a key, Verify cannot detect records that were cut from the end of an open chain that
// nothing seals, and whole chains that were removed from the end of the file. Receipts show both.
func Verify(r io.Reader, options Options) (Report, error) {
	report := Report{Keyed: len(options.Keys) > 0, Receipts: len(options.Receipts), Claim: claimUnkeyed}
	if report.Keyed {
		report.Claim = claimKeyed
	}
	v := &verifier{Options: options, report: &report, chains: map[string]*chain{}}
	wanted := map[string]map[int]string{}
	for _, receipt := range options.Receipts {
		if wanted[receipt.Chain] == nil {
			wanted[receipt.Chain] = map[int]string{}
		}
		if known, ok := wanted[receipt.Chain][receipt.Number]; ok && known != receipt.Hash {
			report.problem("two receipts contradict each other about record %d of chain %s", receipt.Number, receipt.Chain)
		}
		wanted[receipt.Chain][receipt.Number] = receipt.Hash
	}
	err := lines(r, func(n int, text []byte, whole bool) error {
		if len(bytes.TrimSpace(text)) > 0 {
			v.line(n, text, whole, wanted)
		}
		if len(v.chains) > maxChains {
			return fmt.Errorf("more than %d chains: verify the files in parts", maxChains)
		}
		return nil
	})
	report.Chains = len(v.chains)
	for _, name := range v.order {
		c := v.chains[name]
		if c.ended {
			continue
		}
		report.Open = append(report.Open, OpenChain{Chain: name, Last: c.number, Time: c.time, Sealed: c.sealed == c.number})
	}
	v.missing(wanted)
	if report.ProblemCount > 0 {
		report.Claim = ""
	}
	return report, err
}

// lines calls each with every line, without its end, until each returns an error. whole is false for
// a line of more than maxLine bytes, of which text is the beginning, and for a last line without an
// end that is no JSON: its process is writing it, or was killed. text is valid until each returns.
func lines(r io.Reader, each func(n int, text []byte, whole bool) error) error {
	reader := bufio.NewReaderSize(r, 64<<10)
	var text []byte
	for n := 1; ; n++ {
		text = text[:0]
		size := 0
		var err error
		for more := true; more; {
			var part []byte
			part, err = reader.ReadSlice('\n')
			size += len(part)
			text = append(text, part[:min(len(part), maxLine-len(text))]...)
			more = errors.Is(err, bufio.ErrBufferFull)
		}
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return err
		}
		whole := size <= maxLine && (!ended || json.Valid(text))
		if size > 0 {
			if eachErr := each(n, bytes.TrimSuffix(text, []byte("\n")), whole); eachErr != nil {
				return eachErr
			}
		}
		if ended {
			return nil
		}
	}
}

// line checks one line.
func (v *verifier) line(n int, text []byte, whole bool, wanted map[string]map[int]string) {
	v.report.Records++
	written, rec, err := parse(text)
	switch {
	case !whole && len(text) >= maxLine-1:
		v.unreadable("line %d: not a record: longer than %d bytes", n, maxLine)
		return
	case !whole:
		v.unreadable("line %d: the last line is incomplete: it is being written, or was cut off", n)
		return
	case err != nil:
		v.unreadable("line %d: not a record: changed, or cut off when its process was killed", n)
		return
	}
	entry := Entry{
		Line: n, Chain: rec.Chain, Number: rec.Number, Decision: rec.Decision, Operation: rec.Operation, End: rec.End,
	}
	if hashOf(written.Record) != written.Hash {
		v.report.problem("line %d: the record was changed", n)
		entry.Changed = true
	}
	c := v.chains[rec.Chain]
	if c == nil {
		c = &chain{want: wanted[rec.Chain]}
		v.chains[rec.Chain] = c
		v.order = append(v.order, rec.Chain)
	}
	if !v.checkMAC(n, written, rec, c) {
		entry.Changed = true
	}
	v.checkFollows(n, rec)
	switch {
	case rec.Number != c.number+1:
		v.report.problem("line %d: record %d of chain %s follows record %d", n, rec.Number, rec.Chain, c.number)
	case rec.Previous != c.previous:
		v.report.problem("line %d: record %d of chain %s does not continue the one before", n, rec.Number, rec.Chain)
	case c.ended:
		v.report.problem("line %d: chain %s had ended before", n, rec.Chain)
	case rec.End && rec.Count != rec.Number-1 && (rec.Count != 0 || written.MAC != ""):
		v.report.problem("line %d: the end of chain %s counts %d records before it, and there are %d", n, rec.Chain, rec.Count,
			rec.Number-1)
	}
	if hash, ok := c.want[rec.Number]; ok {
		if hash != written.Hash {
			v.report.problem("line %d: record %d of chain %s is another one than its receipt names", n, rec.Number, rec.Chain)
		}
		delete(c.want, rec.Number)
		c.sealed = max(c.sealed, rec.Number)
	}
	c.number, c.previous, c.ended = rec.Number, written.Hash, rec.End
	switch {
	case rec.Decision != nil:
		c.time = rec.Decision.Time
	case rec.Operation != nil:
		c.time = rec.Operation.Time
	}
	v.report.Last = &Receipt{rec.Chain, rec.Number, written.Hash}
	if v.Each != nil {
		v.Each(entry)
	}
}

// unreadable reports a line that is no record.
func (v *verifier) unreadable(format string, args ...any) {
	v.report.Unreadable++
	v.report.problem(format, args...)
}

// checkMAC reports whether the MAC is right, or is not to be checked.
func (v *verifier) checkMAC(n int, written line, rec record, c *chain) bool {
	switch {
	case len(v.Keys) == 0:
		if written.MAC != "" {
			v.report.Unchecked++
		}
		return true
	case written.MAC == "":
		if !c.noMAC { // once for each chain
			v.report.problem("line %d: chain %s has records without a MAC: it was written without a key, or by somebody who "+
				"does not hold it", n, rec.Chain)
		}
		c.noMAC = true
		return false
	case !slices.ContainsFunc(v.Keys, func(k Key) bool { return hmac.Equal([]byte(k.mac(written.Record)), []byte(written.MAC)) }):
		v.report.problem("line %d: the MAC of record %d of chain %s is wrong: the record was changed, or written with another key", n,
			rec.Number, rec.Chain)
		return false
	}
	return true
}

// checkFollows checks the record that was the last one of the file when the chain began.
func (v *verifier) checkFollows(n int, rec record) {
	if rec.Follows == nil {
		return
	}
	before := v.chains[rec.Follows.Chain]
	switch {
	case rec.Number != 1:
		v.report.problem("line %d: record %d of chain %s names another chain's; only a first record does", n, rec.Number, rec.Chain)
	case before == nil || before.number < rec.Follows.Number:
		v.report.problem("line %d: chain %s began behind record %d of chain %s, which is not here: it was taken away, or is "+
			"in an older file (give that first)", n, rec.Chain, rec.Follows.Number, rec.Follows.Chain)
	case before.number == rec.Follows.Number && before.previous != rec.Follows.Hash:
		v.report.problem("line %d: chain %s began behind another record %d of chain %s than is here", n, rec.Chain, rec.Follows.Number,
			rec.Follows.Chain)
	default:
		before.sealed = max(before.sealed, rec.Follows.Number)
	}
}

// missing reports receipts without a record.
func (v *verifier) missing(wanted map[string]map[int]string) {
	for _, receipt := range v.Receipts {
		if _, ok := wanted[receipt.Chain][receipt.Number]; !ok {
			continue
		}
		delete(wanted[receipt.Chain], receipt.Number)
		v.report.problem("record %d of chain %s is missing: there is a receipt for it", receipt.Number, receipt.Chain)
	}
}

func parse(text []byte) (line, record, error) {
	var written line
	var rec record
	if err := errors.Join(json.Unmarshal(text, &written), json.Unmarshal(written.Record, &rec)); err != nil {
		return line{}, record{}, err
	}
	if rec.Chain == "" || rec.Number < 1 {
		return line{}, record{}, errors.New("no chain or number")
	}
	return written, rec, nil
}

// lastIn returns the receipt of the last line that is a record, or nil.
func lastIn(tail []byte) *Receipt {
	lines := bytes.Split(tail, []byte("\n"))
	for _, text := range slices.Backward(lines) {
		if written, rec, err := parse(text); err == nil {
			return &Receipt{rec.Chain, rec.Number, written.Hash}
		}
	}
	return nil
}

// ReadReceipts reads receipts, one JSON object per line: a receipt, or a CloudEvent that was
// published to audit.topic and whose data contains one. It skips lines without a receipt.
func ReadReceipts(r io.Reader) ([]Receipt, error) {
	var receipts []Receipt
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	for n := 1; scanner.Scan(); n++ {
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		var l struct {
			Receipt
			Data struct {
				Receipt *Receipt `json:"receipt"`
			} `json:"data"`
		}
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("line %d is not a JSON object", n)
		}
		one := l.Receipt
		if l.Data.Receipt != nil {
			one = *l.Data.Receipt
		}
		if one.Chain != "" && one.Number > 0 && one.Hash != "" {
			receipts = append(receipts, one)
		}
	}
	return receipts, scanner.Err()
}
