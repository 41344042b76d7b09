package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// createFile makes a file that does not exist yet: it holds what exists nowhere else soon.
func createFile(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the file
	if errors.Is(err, os.ErrExist) {
		return nil, fail(exitUsage, "%s exists already: name another file", name)
	}
	if err != nil {
		return nil, fail(exitFailed, "%v", err)
	}
	return file, nil
}

func (p *program) dlqPurge() *cobra.Command {
	pick := picking{changes: true}
	var dryRun bool
	var export, confirm string
	options := replay.PurgeOptions{}
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove dead letters, after writing them to a file",
		Long: `Remove dead letters: those that are there now and that the filter picks. Each is
written to a file, which worker dlq import can send again, before it is removed.
It asks to type how many; --confirm gives the answer beforehand.

Of a message that cannot be read the file gets the original bytes. Where these are
too many to be kept in memory, the message stays where it is.`,
		Example: `  worker dlq purge --reason UserNotFound --dry-run
  worker dlq purge --reason UserNotFound --export gone.ndjson`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	pick.flags(fs)
	fs.BoolVar(&dryRun, "dry-run", false, "show what would be removed, and remove nothing")
	fs.StringVar(&export, "export", "", "file to write to, which must not exist (default deadletters-TIME.ndjson)")
	fs.StringVar(&confirm, "confirm", "", "how many are removed, if that is known; anything else removes nothing")
	fs.DurationVar(&options.Wait, "wait", 90*time.Second, "how long to wait for messages that another receiver, or a run that was killed, holds locked")
	act := audit.Operation{Command: "dlq purge"}
	because(fs, &act, "why")
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) (err error) {
		filter, client, queues, err := pick.open(p, cfg)
		if err != nil {
			return err
		}
		defer closeClient(client)
		var record *operation
		if !dryRun {
			if record, err = p.begin(ctx, cfg, act); err != nil {
				return err
			}
			defer func() { err = record.close(ctx, err) }()
		}
		var sequences [][]int64
		list := &rows{output: out, header: letterHeader(len(queues) > 1)}
		var plans []*replay.Plan
		total := 0
		for _, q := range queues {
			var some []int64
			each := func(l replay.Letter) { some = append(some, l.SequenceNumber) }
			if dryRun {
				each = func(l replay.Letter) { err = errors.Join(err, list.add(l, letterRow(l, len(queues) > 1))) }
			}
			plan, planErr := q.PlanPurge(ctx, filter, each)
			if err := errors.Join(planErr, err); err != nil {
				return explain(err, q.Entity)
			}
			plans, sequences = append(plans, plan), append(sequences, some)
			total += plan.Selected
			if filter.Limit > 0 {
				if filter.Limit -= plan.Selected; filter.Limit <= 0 {
					break
				}
			}
		}
		if dryRun {
			list.end("Nothing would be removed.")
			fmt.Fprintf(p.stderr, "%s would be removed\n", letters(total))
			return nil
		}
		if total == 0 {
			return out.value(purgeOutcome{}, func(w io.Writer) { fmt.Fprintln(w, "No dead letters to remove.") })
		}
		for _, plan := range plans {
			fmt.Fprintf(p.stderr, "%s: %s\n", plan.Source, counted(plan))
		}
		if confirm == "" {
			confirm = p.ask(fmt.Sprintf("They are removed for good. Type how many to confirm (%d): ", total))
		}
		if confirm != strconv.Itoa(total) {
			return fail(exitFailed, "not confirmed (%q is not %d): nothing was removed", confirm, total)
		}
		if export == "" {
			export = "deadletters-" + time.Now().UTC().Format("20060102T150405Z") + ".ndjson"
		}
		file, err := createFile(export)
		if err != nil {
			return err
		}
		var acts []audit.Operation
		for i, plan := range plans {
			if plan.Selected > 0 {
				acts = append(acts, listing(audit.Operation{Source: plan.Source, File: export}, sequences[i])...)
			}
		}
		if err := record.start(ctx, acts...); err != nil {
			return errors.Join(err, file.Close(), os.Remove(export))
		}
		outcome := purgeOutcome{Export: export}
		bar := p.newBar("purging", total)
		options.Progress = bar.add
		for i, plan := range plans {
			options.Waiting = p.waiting(plan.Source)
			result, purgeErr := queues[i].Purge(ctx, plan, func(found []replay.Found) error { return writeDown(file, found) }, options)
			outcome.Purged += result.Purged
			outcome.Gone += result.Gone
			outcome.Left += result.Left
			record.done(audit.Operation{
				Source: plan.Source, File: export, Count: plan.Selected,
				Counts: map[string]int{"purged": result.Purged, "gone": result.Gone, "left": result.Left},
			}, purgeErr)
			outcome.Refused += result.Refused
			outcome.Problems = append(outcome.Problems, result.Problems...)
			if purgeErr != nil {
				err = explain(purgeErr, plan.Source)
				break
			}
		}
		bar.end()
		err = errors.Join(err, file.Close())
		if err := errors.Join(err, out.value(outcome, outcome.print)); err != nil {
			return err
		}
		switch {
		case outcome.Left > 0:
			return fail(exitFailed, "not done: %s; repeat the command to go on", letters(outcome.Left))
		case outcome.Refused > 0:
			return fail(exitFailed, "not removed: %s that could not be written down as they are; docs/runbook.md, section 9, says what to do", letters(outcome.Refused))
		}
		return nil
	})
}

