# Every target only names a command. "make test" and "make lint" are what CI runs.
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Cloud storage, which sops brings along and flotilla never uses, would link all of Envoy's API: 17 MB of program, and 8 MB of memory.
TAGS    := disable_grpc_modules
CREATED := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
RELEASE := -trimpath -buildvcs=false -tags $(TAGS)
LINUX   := linux/amd64 linux/arm64
LDFLAGS := -s -w -X github.com/flotilla-fleet/flotilla/internal/cli.version=$(VERSION)
MODULES := . test/controlplane
LINT    := $(CURDIR)/bin/golangci-lint

.PHONY: build demo test check lint fmt bench fidelity picture image release controlplane chromium clean

build:
	go build -tags $(TAGS) -ldflags "$(LDFLAGS)" -o bin/flotilla ./cmd/flotilla

demo: build controlplane
	bin/flotilla demo --dir demo-data

test: chromium controlplane
	for dir in $(MODULES); do (cd $$dir && go vet ./... && go test -p 2 -timeout 20m ./...) || exit 1; done

check: test lint

lint: $(LINT)
	for dir in $(MODULES); do (cd $$dir && $(LINT) run --config $(CURDIR)/.golangci.yml --timeout 30m ./...) || exit 1; done

fmt: $(LINT)
	for dir in $(MODULES); do (cd $$dir && $(LINT) fmt --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

# Compares with Helm and Kustomize over whatever charts and kustomizations lie below DIR.
fidelity:
	go run ./test/fidelity $(DIR)

bench: build controlplane
	go run ./test/bench -bundles 200
	go run ./test/bench -bundles 100,300,1000 -installs 1
	go run ./test/bench -bundles 500 -installs 1 -rows install,edits,status
	go run ./test/bench -bundles 2500 -plain -rows install,idle

# The README's picture of the dashboard, taken from a demo that runs.
picture: chromium
	go run ./test/picture

# Images for Linux as an OCI layout in dist/image, without a Docker engine. The Dockerfile makes the same file system.
image: $(LINUX:%=dist/build/%)
	rm -rf dist/image
	cd test/release && go run . image -version $(VERSION) -created $(CREATED) -out ../../dist/image $(foreach p,$(LINUX),$(p)=../../dist/build/$(p))

# What people download, in dist/files: programs, completions, SBOMs and checksums.
release: $(LINUX:%=dist/build/%) dist/build/darwin/amd64 dist/build/darwin/arm64
	rm -rf dist/files
	cd test/release && go run . files -version $(VERSION) -created $(CREATED) -out ../../dist/files $(foreach p,$(LINUX) darwin/amd64 darwin/arm64,$(p)=../../dist/build/$(p))

# One build of a release: the same commit gives the same bytes.
.PHONY: always
dist/build/%: always
	CGO_ENABLED=0 GOOS=$(firstword $(subst /, ,$*)) GOARCH=$(lastword $(subst /, ,$*)) go build $(RELEASE) -ldflags "$(LDFLAGS)" -o $@ ./cmd/flotilla

# The real etcd and Kubernetes components, and kwok: see test/controlplane.
controlplane:
	@go run ./internal/controlplane/ensure

# The browser of the dashboard's tests.
chromium:
	@test/install-chromium

$(LINT): test/lint/go.mod test/lint/go.sum
	cd test/lint && go build -o $(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

clean:
	rm -rf bin demo-data dist
