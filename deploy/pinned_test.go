package deploy_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestBaseImageIsPinnedByDigest checks the digest, because a tag can point to another image at any
// time.
func TestBaseImageIsPinnedByDigest(t *testing.T) {
	file := string(read(t, "container/Dockerfile"))
	for _, from := range regexp.MustCompile(`(?m)^FROM .*$`).FindAllString(file, -1) {
		if !strings.Contains(from, "@${BASE_DIGEST}") && !strings.Contains(from, "@sha256:") {
			t.Errorf("%s: no digest", from)
		}
	}
	if regexp.MustCompile(`(?m)^ARG BASE_DIGEST=`).MatchString(file) {
		t.Error("BASE_DIGEST has a default: it must come from the registry, or from whoever builds the image")
	}
	if makefile := string(read(t, "../Makefile")); !strings.Contains(makefile, "--build-arg BASE_DIGEST=") {
		t.Error("make image passes no digest")
	}
}

// TestDuplicateDetectionIsOff checks that no queue has duplicate detection. With it, anyone who
// guesses a MessageID could suppress the real event.
func TestDuplicateDetectionIsOff(t *testing.T) {
	text := string(read(t, "azure/main.bicep"))
	if strings.Contains(text, "requiresDuplicateDetection: true") ||
		!strings.Contains(text, "deadLetteringOnMessageExpiration: true") {
		t.Error("main.bicep: want duplicate detection off, and dead-lettering on expiration on")
	}
	text = string(read(t, "../docs/install.md"))
	if strings.Contains(text, "--enable-duplicate-detection true") ||
		!strings.Contains(text, "--enable-dead-lettering-on-message-expiration true") {
		t.Error("install.md: want duplicate detection off, and dead-lettering on expiration on")
	}
}
