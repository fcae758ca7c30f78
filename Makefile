# Everything but `race` (a C compiler), `image`, `bench-image` and `bench-compose` (Docker),
# `faults` and `mistakes` (root, iproute2, Docker) needs Go alone.
# `make help` lists the targets.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
# Where `make run` keeps its data; `make cluster` puts its own beside it.
DATA ?= data
# Passed on to the node, or to each node: make run ARGS='--log.level=debug'
ARGS ?=
# Narrows test, race and microbench: make test PKG=./internal/placement/...
PKG ?= ./...
# Passed on to go test by race: make race TESTFLAGS=-short
TESTFLAGS ?=
IMAGE ?= starling:latest
INGEST_IMAGE ?= starling-ingest:latest
GOLANGCI_LINT_VERSION := v2.15.0

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),unknown)
REVISION := $(or $(shell git rev-parse --verify --quiet HEAD 2>/dev/null),unknown)
BRANCH := $(or $(shell git branch --show-current 2>/dev/null),unknown)
# The time of the commit, not of the build: the same source gives the same bytes.
BUILD_DATE := $(or $(shell git log -1 --format=%cd --date=format:%Y%m%d-%H:%M:%S 2>/dev/null),unknown)
info := github.com/prometheus/common/version
LDFLAGS := -s -w \
	-X $(info).Version=$(VERSION) -X $(info).Revision=$(REVISION) \
	-X $(info).Branch=$(BRANCH) -X $(info).BuildDate=$(BUILD_DATE)
# What runs is compiled by a profile; tests are not, which would compile all of it once more for
# each kind of build (docs/adr/0024).
PROFILE := cmd/starling/starling.pgo
GO_BUILD = CGO_ENABLED=0 $(GO) build -trimpath -pgo='$(PROFILE)' -ldflags '$(LDFLAGS)'

LINT := bin/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make cluster CLEAN=1 starts from empty data directories."
	@echo "  make run ARGS='…' and make cluster ARGS='…' pass flags on to the nodes."
	@echo "  make faults and mistakes take FAULTS='-short -secured' or FAULTS='-run regexp'."
	@echo "  make test, race and microbench take PKG=./internal/…, microbench takes BENCH=regexp."
	@echo "  make bench, bench-ingest and bench-compose take INGEST='-runs 3 -out report', flags of bench/ingest."
	@echo "  make bench-query takes QUERY='-nodes 5 -rounds 9', flags of bench/query."

.PHONY: build
build: ## Build bin/starling
	$(GO_BUILD) -o bin/starling ./cmd/starling

.PHONY: run
run: build ## Build and run one node, with its data in ./data
	exec bin/starling --storage.tsdb.path='$(DATA)' $(ARGS)

# Node n listens on 9n80 (HTTP; the first on 9080), 9n81 (peers) and 9n82 (gossip). The
# nodes run in process groups of their own, where Ctrl-C does not reach them: the trap
# stops them, so that each ends in its own order and its last lines are still read.
.PHONY: cluster
cluster: build ## Run three nodes on 127.0.0.1:9080, 9180 and 9280 until Ctrl-C
	@[[ -z '$(CLEAN)' ]] || rm -rf '$(DATA)-cluster'
	@set -m; pids=(); \
	trap 'trap "" INT TERM HUP; kill -TERM "$${pids[@]}" 2>/dev/null || true' INT TERM HUP; \
	for n in 0 1 2; do \
	  bin/starling --storage.tsdb.path="$(DATA)-cluster/node-$$n" \
	    --web.listen-address=127.0.0.1:9$${n}80 \
	    --cluster.rpc-address=127.0.0.1:9$${n}81 \
	    --cluster.gossip-address=127.0.0.1:9$${n}82 \
	    --cluster.advertise-host=127.0.0.1 \
	    --cluster.join=127.0.0.1:9082 --cluster.join=127.0.0.1:9182 --cluster.join=127.0.0.1:9282 \
	    --cluster.bootstrap-expect=3 $(ARGS) \
	    > >(trap '' INT TERM; while IFS= read -r line; do printf 'node-%s | %s\n' "$$n" "$$line"; done) 2>&1 & \
	  pids+=($$!); \
	done; \
	code=0; \
	for pid in "$${pids[@]}"; do \
	  until wait "$$pid"; do ended=$$?; kill -0 "$$pid" 2>/dev/null || { code=$$ended; break; }; done; \
	done; \
	wait; exit $$code

.PHONY: test
test: ## Run the tests; what needs Docker is skipped and says so
	$(GO) test -timeout 20m $(PKG)

# One CPU: goroutines of a synctest bubble that poll timers on two CPUs at once share the race
# detector's state of the bubble's timers, and crash it (Go 1.26). What it finds does not
# depend on how many CPUs there are, as it follows what happens before what.
.PHONY: race
race: ## Run the tests with the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -cpu 1 -timeout 30m $(TESTFLAGS) $(PKG)

# The fault suite (docs/faults.md): FAULTS=-short is a selection of it, FAULTS="-run 'kill|disk'"
# what matches, FAULTS=-secured has everything encrypted, FAULTS=-list prints the names. It says so
# where it cannot run.
FAULTS ?=
.PHONY: fault-suite
fault-suite: ## Run the fault suite alone (needs root)
	$(GO) build -o bin/faults-suite ./bench/faults
	bin/faults-suite $(FAULTS)

# Real processes and containers: builds a real Prometheus from the Go module proxy
# (once, a few minutes; kept in the user's cache directory), starts three nodes by
# docker-compose.yml, kills one under load and compares every answer with Prometheus's; grows
# them to five, shrinks them, and takes a disk away. With STARLING_ACCEPTANCE=long nodes join
# and leave twenty times in a row, too, which takes five minutes more.
.PHONY: acceptance
acceptance: ## Run the acceptance tests alone (needs root and Docker)
	STARLING_ACCEPTANCE="$${STARLING_ACCEPTANCE:-1}" $(GO) test -count=1 -timeout 45m -v ./internal/acceptance

