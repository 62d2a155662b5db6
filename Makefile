# On a fresh machine: `make quickstart` runs both stages on a toy model, `make test` runs the tests.
# Both need a Rust toolchain and the package registries; `make test` also Python 3.11 or later with venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Where built programs are. Scripts and Python programs find them by this variable alone.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
export STIC_BIN := $(CARGO_TARGET_DIR)/ci

# One profile and one selection of packages for everything below. With another one cargo enables other features of
# candle's dependencies and compiles candle again.
SELECTION := --profile ci --workspace
NEXTEST := tools/cargo.sh nextest run --cargo-profile ci --workspace
# Programs are static where this machine can link so: the trainer that the tests run is then the one of the image.
# Without this, cargo compiles the crates of the workspace, and only those, once more.
ifneq ($(wildcard $(shell cc -print-file-name=libc.a 2>/dev/null)),)
export RUSTC_WORKSPACE_WRAPPER := $(CURDIR)/images/rustc-static.sh
endif

WORK ?= stic-work
export STIC_CACHE ?= $(HOME)/.cache/stic
PYTHON ?= python3
REQUIREMENTS := tests/requirements.txt
VENV = $(call venv,$(REQUIREMENTS))
venv = $(STIC_CACHE)/venv-$(shell sha256sum $(1) | cut -c1-12)

.PHONY: help build install quickstart test tools lint unit python-tests quickstart-test generate images test-images \
	script-test chart-test examples-test cluster-test cluster-programs controller-test kueue-test cluster e2e rbac-test bench-scale bench-peers \
	bench-data trainer-cuda gpu-test gpu-node-test audit msrv fuzz miri clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

build: ## Everything that the other targets need, in the profile `ci`
	cargo build $(SELECTION) --bins --tests

install: ## kubectl-stic and stic-trainer, optimized, with cargo install
	cargo install --locked --path cli
	cargo install --locked --path trainer

quickstart: build ## Both stages on a toy model, and a table of what they changed (WORK=DIR, stic-work by default)
	examples/quickstart/run.sh $(WORK)

# --- tests ------------------------------------------------------------------------------------------------------

# A node needs root, and namespaces and cgroups that a container may not have. Empty if this machine can be one, otherwise
# the reason. NODE=yes makes it an error if it cannot.
NOT_A_NODE = $(shell tests/cluster/can-be-a-node.sh)
NODE ?= $(if $(NOT_A_NODE),no,yes)

# docs/development/test-time.md says where the time goes.
timed = @TIMEFORMAT="make test: $(1) took %0lR"; time

# The first line builds, and `--old-file=build` keeps the others from asking cargo again, where each would wait for the lock
# of the build folder. Side by side run only targets that wait for something, or use one processor.
test: ## All tests; the end-to-end suite only where this machine can be a node (NODE=yes, NODE=no)
	$(call timed,build) $(MAKE) --no-print-directory -j3 build tools cluster-programs $(VENV)/ready
	$(call timed,lint and unit) $(MAKE) --no-print-directory -j3 --old-file=build lint chart-test examples-test unit script-test python-tests
	$(call timed,controller-test) $(MAKE) --no-print-directory --old-file=build controller-test
	$(if $(filter yes,$(NODE)),$(call timed,e2e) $(MAKE) --no-print-directory --old-file=build e2e rbac-test,@echo "make test: NOT RUN: e2e, rbac-test: $(or $(NOT_A_NODE),NODE=$(NODE))" >&2)

# nextest, cargo-deny and cargo-shear in the pinned versions.
tools:
	tools/cargo.sh --install

cluster-programs:
	tests/cluster/build.sh $(if $(filter yes,$(NODE)),,--control-plane) >/dev/null

unit: build ## Rust tests that need no cluster: parity with PyTorch, trainer, API, CLI
	$(NEXTEST)
	cargo test $(SELECTION) --doc

QUICKSTART_TEST := target/quickstart-test

quickstart-test: build
	rm -rf $(QUICKSTART_TEST)
	examples/quickstart/run.sh $(QUICKSTART_TEST)

PEERS := trainer/benches/peers/requirements.txt

