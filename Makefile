# Everything here works from a fresh clone with cargo, Python 3.11 or newer, pip, make and bash. Nothing is installed
# outside of .venv and target.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# The interpreter to build for; empty means the first of python3, python3.11, … that is new enough.
PYTHON ?=
# What `make demo` replays, and with which options.
CAPTURE ?= python/pktalloc/data/demo.pcapng
REPLAY ?=

# What `make wheels` builds for.
INTERPRETERS ?= $(foreach version,3.11 3.12 3.13 3.14 3.15,$(if $(shell python$(version) -V 2>/dev/null),python$(version)))

# Pythons for musl in which `make wheels` tests its wheels for that; scripts/musl_python.sh builds one.
MUSL_INTERPRETERS ?=

# How long `make fuzz` runs each of its targets.
FUZZ_SECONDS ?= 1800
FUZZ_TARGETS ?= api config datagrams packets trace
# How long `make soak` runs.
SOAK_SECONDS ?= 3600
# How many datagrams `make soak-datagrams` sends, without segment offload and with it.
SOAK_DATAGRAMS ?= 10000000
# What `make mutants` changes.
MUTANTS_FILES ?= src/bitset.rs src/map.rs src/region.rs src/geometry.rs src/address_map.rs src/list.rs src/heap.rs \
    src/heap/*.rs src/packet.rs src/packet/*.rs src/api2.rs src/shared.rs src/shared/*.rs
# How many of its changes it tries, picked at random; empty for all.
MUTANTS_SAMPLE ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# The Rust tools that look at the Python face must see the interpreter that it is built for.
PYO3 := PYO3_PYTHON="$(CURDIR)/$(BIN)/python"

# Everything but the Python face, which needs an interpreter.
FEATURES := allocator-api2,bytes,replay,shared,udp
# Those that are to build by themselves.
EACH_FEATURE := std allocator-api2 bytes replay shared udp

# What others can build on. The compiler's own description of it is not stable, and asking for it would build every
# dependency again, so it has a directory to itself.
PUBLIC_API := RUSTC_BOOTSTRAP=1 $(CARGO) rustdoc --locked --quiet --lib --features $(FEATURES) --target-dir target/api -- \
    -Zunstable-options --output-format json && $(BIN)/python scripts/public_api.py target/api/doc/pktalloc.json docs/public-api.txt

# Pointers keep their provenance. The lints that see to it are not stable either; nothing but this check is built so.
PROVENANCE := RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zcrate-attr=feature(strict_provenance_lints) -Dfuzzy_provenance_casts \
    -Dlossy_provenance_casts" $(PYO3) $(CARGO) check --locked --quiet --lib --all-features --target-dir target/provenance

# The library and its tests, where a pointer has 32 bits. Nothing is linked, so what a dependency of the benches compiles from
# C is not needed.
NARROW := i686-unknown-linux-gnu
CHECK_NARROW := CC_$(subst -,_,$(NARROW))=true AR_$(subst -,_,$(NARROW))=true $(CARGO) check --locked --quiet \
    --target $(NARROW) --target-dir target/narrow --lib --tests --features $(FEATURES)

# The comparison with other allocators is a package of its own, with its own settings for the C and C++ that it builds.
PEERS := cd benches/peers && $(CARGO)
# So are programs on crates that others wrote.
CLIENTS := cd benches/clients && $(CARGO)

# What the installed package is made of: when one of these is newer, it is built again.
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(wildcard README.md) \
    $(shell find src python -type f -not -name '*.so' -not -name '*.pyc')

.PHONY: help demo test package msrv cross wheels sdist lint lint-peers fmt api stubs deny semver browse bench bench-full bench-threads bench-clients \
    bench-python bench-datagrams conformance fuzz fuzz-python \
    sanitize mutants soak soak-datagrams check-cost loom tsan docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/stamp-package ## build the package and replay the capture that ships with it
	@$(BIN)/pktalloc replay $(CAPTURE) $(REPLAY) || { echo "make demo: FAILED: the replay of $(CAPTURE) said why" >&2; exit 1; }
	@echo "make demo: built $$($(BIN)/python -c 'import importlib.metadata as m; print("pktalloc", m.version("pktalloc"))')" \
	    "and replayed $(CAPTURE); the same on your own traffic: $(BIN)/pktalloc replay FILE"

test: $(VENV)/stamp-test ## build everything and run every test, Rust and Python
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" PYTHON="$(BIN)/python" scripts/run_tests.sh

package: ## pack the crate as it would be published, then build and test it away from the repository
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" EACH_FEATURE="$(EACH_FEATURE)" scripts/check_package.sh

msrv: ## build with the oldest Rust that is supported, and ask what each dependency wants
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" PYTHON="$(BIN)/python" scripts/check_rust_version.sh

cross: $(VENV)/stamp-cross $(VENV)/stamp-test ## compile for other systems and processors, and run the tests there under qemu (TARGETS: which; RESUME=yes: go on)
	@$(BIN)/python scripts/cross_recorder.py target/cross/recorder
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" BIN="$(CURDIR)/$(BIN)" TARGETS="$(TARGETS)" RESUME="$(RESUME)" scripts/cross.sh

wheels: $(VENV)/stamp-wheels ## build wheels for Linux with each of INTERPRETERS, check them, and test them in clean environments
	@BIN="$(CURDIR)/$(BIN)" INTERPRETERS="$(INTERPRETERS)" EXTRA_TARGETS="$(EXTRA_TARGETS)" MUSL_INTERPRETERS="$(MUSL_INTERPRETERS)" scripts/wheels.sh

sdist: $(VENV)/stamp-wheels ## build the source distribution, check it, and test it in a clean environment
	@BIN="$(CURDIR)/$(BIN)" scripts/sdist.sh

lint: $(VENV)/stamp-lint $(VENV)/stamp-test ## check format, lints, documentation and types, Rust and Python
	@$(CARGO) fmt --version >/dev/null && $(CARGO) clippy --version >/dev/null || \
	    { echo "make: cargo has no fmt or no clippy: rustup component add rustfmt clippy" >&2; exit 1; }
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings
	@for feature in $(EACH_FEATURE); do echo "clippy with the feature $$feature alone"; \
	    $(CARGO) clippy --locked --quiet --no-default-features --features "$$feature" --lib -- -D warnings; done
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --features $(FEATURES) -- -D warnings
	$(PYO3) $(CARGO) clippy --locked --all-targets --features python -- -D warnings
	$(PYO3) $(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(PROVENANCE)
	@if [ -d "$$(rustc --print target-libdir --target $(NARROW))" ]; then echo '$(CHECK_NARROW)'; $(CHECK_NARROW); \
	    else echo "make lint: skipped: pointers of 32 bits: rustup target add $(NARROW)"; fi
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features $(FEATURES)
	$(PUBLIC_API) --check
	@tree=$$($(CARGO) tree --locked --edges normal,build --prefix none) && [ "$$(wc -l <<<"$$tree")" -eq 1 ] || \
	    { echo "make: the crate must have no dependency by default, but cargo tree says: $$tree" >&2; exit 1; }
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pktalloc --mypy-config-file pyproject.toml \
	    --allowlist tests/stubtest.allowlist --ignore-unused-allowlist
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/stub_docs.py --check
	@for version in 3.11 3.12 3.13 3.14; do echo "types at Python $$version"; \
	    $(BIN)/mypy --python-version $$version tests/typing; $(BIN)/basedpyright --level error --pythonversion $$version; done
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/pyroma --min 8 . 2>/dev/null
	$(BIN)/zizmor --offline --quiet --persona=pedantic .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@echo "make lint: format, lints, documentation and types are clean"

fmt: $(VENV)/stamp-lint ## format the sources, Rust and Python
	$(CARGO) fmt --all
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

api: $(VENV)/stamp-venv ## list what others can build on, in docs/public-api.txt (make lint compares)
	$(PUBLIC_API)

stubs: $(VENV)/stamp-lint $(VENV)/stamp-test ## write the docstrings of the built module into its stubs (make lint compares)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/stub_docs.py

deny: ## check licences and sources of all dependencies, with ADVISORIES=yes also known faults; installs cargo-deny where missing
	@CARGO="$(CARGO)" ADVISORIES="$(ADVISORIES)" scripts/deny.sh

semver: $(VENV)/stamp-semver ## say what breaks users since the last release, or BASELINE; installs cargo-semver-checks where missing
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" BIN="$(CURDIR)/$(BIN)" BASELINE="$(BASELINE)" scripts/semver.sh

lint-peers: ## check the comparison with other allocators, and the clients (builds them: needs a C++ compiler)
	$(PEERS) fmt --check
	$(PEERS) clippy --locked --all-targets -- -D warnings
	$(CLIENTS) fmt --check
	$(CLIENTS) clippy --locked --all-targets -- -D warnings

bench: ## measure: criterion on the crate, then enough of the peers to judge every target (minutes)
	$(CARGO) bench --locked
	$(PEERS) run --locked --release --quiet -- --quick

bench-full: ## measure every cell of the comparison with the peers (an hour or so)
	$(PEERS) run --locked --release --quiet

bench-threads: ## measure packets that other threads free, beside other allocators (a minute; wants two idle cores)
	$(PEERS) run --locked --release --quiet -- threads

bench-clients: ## measure programs on crates that others wrote, with their own memory and with pktalloc (minutes)
	@$(CLIENTS) build --locked --release --quiet --bins
	@$(CLIENTS) run --locked --release --quiet

bench-python: $(VENV)/stamp-test ## measure the Python face beside bytearray, and judge its targets
	@$(BIN)/python -m pytest -q benches/bench_python.py --benchmark-max-time=0.2 --benchmark-columns=min,median --benchmark-sort=min
	@$(BIN)/python benches/python_targets.py

bench-datagrams: $(VENV)/stamp-test ## measure datagrams in batches beside recvfrom, asyncio and uvloop, on loopback (a minute)
	@$(BIN)/python benches/bench_datagrams.py

conformance: $(VENV)/stamp-test ## run CPython's and uvloop's own tests of datagrams on ours (fetches uvloop's source archive)
	@rm -rf target/uvloop && mkdir -p target/uvloop
	@$(PIP) download --no-deps --no-binary uvloop --dest target/uvloop \
	    "uvloop==$$($(BIN)/python -c 'import uvloop; print(uvloop.__version__)')"
	@tar -xzf target/uvloop/uvloop-*.tar.gz -C target/uvloop --strip-components 1
	@PKTALLOC_UVLOOP_TESTS=target/uvloop/tests/test_udp.py $(BIN)/python -m pytest -q tests/test_conformance.py

fuzz: ## fuzz each target for FUZZ_SECONDS (1800); installs cargo-fuzz where it is missing
	@CARGO="$(CARGO)" FUZZ_SECONDS="$(FUZZ_SECONDS)" FUZZ_TARGETS="$(FUZZ_TARGETS)" scripts/fuzz.sh

sanitize: ## the Rust suite under AddressSanitizer and valgrind
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" scripts/sanitize.sh

mutants: ## change the core and the packets in small ways and expect a test to fail (MUTANTS_SAMPLE: how many; all take a day)
	@CARGO="$(CARGO)" MUTANTS_FILES="$(wildcard $(MUTANTS_FILES))" MUTANTS_SAMPLE="$(MUTANTS_SAMPLE)" scripts/mutants.sh

soak: ## every pattern for SOAK_SECONDS (3600), the self-check every second, memory plotted in target/soak
	@CARGO="$(CARGO)" SOAK_SECONDS="$(SOAK_SECONDS)" scripts/soak.sh

soak-datagrams: $(VENV)/stamp-test ## SOAK_DATAGRAMS (10,000,000) through a relay and an echo, each counted and checked, memory flat
	@$(BIN)/python scripts/soak_datagrams.py --count $(SOAK_DATAGRAMS)
	@$(BIN)/python scripts/soak_datagrams.py --count $(SOAK_DATAGRAMS) --gro

check-cost: ## measure what the setting check costs
	$(CARGO) run --locked --release --quiet --example check_mode

fuzz-python: $(VENV)/stamp-test ## 200,000 random steps of the Python face (make test: 10,000)
	PKTALLOC_MODEL_STEPS=200000 $(BIN)/python -m pytest -q tests/test_model.py
	@echo "make fuzz-python: 200,000 steps, the self-check after each"

loom: ## check the frees from other threads in every order that the memory model allows (a minute or two to build)
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test --locked --release --features shared --lib loom_
	@echo "make loom: no order of steps breaks the protocol"

tsan: ## run the tests of packets on several threads under ThreadSanitizer (Linux)
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" RUST_TEST_THREADS=1 \
	    TSAN_OPTIONS="halt_on_error=1 suppressions='$(CURDIR)/tests/tsan.txt'" CARGO_TARGET_DIR=target/tsan \
	    $(CARGO) test --locked --target $$(rustc -vV | sed -n 's/^host: //p') --features bytes --test shared --test pool --test frozen
	@echo "make tsan: no data race"

docs: $(VENV)/stamp-docs ## build the site, with the documentation of the crate, and follow every link in it
	@CARGO="$(CARGO)" FEATURES="$(FEATURES)" BIN="$(CURDIR)/$(BIN)" scripts/docs.sh

browse: docs $(VENV)/stamp-browse ## look at the site in a browser: contrast, keyboard, phone and desk, both themes; pictures in target
	@$(BIN)/python scripts/browse_site.py target/site target/site-pictures

clean: ## remove what was built, the virtual environment included
	$(CARGO) clean
	$(PEERS) clean
	$(CLIENTS) clean
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find python tests scripts -name __pycache__ -prune -exec rm -rf {} +
	find python -name '*.so' -delete

# A virtual environment of the project's own, with a pip that knows dependency groups.
$(VENV)/stamp-venv:
	@command -v $(CARGO) >/dev/null || { echo "make: no cargo found: install Rust 1.88 or newer, see rustup.rs" >&2; exit 1; }
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found="$$python" && break; \
	done; \
	[ -n "$${found:-}" ] || { echo "make: no Python 3.11 or newer found; name one with PYTHON=…" >&2; exit 1; }; \
	"$$found" -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $$found cannot make virtual environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }; \
	echo "make: setting up $(VENV) with $$found"; \
	"$$found" -m venv --clear $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/stamp-package: $(VENV)/stamp-venv $(SOURCES)
	@echo "make: building the package (a first build takes a minute or two)"
	@$(PIP) install '.[cli]'
	@touch $@

$(VENV)/stamp-test: $(VENV)/stamp-package pyproject.toml
	@$(PIP) install --group test
	@touch $@

# The tools of one target each.
$(VENV)/stamp-lint $(VENV)/stamp-docs $(VENV)/stamp-cross $(VENV)/stamp-wheels $(VENV)/stamp-semver $(VENV)/stamp-browse: $(VENV)/stamp-%: $(VENV)/stamp-venv pyproject.toml
	@$(PIP) install --group $*
	@touch $@
