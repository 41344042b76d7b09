package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// perPage is the number of dead letters on one page.
const perPage = 100

// lettersModel is what the page of dead letters shows.
type lettersModel struct {
	*snapshot
	query    url.Values // the filter, without the page
	sources  []string
	total    int             // dead letters that the filter picks
	rows     []replay.Letter // those of this page
	number   int             // of this page, from 1
	pages    int
	groups   []groupRow
	chart    histogram
	now      time.Time
	unusable string // why the filter cannot be used
}

// groupRow is a reason with its dead letters.
type groupRow struct {
	replay.Group
	guide    deadletter.Guide
	chart    histogram
	selected bool
}

// filterFields are the fields of a filter in the address of a page and in forms.
var filterFields = []string{"reason", "source", "user", "producer", "since", "until", "seq"}

// readPick reads a filter. Fields that are empty do not count.
func readPick(form url.Values, now time.Time) (p Pick, query url.Values, err error) {
	query = url.Values{}
	for _, field := range filterFields {
		for _, value := range form[field] {
			if value = strings.TrimSpace(value); value != "" && len(query[field]) < maxValues {
				query.Add(field, cut(value, maxValue))
			}
		}
	}
	p.Source = query.Get("source")
	f := &p.Filter
	f.Reasons, f.User, f.Producer = query["reason"], query.Get("user"), query.Get("producer")
	var problems []error
	if f.Since, err = replay.ParseTime(query.Get("since"), now); err != nil {
		problems = append(problems, err)
	}
	if f.Until, err = replay.ParseTime(query.Get("until"), now); err != nil {
		problems = append(problems, err)
	}
	if list := query.Get("seq"); list != "" {
		if f.Sequences, err = replay.ParseRanges(strings.Split(strings.ReplaceAll(list, " ", ""), ",")); err != nil {
			problems = append(problems, err)
		}
	}
	return p, query, errors.Join(problems...)
}

// maxValues and maxValue bound a filter.
const (
	maxValues = 50
	maxValue  = 1024
)

// picks reports whether a pick has a letter.
func (p Pick) picks(l replay.Letter) bool {
	return (p.Source == "" || strings.EqualFold(p.Source, l.Source)) && p.Filter.Match(l)
}

func (c *Console) lettersPage(w http.ResponseWriter, r *http.Request, who visitor) {
	now := c.now()
	m := lettersModel{snapshot: c.letters.get(), sources: c.Operations.Sources(), now: now}
	var pick Pick
	var err error
	if pick, m.query, err = readPick(r.URL.Query(), now); err != nil {
		m.unusable = sentence(err)
	}
	m.fill(pick, r.URL.Query().Get("page"))
	c.render(w, r, http.StatusOK, lettersView(c.page("Dead letters", who), m))
}

// fill picks and counts.
func (m *lettersModel) fill(pick Pick, number string) {
	reasons := pick.Filter.Reasons
	pick.Filter.Reasons = nil // the groups show what else there is
	selected := func(reason string) bool {
		return slices.ContainsFunc(reasons, func(r string) bool { return strings.EqualFold(r, reason) })
	}
	all := pick.Source == "" && pick.Filter.IsZero()
	byReason := &replay.Groups{By: replay.ByReason}
	var matches []*replay.Letter
	for i := range m.letters {
		if l := &m.letters[i]; m.unusable == "" && (all || pick.picks(*l)) {
			byReason.Add(*l)
			matches = append(matches, l)
		}
	}
	groups := byReason.All()
	span := spanOf(groups)
	m.chart = span.histogram()
	rows := make(map[string]*groupRow, len(groups))
	for _, g := range groups {
		rows[strings.ToLower(g.Key)] = &groupRow{g, deadletter.GuideTo(g.Key), span.histogram(), selected(g.Key)}
	}
	var picked []*replay.Letter
	var row *groupRow
	for _, l := range matches {
		if row == nil || row.Key != l.Reason { // most are like the one before
			row = rows[strings.ToLower(l.Reason)]
		}
		row.chart.add(l.Enqueued)
		in := len(reasons) == 0 || row.selected
		m.chart.addTo(l.Enqueued, in)
		if in {
			picked = append(picked, l)
		}
	}
	for _, g := range groups {
		m.groups = append(m.groups, *rows[strings.ToLower(g.Key)])
	}
	m.total = len(picked)
	m.pages = max(1, (len(picked)+perPage-1)/perPage)
	m.number, _ = strconv.Atoi(number)
	m.number = min(max(1, m.number), m.pages)
	slices.Reverse(picked) // the newest first, within a source
	for _, l := range picked[(m.number-1)*perPage : min(m.number*perPage, len(picked))] {
		m.rows = append(m.rows, *l)
	}
}

// with returns the address of the page with another value of a field. An empty value removes it.
func (m lettersModel) with(field, value string) string {
	query := url.Values{}
	maps.Copy(query, m.query)
	query.Del(field)
	if value != "" {
		query.Set(field, value)
	}
	if len(query) == 0 {
		return "/dead-letters"
	}
	return "/dead-letters?" + query.Encode()
}

// letterAddress is the address of the page of one dead letter.
func letterAddress(source string, sequence int64) string {
	return "/dead-letters/" + url.PathEscape(source) + "/" + strconv.FormatInt(sequence, 10)
}

