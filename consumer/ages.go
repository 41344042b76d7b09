package consumer

import (
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// messageAges knows when the messages in hand were enqueued, for the metrics. The zero value is ready; it is safe for concurrent use.
type messageAges struct {
	mu       sync.Mutex
	enqueued map[*azservicebus.ReceivedMessage]time.Time
}

func (h *messageAges) add(m *azservicebus.ReceivedMessage) {
	if m.EnqueuedTime == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.enqueued == nil {
		h.enqueued = map[*azservicebus.ReceivedMessage]time.Time{}
	}
	h.enqueued[m] = *m.EnqueuedTime
}

func (h *messageAges) remove(m *azservicebus.ReceivedMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.enqueued, m)
}

// oldest is the age of the oldest message; 0 when there is none.
func (h *messageAges) oldest() (age time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range h.enqueued {
		age = max(age, time.Since(at))
	}
	return age
}
