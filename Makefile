# `make run` starts the sandbox, `make test` runs every test. Go is all they need.

GO ?= go
TOOLS := $(CURDIR)/.tools
# A tag v1.2.3 on this commit names a release; anything else is unreleased.
VERSION ?= $(or $(patsubst v%,%,$(shell git describe --tags --exact-match 2>/dev/null)),0.1.0-unreleased)
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/session-revoker/session-revoker/cmd/internal/app.Version=$(VERSION) -X github.com/session-revoker/session-revoker/cmd/internal/app.Commit=$(COMMIT) -X main.version=$(VERSION)

# The packages where goroutines meet are tested with the race detector alone, and the others without it. cmd/worker is not
# among them: its tests start a process. The compiler needs 4.4 GB for the Graph SDK's models, and as much for their race build,
# which is begun first: most others wait for it.
RACE := ./revoker/... ./emulator/... ./event/... ./schedule/... ./ingest/... ./network/... ./servicebus/... ./dedupe/... ./retry/... ./dispatch/... ./consumer/... ./sanitizer/... ./deadletter/... ./replay/... ./guard/... ./coordination/... ./audit/... ./console/... ./status/... ./telemetry/... ./internal/... ./cmd/internal/... ./cmd/sandbox ./cmd/servicebus-emulator

.PHONY: run test conformance simulate nightly rules chaos lint tools fmt build chart test-cluster dist image fuzz bench bench-broker clean

run: ## the worker with its whole cloud on this machine
	$(GO) run ./cmd/sandbox

# The tests that are left out, or are smaller, with the race detector: they run without it as well. Those of retry have one
# goroutine.
LARGE = $(shell grep -rlE --include='*_test.go' 'raced[.](Enabled|Skip)' .)
LARGE_TESTS = ${shell awk '/^func Test/ { sub("[(].*", "", $$2); name = $$2 } /raced[.](Enabled|Skip)/ { print name }' $(LARGE) | sort -u | paste -s -d '|'}

test: ## all tests, with the race detector where goroutines meet; make lint vets
	$(GO) test -vet=off -timeout 20m $(filter-out $(shell $(GO) list $(RACE)),$(shell $(GO) list ./...))
	$(GO) test -vet=off -timeout 20m $(sort $(dir $(LARGE))) ./retry -run '^($(LARGE_TESTS))$$|Apart'
	CGO_ENABLED=1 $(GO) test -vet=off -race -timeout 30m -p 3 -parallel 4 $(RACE)
	CGO_ENABLED=1 $(GO) test -vet=off -race -timeout 20m ./simulation -run TestSeeds -args -seeds 40 -step 1

conformance: ## clients in Go, JavaScript and Python against the embedded Service Bus; needs Node.js and python3-qpid-proton
	GO="$(GO)" emulator/servicebus/conformance/clients/run

SEEDS ?= 2000
FIRST ?= 1
simulate: ## SEEDS scenarios of faults in virtual time, from FIRST on; prints their speed and CPU time
	$(GO) test ./simulation -v -run TestSeeds -count=1 -timeout 24h -args -seeds $(SEEDS) -first $(FIRST)

HOURS ?= 1
REPORT ?= nightly.md
nightly: ## fresh scenarios for HOURS on all processors; writes REPORT and the same as JSON, and fails if a guarantee is broken
	$(GO) test ./simulation -v -run TestSeeds -count=1 -timeout 0 -args -for $(HOURS)h -report $(abspath $(REPORT))

rules: ## leave out rules of the worker, one after the other, and see that scenarios show it
	$(GO) test ./simulation -v -run TestRulesAreNeeded -count=1 -timeout 1h -args -rules

chaos: ## the real binary killed 100 times, stopped 50 times, cut off and starved, for minutes
	$(GO) test ./cmd/worker -v -run "Chaos|Hostile" -count=1 -timeout 2h -args -chaos

build: ## bin/worker, bin/sandbox and bin/servicebus-emulator, stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/worker ./cmd/sandbox ./cmd/servicebus-emulator

