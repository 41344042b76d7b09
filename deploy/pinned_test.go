package deploy_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestImageBaseIsPinnedByDigest: a tag can point to another image at any time.
func TestImageBaseIsPinnedByDigest(t *testing.T) {
	file := string(read(t, "container/Dockerfile"))
	for _, from := range regexp.MustCompile(`(?m)^FROM .*$`).FindAllString(file, -1) {
		if !strings.Contains(from, "@${BASE_DIGEST}") && !strings.Contains(from, "@sha256:") {
			t.Errorf("%s: without a digest", from)
		}
	}
	if regexp.MustCompile(`(?m)^ARG BASE_DIGEST=`).MatchString(file) {
		t.Error("the digest has a default: it must come from the registry, or from the person who builds")
	}
	if makefile := string(read(t, "../Makefile")); !strings.Contains(makefile, "--build-arg BASE_DIGEST=") {
		t.Error("make image passes no digest")
	}
}

// TestBicepDuplicateDetectionIsOff: with duplicate detection, anyone who guesses a MessageID can
// suppress the real event.
func TestBicepDuplicateDetectionIsOff(t *testing.T) {
	if text := string(read(t, "azure/main.bicep")); strings.Contains(text, "requiresDuplicateDetection: true") ||
		!strings.Contains(text, "deadLetteringOnMessageExpiration: true") {
		t.Error("main.bicep")
	}
	if text := string(read(t, "../docs/install.md")); strings.Contains(text, "--enable-duplicate-detection true") ||
		!strings.Contains(text, "--enable-dead-lettering-on-message-expiration true") {
		t.Error("install.md")
	}
}
