package conformance

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jedib0t/go-pretty/v6/table"
)

// feature is one promise of the documentation.
type feature struct {
	name string
	// page promises the feature. It is below https://learn.microsoft.com/azure/service-bus-messaging/.
	page string
	// entities are made for this feature alone.
	entities entities
	// needs says what the target must have. Without it, the feature is not tried.
	needs needs
	try   func(c *check)
}

// needs is what not every target has.
type needs struct {
	admin  bool // the administration API, beyond making the feature's entities
	claims bool // keys with one claim each
	size   bool // the size limit of messages is known
}

var areas = []struct {
	name     string
	features []feature
}{
	{"locks", locks},
	{"dead letters", deadLetters},
	{"expiration", expiration},
	{"deferral and schedule", deferral},
	{"peek", peek},
	{"sessions", sessions},
	{"sending", sending},
	{"messages", messages},
	{"forwarding", forwarding},
	{"topics", topics},
	{"administration", administration},
	{"access", access},
}

// TestConformance tries every feature on the target that the environment names, else on the
// embedded broker.
func TestConformance(t *testing.T) {
	target, err := fromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if target == nil {
		report := &report{target: "embedded broker"}
		tryAll(t, report, embedded, false)
		report.print(t)
		return
	}
	report := &report{target: target.parsed.host}
	t.Cleanup(func() { report.print(t) }) // after the parallel tests
	tryAll(t, report, target.try, true)
}

// TestConformanceWithEntitiesOfAFile is TestConformance for a target that has its entities from the
// file that -write-config writes, and no administration.
func TestConformanceWithEntitiesOfAFile(t *testing.T) {
	tryAll(t, &report{}, embeddedWithFile, false)
}

// tryAll runs each feature as a test of its own. Where time is real, they run in parallel.
func tryAll(t *testing.T, r *report, try func(t *testing.T, name string, f feature, got *result), parallel bool) {
	for _, area := range areas {
		t.Run(area.name, func(t *testing.T) {
			if parallel {
				t.Parallel()
			}
			for _, f := range area.features {
				t.Run(f.name, func(t *testing.T) {
					if parallel {
						t.Parallel()
					}
					var got result
					defer func() {
						if t.Failed() && len(got.problems) == 0 {
							got.problems = []string{"it stopped with an error"}
						}
						r.add(area.name, f, got)
					}()
					try(t, area.name+" "+f.name, f, &got)
				})
			}
		})
	}
}

// result of a feature: it differs if there are problems. A feature that was not tried has a reason.
type result struct {
	problems []string
	notTried string
}

// report collects the results of parallel tests.
type report struct {
	target string

	mu   sync.Mutex
	rows []row
}

type row struct {
	area string
	feature
	result
}

func (r *report) add(area string, f feature, got result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, row{area, f, got})
}

// print writes the table. Only `go test -v` shows it if everything is in order.
func (r *report) print(t *testing.T) {
	if testing.Verbose() || t.Failed() {
		r.write(os.Stdout)
	}
}

func (r *report) write(out io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := table.NewWriter()
	w.SetOutputMirror(out)
	w.AppendHeader(table.Row{"area", "feature", "result", "promised by"})
	count := map[string]int{}
	for _, area := range areas {
		for _, row := range r.rows {
			if row.area != area.name {
				continue
			}
			verdict, text := "ok", "ok"
			switch {
			case row.notTried != "":
				verdict, text = "not tried", "not tried: "+row.notTried
			case len(row.problems) > 0:
				verdict, text = "differs", "differs: "+short(row.problems[0])
			}
			count[verdict]++
			w.AppendRow(table.Row{row.area, row.name, text, row.page})
		}
	}
	fmt.Fprintf(out, "\n%s: %d ok, %d differ, %d not tried\n", r.target, count["ok"], count["differs"], count["not tried"])
	w.Render()
}

// short makes one line of at most 100 characters.
func short(text string) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > 100 {
		return string(line[:99]) + "…"
	}
	return string(line)
}
