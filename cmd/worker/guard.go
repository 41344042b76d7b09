package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/guard"
)

func (p *program) guardCommand() *cobra.Command {
	return group(&cobra.Command{Use: "guard", Short: "Release the guard against implausible volumes"}, p.guardRelease())
}

func (p *program) guardRelease() *cobra.Command {
	var lasts time.Duration
	var r guard.Release
	var file string
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Allow a larger number of people to be signed out, for a while",
		Long: `Allow a larger number of people to be signed out, for a while. This prints the
release, or writes it to --file. It takes effect when it is in the file that the
workers read (guard.release_file): they continue within seconds, up to the new
limit, and log who released them and why. --type releases one event type.
Without it, each type gets the limit.

In Kubernetes, the file is in a ConfigMap, which reaches every replica:

  worker guard release --type user.offboarded --for 1h --max 5000 \
    --reason "site closes" > release.json
  kubectl create configmap session-revoker-release --from-file=release.json \
    --dry-run=client -o yaml | kubectl apply -f -

First find out why the guard has tripped. worker dlq list does not show it: look
at the queue and at the producers' records. A new release replaces the earlier
one of its type. A release without a type replaces all.`,
		Example: `  worker guard release --type user.offboarded --for 1h --max 5000 \
    --reason "site closes" --file /etc/session-revoker/release.json`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.DurationVar(&lasts, "for", time.Hour, "how long the release lasts, at most 24h")
	flags.IntVar(&r.MaxUsers, "max", 0, "number of distinct people who may be signed out within guard.window, for each released type")
	flags.StringVar(&r.Type, "type", "", "event type to release, as the alert names it (default: each type)")
	flags.StringVar(&r.Reason, "reason", "", "why, for the record")
	flags.StringVar(&r.By, "by", "", "who, for the record (default: you, as user@host)")
	flags.StringVar(&file, "file", "", "file to write to (default: standard output)")
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		now := time.Now().UTC().Truncate(time.Second)
		r.At, r.Until, r.By = now, now.Add(lasts), operator(r.By)
		if err := r.Check(now); err != nil {
			return fail(exitUsage, "%v (--for, --max)", err)
		}
		text, err := p.release(ctx, cfg, r, file, r.Reason)
		if err != nil {
			return err
		}
		if file == "" {
			_, err = p.stdout.Write(text)
			fmt.Fprintln(p.stderr, "Nobody is released before this is in the file that the workers read (guard.release_file).")
			return err
		}
		fmt.Fprintf(p.stdout, "up to %s for %s until %s\n", count(r.MaxUsers, "person", "people"), cmp.Or(r.Type, "each type"),
			when(r.Until))
		return nil
	})
}

// release records a release and writes it to a file, or only returns its text if file is "".
func (p *program) release(ctx context.Context, cfg config.Config, r guard.Release, file, why string) (text []byte, err error) {
	if text, err = json.MarshalIndent(r, "", "  "); err != nil {
		return nil, err
	}
	text = append(text, '\n')
	record, err := p.begin(ctx, cfg, audit.Operation{Command: "guard release", By: r.By, Why: why})
	if err != nil {
		return nil, err
	}
	act := audit.Operation{File: file, MaxUsers: r.MaxUsers, Until: r.Until}
	defer func() {
		record.done(act, err)
		err = record.close(ctx, err)
	}()
	if err := record.start(ctx, act); err != nil || file == "" {
		return text, err
	}
	if err := replaceFile(file, text); err != nil {
		return nil, fail(exitFailed, "%v", err)
	}
	return text, nil
}

// replaceFile replaces a file atomically, so that nobody reads half of it.
func replaceFile(name string, text []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".release-*")
	if path, ok := errors.AsType[*fs.PathError](err); ok { // it names a file that nobody knows
		return fmt.Errorf("cannot write to the directory of %s: %w", name, path.Err)
	}
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}
