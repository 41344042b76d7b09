// Package conformance holds a suite of tests, and no code: what the documentation of Azure Service
// Bus promises, tried with Azure's own client for Go. Each feature names the page that promises it.
//
// The suite runs against the embedded broker, in virtual time. With a connection string in the
// environment it runs against Microsoft's emulator or a real namespace instead, and prints a table
// of what differs. See docs/conformance.md.
package conformance
