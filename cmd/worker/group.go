package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// group makes a command of subcommands: without an argument it prints its help, and with an unknown
// one it fails. By default cobra prints the help and exits with 0 in both cases, so a script with a
// mistyped subcommand would seem to succeed.
func group(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subcommands...)
	cmd.Use += " COMMAND"
	cmd.DisableFlagsInUseLine = true
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			text += ". Did you mean " + strings.Join(similar, " or ") + "?"
		}
		return fail(exitUsage, "%s; see %s --help", text, cmd.CommandPath())
	}
	return cmd
}
