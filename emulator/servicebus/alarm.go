package servicebus

import "time"

// alarm is a timer for the earliest of several times. It may fire early: fire must then set the
// next time.
type alarm struct {
	fire    func() // runs in a goroutine of its own, without the queue's lock
	timer   *time.Timer
	at      int64 // when the timer fires, in milliseconds of Unix time; 0 if it is not set
	stopped bool
}

// set makes sure that the alarm fires at the time, in milliseconds of Unix time, or earlier.
func (a *alarm) set(at int64) {
	if a.stopped || a.at != 0 && a.at <= at {
		return
	}
	a.at = at
	wait := time.Until(time.UnixMilli(at))
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.fire)
		return
	}
	a.timer.Reset(wait)
}

// fired notes that the timer has fired and is no longer set.
func (a *alarm) fired() { a.at = 0 }

// stop stops the alarm for good.
func (a *alarm) stop() {
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
}
