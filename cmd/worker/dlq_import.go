package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/publish"
	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// importing is one run of dlq import.
type importing struct {
	*change
	to       string
	rate     float64 // messages per second
	fromLine int
	again    bool
}

func (p *program) dlqImport() *cobra.Command {
	i := &importing{change: p.newChange("dlq import")}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Send the messages of an exported file",
		Long: `Send the messages of a file that dlq export or dlq purge has written (- is
standard input). You can edit the file before. Each message gets a new
MessageID. The command reads all lines before it sends the first message: if one
line is wrong, it sends nothing. It leaves out records without a body, which are
those of messages that could not be read, and the exit code says so. Add a body
to have them sent.

With --dry-run, the command also reads the events, and the exit code says
whether the worker would refuse one.

A file that was imported before, as the operators' audit log says, is not sent
again without --again or --from-line. Without audit.file, nobody knows.`,
		Example: `  worker dlq import --dry-run corrected.ndjson
  worker dlq import corrected.ndjson`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&i.to, "to", "", "queue or topic to send to (default: the configured queue)")
	flags.StringVar(&i.act.By, "by", "", "who imports, for each message and the audit log (default: you, as user@host)")
	flags.Float64Var(&i.rate, "rate", defaultRate, "maximum number of messages per second; 0 means no limit")
	flags.IntVar(&i.fromLine, "from-line", 1, "start with this line, to continue a run that was stopped")
	flags.BoolVar(&i.again, "again", false, "send a file that was imported before")
	i.flags(flags, "check the file and its events, and send nothing")
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) (err error) {
		if !isRate(i.rate) {
			return fail(exitUsage, "--rate: %v is not a number of messages per second", i.rate)
		}
		text, err := p.readInput(args[0])
		if err != nil {
			return err
		}
		run := replay.NewRun(operator(i.act.By))
		plan, err := readRecords(text, i.fromLine, run)
		if err != nil {
			return err
		}
		if i.to, err = destination(cfg, i.to); err != nil {
			return err
		}
		if i.dryRun {
			fmt.Fprintf(p.stdout, "%s would be sent to %s\n", count(len(plan.messages), "well-formed message"), i.to)
			printLines(p.stderr, plan.skipped)
			return i.checkEvents(cfg, plan)
		}
		sum := sha256.Sum256(text)
		if !i.again && i.fromLine == 1 {
			if err := importedBefore(cfg, hex.EncodeToString(sum[:])); err != nil {
				return err
			}
		}
		i.act.Run = run.ID
		if err := i.begin(ctx, cfg); err != nil {
			return err
		}
		defer func() { err = i.end(ctx, err) }()
		return i.send(ctx, cfg, plan, audit.Operation{File: args[0], FileSHA256: hex.EncodeToString(sum[:]), To: i.to})
	})
}

// importedBefore returns an error if the operators' audit log has a record that a file with this hash
// was sent.
func importedBefore(cfg config.Config, sum string) error {
	if cfg.Audit.File == "" || cfg.Audit.File == "-" {
		return nil
	}
	name := publish.OperatorFile(cfg.Audit.File)
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	log, err := newOpenLog(nil, []string{name})
	if err != nil {
		return fail(exitUsage, "whether the file was imported before is not known: %v; --again does not look", err)
	}
	defer log.close()
	var last *audit.Operation
	_, err = audit.Verify(log.reader(), audit.Options{Each: func(e audit.Entry) {
		if o := e.Operation; o != nil && o.FileSHA256 == sum && o.Counts["sent"] > 0 {
			last = o
		}
	}})
	if err != nil {
		return fail(exitUsage, "whether the file was imported before is not known: %v; --again does not look", err)
	}
	if last != nil {
		return fail(exitUsage, "nothing was sent: %s was imported at %s by %s (run %s, %s sent); --again sends it once more, "+
			"--from-line continues", last.File, when(last.Time), last.By, last.Run, count(last.Counts["sent"], "message"))
	}
	return nil
}