$(call venv,$(REQUIREMENTS))/ready: $(REQUIREMENTS)
$(call venv,$(PEERS))/ready: $(PEERS)
$(STIC_CACHE)/venv-%/ready:
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

python-tests: build quickstart-test ## Parity with transformers and PEFT
	$(MAKE) --no-print-directory $(VENV)/ready
	tests/python.sh $(VENV)/bin/python $(QUICKSTART_TEST)

script-test: ## The image writer, the RBAC check, and what the documents name
	$(PYTHON) images/test_oci.py
	$(PYTHON) tests/test_rbac.py
	$(PYTHON) tests/check_docs.py

chart-test: ## The Helm chart, on a control plane of its own; no root
	tests/chart.sh

# Not part of chart-test, which needs nothing that cargo builds.
examples-test: build ## Every row of examples/paper: kustomize builds it, kubectl-stic renders it, its references hold
	tests/examples.sh

cluster-test: ## The test cluster itself: it starts, restarts, and leaves nothing behind; as root
	tests/cluster/test.sh

# The audit log stays, for rbac-test.
controller-test: build ## Controller and kubectl-stic on a control plane, killed between any two writes; no root
	tests/cluster/cluster.sh --control-plane --logs target/audit/$@ $(NEXTEST) --profile control-plane --run-ignored only

# Not part of `make test`: Kueue must be built first.
kueue-test: build ## Controller beside the real Kueue: after changes of queues; no root (10 minutes once to build Kueue, then 5)
	tests/cluster/cluster.sh --control-plane --logs target/audit/$@ tests/cluster/kueue.sh \
	  $(NEXTEST) --profile kueue --run-ignored only

# A node of its own that has both images: no pod pulls anything.
ON_NODE := tests/cluster/cluster.sh --image target/test-images/stic-operator.tar --image target/test-images/stic-trainer.tar

cluster: test-images ## A shell on a Kubernetes of its own, with the operator installed, which ends with the shell; as root
	$(ON_NODE) tests/cluster/try.sh

# A KUBECONFIG of the environment does not count: only one that is given to make names a cluster to test on.
ifeq ($(origin KUBECONFIG),command line)
e2e: ## The end-to-end suite: on a node of its own (as root), or on any cluster with KUBECONFIG=FILE
	KUBECONFIG=$(KUBECONFIG) tests/e2e/run.sh
else
e2e: test-images
	$(ON_NODE) --logs target/audit/$@ tests/e2e/run.sh
endif

rbac-test: ## The chart's RBAC rules, against the audit logs of controller-test and e2e
	PATH="$$(tests/cluster/build.sh)/bin:$$PATH" $(PYTHON) tests/rbac.py \
	  $(foreach suite,controller-test e2e,target/audit/$(suite)/audit.log)

# --- lints and generated files ----------------------------------------------------------------------------------

# The second clippy run holds src to 80 lines a function; tests may be longer. `--test`, and `--examples` of the docs, give both
# the features of the first run, so that no dependency is checked again.
lint: build audit ## Format, clippy, docs, unused dependencies, licences, advisories, generated files, workflows
	cargo fmt --all --check
	cargo clippy $(SELECTION) --all-targets -- -D warnings
	cargo clippy $(SELECTION) --lib --bins --test module_cycles -- -D warnings -W clippy::too_many_lines
	RUSTDOCFLAGS="-D warnings" cargo doc $(SELECTION) --no-deps --lib --examples
	tools/cargo.sh shear --deny-warnings
	$(STIC_BIN)/xtask generate --check
	tools/actionlint.sh

generate: build ## Write the CRDs, the reference pages and the tables in documents (cargo xtask generate)
	$(STIC_BIN)/xtask generate

audit: ## Licences, sources and advisories of dependencies
	tools/cargo.sh deny check bans licenses sources
	@if tools/cargo.sh deny fetch db >/dev/null 2>&1; then \
	  tools/cargo.sh deny --offline check advisories; \
	else \
	  echo "make audit: NOT CHECKED: advisories: the RustSec database cannot be fetched from here" >&2; \
	fi

MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

