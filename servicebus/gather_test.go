package servicebus

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs a test with a gatherer and the other end of its connection, over which a byte is on
// its way only while somebody reads.
func inBubble(t *testing.T, test func(t *testing.T, c, peer net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		end, peer := net.Pipe()
		c := gather(end)
		defer func() {
			_ = peer.Close()
			_ = c.Close()
		}()
		test(t, c, peer)
	})
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("Write(%q) = %d, %v", text, n, err)
	}
}

func TestGathererSendsTogetherWhatIsWrittenMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		frame := []byte("first ")
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
		copy(frame, "other!") // go-amqp encodes the next frame in the same memory
		synctest.Wait()       // it is being sent
		for _, text := range []string{"second ", "third ", "fourth"} {
			write(t, c, text)
		}
		var got []string
		for range 2 {
			b := make([]byte, 100)
			n, err := peer.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(b[:n]))
		}
		if got[0] != "first " || got[1] != "second third fourth" {
			t.Errorf("sent %q", got)
		}
	})
}

func TestGathererSendsAtOnceWhenIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		began := time.Now()
		for range 3 {
			write(t, c, "frame")
			if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("three frames took %s", took)
		}
	})
}

func TestGathererSendsTheLastFrameBeforeItCloses(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		got := make(chan string)
		go func() {
			all, _ := io.ReadAll(peer)
			got <- string(all)
		}()
		write(t, c, "settlement ")
		write(t, c, "close")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if all := <-got; all != "settlement close" {
			t.Errorf("sent %q", all)
		}
		if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
	})
}

func TestGathererKeepsLittle(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		const size, frames = 4096, 100
		written := 0
		go func() {
			for range frames {
				if _, err := c.Write(make([]byte, size)); err != nil {
					return
				}
				written++
			}
		}()
		synctest.Wait()
		if kept := written * size; kept > 2*(maxGathered+size) { // as much on its way, and as much behind it
			t.Errorf("%d bytes are kept while nobody reads", kept)
		}
		if _, err := io.ReadFull(peer, make([]byte, frames*size)); err != nil {
			t.Error(err)
		}
	})
}

func TestGathererEndsWithAPeerThatDoesNotRead(t *testing.T) {
	inBubble(t, func(t *testing.T, c, _ net.Conn) {
		write(t, c, "first")
		began := time.Now()
		_, err := c.Read(make([]byte, 1)) // the receiver learns of it, and not only who writes next
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != sendWait {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if _, err := c.Write([]byte("next")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write returned %v", err)
		}
	})
}

func TestGathererClosesInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, c, _ net.Conn) {
		write(t, c, "never read")
		synctest.Wait()
		blocked := make(chan error)
		go func() {
			for {
				if _, err := c.Write(bytes.Repeat([]byte("x"), maxGathered)); err != nil {
					blocked <- err
					return
				}
			}
		}()
		synctest.Wait()
		began := time.Now()
		_ = c.Close()
		if took := time.Since(began); took > lastWait {
			t.Errorf("Close took %s", took)
		}
		if err := <-blocked; !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a blocked Write returned %v", err)
		}
	})
}

// A settlement waits for its frame to be written, and for nothing else: its context sets the deadline
// of the connection.
func TestGathererKeepsTheDeadlineOfAWriteThatWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		write(t, c, "first")
		synctest.Wait() // it is being sent, and nobody reads
		full := string(make([]byte, maxGathered))
		write(t, c, full)
		began := time.Now()
		if err := c.SetWriteDeadline(began.Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("settlement")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if err := c.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, make([]byte, len("first"+full))); err != nil {
			t.Fatal(err)
		}
		write(t, c, "next") // the stream is whole
		got := make([]byte, 4)
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != "next" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestGathererServesASlowPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, c, peer net.Conn) {
		const frames, size, perSecond = 1000, 100, 2000
		failed := make(chan error, 1)
		go func() {
			for range frames {
				if _, err := c.Write(make([]byte, size)); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
		for read := 0; read < frames*size; read += perSecond {
			time.Sleep(time.Second)
			if _, err := io.ReadFull(peer, make([]byte, perSecond)); err != nil {
				t.Fatalf("after %d bytes: %v", read, err)
			}
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
}
