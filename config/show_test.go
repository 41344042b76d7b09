package config_test

import (
	"strings"
	"testing"
)

// TestProblemsHoldNoSecretWhereverItStands puts secrets where they do not belong.
func TestProblemsHoldNoSecretWhereverItStands(t *testing.T) {
	const (
		client = "8Qx8Q~aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
		shared = "c2VjcmV0LWtleS1vZi1hLW5hbWVzcGFjZS0wMTIzNDU2Nzg="
		bus    = "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=" + shared
		word   = "hunter2-hunter2" // a password that does not look like one
	)
	for name, c := range map[string]struct {
		file string
		env  []string
		want string
	}{
		"as a key":                     {client + ": 1\n", nil, `"8Qx8"…`},
		"a connection string as a key": {"? \"" + bus + "\"\n: 1\n", nil, `"Endp"…`},
		"as a key below a group":       {"graph:\n  " + client + ": 1\n", nil, `"graph.8Qx8"…`},
		"as a key below its setting":   {"graph:\n  client_secret:\n    " + client + ": 1\n", nil, `"graph.client_secret.8Qx"…`},
		"an unknown setting":           {"redis:\n  passwd: 1\n  pwd: {" + word + ": 1}\n", nil, `"redis.p`},
		"as a variable":                {"", []string{"REVOKER_" + client + "=1"}, `"REVOKER_8Qx8"…`},
		"as an anchor": {
			"graph:\n  client_secret: *" + strings.ReplaceAll(client, "~", "_") + "\n", nil,
			"unknown anchor",
		},
		"a key twice":               {client + ": 1\n" + client + ": 2\n", nil, "already defined"},
		"instead of a mapping":      {client + "\n", nil, "cannot unmarshal"},
		"as a namespace":            {"", []string{"REVOKER_SERVICEBUS_NAMESPACE=" + bus}, "servicebus.namespace"},
		"as a namespace with a dot": {"", []string{"REVOKER_SERVICEBUS_NAMESPACE=" + client + ".net"}, "must be a host name"},
		"as a queue":                {"", []string{"REVOKER_SERVICEBUS_QUEUE=" + bus}, "servicebus.queue"},
		"as a topic": {
			"servicebus: {topic: \"" + bus + "\", subscription: \"" + bus + "\"}\n",
			[]string{"REVOKER_SERVICEBUS_QUEUE="},
			"servicebus.topic",
		},
		"as a source": {
			"",
			[]string{"REVOKER_SERVICEBUS_QUEUE=", "REVOKER_SERVICEBUS_SOURCES=" + bus},
			"servicebus.sources",
		},
		"a user in an endpoint": {
			"",
			[]string{"REVOKER_GRAPH_ENDPOINT=https://ada:" + word + "@graph.example.com"},
			`"https://graph.example.com"…`,
		},
		"a query in an endpoint": {
			"",
			[]string{"REVOKER_GRAPH_ENDPOINT=https://graph.example.com/?code=" + word},
			`"https://graph.example.com/"…`,
		},
		"a user in an authority": {
			"",
			[]string{"REVOKER_GRAPH_AUTHORITY=https://ada:" + word + "@login.example.com"},
			"graph.authority",
		},
		"a user in a token URL": {
			"",
			[]string{"REVOKER_GRAPH_TOKEN_URL=https://ada:" + word + "@login.example.com"},
			"graph.token_url",
		},
		"a user in an admin endpoint": {
			"",
			[]string{"REVOKER_SERVICEBUS_ADMIN_ENDPOINT=https://ada:" + word + "@bus.example.com"},
			"servicebus.admin_endpoint",
		},
		"a Redis URL": {
			"",
			[]string{"REVOKER_REDIS_ADDRESSES=redis://:" + word + "@redis.example.com:6379"},
			"redis.addresses",
		},
		"a user of Redis": {
			"",
			[]string{"REVOKER_REDIS_ADDRESSES=" + word + "@redis.example.com:6379", "REVOKER_GRAPH_TENANT_ID=t"},
			"redis.addresses",
		},
		"a user in a connection string": {
			"",
			[]string{
				"REVOKER_SERVICEBUS_NAMESPACE=",
				"REVOKER_SERVICEBUS_CONNECTION_STRING=" + strings.Replace(bus, "sb://", "sb://ada:"+word+"@",
					1),
			},
			"servicebus.connection_string",
		},
		"another topic's EntityPath": {
			"servicebus: {topic: x, subscription: s}\n",
			[]string{
				"REVOKER_SERVICEBUS_QUEUE=", "REVOKER_SERVICEBUS_NAMESPACE=",
				"REVOKER_SERVICEBUS_CONNECTION_STRING=" + bus + ";EntityPath=" + client,
			},
			"EntityPath",
		},
		"for a number":         {"", []string{"REVOKER_CONSUMER_CONCURRENCY=" + client}, "consumer.concurrency"},
		"for a duration":       {"graph: {timeout: {\"" + word + "\": 1}}\n", nil, "graph.timeout"},
		"a mapping for a list": {"guard: {protected_users: {\"" + word + "\": 1}}\n", nil, "guard.protected_users"},
		"for a choice": {
			"",
			[]string{
				"REVOKER_GRAPH_CLOUD=" + client, "REVOKER_LOG_LEVEL=" + client, "REVOKER_LOG_FORMAT=" + client,
				"REVOKER_GUARD_MODE=" + client, "REVOKER_OPS_ADDRESS=" + client,
			},
			"log.level",
		},
		"for a protected user":           {"", []string{"REVOKER_GUARD_PROTECTED_USERS=" + client}, "guard.protected_users"},
		"a secret that is no text":       {"graph: {client_secret: [\"" + client + "\"]}\n", nil, "graph.client_secret"},
		"a duration without its unit":    {"graph: {timeout: \"" + client + "\"}\n", nil, "graph.timeout"},
		"instead of its file":            {"", []string{"REVOKER_GRAPH_CLIENT_SECRET_FILE=" + client}, `open "8Qx8"…`},
		"a key file that does not exist": {"", []string{"REVOKER_GRAPH_CLIENT_SECRET_FILE=/nowhere"}, "graph.client_secret_file"},
	} {
		_, err := load(t, c.file, append(append([]string{}, minimal...), c.env...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q: %v", name, c.want, err)
			continue
		}
		for _, secret := range []string{client[5:20], strings.ReplaceAll(client, "~", "_")[5:20], shared[4:12], "hunter2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the problem holds a secret: %v", name, err)
			}
		}
	}
	// What is no secret is shown whole: it helps.
	_, err := load(t, "", append(append([]string{}, minimal...), "REVOKER_GRAPH_CLOUD=germany", "REVOKER_LOG_LEVEL=loud",
		"REVOKER_GRAPH_ENDPOINT=http://graph.example.com/x", "REVOKER_OPS_ADDRESS=9090"))
	wantProblems(t, err, `"germany"`, `"loud"`, `"http://graph.example.com/x"`, `"9090"`)
}
