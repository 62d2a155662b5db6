# The two commands of a fresh machine: `make quickstart` runs the main job, `make test` passes the tests.
# Both need a Rust toolchain and the package registries; `make test` also Python 3.11 or later with venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# One profile, one selection of packages and features for everything: another one unifies features otherwise and would
# build candle twice. The operator has the points at which its suite kills it; that of the images has none.
SELECTION := --release --workspace --features stic-operator/failpoints
CARGO_BUILD := cargo build $(SELECTION) --bins --tests
CARGO_TEST := cargo test $(SELECTION)
BIN := target/release
# Programs are static where this machine can link so: the trainer that is tested is the one in the image, compiled once.
# Without this, cargo compiles the crates of the workspace, and only them, once more.
ifneq ($(wildcard $(shell cc -print-file-name=libc.a 2>/dev/null)),)
export RUSTC_WORKSPACE_WRAPPER := $(CURDIR)/images/rustc-static.sh
endif
WORK ?= stic-work
CACHE := $(HOME)/.cache/stic
REQUIREMENTS := tests/requirements.txt
VENV = $(call venv,$(REQUIREMENTS))
venv = $(CACHE)/venv-$(shell sha256sum $(1) | cut -c1-12)
PYTHON ?= python3

.PHONY: help build quickstart test lint unit python-tests quickstart-test crds images script-test \
	chart-test cluster-test cluster-programs controller-test controller-together controller-alone cluster e2e rbac-test \
	bench-scale bench-peers trainer-cuda audit clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

build: ## Build everything
	$(CARGO_BUILD)

quickstart: build ## Both stages on a toy model, then a table of what they changed (WORK=DIR, stic-work by default)
	examples/quickstart/run.sh $(WORK)

# A node needs root, and namespaces and cgroups that a container may not have. NODE=yes makes it an error that there is none.
# Only the recipes that need it ask: what is missing, or nothing.
NOT_A_NODE = $(shell tests/cluster/can-be-a-node.sh)
NODE ?= $(if $(NOT_A_NODE),no,yes)

# Side by side runs what waits, or works on one core: e2e begins with cases that wait most of the time, as do the tests of
# controller-alone. What the first line built is not asked for again, which would be to wait for cargo's lock; `images` takes
# the place of the programs of the tests.
test: ## All tests, the end-to-end suite only where this machine can be a node (NODE=yes, NODE=no)
	$(MAKE) --no-print-directory -j3 build cluster-programs $(VENV)/ready
	$(MAKE) --no-print-directory -j3 --old-file=build lint chart-test unit script-test python-tests
	$(MAKE) --no-print-directory --old-file=build controller-together
	$(if $(filter yes,$(NODE)),$(MAKE) --no-print-directory images build)
	$(MAKE) --no-print-directory -j2 --old-file=images --old-file=build controller-alone $(if $(filter yes,$(NODE)),e2e)
	$(if $(filter yes,$(NODE)),$(MAKE) --no-print-directory rbac-test,@echo "make test: NOT RUN: e2e, rbac-test: $(or $(NOT_A_NODE),NODE=$(NODE))" >&2)

cluster-programs:
	tests/cluster/build.sh $(if $(filter yes,$(NODE)),,--control-plane) >/dev/null

lint: ## rustfmt, clippy with -D warnings
	cargo fmt --all --check
	cargo clippy $(SELECTION) --all-targets -- -D warnings

unit: build ## Rust tests: parity with PyTorch, the trainer's suites, the API, the CLI
	$(CARGO_TEST)

QUICKSTART_TEST := target/quickstart-test

quickstart-test: build
	rm -rf $(QUICKSTART_TEST)
	examples/quickstart/run.sh $(QUICKSTART_TEST)

PEERS := trainer/benches/peers/requirements.txt

$(call venv,$(REQUIREMENTS))/ready: $(REQUIREMENTS)
$(call venv,$(PEERS))/ready: $(PEERS)
$(CACHE)/venv-%/ready:
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