// letterModel is what the page of one dead letter shows.
type letterModel struct {
	replay.Record
	guide deadletter.Guide
	body  string // for people
	cut   bool   // the body is longer
	// editable means that the body can be edited here.
	editable   bool
	properties []property
}

type property struct {
	name, value string
	believed    bool
}

// maxShown is how much of a body a page shows, in bytes.
const maxShown = 64 << 10

func newLetterModel(record replay.Record) letterModel {
	m := letterModel{Record: record, guide: deadletter.GuideTo(record.Letter.Reason)}
	m.body = BodyText(record)
	m.editable = m.body != "" && len(m.body) <= maxEdit && record.Letter.Unreadable == "" && (record.Body != nil || record.BodyText != nil)
	if len(m.body) > maxShown {
		m.body, m.cut = cut(m.body, maxShown), true
	}
	for _, list := range []struct {
		properties map[string]any
		believed   bool
	}{{record.Properties, true}, {record.Letter.NotBelieved, false}} {
		names := make([]string, 0, len(list.properties))
		for name := range list.properties {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names[:min(len(names), maxProperties)] {
			value, _ := json.Marshal(list.properties[name])
			m.properties = append(m.properties, property{name, cut(string(value), maxValue), list.believed})
		}
	}
	return m
}

// maxProperties is the number of properties that a page shows.
const maxProperties = 100

// BodyText returns the body of a dead letter in the form in which people read and edit it, or "" if
// it is no text.
func BodyText(record replay.Record) string {
	switch {
	case record.BodyText != nil:
		return *record.BodyText
	case len(record.Body) > 0:
		var pretty bytes.Buffer
		if len(record.Body) > maxEdit || json.Indent(&pretty, record.Body, "", "  ") != nil {
			return string(record.Body)
		}
		return pretty.String()
	}
	return ""
}

// find peeks at the dead letter that the address names. It answers if there is none.
func (c *Console) find(w http.ResponseWriter, r *http.Request) (replay.Record, bool) {
	sequence, err := strconv.ParseInt(r.PathValue("sequence"), 10, 64)
	source := r.PathValue("source")
	if err != nil || sequence < 0 || !slices.ContainsFunc(c.Operations.Sources(), func(s string) bool {
		return strings.EqualFold(s,
			source)
	}) {
		c.problem(w, r, http.StatusNotFound, "No such dead letter", sentence(ErrNoLetter))
		return replay.Record{}, false
	}
	record, err := c.Operations.Letter(r.Context(), source, sequence)
	switch {
	case errors.Is(err, ErrNoLetter):
		c.problem(w, r, http.StatusNotFound, "No such dead letter", sentence(err))
	case err != nil:
		c.problem(w, r, http.StatusBadGateway, "Cannot read the dead letter", sentence(err))
	}
	return record, err == nil
}

func (c *Console) letterPage(w http.ResponseWriter, r *http.Request, who visitor) {
	if record, ok := c.find(w, r); ok {
		c.render(w, r, http.StatusOK, letterView(c.page("Dead letter "+r.PathValue("sequence"), who), newLetterModel(record)))
	}
}

func (c *Console) editPage(w http.ResponseWriter, r *http.Request, who visitor) {
	record, ok := c.find(w, r)
	if !ok {
		return
	}
	m := newLetterModel(record)
	if !m.editable || c.ReadOnly {
		c.problem(w, r, http.StatusConflict, "Cannot be edited", "The body is not a text of at most 256 KiB, or this console only shows.")
		return
	}
	c.render(w, r, http.StatusOK, editView(c.page("Edit dead letter "+r.PathValue("sequence"), who), m, BodyText(record)))
}

func (c *Console) previewEdit(w http.ResponseWriter, r *http.Request, who visitor) {
	sequence, err := strconv.ParseInt(r.PathValue("sequence"), 10, 64)
	if err != nil {
		c.problem(w, r, http.StatusNotFound, "No such dead letter", sentence(ErrNoLetter))
		return
	}
	body := r.PostForm.Get("body")
	if len(body) > maxEdit {
		c.problem(w, r, http.StatusRequestEntityTooLarge, "Too large",
			"A body that is edited here has at most 256 KiB. Nothing was changed.")
		return
	}
	body = strings.ReplaceAll(body, "\r\n", "\n") // a form ends lines so, whatever they were
	change, err := c.Operations.PlanEdit(r.Context(), who.name, r.PathValue("source"), sequence, body)
	c.keep(w, r, who, change, err)
}

func (c *Console) previewReplay(w http.ResponseWriter, r *http.Request, who visitor) {
	pick, _, err := readPick(r.PostForm, c.now())
	var change *Change
	if err == nil {
		change, err = c.Operations.PlanReplay(r.Context(), who.name, pick)
	}
	c.keep(w, r, who, change, err)
}

func (c *Console) previewPurge(w http.ResponseWriter, r *http.Request, who visitor) {
	pick, _, err := readPick(r.PostForm, c.now())
	var change *Change
	if err == nil {
		change, err = c.Operations.PlanPurge(r.Context(), who.name, pick)
	}
	c.keep(w, r, who, change, err)
}