type purgeOutcome struct {
	Export string `json:"export"`
	replay.PurgeResult
}

func (o purgeOutcome) print(w io.Writer) {
	fmt.Fprintf(w, "%s removed, and written to %s\n", letters(o.Purged), o.Export)
	if o.Gone > 0 {
		fmt.Fprintf(w, "  %d were taken away by somebody else meanwhile\n", o.Gone)
	}
	if o.Left > 0 {
		fmt.Fprintf(w, "  %d are still there: the run was stopped, or another receiver holds them locked\n", o.Left)
	}
	if o.Refused > 0 {
		fmt.Fprintf(w, "  %d stay dead letters, since they could not be written down as they are\n", o.Refused)
	}
	for _, problem := range o.Problems {
		fmt.Fprintf(w, "  %s\n", plain(problem))
	}
}

// writeDown writes dead letters to the file, and the file to the disk.
func writeDown(file *os.File, found []replay.Found) error {
	var text bytes.Buffer
	for _, f := range found {
		record, err := replay.NewRecord(f)
		if err == nil {
			err = replay.WriteRecord(safe{&text}, record)
		}
		if err != nil {
			return fail(exitFailed, "write down sequence number %d: %v; it is not removed", f.SequenceNumber, err)
		}
	}
	_, err := file.Write(text.Bytes())
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return fail(exitFailed, "%v; what was not written is not removed", err)
	}
	return nil
}

func (p *program) dlqExport() *cobra.Command {
	var pick picking
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write dead letters to a file, and leave them where they are",
		Long: `Write dead letters to a file (- is standard output), one JSON object to a line, and
leave them where they are. worker dlq import sends such a file, in which bad events
may have been mended; worker dlq purge removes the originals.

Of a message that cannot be read, or not all of it, the original bytes are written,
too ("originalAmqp", in base64).`,
		Example: `  worker dlq export --reason InvalidEvent bad.ndjson`,
		Args:    cobra.ExactArgs(1),
	}
	pick.flags(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		filter, client, queues, err := pick.open(p, cfg)
		if err != nil {
			return err
		}
		defer closeClient(client)
		w := p.stdout
		var file *os.File
		if args[0] != "-" {
			if file, err = createFile(args[0]); err != nil {
				return err
			}
			defer file.Close()
			w = file
		}
		buffered := bufio.NewWriter(w)
		escaped := safe{buffered} // who looks into the file does so on a terminal
		n := 0
		var partly []int64 // written without their original bytes
		for found, err := range everyFound(ctx, queues, filter) {
			if err != nil {
				return err
			}
			record, err := replay.NewRecord(found)
			if errors.Is(err, replay.ErrNoOriginal) {
				partly, err = append(partly, found.SequenceNumber), nil
			}
			if err == nil {
				err = replay.WriteRecord(escaped, record)
			}
			if err != nil {
				return fail(exitFailed, "sequence number %d: %v", found.SequenceNumber, err)
			}
			n++
		}
		err = buffered.Flush()
		if file != nil {
			err = errors.Join(err, file.Sync())
		}
		if err != nil {
			return fail(exitFailed, "%v", err)
		}
		fmt.Fprintf(p.stderr, "%s written to %s\n", letters(n), args[0])
		if len(partly) > 0 {
			return fail(exitFailed, "%s written without their original bytes, which are too many to be kept: sequence numbers %v", letters(len(partly)), partly[:min(10, len(partly))])
		}
		return nil
	})
}

