# What CI runs and what a developer runs is the same: every step is a target here. `make help` lists them.
# Everything made lands in build/ and target/; every step does nothing when nothing changed.

PYTHON ?= python3
# Where `make pythons` puts interpreters, and where they are looked for; share one folder between checkouts if you like.
SPPROF_PYTHONS ?= $(CURDIR)/build/pythons
export SPPROF_PYTHONS

TOOLS := build/tools
WHEEL := build/wheels/abi3.stamp
# What the wheel is made of.
SOURCES := $(shell find src c_shim interpose python build.rs Cargo.toml Cargo.lock pyproject.toml README.md LICENSE \
	-type f -not -path '*/__pycache__/*' -not -name '*.so' 2>/dev/null)
PYTHONS := $(PYTHON) .ci/pythons.py
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help build wheel demo test test-rust test-python test-all test-one gates lint format pythons list-pythons bench soak loom rtsan asan clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: wheel ## profile an example program and say which file to open
	@mkdir -p $(DEMO)
	@python=$$($(PYTHONS) python default) && \
	"$$python" -m spprof run --interval 1 -o $(DEMO)/profile.spprof docs/examples/photo_lab.py && \
	"$$python" -m spprof convert $(DEMO)/profile.spprof $(DEMO)/flamegraph.svg && \
	"$$python" -m spprof convert $(DEMO)/profile.spprof $(DEMO)/profile.json && \
	printf '\n' && "$$python" -m spprof report -n 10 $(DEMO)/profile.spprof && \
	printf '\nOpen this flame graph in a browser:\n  %s\nor drop this file on https://www.speedscope.app:\n  %s\n%s\n  %s\n' \
		"$(CURDIR)/$(DEMO)/flamegraph.svg" "$(CURDIR)/$(DEMO)/profile.json" \
		"To read it again, and more of it:" "$$python -m spprof report --lines $(DEMO)/profile.spprof"

test: test-rust test-python ## all tests: the crates, then the package on every Python that is found

build: wheel ## the same as wheel

wheel: $(WHEEL) ## one wheel for every GIL build of Python from 3.9 on (free-threaded ones get theirs from test-python)

$(WHEEL): $(SOURCES) | $(TOOLS)/.done
	rm -rf build/wheels && mkdir -p build/wheels
	$(TOOLS)/bin/maturin build --release --locked --quiet --interpreter $(PYTHON) --out build/wheels
	touch $@

test-rust: loom ## unit tests of every crate, and the models of loom
	$(PYTHONS) cargo-test

test-python: wheel ## tests on every Python found, or on those of PY="3.11 3.13t /path/to/python"
	$(PYTHONS) test $(PY)

test-all: ## as test, with the statistics and the hazards on every Python, not on the default one alone
	SPPROF_EVERYTHING=1 $(MAKE) --no-print-directory test

test-one: wheel ## some tests on one Python: make test-one PY=3.12 ARGS="tests/test_x.py -k name"
	$(PYTHONS) test $(or $(PY),default) -- $(ARGS)

gates: wheel ## layering, signal-zone symbols, wheel contents, version, links of the documentation
	$(PYTHONS) test default -- tests/repo

lint: $(TOOLS)/.done ## cargo fmt, clippy, ruff, mypy; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/ruff format --check .
	$(TOOLS)/bin/mypy

format: $(TOOLS)/.done ## format Rust and Python
	cargo fmt --all
	$(TOOLS)/bin/ruff check --fix --quiet .
	$(TOOLS)/bin/ruff format .

pythons: ## bring the CPythons this machine lacks (3.14, 3.15, free-threaded 3.13) into SPPROF_PYTHONS; Debian and root only
	.ci/bring-pythons

list-pythons: ## the Pythons that test-python would use, and those it would not, and why
	@$(PYTHONS) list

bench: wheel ## overhead against py-spy, pyinstrument, scalene, cProfile and the empty handler: docs/benchmarks.md
	python=$$($(PYTHONS) python default -r benches/requirements.txt) && "$$python" benches/compare.py --out build/bench --markdown

soak: wheel ## ten minutes of churn on every Python: make soak PY=3.12 SECONDS=60 for less
	$(PYTHONS) each $(PY) -- tests/soak.py --seconds $(or $(SECONDS),600) --cycles $(or $(CYCLES),50000)

loom: ## the ring of a thread, in every order its two sides can run in, with every value a weak memory may show them
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --locked --release --quiet -p spprof-sigsafe --lib model

rtsan: ## the handler under RealtimeSanitizer, which ends a test at any call that may block (nightly toolchain)
	RUSTFLAGS="--cfg rtsan -Zsanitizer=realtime" CARGO_TARGET_DIR=target/realtime \
	cargo +nightly test --locked --quiet --target $(shell rustc -vV | sed -n 's/^host: //p') -p spprof-sigsafe --test nonblocking

asan: ## the crates' unit tests under AddressSanitizer (nightly toolchain)
	$(PYTHONS) cargo-test --sanitizer address

clean: ## remove what was built, but not the Pythons
	rm -rf target build/tools build/venvs build/wheels build/gates build/demo build/bench dist

# The tools of the house, with their versions in .ci/tools.txt.
$(TOOLS)/.done: .ci/tools.txt .ci/make-tools
	.ci/make-tools $(TOOLS) $(PYTHON)
