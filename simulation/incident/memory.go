package incident

import (
	"context"
	"runtime"
	"time"
)

// memory watches the heap of this process, which has the workers and the imitated servers.
type memory struct {
	before, after, live, inUse uint64
}

// newMemory measures what is there before the workers start.
func newMemory() *memory { return &memory{before: reachable()} }

// reachable collects the garbage and returns the size of the rest.
func reachable() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watch looks at the heap until ctx ends.
func (m *memory) watch(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for i := 1; ; i++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		m.inUse = max(m.inUse, now.HeapInuse)
		if i%int(cleanEvery/lookEvery) == 0 {
			m.live = max(m.live, reachable())
		}
	}
}

// end measures what is there after the workers have stopped.
func (m *memory) end() { m.after = reachable() }
