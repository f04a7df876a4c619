# Every target does its own set-up. `make` alone tells what there is.

.DEFAULT_GOAL := help
.PHONY: help run test conformance lab lab-down bench packages check fmt fuzz

CARGO ?= cargo
ONLY ?=
SECONDS_EACH ?= 60

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## the daemon, unprivileged, with two sample backends
	@packaging/need build
	$(CARGO) run --package haflinger-appliance --bin haflinger -- demo

test: ## everything; ends with "N passed, N failed"
	@packaging/need cc
	$(CARGO) run --quiet --package haflinger-suite -- $(ONLY)

conformance: ## the official Gateway API suite on the lab, report in target/conformance (root, Go)
	@packaging/need build ip bird named
	$(CARGO) build --package haflinger-appliance --package haflinger-tests --bins
	@"$${CARGO_TARGET_DIR:-target}/debug/conformance" $(ONLY)

lab: ## a router, two edge hosts, nodes, DNS and a control plane in namespaces (root)
	@packaging/need build ip bird named
	$(CARGO) build --workspace --all-targets
	@"$${CARGO_TARGET_DIR:-target}/debug/lab" up

lab-down: ## removes all of it
	$(CARGO) build --workspace --all-targets
	@"$${CARGO_TARGET_DIR:-target}/debug/lab" down

bench: ## benchmarks against peers (ONLY=name for one), also in target/bench.json
	@packaging/need build haproxy nginx wrk h2load debootstrap ip ethtool nft
	$(CARGO) run --release --package haflinger-bench -- $(ONLY)

packages: ## .deb and .rpm in target/packages
	@packaging/need build
	@packaging/build

check: ## quick: formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## formats everything
	$(CARGO) fmt --all

fuzz: ## every fuzz target for SECONDS_EACH seconds (needs cargo-fuzz and a nightly toolchain)
	cd tests/fuzz && for target in $$(cargo +nightly fuzz list); do \
	    mkdir -p corpus/$$target && \
	    cargo +nightly fuzz run $$target corpus/$$target \
	        $$(ls -d seeds/$$target 2>/dev/null) -- \
	        -max_total_time=$(SECONDS_EACH) -max_len=65536 || exit 1; done
