package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

// ask prints a question and returns the answer from standard input, or "" if there is none. If ctx
// ends first, it returns an error. Its goroutine then waits for a line until the program exits,
// which it does at once.
func (p *program) ask(ctx context.Context, question string) (answer string, err error) {
	fmt.Fprint(p.stderr, question)
	answers := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(p.stdin).ReadString('\n')
		answers <- strings.TrimSpace(line)
	}()
	select {
	case answer = <-answers:
		return answer, nil
	case <-ctx.Done():
		fmt.Fprintln(p.stderr)
		return "", fail(exitFailed, "stopped before the answer: nothing was changed")
	}
}

// operator returns who runs the command: by, or user@host if by is "".
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

// bar is a progress bar on a terminal. A nil bar shows nothing.
type bar struct {
	writer  progress.Writer
	tracker *progress.Tracker
	ended   chan struct{}
}

// newBar shows how many of total are done, the speed, and the remaining time. It returns nil unless
// standard error is a terminal. The caller must call end.
func (p *program) newBar(what string, total int) *bar {
	to, _ := p.stderr.(safe)
	file, ok := to.w.(*os.File) // without safe: a bar moves the cursor, and shows no text from outside
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	b := &bar{writer: progress.NewWriter(), tracker: &progress.Tracker{Message: what, Total: int64(total)}, ended: make(chan struct{})}
	b.writer.SetOutputWriter(file)
	b.writer.SetAutoStop(true)
	b.writer.SetUpdateFrequency(200 * time.Millisecond)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.writer.Style().Options.ETAString = "left"
	b.writer.Style().Options.DoneString = "ended"
	b.writer.Style().Options.ErrorString = "stopped"
	b.writer.AppendTracker(b.tracker)
	go func() {
		b.writer.Render()
		close(b.ended)
	}()
	return b
}

// add counts n more. Any goroutine may call it.
func (b *bar) add(n int) {
	if b != nil {
		b.tracker.Increment(int64(n))
	}
}

// end ends the bar and waits for its last output. The bar stops by itself when its only tracker is
// done. Stop would be lost, and end would wait for ever, if the bar has not begun yet.
func (b *bar) end() {
	if b == nil {
		return
	}
	if !b.tracker.IsDone() {
		b.tracker.MarkAsErrored()
	}
	<-b.ended
}