func (p *program) dlqImport() *cobra.Command {
	var to, by string
	var perSecond float64
	var dryRun bool
	var fromLine int
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Send the messages of an exported file",
		Long: `Send the messages of a file that dlq export or dlq purge has written (- is standard
input), whatever of them was edited, each with a new MessageID. All lines are read
before the first is sent: one that is wrong sends none. Records without a body, of
messages that could not be read, are left out, and the exit code says so; give them
a body to have them sent.`,
		Example: `  worker dlq import --dry-run mended.ndjson
  worker dlq import mended.ndjson`,
		Args: cobra.ExactArgs(1),
	}
	fs := cmd.Flags()
	fs.StringVar(&to, "to", "", "queue or topic to send to (default: the configured queue)")
	fs.StringVar(&by, "by", "", "who imports, for the record in each message and the audit log (default: you, as user@host)")
	fs.Float64Var(&perSecond, "rate", defaultRate, "messages per second at most; 0 is no limit")
	fs.BoolVar(&dryRun, "dry-run", false, "check the file, and send nothing")
	fs.IntVar(&fromLine, "from-line", 1, "begin with this line, to go on where a run was stopped")
	act := audit.Operation{Command: "dlq import"}
	because(fs, &act, "why")
	out := &output{w: p.stdout}
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		if perSecond < 0 {
			return fail(exitUsage, "--rate: %v is negative", perSecond)
		}
		text, err := p.readInput(args[0])
		if err != nil {
			return err
		}
		run := replay.NewRun(operator(by))
		lines, messages, skipped, err := readRecords(text, fromLine, run)
		if err != nil {
			return err
		}
		if to, err = destination(cfg, to); err != nil {
			return err
		}
		if dryRun {
			fmt.Fprintf(p.stdout, "%d messages are well formed and would be sent to %s\n", len(messages), to)
			printLines(p.stderr, skipped)
			return nil
		}
		act.By, act.Run = by, run.ID
		record, err := p.begin(ctx, cfg, act)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		file := audit.Operation{File: args[0], FileSHA256: hex.EncodeToString(sum[:]), To: to, Count: len(messages)}
		if err := record.start(ctx, file); err != nil {
			return record.close(ctx, err)
		}
		outcome, err := p.sendAll(ctx, cfg, to, perSecond, messages)
		file.Counts = map[string]int{"sent": outcome.Sent, "left": outcome.Of - outcome.Sent}
		record.done(file, err)
		outcome.RunID, outcome.Skipped = run.ID, skipped
		if outcome.Sent < outcome.Of {
			outcome.GoOnWithLine = lines[outcome.Sent]
		}
		if err == nil && len(skipped) > 0 {
			err = fail(exitFailed, "not sent: %d records of messages that cannot be read; docs/runbook.md, section 9, says what to do", len(skipped))
		}
		return record.close(ctx, errors.Join(out.value(outcome, outcome.print), explain(err, to)))
	})
}

// printLines tells of lines of a file that are left out: the first few.
func printLines(w io.Writer, lines []int) {
	for _, n := range lines[:min(10, len(lines))] {
		fmt.Fprintf(w, "  line %d left out: %v\n", n, replay.ErrStandIn)
	}
	if len(lines) > 10 {
		fmt.Fprintf(w, "  and %d more\n", len(lines)-10)
	}
}

// maxInput bounds a file that is read whole.
const maxInput = 256 << 20

