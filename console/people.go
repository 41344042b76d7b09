package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/audit/report"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
)

// ErrNoLog means that there is no audit log to read.
var ErrNoLog = errors.New("there is no audit log to read: set audit.file in the console's settings, or use --audit FILE")

// peopleModel is what the page of one person shows.
type peopleModel struct {
	user    string
	asked   bool
	history history.History
	err     error
	letters []replay.Letter // their dead letters that are there now
	now     time.Time
}

func (c *Console) peoplePage(w http.ResponseWriter, r *http.Request, who visitor) {
	m := peopleModel{user: strings.TrimSpace(r.URL.Query().Get("user")), now: c.now()}
	if m.user != "" {
		m.asked = true
		m.user = cut(m.user, maxValue)
		m.history, m.err = c.history(r, m.user)
		names := append(append([]string{m.user}, m.history.IDs...), m.history.Names...)
		for _, l := range c.letters.get().letters {
			for _, name := range names {
				if (replay.Filter{User: name}).Match(l) {
					m.letters = append(m.letters, l)
					break
				}
			}
			if len(m.letters) == perPage {
				break
			}
		}
	}
	c.render(w, r, http.StatusOK, peopleView(c.page("People", who), m))
}

func (c *Console) history(r *http.Request, name string) (history.History, error) {
	id, upn := "", name
	if uuid.Validate(name) == nil {
		id, upn = name, ""
	}
	user, err := event.NewUser(id, upn)
	if err != nil {
		return history.History{}, err
	}
	return c.Operations.History(r.Context(), user)
}

// reportModel is what the page of the report shows.
type reportModel struct {
	report.Report
	since, until, target string
	err                  error
	now                  time.Time
}

// defaultTarget is the target of a report that names none.
const defaultTarget = "5m"

// report makes the report that the address asks for.
func (c *Console) report(r *http.Request) reportModel {
	query := r.URL.Query()
	m := reportModel{since: "24h", target: defaultTarget, now: c.now()}
	if query.Has("since") {
		m.since = cut(strings.TrimSpace(query.Get("since")), maxValue)
	}
	m.until = cut(strings.TrimSpace(query.Get("until")), maxValue)
	if target := strings.TrimSpace(query.Get("target")); target != "" {
		m.target = cut(target, maxValue)
	}
	o := report.Options{}
	var errs [3]error
	o.From, errs[0] = replay.ParseTime(m.since, m.now)
	o.To, errs[1] = replay.ParseTime(m.until, m.now)
	o.Target, errs[2] = time.ParseDuration(strings.ReplaceAll(m.target, " ", ""))
	if errs[2] != nil || o.Target <= 0 {
		errs[2] = fmt.Errorf("the target %q is not a duration such as 90s or 5m", m.target)
	}
	if m.err = errors.Join(errs[:]...); m.err == nil {
		m.Report, m.err = c.Operations.Report(r.Context(), o)
	}
	return m
}

func (c *Console) reportPage(w http.ResponseWriter, r *http.Request, who visitor) {
	c.render(w, r, http.StatusOK, reportView(c.page("Report", who), c.report(r)))
}

// reportFile writes the report as a file: its lists as CSV, or all of it as a page that can be
// printed.
func (c *Console) reportFile(kind, contentType string, write func(report.Report, io.Writer) error) func(http.ResponseWriter,
	*http.Request, visitor) {
	return func(w http.ResponseWriter, r *http.Request, _ visitor) {
		m := c.report(r)
		if m.err != nil {
			c.problem(w, r, http.StatusConflict, "No report", sentence(m.err))
			return
		}
		var b bytes.Buffer
		if err := write(m.Report, &b); err != nil {
			c.problem(w, r, http.StatusInternalServerError, "No report", sentence(err))
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Disposition", `attachment; filename="report-`+m.now.UTC().Format("20060102T150405Z")+"."+kind+`"`)
		_, _ = b.WriteTo(w)
	}
}
