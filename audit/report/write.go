package report

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"html"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// clean replaces characters that are invisible, control a terminal, or change the direction of text,
// and bytes that are not UTF-8.
func clean(text string) string {
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return '·'
		}
		return c
	}, text)
}

// maxCell is the maximum number of characters of a text from outside in a table.
const maxCell = 300

func cut(text string) string {
	if runes := []rune(clean(text)); len(runes) > maxCell {
		return string(runes[:maxCell-1]) + "…"
	}
	return clean(text)
}

// clock formats a time for people and spreadsheets.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// seconds formats a measured time.
func seconds(s float64) string { return Duration(time.Duration(s * float64(time.Second))) }

// WriteCSV writes a line for each event that missed the target, and for each exception that is
// listed. A cell that a spreadsheet would take for a formula begins with an apostrophe.
func (r Report) WriteCSV(w io.Writer) error {
	var page bytes.Buffer
	lines := csv.NewWriter(&page)
	row := func(cells ...string) {
		for i, cell := range cells {
			cells[i] = harmless(cut(cell))
		}
		_ = lines.Write(cells) // to memory
	}
	row("kind", "user", "event_type", "source", "producer", "mapping", "event_time", "enqueued", "called", "end", "seconds",
		"outcome", "reason", "error", "message_id", "sequence_number", "event", "request_id", "replayed", "line")
	add := func(kind string, list []Case) {
		for _, c := range list {
			took := ""
			if c.Seconds > 0 {
				took = strconv.FormatFloat(c.Seconds, 'f', 3, 64)
			}
			row(kind, c.User, c.EventType, c.Source, c.Producer, c.Mapping, clock(c.EventTime), clock(c.Enqueued), clock(c.Called),
				clock(c.End), took, c.Outcome, c.Reason, c.Error, c.MessageID, strconv.FormatInt(c.SequenceNumber, 10),
				strconv.Itoa(c.Event), c.RequestID, strconv.FormatBool(c.Replayed), strconv.Itoa(c.Line))
		}
	}
	add("missed the target", r.Misses.List)
	for _, e := range r.Exceptions {
		add(e.Kind, e.List)
	}
	lines.Flush()
	_, err := w.Write(page.Bytes())
	return err
}

// harmless returns a cell that no spreadsheet takes for a formula
// (https://owasp.org/www-community/attacks/CSV_Injection). Some spreadsheets take wide characters for
// the narrow ones, and skip spaces.
func harmless(cell string) string {
	first, _ := utf8.DecodeRuneInString(strings.TrimSpace(cell))
	if strings.ContainsRune("=+-@|%＝＋－＠", first) {
		return "'" + cell
	}
	return cell
}

const style = `
body{font:14px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;break-after:avoid}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #ccc;overflow-wrap:anywhere}
th,td{min-width:6.2rem}td.n,th.n{min-width:0;text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.answer{font-size:1.15rem;font-weight:600}.warn{border-left:4px solid #b45309;padding-left:.8rem}
small,caption{color:#555;text-align:left}thead{display:table-header-group}tr{break-inside:avoid}
@page{margin:15mm}@media print{body{margin:0;max-width:none;font-size:10pt}}
`

// page writes HTML. Every text is escaped; raw is for markup.
type page struct{ bytes.Buffer }

func (p *page) raw(markup string) { _, _ = p.WriteString(markup) }

func (p *page) text(before, text, after string) {
	p.raw(before + html.EscapeString(cut(text)) + after)
}

// table writes a table. The columns from numbers on are numbers.
func (p *page) table(numbers int, header []string, rows [][]string) {
	line := func(tag string, cells []string) {
		p.raw("<tr>")
		for i, cell := range cells {
			class := ""
			if i >= numbers {
				class = ` class="n"`
			}
			p.text("<"+tag+class+">", cell, "</"+tag+">")
		}
		p.raw("</tr>\n")
	}
	p.raw("<table>\n<thead>")
	line("th", header)
	p.raw("</thead>\n<tbody>\n")
	for _, row := range rows {
		line("td", row)
	}
	p.raw("</tbody>\n</table>\n")
}

