# make help lists the targets. `make check` is what .ci/run runs before the tests.

GO     ?= go
DIST   ?= dist
ARCH   ?= $(shell $(GO) env GOARCH)
TAG    ?= local
CERTS  ?= $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 20s
PROOF ?= 10000
ROUNDS ?= 30

static = CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags='-s -w' -tags timetzdata
revision = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
version = $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

.DEFAULT_GOAL := help
.PHONY: help build dist check test race contract fuzz proof corpus docker demo clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## the binary for this machine, as ./penstock
	$(GO) build -trimpath -o penstock ./cmd/penstock

dist: ## static Linux binaries and what else images need, in dist/
	mkdir -p $(DIST)/etc/ssl/certs
	$(static) -o $(DIST)/penstock ./cmd/penstock
	$(static) -o $(DIST)/nats-server github.com/nats-io/nats-server/v2
	@test -n "$(CERTS)" || { echo "no bundle of CA certificates on this machine: name one with CERTS=FILE" >&2; exit 1; }
	cp $(CERTS) $(DIST)/etc/ssl/certs/ca-certificates.crt
	mkdir -p $(DIST)/home/data $(DIST)/home/tmp
	chmod 700 $(DIST)/home/data
	chmod 1777 $(DIST)/home/tmp

docker: dist ## images penstock:local and penstock-nats:local (TAG=local)
	docker build -f deployments/Dockerfile --target nats -t penstock-nats:$(TAG) $(DIST)
	docker build -f deployments/Dockerfile --target penstock -t penstock:$(TAG) \
		--build-arg VERSION=$(version) --build-arg REVISION=$(revision) $(DIST)

check: ## format, vet, modules and staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not formatted: gofmt -w ." >&2; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...

test: ## all tests
	$(GO) test ./...

race: ## the core under the race detector, short form
	$(GO) test -race -short ./events/... ./workflows/... ./engine/... ./workers

contract: ## what Penstock relies on in the NATS server, at every new version of it
	$(GO) test -count=1 ./engine/internal/contract

# An end in the middle of an execution is told as a failure (context deadline exceeded) and is none.
fuzz: ## every fuzz target for FUZZTIME (20s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6- | while read -r target; do \
			echo "$$dir $$target"; log=$$(mktemp); \
			$(GO) test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=100x "$$dir" >"$$log" 2>&1 || \
				{ ! grep -q 'Failing input' "$$log" && grep -q '^    context deadline exceeded' "$$log"; } || { cat "$$log"; exit 1; }; \
			grep -E '^fuzz: elapsed' "$$log" | tail -n 1; rm -f "$$log"; \
		done || exit 1; \
	done

# What draws at random prints its seed: PENSTOCK_SEED=… repeats it.
proof: contract ## the long form: the core on PROOF (10000) random definitions, faults and cluster for ROUNDS (30)
	PENSTOCK_PROOF=$(PROOF) $(GO) test -run='^TestTheReferenceAgrees$$' -timeout=30m ./engine/run
	PENSTOCK_ROUNDS=$(ROUNDS) $(GO) test -count=1 -v -timeout=3h ./integration \
		-run='^(TestKilledAtRandomMoments|TestPowerCut.*|TestFailingFsync.*|TestSlowDisk.*|TestCluster.*)$$'

corpus: ## keep the smallest of what fuzzing found on this machine, beside its tests
	@from=$$($(GO) env GOCACHE)/fuzz/$$($(GO) list -m); cd "$$from" && find . -type d -name 'Fuzz*' | while read -r dir; do \
		to="$(CURDIR)/$${dir%/*}/testdata/fuzz/$${dir##*/}"; mkdir -p "$$to"; \
		find "$$dir" -type f -size -3 -printf '%s %p\n' | sort -n | head -40 | while read -r _ file; do cp "$$file" "$$to/"; done; \
		echo "$$to: $$(ls "$$to" | wc -l)"; \
	done

demo: ## the whole story on this machine, in a minute
	$(GO) run ./cmd/penstock demo

clean: ## remove what the other targets made
	rm -rf $(DIST) penstock

## sim: simulate many installations; says how many steps, which faults struck and what was checked
.PHONY: sim
sim:
	PENSTOCK_SIM_SEEDS=$${PENSTOCK_SIM_SEEDS:-3000} go test ./engine/internal/sim -run WhateverBefalls -v -timeout 3h
