# The entry for people. `make demo` and `make test` do all the set-up on a fresh Debian or Ubuntu.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test unit e2e openssl build lint header loom test-mutations install-build install-test

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

unit: install-build ## only the tests that need no peers
	$(CARGO) test -p mirror-hook -p rustls-mirror
	$(CARGO) test -p sslcollector --lib --bins

build: install-build ## the binary, optimised
	$(CARGO) build --release -p sslcollector

openssl: install-build ## the patched libssl, into $(TARGET)/lib/sslcollector (cached outside the checkout)
	@openssl-compat/build.sh

lint: install-build ## format, clippy, rustdoc: warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/test-mutations.sh --check
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --document-private-items

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

.PHONY: openssl-test-3.5
openssl-test-3.5: ## the patched libssl 3.5: build it, its tests (several minutes the first time)
	@scripts/install-peers.sh build libcrypto
	@openssl-compat/tests/run.sh 3.5

.PHONY: bench-forge
bench-forge: install-build ## what forging a packet costs, against copying its text
	$(CARGO) run --release -q -p mirror-benches --bin forge

.PHONY: attach-faults
attach-faults: openssl ## each system call of attach, at each place, with each error it can give
	@scripts/install-peers.sh build demo test
	$(CARGO) build -p sslcollector
	MIRROR_ATTACH_FAULTS=all $(CARGO) test -p mirror-tests --test attach_faults