func (p *program) readInput(name string) ([]byte, error) {
	r := p.stdin
	if name != "-" {
		file, err := os.Open(name) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fail(exitUsage, "%v", err)
		}
		defer file.Close()
		r = file
	}
	text, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(text) > maxInput {
		err = fmt.Errorf("%s is larger than %d MiB: split it by lines", name, maxInput>>20)
	}
	if err != nil {
		return nil, fail(exitUsage, "%v", err)
	}
	return text, nil
}

// readRecords reads all lines, and tells of each that is wrong. skipped are lines with records that have no body to send.
func readRecords(text []byte, fromLine int, run replay.Run) (lines []int, messages []*azservicebus.AMQPAnnotatedMessage, skipped []int, err error) {
	var problems []error
	n := 0
	for line := range bytes.Lines(text) {
		if n++; n < fromLine || len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		record, err := replay.ReadRecord(line)
		var message *azservicebus.AMQPAnnotatedMessage
		if err == nil {
			message, err = record.Message(run)
		}
		if errors.Is(err, replay.ErrStandIn) {
			skipped = append(skipped, n)
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", n, err))
			if len(problems) == 10 {
				problems = append(problems, errors.New("and perhaps more"))
				break
			}
			continue
		}
		lines, messages = append(lines, n), append(messages, message)
	}
	if len(problems) > 0 {
		return nil, nil, nil, fail(exitUsage, "nothing was sent:\n%v", errors.Join(problems...))
	}
	return lines, messages, skipped, nil
}

// destination is where messages are sent: what --to says, or the configured queue or topic.
func destination(cfg config.Config, to string) (string, error) {
	if to != "" {
		return to, nil
	}
	entities := cfg.ServiceBus.Entities()
	if topic, _, ok := config.SplitSubscription(entities[0]); ok {
		return topic, nil
	}
	if len(entities) > 1 {
		return "", fail(exitUsage, "several sources are configured: say by --to where to send")
	}
	return entities[0], nil
}

// sendOutcome is what import and send print.
type sendOutcome struct {
	Sent         int    `json:"sent"`
	Of           int    `json:"of"`
	To           string `json:"to"`
	RunID        string `json:"runId,omitempty"`
	GoOnWithLine int    `json:"goOnWithLine,omitempty"`
	// Skipped are the lines of records without a body.
	Skipped []int `json:"skippedLines,omitempty"`
}

func (o sendOutcome) print(w io.Writer) {
	fmt.Fprintf(w, "%d of %d messages sent to %s", o.Sent, o.Of, o.To)
	if o.RunID != "" {
		fmt.Fprintf(w, " (run %s)", o.RunID)
	}
	fmt.Fprintln(w)
	if o.GoOnWithLine > 0 {
		fmt.Fprintf(w, "go on with --from-line %d\n", o.GoOnWithLine)
	}
	printLines(w, o.Skipped)
}

// sendAll sends messages one after the other. The outcome is good beside an error, too; stopping early is one.
func (p *program) sendAll(ctx context.Context, cfg config.Config, to string, perSecond float64, messages []*azservicebus.AMQPAnnotatedMessage) (outcome sendOutcome, err error) {
	outcome = sendOutcome{Of: len(messages), To: to}
	client, err := app.NewServiceBus(cfg)
	if err != nil {
		return outcome, err
	}
	defer closeClient(client)
	sender, err := openSender(ctx, client, to)
	if err != nil {
		return outcome, err
	}
	limiter := rate.NewLimiter(rate.Inf, 1)
	if perSecond > 0 {
		limiter = rate.NewLimiter(rate.Limit(perSecond), 1)
	}
	bar := p.newBar("sending", len(messages))
	defer bar.end()
	for _, m := range messages {
		if limiter.Wait(ctx) != nil {
			return outcome, fail(exitFailed, "stopped")
		}
		if err := sendOne(ctx, sender, m); err != nil {
			return outcome, err
		}
		outcome.Sent++
		bar.add(1)
	}
	return outcome, nil
}

// sendOne is not ended by ctx: whether a send that is cut off has arrived, nobody knows.
func sendOne(ctx context.Context, sender *azservicebus.Sender, m *azservicebus.AMQPAnnotatedMessage) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 12*time.Second)
	defer cancel()
	return sender.SendAMQPAnnotatedMessage(ctx, m, nil)
}
