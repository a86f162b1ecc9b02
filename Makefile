# The entry for people. `make demo` and `make test` do all the set-up on a fresh Debian or Ubuntu.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test unit e2e openssl build lint header loom test-mutations install-build

help:  ## this list
	@grep -hE '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: ## install what is missing, build, mirror a real TLS session, show the decrypted packets
	@scripts/install-peers.sh build demo
	@$(MAKE) --no-print-directory build openssl
	@scripts/demo.sh

test: ## the whole test suite, end to end with real peers
	@scripts/install-peers.sh build demo test
	@$(MAKE) --no-print-directory openssl
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace
	openssl-compat/tests/run.sh
	openssl-compat/suite.sh 3.0 --sslapi

unit: install-build ## only the tests that need no peers
	$(CARGO) test -p mirror-hook -p rustls-mirror
	$(CARGO) test -p sslcollector --lib --bins

build: install-build ## the binary, optimised
	$(CARGO) build --release -p sslcollector

openssl: install-build ## the patched libssl, into $(TARGET)/lib/sslcollector (cached outside the checkout)
	@openssl-compat/build.sh

lint: ## format, clippy, rustdoc, the fuzz targets: warnings are errors
	@scripts/install-peers.sh build test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features mirror-tests/openssl-4.0 -- -D warnings
	scripts/test-mutations.sh --check
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --document-private-items
	cd fuzz && RUSTFLAGS="--cfg fuzzing -Dwarnings" $(CARGO) check --target-dir $(abspath $(TARGET))/fuzz-check

.PHONY: rustls-api
rustls-api: install-build ## rustls-mirror's public API: all that rustls has of what is wrapped, and as recorded in rustls-mirror/api.txt
	scripts/rustls-api.py

header: ## write include/mirror_hook.h anew from mirror-hook/src/capi.rs
	UPDATE_HEADER=1 $(CARGO) test -p mirror-hook --test header

loom: ## every interleaving of the ring's model
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom $(CARGO) test -p mirror-hook --release --lib loom

test-mutations: ## small wrong changes of the code: each must make its named test fail
	@scripts/install-peers.sh build demo test
	@$(MAKE) --no-print-directory openssl
	@scripts/test-mutations.sh

install-build:
	@scripts/install-peers.sh build

# Our own programs, then OpenSSL's tests: without an agent, with one, with one that is killed again and again.
OPENSSL_TESTS := openssl-test-3.0 openssl-test-3.5 openssl-test-4.0
.PHONY: openssl-test $(OPENSSL_TESTS)
openssl-test: $(OPENSSL_TESTS) ## our tests and OpenSSL's own for each patched libssl (hours the first time); openssl-test-3.5: one version

$(OPENSSL_TESTS): openssl-test-%: install-build
	@scripts/install-peers.sh build libcrypto
	openssl-compat/tests/run.sh $*
	openssl-compat/suite.sh $*

openssl-test-4.0: ech-test
.PHONY: ech-test
ech-test: ## Encrypted Client Hello of OpenSSL 4.0 and of rustls, end to end (part of openssl-test-4.0)
	@scripts/install-peers.sh build demo test libcrypto
	$(CARGO) build --workspace
	$(CARGO) test -p mirror-tests --features openssl-4.0 --test ech

.PHONY: bench-forge
bench-forge: install-build ## what forging a packet costs, against copying its text
	$(CARGO) run --release -q -p mirror-benches --bin forge

.PHONY: bench-replay
bench-replay: install-build ## packets on an interface, forging included, against a bare sendmmsg loop and tcpreplay (root)
	@scripts/install-peers.sh bench
	$(CARGO) run --release -q -p mirror-benches --bin replay

.PHONY: bench-collector
bench-collector: install-build ## agents over TLS through a collector onto an interface: throughput, memory, latency (root)
	$(CARGO) build --release -q -p sslcollector
	$(CARGO) run --release -q -p mirror-benches --bin collector

.PHONY: bench-mapping
bench-mapping: install-build ## sessions found on the wire: bindings a second, what passes the filter, 20,000 handshakes a second (root)
	$(CARGO) run --release -q -p mirror-benches --bin mapping

