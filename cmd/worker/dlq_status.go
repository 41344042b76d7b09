package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// firstPoll and maxPoll are how long --wait waits before it looks at the queue again: each time twice
// as long. In a large queue, one look takes seconds.
const firstPoll, maxPoll = 250 * time.Millisecond, 4 * time.Second

// runStatus is what became of a run: what the queues show, and what the audit log says.
type runStatus struct {
	*replay.RunState
	// Answer is one sentence.
	Answer string `json:"answer"`
	// Audit is absent if there is no audit log to read. NoAudit says why.
	Audit   *history.Run `json:"audit,omitempty"`
	NoAudit string       `json:"noAudit,omitempty"`
	// Unseen says which messages cannot be seen.
	Unseen string `json:"unseen,omitempty"`
}

func (p *program) dlqStatus() *cobra.Command {
	var files []string
	var keys logFiles
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "status RUN",
		Short: "Say what became of the messages of a replay or import",
		Long: `Say what became of the messages of a replay or import: how many wait, are
deferred, or are dead letters again and why. All others have been completed:
their people are signed out, or another message stands for them. The audit log,
if it can be read here, says which. This only peeks.

RUN is the id that dlq replay and dlq import print.

The audit log is audit.file of the settings and the operators' file next to it,
or each FILE of --audit.`,
		Example: `  worker dlq status 0b8f2a52-7d3c-4c0e-9d0b-6a4c9f6f0a11
  worker dlq status 0b8f2a52-7d3c-4c0e-9d0b-6a4c9f6f0a11 \
    --audit audit.ndjson --audit audit-operators.ndjson`,
		Args: cobra.ExactArgs(1),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&files, "audit", nil, "file of the audit log; repeatable, rotated files oldest first")
	keys.flags(fs)
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		run, err := uuid.Parse(args[0])
		if err != nil || len(args[0]) != len(run.String()) {
			return fail(exitUsage, "%q is not the id of a run, such as %s", args[0], uuid.Nil)
		}
		s, err := p.runStatus(ctx, cfg, run.String())
		if err != nil {
			return err
		}
		if err := s.readAudit(ctx, p, cfg, keys, files); err != nil {
			return err
		}
		s.conclude()
		if err := out.value(s, s.print); err != nil {
			return err
		}
		if s.found() == 0 && (s.Audit == nil || s.Audit.Command == "" && len(s.Audit.Outcomes) == 0) {
			return fail(exitNotFound, "")
		}
		return nil
	})
}

// runStatus finds the messages of a run in the queues, and then in their dead letters.
func (p *program) runStatus(ctx context.Context, cfg config.Config, run string) (*runStatus, error) {
	s := &runStatus{RunState: replay.NewRunState(run)}
	for _, dead := range []bool{false, true} {
		if !dead && cfg.ServiceBus.Sessions > 0 {
			s.Unseen = "messages in sessions cannot be seen before they are dead letters"
			continue
		}
		pick := picking{deferred: !dead}
		from, err := pick.open(cfg)
		if err != nil {
			return nil, err
		}
		for _, q := range from.queues {
			for found, err := range q.FindRun(ctx, run, dead) {
				if err != nil {
					from.close()
					return nil, explain(err, q.Entity)
				}
				s.Add(found, dead)
			}
		}
		from.close()
	}
	return s, nil
}

// readAudit reads what the audit log says about the run, if there is one.
func (s *runStatus) readAudit(ctx context.Context, p *program, cfg config.Config, keys logFiles, files []string) error {
	if len(files) == 0 && (cfg.Audit.File == "" || cfg.Audit.File == "-") {
		s.NoAudit = "no audit log is configured (audit.file, --audit)"
		return nil
	}
	if len(files) == 0 {
		if _, err := os.Stat(cfg.Audit.File); err != nil {
			s.NoAudit = fmt.Sprintf("%s cannot be read here: %v", cfg.Audit.File, rootCause(err))
			return nil
		}
	}
	log, options, err := keys.open(p, cfg, files)
	if err != nil {
		return err
	}
	defer log.close()
	run, err := history.OfRun(ctx, log.open, s.Run, options)
	if err != nil {
		return explainReading(err)
	}
	s.Audit = &run
	return nil
}

// found returns the number of messages that were found.
func (s *runStatus) found() int { return s.undecided() + s.DeadLetters() }

// undecided returns the number of messages that are still to be decided.
func (s *runStatus) undecided() int { return s.Waiting + s.Deferred + s.Scheduled }

