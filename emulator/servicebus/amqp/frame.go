package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Frame types (part 2, §2.3.1, and part 5, §5.3.1).
const (
	TypeAMQP = 0
	TypeSASL = 1
)

// Protocol headers (part 2, §2.2, and part 5, §5.3.2).
var (
	HeaderAMQP = [8]byte{'A', 'M', 'Q', 'P', 0, 1, 0, 0}
	HeaderSASL = [8]byte{'A', 'M', 'Q', 'P', 3, 1, 0, 0}
)

// Frame is one frame. An empty body is a keep-alive.
type Frame struct {
	Type    uint8
	Channel uint16
	Body    []byte
}

// FrameSizeError says that the peer sent a frame that is larger than was agreed.
type FrameSizeError struct{ Size, Max uint32 }

func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("amqp: frame of %d bytes, at most %d were agreed", e.Size, e.Max)
}

// FrameReader reads frames through one buffer, which holds at least one whole frame. It is not safe for concurrent use.
type FrameReader struct {
	r          io.Reader
	max        uint32
	buf        []byte
	start, end int // unread bytes
}

// NewFrameReader reads frames of at most maxFrameSize bytes from r.
func NewFrameReader(r io.Reader, maxFrameSize uint32) *FrameReader {
	return &FrameReader{r: r, max: maxFrameSize, buf: make([]byte, max(int(maxFrameSize), 4096))}
}

// need makes n unread bytes available. n is at most the buffer's size.
func (f *FrameReader) need(n int) error {
	if f.end-f.start >= n {
		return nil
	}
	if f.start+n > len(f.buf) {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	for f.end-f.start < n {
		got, err := f.r.Read(f.buf[f.end:])
		f.end += got
		if err != nil && f.end-f.start < n {
			if errors.Is(err, io.EOF) && f.end > f.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// ReadProtocolHeader reads the eight bytes that begin each protocol layer.
func (f *FrameReader) ReadProtocolHeader() (header [8]byte, err error) {
	if err := f.need(8); err != nil {
		return header, err
	}
	copy(header[:], f.buf[f.start:])
	f.start += 8
	return header, nil
}

// ReadFrame reads one frame. Its body is valid until the next call. A frame that is too large is a *FrameSizeError.
func (f *FrameReader) ReadFrame() (Frame, error) {
	if err := f.need(8); err != nil {
		return Frame{}, err
	}
	head := f.buf[f.start:]
	size, offset := binary.BigEndian.Uint32(head), 4*int(head[4])
	switch {
	case size > f.max:
		return Frame{}, &FrameSizeError{Size: size, Max: f.max}
	case offset < 8 || offset > int(size):
		return Frame{}, fmt.Errorf("amqp: frame of %d bytes with its body at %d", size, offset)
	}
	if err := f.need(int(size)); err != nil {
		return Frame{}, err
	}
	b := f.buf[f.start : f.start+int(size)]
	f.start += int(size)
	return Frame{Type: b[5], Channel: binary.BigEndian.Uint16(b[6:]), Body: b[offset:]}, nil
}

// AppendFrame appends a frame with p, which may be nil for a keep-alive, and the payload behind it.
func AppendFrame(dst []byte, frameType uint8, channel uint16, p Performative, payload ...[]byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 2, frameType, byte(channel>>8), byte(channel))
	if p != nil {
		var err error
		if dst, err = p.append(dst); err != nil {
			return dst[:start], err
		}
	}
	for _, part := range payload {
		dst = append(dst, part...)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst, nil
}
