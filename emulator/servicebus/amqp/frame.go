package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Frame types (AMQP 1.0 §2.3.1 and §5.3.1).
const (
	TypeAMQP = 0
	TypeSASL = 1
)

// Protocol headers (AMQP 1.0 §2.2 and §5.3.2).
var (
	HeaderAMQP = [8]byte{'A', 'M', 'Q', 'P', 0, 1, 0, 0}
	HeaderSASL = [8]byte{'A', 'M', 'Q', 'P', 3, 1, 0, 0}
)

// Frame is one frame. An empty body is a keep-alive.
type Frame struct {
	Type    uint8
	Channel uint16 // unused in a SASL frame
	Body    []byte
}

// FrameSizeError is the error for a frame that is larger than agreed. Sizes are in bytes.
type FrameSizeError struct{ Size, Max uint32 }

func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("amqp: frame of %d bytes, at most %d were agreed", e.Size, e.Max)
}

const (
	frameHead  = 8
	fullBuffer = 64 << 10 // the initial buffer at most, so that one read gets many small frames
	emptyReads = 100      // how many reads in a row may return neither bytes nor an error, as in bufio
)

// FrameReader reads frames through a buffer of up to 64 KiB, which grows to the size of the largest
// frame. It is not safe for concurrent use.
type FrameReader struct {
	r          io.Reader
	max        uint32
	buf        []byte
	start, end int // unread bytes
}

// NewFrameReader returns a reader of frames of at most maxFrameSize bytes. A smaller bound than
// 512, which the specification does not allow (AMQP 1.0 §2.7.1), becomes 512.
func NewFrameReader(r io.Reader, maxFrameSize uint32) *FrameReader {
	bound := max(maxFrameSize, 512)
	return &FrameReader{r: r, max: bound, buf: make([]byte, min(bound, fullBuffer))}
}

// need makes n unread bytes available. The buffer grows when bytes arrive, not when a peer
// announces them.
func (f *FrameReader) need(n int) error {
	if f.start == f.end {
		f.start, f.end = 0, 0
	}
	for empty := 0; f.end-f.start < n; {
		if f.start+n > len(f.buf) && f.start > 0 {
			f.end = copy(f.buf, f.buf[f.start:f.end])
			f.start = 0
		}
		if f.end == len(f.buf) {
			f.buf = append(f.buf, make([]byte, min(len(f.buf), n-f.end))...)
			f.buf = f.buf[:cap(f.buf)]
		}
		got, err := f.r.Read(f.buf[f.end:])
		f.end += got
		if got > 0 {
			empty = 0
		} else if empty++; empty == emptyReads && err == nil {
			err = io.ErrNoProgress
		}
		if err != nil && f.end-f.start < n {
			if errors.Is(err, io.EOF) && f.end > f.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// ReadProtocolHeader reads the eight bytes that begin each protocol layer. It does not check them.
// It returns the same errors as ReadFrame.
func (f *FrameReader) ReadProtocolHeader() (header [8]byte, err error) {
	if err := f.need(len(header)); err != nil {
		return header, err
	}
	f.start += copy(header[:], f.buf[f.start:])
	return header, nil
}

// ReadFrame reads one frame and skips its extended header. The body is valid until the next call.
// The error is io.EOF if the connection ends between frames, io.ErrUnexpectedEOF if it ends inside
// a frame, the connection's own error if reading fails, a *FrameSizeError if the frame is too
// large, or another error if the head is malformed. After one of the last two errors the rest of
// the stream is not readable.
func (f *FrameReader) ReadFrame() (Frame, error) {
	if err := f.need(frameHead); err != nil {
		return Frame{}, err
	}
	head := f.buf[f.start:]
	size, offset := binary.BigEndian.Uint32(head), 4*int(head[4])
	switch {
	case size > f.max:
		return Frame{}, &FrameSizeError{Size: size, Max: f.max}
	case offset < frameHead || offset > int(size):
		return Frame{}, fmt.Errorf("amqp: frame of %d bytes with its body at %d", size, offset)
	}
	if err := f.need(int(size)); err != nil {
		return Frame{}, err
	}
	b := f.buf[f.start : f.start+int(size) : f.start+int(size)]
	f.start += int(size)
	return Frame{Type: b[5], Channel: binary.BigEndian.Uint16(b[6:]), Body: b[offset:]}, nil
}

// AppendFrame appends a frame with p, followed by the payload. For a keep-alive p is nil. The
// caller must keep the frame within the peer's max-frame-size. It fails if p contains a value
// without an AMQP type.
func AppendFrame(dst []byte, frameType uint8, channel uint16, p Performative, payload ...[]byte) ([]byte, error) {
	out := append(dst, 0, 0, 0, 0, frameHead/4, frameType, byte(channel>>8), byte(channel))
	if p != nil {
		var err error
		if out, err = appendPerformative(out, p); err != nil {
			return dst, fmt.Errorf("amqp: %w", err)
		}
	}
	for _, part := range payload {
		out = append(out, part...)
	}
	size := len(out) - len(dst)
	if size > math.MaxUint32 {
		return dst, fmt.Errorf("amqp: frame of %d bytes", size)
	}
	binary.BigEndian.PutUint32(out[len(dst):], uint32(size))
	return out, nil
}
