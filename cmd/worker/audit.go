package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
)

func (p *program) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Check the audit log", Args: cobra.NoArgs}
	cmd.AddCommand(p.auditVerify())
	return cmd
}

func (p *program) auditVerify() *cobra.Command {
	var keyFiles []string
	var receiptFile string
	var closed bool
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Look whether a record of the audit log was changed or taken away",
		Long: `Look whether a record of the audit log (audit.file, and the file beside it with
-operators in its name) was changed, added or taken away; - is standard input.
Files that were rotated are given in their order.

What that proves depends on what it is checked against, and the last line says it:

- Nothing else: the file is consistent. That is not proof against somebody who can
  rewrite it: they can change a record and mend the chain of hashes after it.
- --key-file, for files written with audit.key_file: nobody who does not hold the
  key has changed, added or taken out a record, nor cut off the end of a chain that
  is closed. Who holds the key can do all of it.
- --receipts, with what was published to audit.topic, one event to a line: every
  record up to the last receipt of its chain is as it was when it was published.

Each process writes a chain of its own, and closes it when it stops. An open chain
has no end: its process runs still, was killed, or its tail was cut off. The tail
cannot be proven then, unless a later chain or a receipt names its last record. Nor
can a file show that whole chains behind its last one were taken away: receipts do.

Exit codes: 0 no problem; 1 a problem, or with --closed a tail that cannot be
proven; 2 wrong command line.`,
		Example: `  worker audit verify /var/log/session-revoker/audit.ndjson
  worker audit verify --key-file audit.key --closed audit.ndjson.1 audit.ndjson
  worker audit verify --receipts published.ndjson audit.ndjson`,
		Args: cobra.MinimumNArgs(1),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&keyFiles, "key-file", nil, "file with the key that the records were written with (audit.key_file); again for each key that was used")
	fs.StringVar(&receiptFile, "receipts", "", "file with events that were published to audit.topic, one JSON object to a line")
	fs.BoolVar(&closed, "closed", false, "fail also if the tail of a chain cannot be proven: no worker may be running")
	out.flag(fs)
	cmd.RunE = func(_ *cobra.Command, files []string) error {
		options, err := verifyOptions(keyFiles, receiptFile)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		var readers []io.Reader
		for _, name := range files {
			if name == "-" {
				readers = append(readers, p.stdin)
				continue
			}
			file, err := os.Open(name) //nolint:gosec // the operator names the file
			if err != nil {
				return fail(exitUsage, "%v", err)
			}
			defer file.Close()
			readers = append(readers, file)
		}
		report, err := audit.Verify(io.MultiReader(readers...), options)
		if err != nil {
			return fail(exitFailed, "%v", err)
		}
		if err := out.value(report, func(w io.Writer) { printReport(w, report) }); err != nil {
			return err
		}
		switch {
		case len(report.Problems) > 0:
			return fail(exitFailed, "the audit log is not whole")
		case closed && slices.ContainsFunc(report.Open, func(c audit.OpenChain) bool { return !c.Sealed }):
			return fail(exitFailed, "the tail of an open chain cannot be proven (--closed)")
		}
		return nil
	}
	return cmd
}

// verifyOptions reads the keys and receipts.
func verifyOptions(keyFiles []string, receiptFile string) (audit.Options, error) {
	var options audit.Options
	for _, name := range keyFiles {
		key, err := audit.ReadKey(name)
		if err != nil {
			return options, fmt.Errorf("--key-file: %w", err)
		}
		options.Keys = append(options.Keys, key)
	}
	if receiptFile == "" {
		return options, nil
	}
	file, err := os.Open(receiptFile) //nolint:gosec // the operator names the file
	if err != nil {
		return options, fmt.Errorf("--receipts: %w", err)
	}
	defer file.Close()
	if options.Receipts, err = audit.ReadReceipts(file); err != nil {
		return options, fmt.Errorf("--receipts: %w", err)
	}
	if len(options.Receipts) == 0 {
		return options, fmt.Errorf("--receipts: %s holds no receipt", receiptFile)
	}
	return options, nil
}

func printReport(w io.Writer, r audit.Report) {
	fmt.Fprintf(w, "%d records in %d chains\n", r.Records, r.Chains)
	if r.Receipts > 0 {
		fmt.Fprintf(w, "%d receipts compared\n", r.Receipts)
	}
	if r.Last != nil {
		fmt.Fprintf(w, "last: record %d of chain %s\n", r.Last.Number, plain(r.Last.Chain))
	}
	for _, c := range r.Open {
		tail := "its tail cannot be proven"
		if c.Sealed {
			tail = "a later chain or a receipt names its last record"
		}
		fmt.Fprintf(w, "open: chain %s has no end; its last record is %d, of %s: %s\n", plain(c.Chain), c.Last, when(c.Time), tail)
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(w, plain(problem))
	}
	if r.Unchecked > 0 {
		fmt.Fprintf(w, "%d records carry a MAC that was not checked: give --key-file\n", r.Unchecked)
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(w, r.Claim)
	}
}
