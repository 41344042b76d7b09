package main

import (
	"cmp"
	"context"
	"strings"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest/ssf"
	"github.com/session-revoker/session-revoker/network"
)

// checkStreams looks at each stream of worker ingest at its transmitter.
func checkStreams(ctx context.Context, cfg config.Config, f *findings) {
	if len(cfg.Ingest.Streams) == 0 {
		return
	}
	list, err := remotes(cfg)
	if err != nil {
		return // checkIngest and checkTransmitters say why
	}
	parts := make([]func(*findings), len(list))
	for i, r := range list {
		parts[i] = func(f *findings) { checkStream(ctx, r, f) }
	}
	f.together(parts...)
}

func checkStream(ctx context.Context, r *remote, f *findings) {
	name := "stream " + r.Name
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	if r.Delivery == ssf.Push && r.TokenFile == "" && r.ClientID == "" || r.PollURL != "" {
		f.ok(name, "%s; the transmitter's API is not used, so nothing more can be checked", r.Delivery)
		return
	}
	shown, err := r.look(ctx)
	if err != nil {
		what, fix := network.SplitFix(strings.TrimPrefix(firstLine(err), r.Name+": "))
		f.fail(name, cmp.Or(fix, "see docs/shared-signals.md")+"; until then, no token of this stream comes", "%s", what)
		return
	}
	if t, ok := r.tokens.Find(r.Issuer); ok && t.JWKSURL != "" && r.metadata.JWKSURL != "" && t.JWKSURL != r.metadata.JWKSURL {
		f.warn(name, "compare jwks_url in events.transmitters_file with the metadata", "the transmitter's keys are at %s, and not at %s",
			short(r.metadata.JWKSURL, 128), t.JWKSURL)
	}
	switch {
	case shown.Problem != "":
		f.fail(name, "add it; until then, worker ingest accepts no token of this stream", "%s", shown.Problem)
	case shown.Status != "" && shown.Status != ssf.Enabled:
		f.fail(name, "worker ssf status --set enabled "+r.Name, "the status is %s", short(shown.Status, 40))
	case shown.Heartbeat == "":
		f.warn(name, "set expect_every, if events come regularly: nothing else shows that none come any more",
			"%s, %s; the transmitter has no heartbeats", r.Delivery, shown.Status)
	default:
		f.ok(name, "%s, %s; a heartbeat every %s", r.Delivery, shown.Status, shown.Heartbeat)
	}
}