python-tests: build quickstart-test ## Against transformers and PEFT
	$(MAKE) --no-print-directory $(VENV)/ready
	tests/python.sh $(VENV)/bin/python $(QUICKSTART_TEST)

crds: ## Write the CRDs from the types, in crds/ and for the Helm chart
	cargo run --release -p stic-crds --example generate-crds

images: ## OCI archives of operator and trainer in target/images, with no daemon
	images/build.sh

script-test: ## The writer of images, and the check of the chart's rules
	python3 images/test_oci.py
	python3 tests/test_rbac.py

chart-test: ## The Helm chart on a control plane of its own; no root
	tests/chart.sh

cluster-test: ## The test cluster itself: starts, restarts, leaves nothing behind; as root
	tests/cluster/test.sh

# Each on a control plane of its own. The audit logs stay, for rbac-test.
ON_CONTROL_PLANE = tests/cluster/cluster.sh --control-plane --logs target/audit/$@ \
	$(CARGO_TEST) --no-fail-fast --test cluster -- --ignored
# Most of the time they wait for Kubernetes.
AT_ONCE ?= 10

controller-test: controller-together controller-alone ## Controller and kubectl-stic on a control plane, killed between any two writes; no root

controller-together: build
	$(ON_CONTROL_PLANE) --skip alone:: --test-threads $(AT_ONCE)

controller-alone: build
	$(ON_CONTROL_PLANE) alone:: --test-threads 1

# A node of its own with both images: no pod there pulls anything.
ON_NODE := tests/cluster/cluster.sh --image target/images/stic-operator.tar --image target/images/stic-trainer.tar

cluster: images build ## A shell on a Kubernetes of its own with the operator installed, which ends with the shell; as root
	$(ON_NODE) tests/cluster/try.sh

# A KUBECONFIG of the environment is not meant: only one that is given here is a cluster to test on.
ifeq ($(origin KUBECONFIG),command line)
e2e: ## The end-to-end suite: on a node of its own (as root), or with KUBECONFIG=FILE on any cluster
	KUBECONFIG=$(KUBECONFIG) tests/e2e/run.sh
else
# `build` comes last: it puts the programs of the tests back in their place.
e2e: images build
	$(ON_NODE) --logs target/audit/$@ tests/e2e/run.sh
endif

rbac-test: ## The chart's rules against what the operator asked for in both suites, by their audit logs
	PATH="$$(tests/cluster/build.sh)/bin:$$PATH" python3 tests/rbac.py \
	  $(foreach suite,controller-together controller-alone e2e,target/audit/$(suite)/audit.log)

bench-scale: ## The controller's cost for 100, 1,000 and 5,000 runs (RUNS="100 1000", RATE=N a second; all at once by default)
	tests/cluster/build.sh --control-plane >/dev/null
	images/compile.sh target/images/bin stic-operator
	operator/benches/scale/bench.sh $(if $(RATE),--rate $(RATE)) $(RUNS)

# ARGS are those of trainer/benches/peers/bench.py.
bench-peers: build $(call venv,$(PEERS))/ready ## The trainer beside TRL, transformers and PEFT on CPUs (ARGS="--only dpo,sft --quick")
	$(call venv,$(PEERS))/bin/python trainer/benches/peers/bench.py $(ARGS)

trainer-cuda: ## target/cuda/stic-trainer, for GPUs; neither GPU nor CUDA is needed (CUDA_COMPUTE_CAP=90)
	CACHE=$(CACHE) PYTHON=$(PYTHON) trainer/cuda/build.sh target/cuda

audit: ## Licences, sources and advisories of dependencies
	command -v cargo-deny >/dev/null || cargo install --locked --version 0.20.2 cargo-deny
	cargo deny check

clean:
	cargo clean
	rm -rf $(WORK)