.PHONY: faults
faults: fault-suite acceptance ## Run the fault suite and the acceptance tests (needs root and Docker)

.PHONY: mistakes
mistakes: ## Build the program with mistakes and see that the fault suite and tests find them
	$(GO) build -o bin/faults-suite ./bench/faults
	bin/faults-suite -mistakes $(FAULTS)

FUZZTIME ?= 10s
.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (10s); their seeds are part of the tests
	@for dir in $$(grep -rlE '^func Fuzz' --include='*_test.go' internal | xargs -n 1 dirname | sort -u); do \
	  for target in $$(cat "$$dir"/*_test.go | sed -nE 's/^func (Fuzz[A-Za-z0-9]+)\(.*/\1/p'); do \
	    echo "──── $$dir $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime '$(FUZZTIME)' "./$$dir"; \
	  done; \
	done

# Flags of bench/ingest beside those that its targets set: go run ./bench/ingest -help
INGEST ?=
# As much as fits into a few minutes.
.PHONY: bench
bench: ## Measure what taking samples in costs, on nodes started here, in a few minutes
	$(GO) run ./bench/ingest -scenarios one,three,churn -series 30000 -scrapes 40 -verify $(INGEST)

# Builds a real Prometheus to compare memory with, as `make faults` does.
.PHONY: bench-ingest
bench-ingest: ## Measure it at full size, with memory against Prometheus, into bin/ingest
	$(GO) run ./bench/ingest -scenarios all -prometheus build -verify -out bin/ingest $(INGEST)

# Flags of bench/query: go run ./bench/query -help
QUERY ?=
.PHONY: bench-query
bench-query: ## Measure what queries take on three nodes, against a Prometheus with the same samples
	$(GO) run ./bench/query $(QUERY)

# With nothing beside it: what the nodes do then is what the compiler is told.
.PHONY: profile
profile: ## Take the profile anew that the program is compiled by
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(GO_BUILD) -o "$$dir/starling" ./cmd/starling; \
	$(GO) run ./bench/ingest -program "$$dir/starling" -scenarios one,three -profiles "$$dir/ingest" > /dev/null; \
	$(GO) run ./bench/query -program "$$dir/starling" -profiles "$$dir/query" > /dev/null; \
	$(GO) tool pprof -proto -output '$(PROFILE)' "$$dir"/ingest/*-cpu.pprof "$$dir"/query/*-node-*-cpu.pprof

.PHONY: bench-compose
bench-compose: image ## Measure it on docker-compose.yml's containers, with limits (needs Docker)
	$(GO) run ./bench/ingest -compose -image '$(IMAGE)' -verify $(INGEST)

.PHONY: bench-image
bench-image: ## Build the container image of the load, starling-ingest:latest
	rm -rf bin/bench-image
	mkdir -p bin/bench-image/tmp
	GOOS=linux CGO_ENABLED=0 $(GO) build -trimpath -o bin/bench-image/ingest ./bench/ingest
	docker build --network none -t '$(INGEST_IMAGE)' -f bench/ingest/Dockerfile bin/bench-image

BENCH ?= .
.PHONY: microbench
microbench: ## Run the micro-benchmarks, with allocations
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

SIZE ?= 1GB
.PHONY: figures
figures: ## Measure what docs/performance.md tells, with SIZE (1GB) of data on each node
	$(GO) test -run '^$$' -bench Convergence -count 5 -timeout 60m ./internal/cluster
	$(GO) run ./bench/transfer -size '$(SIZE)' -runs 3
	$(GO) run ./bench/transfer -size '$(SIZE)' -runs 3 -rate 0

.PHONY: image
image: ## Build the container image starling:latest; nothing is pulled
	rm -rf bin/image
	mkdir -p bin/image/data
	GOOS=linux $(GO_BUILD) -o bin/image/starling ./cmd/starling
	docker build --network none -t '$(IMAGE)' .

RELEASE_ARCHS := amd64 arm64
.PHONY: release
release: ## Build archives for Linux on amd64 and arm64, and their checksums, in bin/release
	rm -rf bin/release
	mkdir -p bin/release
	@# The same source gives the same bytes: owners, order and times are set.
	@for arch in $(RELEASE_ARCHS); do \
	  name=starling-$(VERSION)-linux-$$arch; \
	  echo "$$name"; \
	  mkdir "bin/release/$$name"; \
	  GOOS=linux GOARCH=$$arch $(GO_BUILD) -o "bin/release/$$name/starling" ./cmd/starling; \
	  cp README.md LICENSE docs/install/starling.service docs/install/kubernetes.yaml "bin/release/$$name/"; \
	  tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go=u-w --mtime="@$(or $(shell git log -1 --format=%ct 2>/dev/null),0)" \
	    -C bin/release -cf - "$$name" | gzip -9n > "bin/release/$$name.tar.gz"; \
	  rm -r "bin/release/$$name"; \
	done
	cd bin/release && sha256sum starling-*.tar.gz > SHA256SUMS

.PHONY: lint
lint: $(LINT) ## Check format and style with golangci-lint
	$(LINT) run $(PKG)

# The linter's dependencies stay out of go.mod; it is built from the module proxy.
$(LINT):
	CGO_ENABLED=0 GOWORK=off GOBIN='$(CURDIR)/bin/tools' $(GO) install \
	  github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/tools/golangci-lint '$@'

.PHONY: clean
clean: ## Delete what was built and the data of run and cluster
	rm -rf bin '$(DATA)' '$(DATA)-cluster'
