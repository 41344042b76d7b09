package consumer

import (
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dispatch"
)

// coordinator returns the store as an interface, which is nil when the store is: an interface that
// holds a nil pointer is not nil.
func coordinator(store *coordination.Store) dispatch.Coordinator {
	if store == nil {
		return nil
	}
	return store
}