msrv: ## The oldest Rust that Cargo.toml promises compiles everything (needs that toolchain)
	@rustup run $(MSRV) rustc --version >/dev/null || { echo "make msrv: error: Rust $(MSRV) is missing: run rustup toolchain install $(MSRV) --profile minimal" >&2; exit 1; }
	cargo +$(MSRV) check --locked --workspace --all-targets

# --- images and benchmarks --------------------------------------------------------------------------------------

images: ## OCI archives of operator and both trainers for users, in target/images; no daemon; half an hour of CPU time
	images/build.sh

# The same from the programs that the tests run, which are quicker to compile, larger, and have failpoints.
test-images: build
	images/build.sh --programs $(STIC_BIN) --output target/test-images

bench-scale: ## The controller's cost for 100, 1,000 and 5,000 runs (RUNS="100 1000", RATE=N a second; all at once by default)
	tests/cluster/build.sh --control-plane >/dev/null
	images/compile.sh target/images/bin stic-operator
	operator/benches/scale/bench.sh $(if $(RATE),--rate $(RATE)) $(RUNS)

bench-data: ## Drawing 5,000 instructions from a file like mix665k: fails above 60 s or 100 MB
	cargo build --release --package stic-trainer
	$(PYTHON) trainer/benches/data/mix665k.py measure $(CARGO_TARGET_DIR)/release/stic-trainer

# ARGS are those of trainer/benches/peers/bench.py.
bench-peers: $(call venv,$(PEERS))/ready ## The trainer beside TRL, transformers and PEFT on CPUs (ARGS="--only dpo,sft --quick")
	cargo build --release --package stic-trainer
	STIC_BIN=$(CARGO_TARGET_DIR)/release $(call venv,$(PEERS))/bin/python trainer/benches/peers/bench.py $(ARGS)

trainer-cuda: ## target/cuda/stic-trainer, for NVIDIA GPUs; neither GPU nor CUDA is needed
	PYTHON=$(PYTHON) trainer/cuda/build.sh target/cuda

GPU_TRAINER ?= target/cuda/stic-trainer

# Not part of `make test`: it needs a GPU, or a driver that emulates one, and the trainer that `make trainer-cuda` compiles.
gpu-test: build ## The trainer on a GPU against that on the CPU: after changes of the model or of devices (minutes)
	$(PYTHON) tests/gpu.py --programs $(STIC_BIN) --trainer $(GPU_TRAINER) --work $(CURDIR)/target/gpu-test

# Not part of `make test`, for the same reasons. One case at a time, because a case changes the driver of the whole node.
gpu-node-test: test-images ## Pods on a node with GPUs of DRIVER=FOLDER, an emulated driver: after changes of devices; as root (15 minutes)
	@[ -d "$(DRIVER)" ] || { echo "make gpu-node-test: error: DRIVER=FOLDER is missing: see tests/cluster/README.md" >&2; exit 1; }
	images/build.sh --programs $(dir $(GPU_TRAINER)) --output target/test-images stic-trainer-cuda
	GROUP=gpus JOBS=1 E2E_LOGS=$(CURDIR)/target/$@ $(ON_NODE) --image target/test-images/stic-trainer-cuda.tar --logs target/audit/$@ \
	  tests/cluster/gpus.sh $(DRIVER) 2 tests/e2e/run.sh

clean:
	cargo clean
	rm -rf $(WORK)

fuzz: ## Each fuzz target for SECONDS=60 (TARGETS="image adapter" for some); needs nightly Rust and cargo-fuzz
	fuzz/run.sh $(or $(SECONDS),60) $(TARGETS)

# Several threads are needed to find a data race, but not as many as there are processors.
MIRIFLAGS ?= -Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance -Zmiri-tree-borrows

miri: ## The kernels' unsafe code and the contract under Miri; needs nightly Rust with the miri component
	RAYON_NUM_THREADS=2 MIRIFLAGS="$(MIRIFLAGS)" cargo +nightly miri test -p stic-trainer --lib -- \
	  kernels::aligned_buffer kernels::batched_gemv kernels::micro_kernel kernels::swish
	MIRIFLAGS="$(MIRIFLAGS)" cargo +nightly miri test -p stic-contract --lib
