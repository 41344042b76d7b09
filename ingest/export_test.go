package ingest

// SetMaxSeen changes how many signed requests are remembered, and returns what changes it back.
func SetMaxSeen(n int) (restore func()) {
	old := maxSeen
	maxSeen = n
	return func() { maxSeen = old }
}
