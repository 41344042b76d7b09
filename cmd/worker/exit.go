package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/servicebus"
)

// The exit codes.
const (
	exitFailed       = 1 // something was not done
	exitUsage        = 2 // wrong command line or configuration
	exitUnauthorized = 3 // no token, or a missing right
	exitUnreachable  = 4 // no answer in time
	exitNotFound     = 5 // no such queue, topic or message
)

const exitCodes = `Exit codes: 0 done; 1 something was not done; 2 wrong command line or
configuration; 3 not authorized; 4 not reachable; 5 not found.`

// exitError is an error with its exit code. An empty text prints nothing.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func fail(code int, format string, args ...any) error {
	return &exitError{code, fmt.Sprintf(format, args...)}
}

// explain turns an error of a client into one sentence with what to do, and into an exit code.
// about is what the error is about: an entity, for example.
func explain(err error, about string) error {
	var done *exitError
	var sb *azservicebus.Error
	var graph *revoker.Error
	var signIn *azidentity.AuthenticationFailedError
	var response *azcore.ResponseError
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &done):
		return err
	case errors.Is(err, context.Canceled):
		return fail(exitFailed, "stopped")
	case errors.As(err, &graph):
		return explainGraph(graph)
	case errors.As(err, &signIn), strings.Contains(err.Error(), "Credential: failed to acquire a token"),
		strings.Contains(err.Error(), "Credential authentication failed"):
		return fail(exitUnauthorized, "%s: cannot sign in: %s. "+
			"Check the credential (workload or managed identity, environment, az login) and the tenant", about, firstLine(err))
	case errors.As(err, &sb) && sb.Code == azservicebus.CodeUnauthorizedAccess:
		return fail(exitUnauthorized, "%s: Service Bus refuses access: %s. "+
			"Give the identity the role 'Azure Service Bus Data Receiver' to read and settle, and 'Azure Service Bus Data Sender' "+
			"to send, or use a key with the claims Listen and Send", about, detail(err))
	case errors.As(err, &response) && (response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden):
		return fail(exitUnauthorized, "%s: refused with HTTP %d", about, response.StatusCode)
	case errors.As(err, &sb) && sb.Code == azservicebus.CodeNotFound, strings.Contains(err.Error(), "amqp:not-found"):
		return fail(exitNotFound, "%s: there is no such queue, topic or subscription in the namespace. Check servicebus.queue, "+
			"servicebus.topic and servicebus.subscription, servicebus.sources, --source and --to", about)
	case errors.As(err, &sb), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network):
		return fail(exitUnreachable, "%s: no answer from Service Bus: %s. To do: %s", about, detail(err), servicebus.Hint(err))
	}
	return fail(exitFailed, "%s: %s", about, firstLine(err))
}

// explainGraph is explain for an error of Graph.
func explainGraph(err *revoker.Error) error {
	code := exitFailed
	switch err.Kind {
	case revoker.NoToken, revoker.MissingPermission, revoker.Unauthorized, revoker.Forbidden:
		code = exitUnauthorized
	case revoker.Unreachable, revoker.Unavailable, revoker.Throttled:
		code = exitUnreachable
	}
	return fail(code, "%s", firstLine(err))
}

// firstLine returns an error without the pages of text that some clients add.
func firstLine(err error) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	if strings.HasSuffix(line, "server response error:") { // of the sign-in library: the next line has the reason
		rest, _, _ = strings.Cut(strings.TrimSpace(rest), "\n")
		line += " " + rest
	}
	return strings.TrimRight(strings.TrimSpace(line), ".:")
}

// detail returns the innermost message of Service Bus, or of the connection to it, without what to
// do (servicebus.Hint).
func detail(err error) string {
	line, _ := network.SplitFix(firstLine(err))
	for _, before := range []string{"description: ", "Description: ", "(connlost): ", "(timeout): ", "(unauthorized): "} {
		if _, after, ok := strings.Cut(line, before); ok {
			line = after
		}
	}
	return strings.TrimRight(strings.TrimSpace(line), ".")
}