// conclude says in one sentence what became of the run.
func (s *runStatus) conclude() {
	back, wait := s.DeadLetters(), s.Waiting+s.Deferred
	sent := 0
	if s.Audit != nil {
		sent = s.Audit.Sent
	}
	switch {
	case s.found() == 0 && sent == 0 && (s.Audit == nil || len(s.Audit.Outcomes) == 0):
		s.Answer = "No message of this run is in the queues or their dead letters: all are completed, or the run is of other queues."
	case wait == 0 && back == 0:
		s.Answer = "Done: no message of this run waits or is a dead letter again."
	case wait == 0:
		s.Answer = fmt.Sprintf("Done: %s again; no other message of this run waits.",
			count(back, "message is a dead letter", "messages are dead letters"))
	case back == 0:
		s.Answer = fmt.Sprintf("Not done: %s still to be decided.", count(wait, "message is", "messages are"))
	default:
		s.Answer = fmt.Sprintf("Not done: %s still to be decided, and %s again.", count(wait, "message is", "messages are"),
			count(back, "is a dead letter", "are dead letters"))
	}
}

func (s *runStatus) print(w io.Writer) {
	fmt.Fprintln(w, wrapText(plain(s.Answer), help.Width))
	by, at := s.By, s.At
	if s.Audit != nil {
		by = cmp.Or(s.Audit.By, by)
		if !s.Audit.Began.IsZero() {
			at = when(s.Audit.Began)
		}
	}
	if by != "" {
		fmt.Fprintf(w, "Run %s by %s, %s\n", s.Run, short(plain(by), 60), plain(at))
	}
	printCounts(w, []countOf{
		{s.Waiting, "waiting or in flight"},
		{s.Deferred, "deferred: they come back by themselves"},
		{s.Scheduled, "waiting for their date"},
	})
	for _, reason := range byCount(s.Back) {
		printCounts(w, []countOf{{s.Back[reason], "dead letters again: " + short(plain(reason), 50)}})
	}
	if s.Unseen != "" {
		printHanging(w, "Note:", len("Note: "), s.Unseen+".")
	}
	if s.Audit == nil {
		printHanging(w, "Note:", len("Note: "), plain(s.NoAudit)+": how the others ended is not known here.")
		return
	}
	s.printAudit(w)
}

// printAudit prints what the audit log says, and where it contradicts the queues.
func (s *runStatus) printAudit(w io.Writer) {
	a := s.Audit
	if a.Command == "" {
		printHanging(w, "Note:", len("Note: "), "the audit log has no record of the command.")
	} else if a.Ended.IsZero() {
		printHanging(w, "Note:", len("Note: "), "the audit log has no end of the command: it runs, or was killed.")
	} else {
		fmt.Fprintf(w, "The audit log: %s sent.", count(a.Sent, "message"))
		fmt.Fprintln(w)
	}
	if len(a.Outcomes) > 0 {
		fmt.Fprintln(w, "Its records of their events:")
	}
	for _, outcome := range byCount(a.Outcomes) {
		fmt.Fprintf(w, "  %d %s\n", a.Outcomes[outcome], plain(outcome))
	}
	if gone := a.Sent - s.found(); gone > 0 && len(a.Outcomes) == 0 {
		printHanging(w, "Note:", len("Note: "), fmt.Sprintf("%s completed, and the log has no record of them: give the logs of "+
			"all replicas by --audit.", count(gone, "message was", "messages were")))
	}
	if a.Log.ProblemCount > 0 {
		printHanging(w, "Note:", len("Note: "), fmt.Sprintf("the check of the log found %s: worker audit verify lists them.",
			count(a.Log.ProblemCount, "problem")))
	}
}

// awaitRun waits until no message of a run is to be decided.
func (p *program) awaitRun(ctx context.Context, cfg config.Config, run string, sent int) (*runStatus, error) {
	goOn := func(s *runStatus) error {
		return fail(exitFailed, "stopped waiting: %s still to be decided. Go on with: worker dlq status %s",
			count(s.undecided(), "message is", "messages are"), run)
	}
	bar := p.newBar("decided", sent)
	defer bar.end()
	last := &runStatus{RunState: replay.NewRunState(run)}
	last.Waiting = sent
	decided := 0
	for wait := firstPoll; ; wait = min(2*wait, maxPoll) {
		s, err := p.runStatus(ctx, cfg, run)
		switch {
		case ctx.Err() != nil:
			return last, goOn(last)
		case err != nil:
			return last, errors.Join(err, goOn(last))
		}
		last = s
		now := max(decided, sent-s.undecided())
		bar.add(now - decided)
		if bar == nil && now > decided {
			fmt.Fprintf(p.stderr, "%d of %s decided\n", now, count(sent, "message"))
		}
		decided = now
		if s.undecided() == 0 {
			err := s.readAudit(ctx, p, cfg, logFiles{}, nil)
			s.conclude()
			return s, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return last, goOn(last)
		}
	}
}
