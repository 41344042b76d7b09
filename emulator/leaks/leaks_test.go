package leaks_test

import (
	"testing"

	"github.com/session-revoker/session-revoker/emulator/leaks"
)

func TestFindLeaks(t *testing.T) {
	for log, leaks := range map[string]bool{
		leaked(`eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmVk`):       true,
		leaked(`Authorization: Bearer abcdefghijklmnop`):                   true,
		leaked(`Endpoint=sb://x/;SharedAccessKeyName=k;SharedAccessKey=v`): true,
		leaked(`sr=x&sig=abcdefghijklmnop%3d&se=1`):                        true,
		leaked(`client_secret=x`):                                          true,
		leaked(`-----BEGIN RSA PRIVATE KEY-----`):                          true,
		leaked(`{\"type\":\"device.lost\"}`):                               true,
		leaked(`{\"userId\": \"x\"}`):                                      true,
		leaked(`the known-secret of the app`):                              true,
		// Allowed texts.
		leaked(`give a connection string with SharedAccessKeyName and SharedAccessKey`): false,
		leaked(`Bearer realm`):                      false,
		`{"msg":"event revoked","userId":"x"}`:      false,
		leaked(`check the secret or certificate`):   false,
		leaked(`graph.client_secret is (set)`):      false,
		leaked(`short secrets are words: password`): false,
	} {
		if found := find(log); (len(found) > 0) != leaks {
			t.Errorf("%s: %v", log, found)
		}
	}
}

func leaked(text string) string { return `{"level":"error","error":"` + text + `"}` }

func find(log string) []string { return leaks.Find(log, "known-secret", "word") }
