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
	Channel uint16 // means nothing in a SASL frame
	Body    []byte
}

// FrameSizeError says that the peer sent a frame that is larger than was agreed, in bytes.
type FrameSizeError struct{ Size, Max uint32 }

func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("amqp: frame of %d bytes, at most %d were agreed", e.Size, e.Max)
}

const (
	frameHead  = 8
	fullBuffer = 64 << 10 // to begin with: many small frames come in one read
	emptyReads = 100      // reads without a byte or an error, after which a reader is given up; bufio's bound
)

// FrameReader reads frames through one buffer of up to 64 KiB, which grows to the largest frame that comes. It is not safe for concurrent use.
type FrameReader struct {
	r          io.Reader
	max        uint32
	buf        []byte
	start, end int // unread bytes
}

// NewFrameReader reads frames of at most maxFrameSize bytes from r. The specification allows no bound below 512 (AMQP 1.0
// §2.7.1): a smaller one is taken as 512.
func NewFrameReader(r io.Reader, maxFrameSize uint32) *FrameReader {
	bound := max(maxFrameSize, 512)
	return &FrameReader{r: r, max: bound, buf: make([]byte, min(bound, fullBuffer))}
}

// need makes n unread bytes available. The buffer grows as bytes arrive, not as a peer announces them.
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

// ReadProtocolHeader reads the eight bytes that begin each protocol layer, whatever they are. Errors are as ReadFrame's.
func (f *FrameReader) ReadProtocolHeader() (header [8]byte, err error) {
	if err := f.need(len(header)); err != nil {
		return header, err
	}
	f.start += copy(header[:], f.buf[f.start:])
	return header, nil
}

// ReadFrame reads one frame and skips its extended header. The body is valid until the next call. It returns io.EOF if the
// connection ends between frames, io.ErrUnexpectedEOF if it ends inside one, the connection's other errors as they are, a
// *FrameSizeError before it has read a frame that is too large, and another error if the head is malformed. After an error
// of the last two kinds the stream cannot be read any further.
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

// AppendFrame appends a frame with p, which may be nil for a keep-alive, and the payload behind it. It does not know the
// peer's max-frame-size: the caller cuts the payload. It fails on values without an AMQP type inside p.
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