// WriteHTML writes the report as one page that needs nothing else and can be printed. made is when.
func (r Report) WriteHTML(w io.Writer, made time.Time) error {
	p := &page{}
	p.raw(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Sign-out report</title><style>` + style + "</style></head><body>\n<h1>Sign-out report</h1>\n")
	p.text(`<p class="answer">`, r.Answer, "</p>\n")
	p.text("<p>", r.Period()+"; target "+seconds(r.TargetSeconds)+"; made "+clock(made)+".", "</p>\n")
	for _, warning := range r.Warnings {
		p.text(`<p class="warn">Note: `, warning+".", "</p>\n")
	}
	p.raw("<h2>Events</h2>\n")
	p.table(1, []string{"", "Number"}, r.Summary())
	p.raw("<h2>Times</h2>\n")
	p.table(1, timesHeader("Stage"), r.StageRows())
	p.raw("<p><small>“End” is when Graph confirmed the call. Tokens stop working a few minutes later. " +
		"Percentiles are at most 1 % too high.</small></p>\n")
	for _, part := range []struct {
		title  string
		groups []Group
	}{{"Types of events", r.Types}, {"Queues and subscriptions", r.Sources}, {"Producers", r.Producers}} {
		p.text("<h2>", part.title, "</h2>\n")
		p.table(1, append(timesHeader("Name"), "Failed"), GroupRows(part.groups))
	}
	p.cases("Missed the target", "", r.Misses)
	for _, e := range r.Exceptions {
		p.cases(e.Kind, e.Meaning, e.Cases)
	}
	if len(r.Operators) > 0 {
		p.raw("<h2>Operators</h2>\n")
		rows := [][]string{}
		for _, a := range r.Operators {
			rows = append(rows, []string{a.Command, a.By, strconv.Itoa(a.Runs), strconv.Itoa(a.Count)})
		}
		p.table(2, []string{"Command", "By", "Records", "People or messages"}, rows)
	}
	p.chain(r)
	p.raw("</body></html>\n")
	_, err := w.Write(p.Bytes())
	return err
}

// cases writes a list of events.
func (p *page) cases(title, meaning string, cases Cases) {
	p.text("<h2>", fmt.Sprintf("%s: %d", title, cases.Count), "</h2>\n")
	if meaning != "" {
		p.text("<p>", meaning, "</p>\n")
	}
	if len(cases.List) == 0 {
		return
	}
	rows := make([][]string, 0, len(cases.List))
	for _, c := range cases.List {
		took := ""
		if c.Seconds > 0 {
			took = seconds(c.Seconds)
		}
		rows = append(rows, []string{
			c.User, c.EventType, cmp.Or(c.Producer, c.Source), clock(firstTime(c.EventTime, c.Enqueued)), clock(c.End), c.Error, took,
		})
	}
	p.table(6, []string{"Person", "Event", "Producer", "Event at", "End at", "Error", "Took"}, rows)
	if more := cases.Count - len(cases.List); more > 0 {
		p.text("<p>", fmt.Sprintf("%d more are not listed.", more), "</p>\n")
	}
}

// chain writes what the check of the log has found.
func (p *page) chain(r Report) {
	p.raw("<h2>The log</h2>\n")
	p.text("<p>", fmt.Sprintf("%d records in %d chains, %d of them without an end. Problems: %d.", r.Log.Records, r.Log.Chains,
		len(r.Log.Open), r.Log.ProblemCount), "</p>\n")
	if r.Log.ProblemCount == 0 {
		p.text("<p>", "The log is "+r.Log.Claim+".", "</p>\n")
		return
	}
	p.raw("<ul>\n")
	for _, problem := range r.Log.Problems {
		p.text("<li>", problem, "</li>\n")
	}
	p.raw("</ul>\n")
}

// Period says which period the report is about.
func (r Report) Period() string {
	from, to := clock(r.From), clock(r.To)
	switch {
	case from == "" && to == "":
		return "Events of the whole log"
	case to == "":
		return "Events from " + from + " on"
	case from == "":
		return "Events before " + to
	}
	return "Events from " + from + " to before " + to
}

// Summary returns lines with a text and a number.
func (r Report) Summary() [][]string {
	people := strconv.Itoa(r.People)
	if r.ManyPeople {
		people = "more than " + people
	}
	row := func(text string, n int) []string { return []string{text, strconv.Itoa(n)} }
	return [][]string{
		row("Events", r.Events),
		{"People", people},
		row("Revoked within the target", r.Met), row("Revoked later", r.Missed),
		row("Should have been revoked, and were not", r.Failed), row("Were to sign nobody out", r.NotAsked),
		row("Sent again by a replay", r.Replayed), row("Effect read back", r.Verified),
		row("Effect could not be read back", r.Unverified), row("Not known whether a guest", r.GuestUnknown),
	}
}

func timesHeader(first string) []string {
	return []string{first, "Events", "Within", "p50", "p90", "p99", "Max"}
}

func (t Times) cells() []string {
	if t.Count == 0 {
		return []string{"0", "", "", "", "", ""}
	}
	share := 100 * float64(t.Within) / float64(t.Count)
	within := strconv.FormatFloat(share, 'f', 1, 64) + " %"
	if t.Within < t.Count && share >= 99.95 {
		within = "< 100 %"
	}
	return []string{
		strconv.Itoa(t.Count), within, seconds(t.P50Seconds), seconds(t.P90Seconds), seconds(t.P99Seconds), seconds(t.MaxSeconds),
	}
}

// StageRows returns a line for each stage: its name, the number of times, the share within the
// target, and percentiles.
func (r Report) StageRows() [][]string {
	row := func(name string, t Times) []string { return append([]string{name}, t.cells()...) }
	return [][]string{
		row("Event to end", r.Stages.EventToEnd), row("Event to queue", r.Stages.EventToQueue), row("Queue to end", r.Stages.QueueToEnd),
		row("Queue to call", r.Stages.QueueToCall), row("Call to end", r.Stages.CallToEnd),
	}
}

// GroupRows returns a line for each group, as StageRows does, and the number of failures.
func GroupRows(list []Group) [][]string {
	rows := make([][]string, 0, len(list))
	for _, g := range list {
		rows = append(rows, append(append([]string{cmp.Or(clean(g.Name), "–")}, g.EventToEnd.cells()...), strconv.Itoa(g.Failed)))
	}
	return rows
}
