package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	// redrawEvery is fast enough to follow and slow enough to read.
	redrawEvery = 250 * time.Millisecond
	// recentLines is the number of lines below the table.
	recentLines = 14
	// eraseBelow clears the screen from the cursor down (ECMA-48, ED).
	eraseBelow = "\x1b[J"
)

// view shows what the worker does. The worker writes its log to the view, which prints one line for
// each decision. On a terminal, the view shows the latest lines below a table and redraws both in
// place. Otherwise it prints the lines only. It is safe for concurrent use.
type view struct {
	out     io.Writer
	servers *servers
	live    bool
	workers workers           // set by start
	names   map[string]string // user principal names by id

	mu       sync.Mutex
	recent   []string
	outcomes map[string]int
	webhooks map[string]int  // the number of webhooks that each source has sent
	mappings map[string]int  // the number of events that each mapping understood
	people   map[string]bool // who was signed out, by their names
	drawn    int             // the number of lines of the last drawing
	console  string          // the link of the console, or what became of it; empty for none

	stopped chan struct{}
	done    chan struct{}
}

func newView(out io.Writer, s *servers, people []graph.User, live bool) *view {
	v := &view{
		out: out, servers: s, live: live, names: map[string]string{},
		outcomes: map[string]int{}, webhooks: map[string]int{}, mappings: map[string]int{}, people: map[string]bool{},
		stopped: make(chan struct{}), done: make(chan struct{}),
	}
	for _, p := range people {
		v.names[p.ID] = p.UserPrincipalName
	}
	return v
}

// start prints the addresses and begins to redraw.
func (v *view) start(all workers) {
	v.workers = all
	fmt.Fprintf(v.out, "Service Bus  %s\nGraph        %s\n", v.servers.connectionString, v.servers.graphURL)
	for _, worker := range all {
		if ops := worker.OpsAddress(); ops != "" {
			fmt.Fprintf(v.out, "Worker       http://%s/metrics  /healthz  /readyz\n", ops)
		}
	}
	if v.servers.webhooks != nil {
		v.servers.webhooks.describe(v.out)
	}
	fmt.Fprintln(v.out)
	go func() {
		defer close(v.done)
		if !v.live {
			return
		}
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			v.draw()
			select {
			case <-tick.C:
			case <-v.stopped:
				v.draw()
				return
			}
		}
	}()
}

// stop ends the redrawing and prints a summary.
func (v *view) stop() {
	close(v.stopped)
	<-v.done
	calls := len(v.servers.graph.Calls())
	v.mu.Lock()
	defer v.mu.Unlock()
	events := 0
	var refused []string
	for _, outcome := range slices.Sorted(maps.Keys(v.outcomes)) {
		events += v.outcomes[outcome]
		if outcome[0] >= 'A' && outcome[0] <= 'Z' { // reasons of dead letters; other outcomes are lower case
			refused = append(refused, fmt.Sprintf("%s %d", outcome, v.outcomes[outcome]))
		}
	}
	fmt.Fprintf(v.out, "\nSigned out %s with %s to Graph, for %s.\n",
		plural(len(v.people), "person", "people"), plural(calls, "call", "calls"), plural(events, "event", "events"))
	if len(refused) > 0 {
		width, _ := v.size()
		fmt.Fprintln(v.out, text.WrapSoft("Dead letters: "+strings.Join(refused, ", ")+".", width))
	}
}

// answer says how many people are signed out, and who waits for what.
func answer(people int, s telemetry.State, deadLetters int) string {
	said := plural(people, "person", "people") + " signed out"
	if waiting := s.Pending - s.Parked; waiting > 0 {
		said += ", " + plural(waiting, "waits", "wait") + reason(s)
	}
	if s.Parked > 0 {
		said += fmt.Sprintf(", %d again in a moment", s.Parked)
	}
	if deadLetters > 0 {
		said += ", " + plural(deadLetters, "dead letter", "dead letters")
	}
	return said
}

// reason says what those wait for who wait for a call.
func reason(s telemetry.State) string {
	switch {
	case slices.ContainsFunc(s.Guard, func(g telemetry.Guard) bool { return g.Tripped }):
		return " (the volume guard has tripped)"
	case s.BreakerOpen:
		return " (Graph is not usable)"
	case s.HeldFor > 0:
		return fmt.Sprintf(" (Graph throttles for %s)", s.HeldFor.Round(time.Second))
	case !math.IsInf(s.PerSecond, 1):
		return fmt.Sprintf(" (Graph allows %.1f a second)", s.PerSecond)
	}
	return ""
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// entry holds the fields of a log line that the view reads.
type entry struct {
	Level     string `json:"level"`
	Message   string `json:"msg"`
	EventType string `json:"eventType"`
	User      string `json:"user"`
	Outcome   string `json:"outcome"`
	Reason    string `json:"reason"`
	Attempts  int    `json:"attempts"`
	Wait      string `json:"wait"`
	Error     string `json:"error"`
	Mapping   string `json:"mapping"`
	// Source is the sender of a webhook, and Result how it was answered.
	Source string `json:"source"`
	Result string `json:"result"`
	// Account is whom a look-up has found.
	Account string `json:"account"`
	// TakesEffect is when an announced event must be acted on.
	TakesEffect time.Time `json:"takesEffect"`
}

// Write shows lines of the worker's log. It needs whole lines, which zap writes.
func (v *view) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		var e entry
		if json.Unmarshal(line, &e) == nil {
			v.show(e)
		}
	}
	return len(p), nil
}

