package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
)

// complete lets the shell complete the values of a flag.
func complete(cmd *cobra.Command, flag string, values func() []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	})
}

// eventTypes are the types that are allowed by default.
func eventTypes() []string {
	for _, o := range config.Options() {
		if o.Key == "events.types" {
			return strings.Split(o.Default, ",")
		}
	}
	return nil
}

// completeKnown lets the shell complete the flags whose values are known, wherever they are.
func completeKnown(cmd *cobra.Command) {
	flags := cmd.Flags()
	if f := flags.Lookup("reason"); f != nil && f.Value.Type() == "stringSlice" {
		complete(cmd, "reason", knownReasons)
	}
	if flags.Lookup("type") != nil {
		complete(cmd, "type", eventTypes)
	}
	if f := flags.Lookup("output"); f != nil {
		if out, ok := f.Value.(*output); ok {
			complete(cmd, "output", out.all)
		}
	}
	for _, sub := range cmd.Commands() {
		completeKnown(sub)
	}
}

// sayUsage lets errors about the number of arguments show how the command is called.
func sayUsage(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		sayUsage(sub)
	}
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fail(exitUsage, "%v: %s", err, cmd.UseLine())
		}
		return nil
	}
}

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
