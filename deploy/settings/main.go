// Command settings reads rendered manifests and validates the configuration in them with the
// program's own code.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/session-revoker/session-revoker/config"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "settings:", err)
		os.Exit(1)
	}
}

// mountedFile matches the files that the chart mounts and the program reads when it starts.
var mountedFile = regexp.MustCompile(`/etc/session-revoker/(?:secret|ca|config)/([a-z-]+(?:\.pem)?)`)

// authority stands for a bundle of a ConfigMap that is not in the manifests.
const authority = `-----BEGIN CERTIFICATE-----
MIIBpzCCAU2gAwIBAgIUeaWrQgPsaCQEqFQD+t468FSQCb4wCgYIKoZIzj0EAwIw
KTEQMA4GA1UECgwHQ29udG9zbzEVMBMGA1UEAwwMQ29udG9zbyBSb290MB4XDTI2
MTEyOTAwMzAxOVoXDTM2MTEyNjAwMzAxOVowKTEQMA4GA1UECgwHQ29udG9zbzEV
MBMGA1UEAwwMQ29udG9zbyBSb290MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
UCAc4CsgRrj4ftuhgKDdGbKmsG0jNJqDLrcfDdwUPp/QGUoYxUmhPwUGsWdc+lPH
YsQqNi48udYTVj0DWa/XraNTMFEwHQYDVR0OBBYEFI6tY1EJXKIagyETngw8sicS
xL7uMB8GA1UdIwQYMBaAFI6tY1EJXKIagyETngw8sicSxL7uMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMdI8eqz+5J5/b0ZT0qaMbn90ZD1Jsxl
K+YT4YzKvIIiAiBKGytxpXtuXxgiuNXRLoR2JbRptxr4KIfXYyie8RRI2w==
-----END CERTIFICATE-----
`

func run() error {
	folder, err := os.MkdirTemp("", "settings")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	for name, text := range map[string]string{
		"connection-string": "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=v",
		"client-secret":     "secret", "redis-password": "secret", "ca.pem": authority,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	found := 0
	for decoder := yaml.NewDecoder(os.Stdin); ; {
		var m struct {
			Data map[string]any `yaml:"data"`
		}
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		text, ok := m.Data["worker.yaml"].(string)
		if err != nil || !ok {
			continue // another kind
		}
		found++
		if inline, ok := m.Data["ca.pem"].(string); ok {
			if err := os.WriteFile(filepath.Join(folder, "ca.pem"), []byte(inline), 0o600); err != nil {
				return err
			}
		}
		file := filepath.Join(folder, "worker.yaml")
		if err := os.WriteFile(file, []byte(mountedFile.ReplaceAllString(text, folder+"/$1")), 0o600); err != nil {
			return err
		}
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		config.Flags(fs)
		if err := fs.Set(config.FileFlag, file); err != nil {
			return err
		}
		load := config.Load
		if !strings.Contains(text, "servicebus:") {
			load = config.LoadForGraph // the chart's defaults name no queue
		}
		if _, err := load(fs, nil); err != nil {
			return err
		}
	}
	if found == 0 {
		return errors.New("there is no configuration")
	}
	fmt.Println("the program accepts the configuration")
	return nil
}