// checkEvents prints the events that the worker would refuse, and returns an error if there are any.
func (i *importing) checkEvents(cfg config.Config, plan records) error {
	decoder, err := app.NewDecoder(cfg, app.DecoderOptions{})
	if err != nil {
		return fail(exitUsage, "%v", err)
	}
	refused := 0
	refuse := func(n int, err error) {
		if refused++; refused <= 10 {
			fmt.Fprintf(i.stderr, "  line %d: %s\n", plan.lines[n], plain(err.Error()))
		}
	}
	for n, m := range plan.messages {
		items, err := decoder.Decode(deadletter.Content(received(m)))
		if err != nil {
			refuse(n, err)
		}
		only := plan.only[n]
		for _, item := range items {
			if item.Err != nil && (len(only) == 0 || slices.Contains(only, item.Index)) {
				refuse(n, item.Err)
			}
		}
	}
	if refused > 0 {
		return fail(exitFailed, "the worker would refuse %s: correct the file", count(refused, "event"))
	}
	return nil
}

// received returns a message as it will be received.
func received(m *azservicebus.AMQPAnnotatedMessage) *azservicebus.ReceivedMessage {
	r := &azservicebus.ReceivedMessage{
		RawAMQPMessage: m, ApplicationProperties: m.ApplicationProperties, Body: bytes.Join(m.Body.Data, nil),
	}
	if p := m.Properties; p != nil {
		r.ContentType, r.Subject = p.ContentType, p.Subject
	}
	return r
}

// send sends the messages of a file. about is the file, for the audit log.
func (i *importing) send(ctx context.Context, cfg config.Config, plan records, about audit.Operation) error {
	var outcome sendOutcome
	all := step{
		about: about, total: len(plan.messages), leftOut: len(plan.skipped), finished: []string{"sent"},
		do: func(ctx context.Context, progress func(int)) (map[string]int, error) {
			var err error
			outcome, err = sendAll(ctx, cfg, i.to, i.rate, plan.messages, progress)
			return map[string]int{"sent": outcome.Sent, "left": outcome.Of - outcome.Sent}, err
		},
	}
	if err := i.announce(ctx, all); err != nil {
		return err
	}
	err := i.carryOut(ctx, "sending", all)
	outcome.RunID, outcome.Skipped = i.act.Run, plan.skipped
	if outcome.Sent < outcome.Of {
		outcome.GoOnWithLine = plan.lines[outcome.Sent]
	}
	if err == nil && len(plan.skipped) > 0 {
		err = fail(exitFailed, "not sent: %s without a body; see docs/runbook.md, section 9", count(len(plan.skipped), "record"))
	}
	return errors.Join(i.out.value(outcome, outcome.print), err)
}

// printLines prints the first few lines of a file that are left out.
func printLines(w io.Writer, lines []int) {
	for _, n := range lines[:min(10, len(lines))] {
		fmt.Fprintf(w, "  line %d left out: %v\n", n, replay.ErrStandIn)
	}
	if len(lines) > 10 {
		fmt.Fprintf(w, "  and %d more\n", len(lines)-10)
	}
}

// maxInput limits the size of a file that is read as a whole.
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

// records are the messages of a file, with the line of each. skipped has the lines of records
// without a body.
type records struct {
	messages []*azservicebus.AMQPAnnotatedMessage
	lines    []int
	only     [][]int // the indexes of the events of each to act on; empty for all
	skipped  []int
}

// readRecords reads all lines from fromLine on. The error names the first lines that are wrong.
func readRecords(text []byte, fromLine int, run replay.Run) (plan records, err error) {
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
			plan.skipped = append(plan.skipped, n)
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
		plan.lines, plan.messages = append(plan.lines, n), append(plan.messages, message)
		plan.only = append(plan.only, record.OnlyEvents)
	}
	if len(problems) > 0 {
		return records{}, fail(exitUsage, "nothing was sent:\n%v", errors.Join(problems...))
	}
	return plan, nil
}
