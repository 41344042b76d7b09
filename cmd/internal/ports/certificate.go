package ports

import (
	"crypto/tls"
	"fmt"
	"os"

	"github.com/session-revoker/session-revoker/emulator/certificate"
)

// GeneratedTLS returns a configuration with a new certificate for this machine and other hosts. It
// writes the certificate's authority, which clients have to trust, to a PEM file, unless the file's
// name is empty. The error names the flag that names the file.
func GeneratedTLS(flag, file string, hosts ...string) (*tls.Config, error) {
	pair, authority, err := certificate.New(append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)...)
	if err != nil {
		return nil, err
	}
	if file != "" {
		if err := os.WriteFile(file, authority, 0o644); err != nil { //nolint:gosec // a certificate is public
			return nil, fmt.Errorf("write --%s: %w", flag, err)
		}
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
