package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLS configures which servers the worker trusts.
type TLS struct {
	CAFile string `key:"ca_file"`
}

// Authorities returns the certificate authorities to trust: the system's and those of the file. It
// returns nil, which means the system's, if no file is configured. The error says why the file
// cannot be used. A file that is damaged in one place is refused as a whole: an authority that is
// silently left out would be hard to find.
func (t TLS) Authorities() (*x509.CertPool, error) {
	if t.CAFile == "" {
		return nil, nil
	}
	// A pipe would give the text only once, or never. A directory has none.
	if info, err := os.Stat(t.CAFile); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", show(t.CAFile))
	}
	text, err := readFile(t.CAFile)
	if err != nil {
		return nil, errors.New(fileProblem(err))
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // the system has none, like an image without files
	}
	found := 0
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds a %q: it may hold certificates only", show(t.CAFile), block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: its certificate number %d cannot be read: %w", show(t.CAFile), found+1, err)
		}
		pool.AddCert(certificate)
		found++
	}
	if begun := strings.Count(string(text), "-----BEGIN"); found < begun { // the decoder skips them
		return nil, fmt.Errorf("%s is damaged: of %d certificates, %d are not complete or do not begin a line", show(t.CAFile), begun,
			begun-found)
	}
	if found == 0 {
		return nil, fmt.Errorf("%s holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", show(t.CAFile))
	}
	return pool, nil
}
