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
	return group(&cobra.Command{Use: "audit", Short: "Check the audit log, and report from it"}, p.auditVerify(), p.auditReport())
}

func (p *program) auditVerify() *cobra.Command {
	var keyFiles []string
	var receiptFile string
	var closed bool
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Check whether a record of the audit log was changed or removed",
		Long: `Check whether a record of the audit log was changed, added or removed. The audit
log is audit.file, and the file next to it with -operators in its name. List
rotated files in their order; - is standard input.

What the check proves depends on what it compares with. The last line says it:

- With nothing else: the file is consistent. This is no proof against someone
  who can rewrite the file: they can change a record and recompute the chain of
  hashes after it.
- With --key-file, for files written with audit.key_file: nobody without the key
  has changed, added or removed a record, or cut off the end of a closed chain.
  Someone with the key can do all of this.
- With --receipts, a file with the events published to audit.topic, one per
  line: every record up to the last receipt of its chain is as it was when it
  was published.

Each process writes its own chain, and closes it when it stops. An open chain
has no end: its process still runs, was killed, or the end was cut off. Then the
end cannot be verified, unless a later chain or a receipt names the last record.
A file also cannot show that complete chains after its last one were removed;
receipts can.

Exit codes: 0 no problem; 1 a problem, or, with --closed, an end that cannot be
verified; 2 wrong command line.`,
		Example: `  worker audit verify /var/log/session-revoker/audit.ndjson
  worker audit verify --key-file audit.key --closed audit.ndjson.1 audit.ndjson
  worker audit verify --receipts published.ndjson audit.ndjson`,
		Args: cobra.MinimumNArgs(1),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&keyFiles, "key-file", nil,
		"file with the key of the records (audit.key_file); repeat it for each key that was used")
	fs.StringVar(&receiptFile, "receipts", "", "file with events that were published to audit.topic, one JSON object per line")
	fs.BoolVar(&closed, "closed", false, "also fail if the end of a chain cannot be verified; no worker may be running")
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
			return fail(exitFailed, "the audit log is not intact")
		case closed && slices.ContainsFunc(report.Open, func(c audit.OpenChain) bool { return !c.Sealed }):
			return fail(exitFailed, "the end of an open chain cannot be verified (--closed)")
		}
		return nil
	}
	return cmd
}

// verifyOptions reads the keys and the receipts.
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
	fmt.Fprintf(w, "%s in %s\n", count(r.Records, "record"), count(r.Chains, "chain"))
	if r.Receipts > 0 {
		fmt.Fprintf(w, "%s compared\n", count(r.Receipts, "receipt"))
	}
	if r.Last != nil {
		fmt.Fprintf(w, "last: record %d of chain %s\n", r.Last.Number, plain(r.Last.Chain))
	}
	for _, c := range r.Open {
		end := "its end cannot be verified"
		if c.Sealed {
			end = "a later chain or a receipt names its last record"
		}
		fmt.Fprintf(w, "open: chain %s is not closed; its last record is %d at %s: %s\n", plain(c.Chain), c.Last, when(c.Time), end)
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(w, plain(problem))
	}
	if r.Unchecked > 0 {
		fmt.Fprintf(w, "%s with a MAC that was not checked: use --key-file\n", count(r.Unchecked, "record"))
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(w, r.Claim)
	}
}
