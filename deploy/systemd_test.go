package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/config"
)

const unit = "systemd/session-revoker.service"

var units = []string{unit, "systemd/session-revoker-ingest.service"}

// TestUnitLetsTheWorkerDrain compares the unit with the defaults of the settings.
func TestUnitLetsTheWorkerDrain(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(fs)
	cfg, err := config.LoadForGraph(fs, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		match := regexp.MustCompile(`(?m)^TimeoutStopSec=(.*)$`).FindStringSubmatch(string(read(t, unit)))
		if match == nil {
			t.Fatal("the unit has no TimeoutStopSec")
		}
		stop, err := time.ParseDuration(match[1])
		if err != nil || stop < cfg.Consumer.DrainTimeout+cfg.Consumer.SettleTimeout+15*time.Second {
			t.Errorf("TimeoutStopSec=%s is too short: %v", match[1], err)
		}
	}
}

// TestUnitIsValid asks systemd, where it is installed.
func TestUnitIsValid(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	folder := t.TempDir()
	for _, unit := range units {
		text := strings.Replace(string(read(t, unit)), "/usr/local/bin/session-revoker", "/bin/true", 1)
		file := filepath.Join(folder, filepath.Base(unit))
		for name, text := range map[string]string{file: text, file + ".d/certificate.conf": string(read(t, "systemd/certificate.conf"))} {
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), filepath.Base(unit)) {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	}
}
