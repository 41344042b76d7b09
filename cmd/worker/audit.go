package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/trail"
)

func (p *program) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Check the audit trail", Args: cobra.NoArgs}
	cmd.AddCommand(p.auditVerify())
	return cmd
}

func (p *program) auditVerify() *cobra.Command {
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Look whether a record of the audit trail was changed or taken away",
		Long: `Look whether a record of the audit trail (audit.file) was changed, added or taken
away; - is standard input. Files that were rotated are given in their order.

Each process writes a chain of its own. One without an end is open: its process was
killed, runs still, or the end was taken away. What was taken from the end of an
open chain, or a whole chain, cannot be seen: compare with the topic (audit.topic).

Exit codes: 0 whole; 1 something is wrong; 2 wrong command line.`,
		Example: `  worker audit verify /var/log/session-revoker/audit.ndjson`,
		Args:    cobra.MinimumNArgs(1),
	}
	out.flag(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, files []string) error {
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
		report, err := trail.Verify(io.MultiReader(readers...))
		if err != nil {
			return fail(exitFailed, "%v", err)
		}
		if err := out.value(report, func(w io.Writer) { printReport(w, report) }); err != nil {
			return err
		}
		if len(report.Problems) > 0 {
			return fail(exitFailed, "the trail is not whole")
		}
		return nil
	}
	return cmd
}

func printReport(w io.Writer, r trail.Report) {
	fmt.Fprintf(w, "%d records in %d chains\n", r.Records, r.Chains)
	for _, chain := range r.Open {
		fmt.Fprintf(w, "open: chain %s has no end\n", plain(chain))
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(w, plain(problem))
	}
}
