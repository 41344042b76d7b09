# `make run` starts the sandbox, `make test` runs every test. Go is all they need.

GO ?= go
TOOLS := $(CURDIR)/.tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/session-revoker/session-revoker/cmd/internal/app.Version=$(VERSION) -X github.com/session-revoker/session-revoker/cmd/internal/app.Commit=$(COMMIT)

# The compiler needs 4.4 GB for the Graph SDK's models alone, and as much again for their race build: only the packages
# where goroutines meet are tested with -race.
RACE := ./emulator/... ./dedupe/... ./retry/... ./consumer/... ./deadletter/... ./revoker/... ./telemetry/... ./cmd/...

.PHONY: run test race lint fmt build fuzz bench bench-broker clean

run: ## the worker with its whole cloud on this machine
	$(GO) run ./cmd/sandbox

test: ## all tests, then those where goroutines meet with the race detector
	$(GO) test ./...
	$(GO) test -race $(RACE)

build: ## bin/worker and bin/sandbox, stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/worker ./cmd/sandbox

lint: $(TOOLS)/golangci-lint
	$(GO) vet ./...
	$(TOOLS)/golangci-lint run ./...

fmt: $(TOOLS)/golangci-lint
	$(TOOLS)/golangci-lint fmt

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

FUZZTIME ?= 30s
fuzz: ## every fuzz test for FUZZTIME
	@for pkg in $$($(GO) list ./... ); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench: ## the worker beside a bare loop and a plain worker, as ratios; 25 minutes, most of it waiting for quotas
	$(GO) run ./bench

bench-broker: ## speed and memory of the embedded broker
	$(GO) test -run '^$$' -bench . -benchmem ./emulator/...

clean:
	rm -rf bin .tools
