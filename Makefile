# Every verb does its own set-up. A verb that finds something missing on this machine (Go, root, ...) does the rest, lists
# it and ends with exit code 3, which make reports as "Error 3" (make's own exit code is then 2, as for every error).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BIN := .venv/bin
# Options for the program behind the verb, for example: make test ARGS="-k zoneinfo"
ARGS ?=
# Each process of the tests has a control plane of its own (700 MiB); they wait more than they compute.
TEST_PROCESSES ?= 3
# Of `make lab`; empty ARMS and SCENARIOS mean those that belong together: make lab ARGS=--help
RUNS ?= 1
ARMS ?=
SCENARIOS ?=
# The kernel of virtual machines: of `make lab` and `make cluster`.
KERNEL ?= 6.1
# Of `make cluster`: one node or two; of `make cluster-shell`: in which node, and what to run in the place of a shell.
NODES ?= 1
NODE ?=
RUN ?=
export RUN
# Of `make soak`: how long each parser is fuzzed (19 of them, three hours by default; alone: ARGS=tests/fuzz).
FUZZ_MINUTES ?= 10
export FUZZ_MINUTES
# Cluster sizes of `make scale`, in nodes.
SIZES ?= 100,1000,5000
export PYTHONPATH := $(CURDIR)/tools
LOCK := $(BIN)/uv pip compile --quiet --no-annotate --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench bench-cluster lab scale fuzz soak e2e images tools controlplane cluster demo-cluster \
	cluster-shell cluster-status cluster-down generate lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## .venv with the locked dependencies; console scripts in .venv/bin
	@command -v $(PYTHON) >/dev/null || { echo "missing: Python 3.11 or newer ($(PYTHON) is not on PATH)" >&2; exit 3; }
	@$(PYTHON) tools/setup_venv.py

demo: setup ## this machine live, a recorded flood replayed, then a cluster: chart, flood, kill (KEEP=1 keeps it running)
	@$(BIN)/python tools/demo.py $(ARGS)

test: setup tools ## all tests but the long ones; a real control plane is built for the first run (about 10 minutes)
	@$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

lint: setup ## ruff, mypy and the import rules
	@failed=0; \
	$(BIN)/ruff check --output-format concise || failed=1; \
	$(BIN)/ruff format --check || { echo "not formatted: make format"; failed=1; }; \
	$(BIN)/mypy || failed=1; \
	PYTHONPATH=core:node-agent:operator $(BIN)/lint-imports || failed=1; \
	exit $$failed

format: setup ## the code formatted, the findings that have one remedy remedied
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench: setup ## tests/bench measured against its limits: a table, and build/bench.json
	@$(BIN)/python -m memorypressure_tools.bench $(ARGS)

lab: setup ## a kernel under a flood, guarded by the agent and its peers: RUNS=n ARMS=... SCENARIOS=... KERNEL=6.1|6.12
	@$(BIN)/python -m memorypressure_tools.lab --runs "$(RUNS)" --arms "$(ARMS)" --scenarios "$(SCENARIOS)" \
		--kernel "$(KERNEL)" $(ARGS)

fuzz: setup ## the parsers under coverage-guided fuzzing for five minutes; ARGS="--target orders --seconds 3600"
	@PYTHONPATH=tests:tools $(BIN)/python -m fuzz.engine $(or $(ARGS),--seconds 300)

scale: setup tools ## the operator on clusters of 100, 1,000 and 5,000 nodes (SIZES=100,1000; 12 GiB): a report in build/scale
	@$(BIN)/python -m memorypressure_tools.scale --sizes $(SIZES) $(ARGS)

soak: setup tools ## the tests that run for long
	@$(BIN)/pytest -m soak $(ARGS)

e2e: setup ## floods on a real node with the chart installed (NODES=1|2); the short form: ARGS="-k drained", with RUNS=20
	@NODES=$(NODES) RUNS=$(RUNS) $(BIN)/pytest -m e2e --tb=short -o testpaths=tests/e2e $(ARGS)

images: setup ## the agent's and the operator's image as OCI archives in build/images (root, buildah, mmdebstrap)
	@PYTHONPATH=tools:core $(BIN)/python -m memorypressure_tools.images $(ARGS)

tools: setup ## the pinned servers and tools in the cache, built where they are missing
	@$(BIN)/python -m memorypressure_tools.toolcache || test $$? -eq 3

controlplane: setup ## a real control plane on loopback until Ctrl-C; ARGS=--background returns, see CONTRIBUTING.md
	@$(BIN)/python -m memorypressure_tools up $(ARGS)

cluster: setup ## a real cluster: control plane here, nodes in VMs, our chart (NODES=1|2, KERNEL=6.1|6.12); see docs/how-to
	@$(BIN)/python -m memorypressure_tools.cluster up --background --nodes $(NODES) --kernel $(KERNEL) $(ARGS)

demo-cluster: setup ## a real flood on a real node, live: without a policy, then with one, and a table of both
	@$(BIN)/python -m memorypressure_tools.flood.demo --nodes $(NODES) $(ARGS)

bench-cluster: setup ## that flood five times without a policy and five times with one: a page of figures (ARGS=--help)
	@$(BIN)/python -m memorypressure_tools.flood.bench $(ARGS)

cluster-shell: setup ## a shell with kubectl and helm for that cluster, or with NODE=node-1 root's in a node (RUN='...')
	@$(BIN)/python -m memorypressure_tools.cluster shell --node "$(NODE)" --command "$$RUN"

cluster-status: setup ## what of that cluster runs
	@$(BIN)/python -m memorypressure_tools.cluster status

cluster-down: setup ## ends that cluster and removes everything of it
	@$(BIN)/python -m memorypressure_tools.cluster down

generate: setup ## what is made of other files: the chart's copy of crds/, its dashboards, the tables of its README
	@$(BIN)/python tools/sync_crds.py
	@$(BIN)/python tools/dashboards.py
	@$(BIN)/python tools/chart_readme.py

lock: setup ## requirements/*.txt made anew from pyproject.toml, newest versions
	$(LOCK) --upgrade --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt --extra agent pyproject.toml -o requirements/agent.txt
	$(LOCK) -c requirements/dev.txt --extra operator pyproject.toml -o requirements/operator.txt
	$(LOCK) --upgrade requirements/build.in -o requirements/build.txt

clean: ## what the verbs made in this tree, .venv included; not the cache of built tools
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find core node-agent operator tools tests -name __pycache__ -prune -exec rm -rf {} +
