package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// exportFile is a file of dead letters, or standard output.
type exportFile struct {
	file *os.File // nil for standard output
	to   *bufio.Writer
	// records counts what was written.
	records int
	// partly has the sequence numbers of letters that were written without their original bytes. It
	// collects them only if allowPartly is set; otherwise, such a letter is an error.
	partly      []int64
	allowPartly bool
}

// createExport creates a file. The file must not exist, because another one may hold the only copy
// of something.
func createExport(name string) (*exportFile, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the file
	if errors.Is(err, os.ErrExist) {
		return nil, errExists(name)
	}
	if err != nil {
		return nil, fail(exitFailed, "%v", err)
	}
	return &exportFile{file: file, to: bufio.NewWriter(file)}, nil
}

func errExists(name string) error {
	return fail(exitUsage, "%s exists already: choose another file", name)
}

// write writes dead letters, and returns when they are on the disk. If one cannot be written, it
// writes none.
func (e *exportFile) write(found []replay.Found) error {
	records := make([]replay.Record, len(found))
	for i, f := range found {
		var err error
		if records[i], err = e.record(f); err != nil {
			return err
		}
	}
	for _, r := range records {
		if err := e.add(r); err != nil {
			return err
		}
	}
	return e.sync()
}

// record returns the record of a dead letter.
func (e *exportFile) record(f replay.Found) (replay.Record, error) {
	record, err := replay.NewRecord(f)
	if e.allowPartly && errors.Is(err, replay.ErrNoOriginal) {
		e.partly, err = append(e.partly, f.SequenceNumber), nil
	}
	if err != nil {
		return record, fmt.Errorf("sequence number %d: %w", f.SequenceNumber, err)
	}
	return record, nil
}

// add adds a record. It is on the disk after the next sync.
func (e *exportFile) add(r replay.Record) error {
	e.records++
	return replay.WriteRecord(safe{e.to}, r) // an operator may look at the file in a terminal
}

func (e *exportFile) sync() error {
	if err := e.to.Flush(); err != nil || e.file == nil {
		return err
	}
	return e.file.Sync()
}

func (e *exportFile) close() error {
	if e.file == nil {
		return nil
	}
	return e.file.Close()
}

// discard closes and removes a file that nothing was written to.
func (e *exportFile) discard() error {
	return errors.Join(e.file.Close(), os.Remove(e.file.Name()))
}

func (p *program) dlqExport() *cobra.Command {
	pick := picking{mayAll: true}
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write dead letters to a file, and leave them where they are",
		Long: `Write dead letters to a file (- is standard output), one JSON object per line,
and leave them where they are. You can correct bad events in the file and send
it with worker dlq import. worker dlq purge removes the originals.

If a message cannot be read completely, the file also gets its original bytes
("originalAmqp", in base64).`,
		Example: `  worker dlq export --reason InvalidEvent bad.ndjson
  worker dlq export --all everything.ndjson`,
		Args: cobra.ExactArgs(1),
	}
	pick.flags(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		to := &exportFile{to: bufio.NewWriter(p.stdout)}
		if args[0] != "-" {
			if to, err = createExport(args[0]); err != nil {
				return err
			}
		}
		defer to.close()
		to.allowPartly = true
		err = from.each(ctx, (*replay.Queue).Find, func(found replay.Found) error {
			record, err := to.record(found)
			if err == nil {
				err = to.add(record)
			}
			if err != nil {
				return fail(exitFailed, "%v", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := to.sync(); err != nil {
			return fail(exitFailed, "%v", err)
		}
		fmt.Fprintf(p.stderr, "%s written to %s\n", letters(to.records), args[0])
		if len(to.partly) > 0 {
			return fail(exitFailed, "%s written without the original bytes, which are no longer in memory: sequence numbers %v",
				letters(len(to.partly)), to.partly[:min(10, len(to.partly))])
		}
		return nil
	})
}