# Where the programs run. worker is built once more for each, with the Graph SDK, for a minute or two.
PLATFORMS ?= linux-amd64 linux-arm64 darwin-amd64 darwin-arm64 windows-amd64
DIST := $(foreach c,worker servicebus-emulator,$(foreach p,$(PLATFORMS),dist/$(c)-$(p)$(if $(findstring windows,$(p)),.exe)))

dist: $(DIST) dist/sbom.cdx.json ## stripped binaries for PLATFORMS, checksums, and a software bill of materials (CycloneDX)
	cd dist && sha256sum $(notdir $(DIST)) sbom.cdx.json > SHA256SUMS

dist/worker-%: FORCE
	GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$(basename $*))) CGO_ENABLED=0 \
		$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/worker

dist/servicebus-emulator-%: FORCE
	GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$(basename $*))) CGO_ENABLED=0 \
		$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/servicebus-emulator

dist/sbom.cdx.json: $(firstword $(DIST))
	$(GO) run ./deploy/sbom $< $(VERSION) > $@

FORCE:

IMAGE ?= session-revoker:$(VERSION)
ENGINE ?= $(firstword $(foreach e,docker podman,$(if $(shell command -v $(e) 2>/dev/null),$(e))))

# What the base image's tag names now, as the registry says, unless BASE_DIGEST=sha256:… pins an earlier one.
BASE := gcr.io/distroless/static-debian12:nonroot
BASE_DIGEST ?= $(shell docker buildx imagetools inspect $(BASE) --format '{{.Manifest.Digest}}' 2>/dev/null || skopeo inspect --format '{{.Digest}}' docker://$(BASE) 2>/dev/null)

image: dist/worker-linux-$(shell $(GO) env GOARCH) ## a container image for this architecture, on the base image that BASE_DIGEST names
	@if [ -z "$(ENGINE)" ] || ! $(ENGINE) info >/dev/null 2>&1; then \
		echo "make image: no container engine runs here (docker or podman). The binary is in dist/; build on a machine that has one:" >&2; \
		echo "  docker build --build-arg BASE_DIGEST=sha256:... -f deploy/container/Dockerfile -t $(IMAGE) ." >&2; exit 1; fi
	@digest="$(BASE_DIGEST)"; case "$$digest" in sha256:*) echo "base image $(BASE)@$$digest" ;; *) \
		echo "make image: the digest of $(BASE) is not known, by docker buildx or skopeo: give BASE_DIGEST=sha256:..." >&2; exit 1 ;; esac; \
	$(ENGINE) build -f deploy/container/Dockerfile -t $(IMAGE) --build-arg BASE_DIGEST=$$digest \
		--build-arg TARGETARCH=$(shell $(GO) env GOARCH) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) \
		--build-arg CREATED=$(shell date -u +%Y-%m-%dT%H:%M:%SZ) .

chart: ## lint, test and render the Helm chart; check alerts and schemas
	deploy/check

test-cluster: ## install the chart with every values file into a real API server; builds one first
	deploy/test-cluster

lint: $(TOOLS)/golangci-lint ## golangci-lint, whose govet has all analyzers of go vet
	$(TOOLS)/golangci-lint run --allow-parallel-runners ./...

tools: $(TOOLS)/golangci-lint ## compile what make lint and make chart run, into .tools
	deploy/check tools

fmt: $(TOOLS)/golangci-lint
	$(TOOLS)/golangci-lint fmt

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

FUZZTIME ?= 30s
fuzz: ## every fuzz test for FUZZTIME
	GO="$(GO)" .ci/fuzz $(FUZZTIME)

bench: ## the worker beside a bare loop and a plain worker, as ratios; more than an hour, most of it waiting for quotas
	$(GO) run ./bench

bench-broker: ## speed and memory of the embedded broker
	$(GO) test -run '^$$' -bench . -benchmem ./emulator/...

clean:
	rm -rf bin dist .tools
