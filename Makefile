# Short names for the common jobs. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

SOAK_SECONDS ?= 300
FUZZ_SECONDS ?= 3600

# Adds up the summaries of the test runner, one of which closes each test binary.
COUNT = awk '{ print } \
  /^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } \
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
.PHONY: help build test lint fmt doc deny deny-advisories loader-alone bless soak fuzz bench bench-more clean

help: ## List the jobs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## Build the cwasm command with all optimisations
	cargo build --release --locked -p cwasm-cli

test: loader-alone ## Run every test that takes seconds (under ten minutes)
	@cargo test --locked --workspace --no-fail-fast | $(COUNT)

lint: ## Check formatting, and clippy with warnings as errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt --all

doc: ## Build the documentation of the crates
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

deny: ## Check licences, sources and banned crates
	cargo deny --locked check licenses bans sources

deny-advisories: ## Check for known vulnerabilities (fetches the advisory database)
	cargo deny --locked check advisories

loader-alone: ## Check that the loader builds alone, without a compiler in its dependencies
	cargo check --locked -p cwasm-loader
	@for package in cwasm-loader cwasm-wasi plugin-host; do \
	  tree=$$(cargo tree --locked -p $$package -e normal --prefix none) || exit 1; \
	  if echo "$$tree" | grep -E '^(cranelift|wasmparser|wasm-encoder|wat|wast|object|cwasm-compiler|regalloc2)'; \
	  then echo "$$package must not depend on a compiler" >&2; exit 1; fi; \
	done

bless: ## Write reference files that are missing, and compiler messages again
	CWASM_BLESS=1 cargo test --locked -p cwasm-tests --test format
	TRYBUILD=overwrite cargo test --locked -p cwasm-lifetimes

soak: ## Run the tests that try to break loading for as long as SOAK_SECONDS says (300)
	CWASM_LONG=1 CWASM_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --release -p cwasm-tests \
	  --test corruption --test concurrency

fuzz: ## Fuzz the loader for FUZZ_SECONDS (3600); needs nightly Rust and cargo-fuzz
	mkdir -p fuzz/corpus/raw_bytes && cp tests/lifetimes/fixture.cwasm fuzz/corpus/raw_bytes/
	cargo +nightly fuzz run raw_bytes -- -max_len=40000 -max_total_time=$$(($(FUZZ_SECONDS) / 2))
	cargo +nightly fuzz run resealed -- -max_len=96 -max_total_time=$$(($(FUZZ_SECONDS) / 2))

# Outside of the workspace: only these build wasmtime, which takes minutes the first time.
bench: build ## Measure beside wasmtime, and print a table; QUICK=1 for two minutes of it, ONLY="calls load" for a part
	cargo run --release --locked --manifest-path benches/Cargo.toml -- $(if $(QUICK),--quick) $(ONLY)

bench-more: build ## Measure beside whatever other engines are installed
	cargo run --release --locked --manifest-path benches/Cargo.toml -- $(if $(QUICK),--quick) others

clean: ## Remove everything that was built
	cargo clean