// show prints the entry as one line, if it is a decision or a problem.
func (v *view) show(e entry) {
	if name, ok := v.names[e.User]; ok {
		e.User = name
	}
	if name, ok := v.names[e.Account]; ok && name != e.User {
		e.User = name + " (" + e.User + ")"
	}
	who := strings.TrimSpace(e.EventType + "  " + e.User)
	switch {
	case e.Outcome != "":
		v.count(e)
		sentence := fmt.Sprintf("%-14s %s", e.Outcome, who)
		if e.Mapping != "" && e.Mapping != event.Native {
			sentence += "  from " + e.Mapping
		}
		if !e.TakesEffect.IsZero() {
			sentence += "  on " + e.TakesEffect.Format(time.DateOnly)
		}
		if e.Attempts > 1 {
			sentence += fmt.Sprintf("  after %d attempts", e.Attempts)
		}
		if e.Reason != "" {
			sentence += fmt.Sprintf("  %s: %s", e.Reason, e.Error)
		}
		v.say(sentence)
	case e.Source != "" && e.Result != "":
		v.mu.Lock()
		v.webhooks[e.Source]++
		v.mu.Unlock()
		sentence := fmt.Sprintf("%-14s %s  %s", "webhook", e.Source, e.Result)
		if e.Level == "warn" {
			sentence += "  " + e.Message
		}
		v.say(sentence)
	case e.Level != "info" && e.Level != "debug":
		sentence := fmt.Sprintf("%-14s %s  %s", e.Message, who, e.Error)
		if e.Wait != "" {
			wait, _ := time.ParseDuration(e.Wait)
			sentence = fmt.Sprintf("%-14s %s  in %s: %s", "retry", who, wait.Round(10*time.Millisecond), e.Error)
		}
		v.say(sentence)
	}
}

func (v *view) count(e entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Mapping != "" {
		v.mappings[e.Mapping]++
	}
	if e.Outcome == "revoked" {
		v.people[cmp.Or(e.Account, e.User)] = true
	}
	v.outcomes[cmp.Or(e.Reason, e.Outcome)]++
}

// say prints one line with the time.
func (v *view) say(line string) {
	line = time.Now().Format("15:04:05.000") + "  " + line
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.live {
		fmt.Fprintln(v.out, line)
		return
	}
	v.recent = append(v.recent, line)
	if len(v.recent) > recentLines {
		v.recent = v.recent[1:]
	}
}

// draw replaces the last drawing with a new one.
func (v *view) draw() {
	counts, _ := v.servers.broker.Counts(queue)
	calls := map[int]int{}
	for _, call := range v.servers.graph.Calls() {
		calls[call.Status]++
	}
	state := v.workers.State()
	v.mu.Lock()
	defer v.mu.Unlock()
	columns := [][][2]any{
		{{"waiting", counts.Active - counts.Locked}, {"in flight", counts.Locked}, {"dead letters", counts.DeadLetter}},
		{
			{"pending", state.Pending},
			{"parked", state.Parked},
			{"queued", state.Queued},
			{"calls", state.CallsInFlight},
			{"rate limit", rateLimit(state)},
			{"breaker", breaker(state)},
		},
		nil, nil,
	}
	for _, outcome := range slices.Sorted(maps.Keys(v.outcomes)) {
		columns[2] = append(columns[2], [2]any{outcome, v.outcomes[outcome]})
	}
	for _, status := range slices.Sorted(maps.Keys(calls)) {
		name := fmt.Sprint(status)
		if status == 0 {
			name = "dropped"
		}
		columns[3] = append(columns[3], [2]any{name, calls[status]})
	}
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"Queue", "", "Users", "", "Events", "", "Graph", ""})
	height := 0
	for _, column := range columns {
		height = max(height, len(column))
	}
	for i := range height {
		row := table.Row{}
		for _, column := range columns {
			if i < len(column) {
				row = append(row, column[i][0], column[i][1])
			} else {
				row = append(row, "", "")
			}
		}
		t.AppendRow(row)
	}
	lines := []string{answer(len(v.people), state, counts.DeadLetter)}
	lines = append(lines, strings.Split(t.Render(), "\n")...)
	lines = append(lines, "understood by: "+ranked(v.mappings))
	if v.servers.webhooks != nil {
		lines = append(lines, "webhooks of: "+ranked(v.webhooks))
	}
	if v.console != "" {
		lines = append(lines, "console: "+v.console)
	}
	// A drawing that is higher than the terminal cannot be replaced.
	width, rows := v.size()
	lines = append(lines, v.recent[max(0, len(v.recent)-max(1, rows-1-len(lines))):]...)

	var screen strings.Builder
	if v.drawn > 0 {
		screen.WriteString(text.CursorUp.Sprintn(v.drawn) + eraseBelow)
	}
	for _, line := range lines {
		screen.WriteString(text.Trim(line, width) + "\n")
	}
	v.drawn = len(lines)
	_, _ = io.WriteString(v.out, screen.String())
}

// showConsole shows the link of the console, or what became of it.
func (v *view) showConsole(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.console = strings.ReplaceAll(text, "\n", " ")
}

// ranked returns names with their counts, the largest first.
func ranked(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, counts[name])
	}
	return strings.Join(names, ", ")
}

func rateLimit(s telemetry.State) string {
	switch {
	case s.HeldFor > 0:
		return fmt.Sprintf("%s pause", s.HeldFor.Round(100*time.Millisecond))
	case math.IsInf(s.PerSecond, 1):
		return "full speed"
	}
	return fmt.Sprintf("%.1f/s", s.PerSecond)
}

func breaker(s telemetry.State) string {
	if s.BreakerOpen {
		return "open"
	}
	return "closed"
}

// size returns the columns and rows of the terminal. A line that wraps, or a drawing that scrolls,
// could not be replaced.
func (v *view) size() (columns, rows int) {
	if f, ok := v.out.(*os.File); ok {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
	}
	return 80, 24
}
