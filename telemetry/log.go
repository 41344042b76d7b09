package telemetry

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger that writes to w. level is debug, info, warn, or error; format is json
// or console. The logger serializes its writes, so that w need not be safe for concurrent use. Call
// Sync before exit.
func NewLogger(w io.Writer, level, format string) (*zap.Logger, error) {
	l, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.TimeKey = "time"
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(cfg)
	case "console":
		encoder = zapcore.NewConsoleEncoder(cfg)
	default:
		return nil, fmt.Errorf("log format %q: use json or console", format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(harmless{w})), l)), nil
}

// harmless escapes characters that control a terminal or change the direction of text. Log lines
// contain text from producers, Graph, and others, and people read them in a terminal. It escapes as
// JSON does, so that a JSON line keeps its meaning.
type harmless struct{ w io.Writer }

// Write implements io.Writer.
func (h harmless) Write(line []byte) (int, error) {
	at := 0
	for at < len(line) && (line[at] >= ' ' && line[at] < 0x7f || line[at] == '\t') {
		at++
	}
	if at >= len(line)-1 { // nearly always: only the newline is left
		return h.w.Write(line)
	}
	out := append(make([]byte, 0, len(line)+64), line[:at]...)
	for rest := line[at:]; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case r == '\n' && len(rest) == 1, r == '\t', r != utf8.RuneError && !isControl(r):
			out = append(out, rest[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default: // also a byte that is not UTF-8
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		rest = rest[n:]
	}
	if _, err := h.w.Write(out); err != nil {
		return 0, err
	}
	return len(line), nil
}

// isControl reports whether r is a control character (C0, DEL, C1), a format character (direction,
// zero width, tags), or a line or paragraph separator.
func isControl(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}
