# Everything that can be done with this tree, as root on Debian 12 or 13:
#
#   make demo        three build nodes and a regular one on this machine, from source to client
#   make test        all tests but the slow ones, with the race detector
#
# What is missing on the machine is installed first (e2e/setup.sh): Debian
# packages by apt, and a Go as new as go.mod asks for into .tools/.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS   += --no-print-directory

# A Go that is older than go.mod wants fetches the right one by itself, checked
# against the checksum database; one that cannot is replaced by setup.sh.
export PATH        := $(CURDIR)/.tools/go/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin
export GOTOOLCHAIN := auto
export GOFLAGS     := -buildvcs=false $(filter-out -buildvcs=%,$(GOFLAGS))

# Debian 13 keeps /tmp in memory, and the stories write some gigabytes.
export TMPDIR := $(or $(TMPDIR),/var/tmp)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BIN     := bin
DEMO    := .demo
PACKAGES = $$(go list ./... | grep -v '/e2e$$')

.PHONY: help build deb demo demo-stop demo-clean test e2e sim bench coverage coverage-clean lint clean setup-build setup-test setup-demo setup-coverage setup-machine

help: ## Show what there is to make
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | column -t -s$$'\t'

setup-build setup-test setup-demo setup-coverage:
	@e2e/setup.sh $(@:setup-%=%)

setup-machine:
	@e2e/machine/setup.sh

build: setup-build ## Build pyrsia, buildkitd and buildctl into bin/
	@echo "building $(BIN)/pyrsia ($(VERSION)), $(BIN)/buildkitd and $(BIN)/buildctl: some minutes the first time"
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.buildVersion=$(VERSION)' -o $(BIN)/pyrsia ./appliance/cmd/pyrsia
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(BIN)/ github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl

# The same bytes whenever it is made of the same commit: the programs are built so, and
# every time in the package is the commit's.
EPOCH       = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
DEB_VERSION = 0.1.0~git$(shell TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h 2>/dev/null || echo 0)
deb: build ## Build the Debian package into bin/
	@systemd/debian/build.sh $(BIN) $(BIN) $(DEB_VERSION) $(EPOCH)
	@echo "$(BIN)/pyrsia_$(DEB_VERSION)_amd64.deb"

demo: setup-demo build ## Run the whole of Pyrsia on this machine and leave it running
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/demo ./e2e/demo
	@$(BIN)/demo -folder $(DEMO) -bin $(BIN) up

demo-stop: ## Stop what `make demo` left running
	@if [ -d $(DEMO) ]; then mkdir -p $(BIN); CGO_ENABLED=0 go build -trimpath -o $(BIN)/demo ./e2e/demo; $(BIN)/demo -folder $(DEMO) -bin $(BIN) stop; else echo "there is no demo here"; fi

demo-clean: ## Stop the demo and remove all it made (Debian packages stay)
	@if [ -d $(DEMO) ]; then mkdir -p $(BIN); CGO_ENABLED=0 go build -trimpath -o $(BIN)/demo ./e2e/demo; $(BIN)/demo -folder $(DEMO) -bin $(BIN) clean; else echo "there is no demo here"; fi

# The stories come last: they want both processors, and the last line to be the
# test runner's.
test: setup-test ## Test: format, vet, unit, fault and fuzz seeds, quick stories; race detector on
	@unformatted=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...)); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags slow ./e2e/...
	@echo "compiling BuildKit for the tests that run it: some minutes the first time"
	@CGO_ENABLED=0 go build -trimpath github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl
	go test -race -timeout 20m $(PACKAGES)
	go test -race -timeout 25m ./e2e

e2e: demo deb setup-machine ## Test: the demo, the Debian package on plain Debian, and the slower stories
	go test -tags slow -timeout 40m -v -run '^TestSlow' ./e2e

# N: members (3, 4, 5 or 7; all of them where it is not given); SEEDS of each,
# from FROM on. A violation of what is promised is exit code 1 and names the
# command that runs its seed again.
SEEDS ?= 2500
FROM  ?= 1
sim: setup-test ## Simulate the vote under every fault: make sim N=5 SEEDS=10000 FROM=1
	GOGC=800 SIM_N=$(N) SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) SIM_FORKS=$$(($(SEEDS) / 50 + 1)) SIM_LIARS=$$(($(SEEDS) / 25 + 1)) go test -count=1 -timeout 80m -v -run '^(TestSim|TestSeeds|TestForks|TestLiars)$$' ./modules/quorum ./modules/quorum/order/sim

# ONLY is a part of the names of the packages to do; AGAIN=1 also does what has a result.
ONLY     ?=
PARALLEL ?= 2
COVERAGE := .coverage
coverage: setup-coverage build ## Rebuild known releases on two unlike machines into docs/coverage.md (hours)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/ ./e2e/coverage ./e2e/coverage/vary
	@$(BIN)/coverage -folder $(COVERAGE) -bin $(BIN) -only "$(ONLY)" -parallel $(PARALLEL) $(if $(AGAIN),-again) run
	@$(BIN)/coverage -folder $(COVERAGE) -bin $(BIN) stop

coverage-clean: ## Stop the network of `make coverage` and remove it (the results stay)
	@if [ -d $(COVERAGE) ]; then mkdir -p $(BIN); CGO_ENABLED=0 go build -trimpath -o $(BIN)/coverage ./e2e/coverage; $(BIN)/coverage -folder $(COVERAGE) -bin $(BIN) clean; else echo "there is no such network here"; fi

# LEAVES is how long a log a new node follows in make bench.
LEAVES ?= 1000000
bench: setup-test build ## Measure what docs/benchmarks.md lists
	go test -run '^$$' -bench . -benchmem -timeout 30m ./modules/...
	SYNC_LEAVES=$(LEAVES) go test -run "^TestSyncNumber$$" -v -timeout 30m ./modules/chain/bolt
	go test -tags bench -run '^TestBench' -v -timeout 15m ./e2e

lint: setup-build ## Format, vet, and the rules of the house (e2e/arch_test.go)
	@unformatted=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...)); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags slow ./e2e/...
	go test -run '^TestArchitecture' ./e2e

clean: demo-clean coverage-clean ## Remove all that make built here
	@rm -rf $(BIN) .tools
