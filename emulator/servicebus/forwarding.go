package servicebus

// forwarding holds where an entity forwards its messages, and the messages on their way there.
type forwarding struct {
	// to delivers one message to the target. Nil means that the messages stay. It is called
	// without any queue's lock, because forwarding may go in a circle.
	to      func(*message) error
	leaving []*message // removed from the store, and forwarded when the queue's lock is released
}

func (f *forwarding) enabled() bool { return f.to != nil }

// take returns the messages that leave and where they go, and forgets the messages.
func (f *forwarding) take() (leaving []*message, to func(*message) error) {
	leaving, f.leaving = f.leaving, nil
	return leaving, f.to
}
