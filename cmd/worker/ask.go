package main

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

// ask waits for an answer on standard input. It is "" when there is none.
func (p *program) ask(question string) string {
	fmt.Fprint(p.stderr, question)
	line, _ := bufio.NewReader(p.stdin).ReadString('\n')
	return strings.TrimSpace(line)
}

// operator is who runs the command: who says so, or user@host.
func operator(by string) string {
	if by != "" {
		return by
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	writer  progress.Writer
	tracker *progress.Tracker
	ended   chan struct{}
}

// newBar shows how many of total are done, how fast, and how long the rest will take. Call end in any case.
func (p *program) newBar(what string, total int) *bar {
	to, _ := p.stderr.(safe)
	file, ok := to.w.(*os.File) // past safe: a bar moves the cursor, and shows nothing from outside
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	b := &bar{writer: progress.NewWriter(), tracker: &progress.Tracker{Message: what, Total: int64(total)}, ended: make(chan struct{})}
	b.writer.SetOutputWriter(file)
	b.writer.SetUpdateFrequency(200 * time.Millisecond)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.writer.Style().Options.ETAString = "left"
	b.writer.AppendTracker(b.tracker)
	go func() {
		b.writer.Render()
		close(b.ended)
	}()
	return b
}

// add counts; it may be called from any goroutine, and on a nil bar.
func (b *bar) add(n int) {
	if b != nil {
		b.tracker.Increment(int64(n))
	}
}

func (b *bar) end() {
	if b == nil {
		return
	}
	if !b.tracker.IsDone() {
		b.tracker.MarkAsErrored()
	}
	b.writer.Stop()
	<-b.ended
}
