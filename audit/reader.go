package audit

import (
	"context"
	"io"
)

// UntilDone returns a reader of r that fails with the context's error when the context ends, for
// Verify and a long log. It cannot end a read that hangs.
func UntilDone(ctx context.Context, r io.Reader) io.Reader { return untilDone{ctx, r} }

type untilDone struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
