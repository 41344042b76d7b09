package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// saveEvery is how often the data file is written if something has changed. With many messages it
// is less often, so that saving takes at most a twentieth of the time.
const saveEvery = 2 * time.Second

// dataFile keeps a broker's entities and messages in a file.
type dataFile struct {
	name   string // without symbolic links, which a rename would replace
	broker *servicebus.Broker
	saved  uint64      // the revision in the file
	last   os.FileInfo // the file as this process has read or written it; nil if there was none
}

// newBroker returns a broker that goes on from the data file, if there is one. file is nil without
// --data. A file that cannot be written is refused: it may be meant to stay as it is.
func newBroker(o options, cfg servicebus.Config) (b *servicebus.Broker, file *dataFile, err error) {
	if o.data == "" {
		b, err = servicebus.New(cfg)
		return b, nil, err
	}
	file = &dataFile{name: o.data}
	if name, err := filepath.EvalSymlinks(o.data); err == nil {
		file.name = name
	}
	old, err := os.OpenFile(file.name, os.O_RDWR, 0)
	if err == nil {
		file.last, err = old.Stat()
	}
	if err == nil {
		defer old.Close()
		cfg.Saved, err = checked(old, file.last.Size())
		if errors.Is(err, errDamaged) {
			return nil, nil, fmt.Errorf("--data %s: %w; move the file away to start without it", o.data, err)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("--data must be a file that can be read and written: %w", err)
	}
	file.broker, err = servicebus.New(cfg)
	if err != nil {
		if cfg.Saved != nil {
			err = fmt.Errorf("--data %s: %w; move the file away to start without it", o.data, err)
		}
		return nil, nil, err
	}
	return file.broker, file, nil
}

// errDamaged means that the checksum at the end of the data file is not that of what precedes it.
var errDamaged = errors.New("the file is damaged, or no emulator has written it")

// checked returns what a broker has saved in a data file of this size, after it has compared the
// checksum: a decoder may work for minutes on a file in which one bit has changed.
func checked(file io.ReadSeeker, size int64) (io.Reader, error) {
	if size < sha256.Size {
		return nil, errDamaged
	}
	sum, saved := sha256.New(), size-sha256.Size
	if _, err := io.CopyN(sum, file, saved); err != nil {
		return nil, err
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(file, want); err != nil {
		return nil, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return nil, errDamaged
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.LimitReader(file, saved), nil
}

// keep writes the file from time to time until ctx is done. A failure is reported once, and tried
// again.
func (f *dataFile) keep(ctx context.Context, stderr io.Writer) {
	wait := saveEvery
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := time.Now()
		err := f.save()
		if err != nil && !failing {
			fmt.Fprintf(stderr, "servicebus-emulator: %v; trying again\n", err)
		}
		failing = err != nil
		wait = max(saveEvery, 20*time.Since(began))
	}
}

// save writes the file if something has changed.
func (f *dataFile) save() error {
	revision := f.broker.Revision()
	if revision == f.saved {
		return nil
	}
	return f.write(revision)
}

// write replaces the file in one step: it is complete at any time. It does not replace the file of
// another process.
func (f *dataFile) write(revision uint64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write --data: %w", err)
		}
	}()
	if now, err := os.Stat(f.name); err == nil &&
		(f.last == nil || !now.ModTime().Equal(f.last.ModTime()) || now.Size() != f.last.Size()) {
		return fmt.Errorf("another program has written %s; two emulators cannot share a file", f.name)
	}
	next, err := os.CreateTemp(filepath.Dir(f.name), filepath.Base(f.name)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) // fails after the rename
	sum := sha256.New()
	err = f.broker.Save(io.MultiWriter(next, sum))
	if err == nil {
		_, err = next.Write(sum.Sum(nil))
	}
	if err == nil {
		err = next.Sync()
	}
	if err = errors.Join(err, next.Close()); err != nil {
		return err
	}
	written, err := os.Stat(next.Name())
	if err != nil {
		return err
	}
	if err := os.Rename(next.Name(), f.name); err != nil {
		return err
	}
	f.saved, f.last = revision, written
	return nil
}
