package main

import (
	"context"
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
	name   string
	broker *servicebus.Broker
	saved  uint64 // the revision in the file
}

// newBroker returns a broker that goes on from the data file, if there is one. file is nil without
// --data. The file is written at once, so that the user learns now if it cannot be.
func newBroker(o options, cfg servicebus.Config) (b *servicebus.Broker, file *dataFile, err error) {
	if o.data == "" {
		b, err = servicebus.New(cfg)
		return b, nil, err
	}
	old, err := os.Open(o.data)
	if err == nil {
		cfg.Saved = old
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("--data: %w", err)
	}
	b, err = servicebus.New(cfg)
	_ = old.Close() // Windows replaces no file that is open
	if err != nil {
		if cfg.Saved != nil {
			err = fmt.Errorf("--data %s: %w; move the file away to start without it", o.data, err)
		}
		return nil, nil, err
	}
	file = &dataFile{name: o.data, broker: b}
	if err := file.write(b.Revision()); err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return b, file, nil
}

// keep writes the file from time to time until ctx is done. A failure is reported, and tried again.
func (f *dataFile) keep(ctx context.Context, stderr io.Writer) {
	wait := saveEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := time.Now()
		if err := f.save(); err != nil {
			fmt.Fprintf(stderr, "servicebus-emulator: %v\n", err)
		}
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

// write replaces the file in one step: it is complete at any time.
func (f *dataFile) write(revision uint64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write --data: %w", err)
		}
	}()
	next, err := os.CreateTemp(filepath.Dir(f.name), filepath.Base(f.name)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) // fails after the rename
	err = f.broker.Save(next)
	if err == nil {
		err = next.Sync()
	}
	if err = errors.Join(err, next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), f.name); err != nil {
		return err
	}
	f.saved = revision
	return nil
}
