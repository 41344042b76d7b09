package app

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns two contexts. soft ends at the first SIGTERM or SIGINT, and hard at the second.
// Both end with parent. stop ends both and releases them.
func Signals(parent context.Context) (soft, hard context.Context, stop func()) {
	soft, stopSoft := context.WithCancel(parent)
	hard, stopHard := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, end := range []context.CancelFunc{stopSoft, stopHard} {
			select {
			case <-signals:
				end()
			case <-hard.Done():
				return
			}
		}
	}()
	return soft, hard, func() {
		signal.Stop(signals)
		stopSoft()
		stopHard()
		<-done
	}
}