.PHONY: bench-http2
bench-http2: ## HTTP/2 told as HTTP/1.1: content against forging the frames as they are, small requests, memory of a stream
	$(CARGO) run --release -q -p mirror-benches --bin http2

.PHONY: bench-hook
bench-hook: ## what the hook costs: instructions, time of a call, threads, nginx against stock and against uprobes
	@scripts/install-peers.sh build demo bench
	@$(CARGO) build --release -q -p sslcollector -p mirror-hook -p mirror-benches
	@patched=$$(openssl-compat/build.sh 3.0) && stock=$$(openssl-compat/build.sh 3.0 --unpatched) && \
		PATCHED_LIBSSL=$$patched STOCK_LIBSSL=$$stock/libssl.so.3 $(TARGET)/release/hook

.PHONY: bench-rustls
bench-rustls: ## what rustls-mirror costs: a write, and hyper under wrk, by the wrappers and by install(), against bare rustls
	@scripts/install-peers.sh build bench
	@$(CARGO) build --release -q -p sslcollector -p mirror-benches
	@$(TARGET)/release/rustls

.PHONY: attach-faults
attach-faults: openssl ## each system call of attach, at each place, with each error it can give
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_ATTACH_FAULTS=all $(CARGO) test -p mirror-tests --test attach_faults

.PHONY: kills
KILLS ?= 1000
kills: openssl ## KILLS (1000) processes killed in the middle of a write, and one at each instruction of it
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_KILLS=$(KILLS) $(CARGO) test -p mirror-tests --test killed

.PHONY: secrets
HANDSHAKES ?= 10000
secrets: openssl ## HANDSHAKES (10000) whose secrets must be in no ring, agent or capture
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_HANDSHAKES=$(HANDSHAKES) $(CARGO) test -p mirror-tests --test secrets

.PHONY: restarts
RESTARTS ?= 100
restarts: openssl ## RESTARTS (100) of an agent under load, ended and killed: nothing lost, or exact holes
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_RESTARTS=$(RESTARTS) $(CARGO) test -p mirror-tests --test restart under_load

.PHONY: cuts
CUTS ?= 100
cuts: openssl ## CUTS (100) of a tunnel under load by each way of cutting it, collectors killed, agents killed
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_CUTS=$(CUTS) $(CARGO) test -p mirror-tests --test cuts

.PHONY: hostile fuzz
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
HOSTILE_SECONDS ?= 300
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= ring attach body policy wire text helper_request frame batch inlet answers spool token enrol certificate_request \
	envelope mark diag handshakes xff proxy_protocol http2 http2_requests http2_responses
# What cargo-fuzz would pass; so it isn't needed, and the stable compiler will do.
FUZZ_FLAGS := --cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1

hostile: install-build ## HOSTILE_SECONDS (300) of overwriting a ring that is in use, under AddressSanitizer
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address MIRROR_HOSTILE_SECONDS=$(HOSTILE_SECONDS) CARGO_TARGET_DIR=$(TARGET)/asan \
		$(CARGO) test -p mirror-hook --lib --target $(HOST) hostile -- --nocapture

fuzz: install-build ## FUZZ_SECONDS (60) of made-up input for each fuzz target; needs g++
	cd fuzz && RUSTC_BOOTSTRAP=1 RUSTFLAGS="$(FUZZ_FLAGS)" CARGO_TARGET_DIR=$(abspath $(TARGET))/fuzz $(CARGO) build --release --target $(HOST)
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p $(TARGET)/fuzz/corpus/$$target; \
		echo "fuzz: $$target, $(FUZZ_SECONDS) s"; \
		$(TARGET)/fuzz/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 -malloc_limit_mb=100 \
			-artifact_prefix=$(TARGET)/fuzz/$$target- $(TARGET)/fuzz/corpus/$$target fuzz/corpus/$$target || exit 1; \
	done

.PHONY: soak
soak: ## nginx under load, its agents killed 1,000 times (5 million requests); stopped for 20 s (10,000 connections)
	@scripts/install-peers.sh build demo test
	@$(MAKE) --no-print-directory openssl
	$(CARGO) build -p sslcollector
	MIRROR_SOAK=1 $(CARGO) test -p mirror-tests --test agent_killed --test agent_stopped -- --nocapture --test-threads 1
