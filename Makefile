# Licensed under the Apache License, Version 2.0; see the file LICENSE.
#
#   make demo [URL=redis://...] [DIR=...]   see it work: workers, a kill -9, a takeover
#   make check                              style, types, what needs no server and is short: under a
#                                           minute
#   make test                               everything, conformance too: on real servers
#   make test-full                          every mutant, clusters under faults, a fuzzed codec,
#                                           the installed package
#   make soak [MINUTES=10] [CLUSTERS='...'] workers on clusters whose leader is killed, and so on
#   make reports                            conformance/reports/*.json, from real servers
#   make mutate BACKEND=redis [SAMPLE=50]   mutants of a backend that the suite does not find
#   make side-by-side                       conformance/reports/boards/*.json: whole jobboards
#   make bench                              against TaskFlow's own boards
#
# The first run makes .venv and installs into it; `make test` also installs the servers.

PYTHON ?= python3
URL ?=
DIR ?=
# More words for pytest: make test ARGS='-k redis -x'
ARGS ?=
# For make soak: minutes for each store, and the stores; without a name all of them.
MINUTES ?= 10
CLUSTERS ?=
# For make mutate: the backend, and how many of its mutants; the seed is among ARGS.
BACKEND ?= memory
SAMPLE ?= 50

# What needs no server; of boards on every store, those in memory and in SQLite files.
CHECKED := tests/primitives tests/runtime tests/config tests/jobboard tests/backends/sqlite \
	tests/test_layers.py tests/test_source_tree.py tests/test_docs.py

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo check test test-full soak reports mutate side-by-side bench docs lint format servers venv clean

help:
	@sed -n 's/^#   //p' Makefile

$(STAMP): setup.cfg pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

venv: $(STAMP)

servers:
	tools/install-servers

demo: venv
	$(BIN)/multiboard demo $(if $(URL),--url '$(URL)') $(if $(DIR),--directory '$(DIR)')

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools/servers

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The inner loop: no server, and no process that takes long.
check: lint
	$(BIN)/python -m pytest -n 2 -m 'not served and not long' --hypothesis-profile few \
		--ignore tests/jobboard/test_taskflow_suite.py $(CHECKED) $(ARGS)

# Most tests wait for something most of the time: hence more of them at once than there are cores.
test: venv servers lint
	$(BIN)/python -m pytest -n 4 $(ARGS)

test-full: venv servers docs
	$(BIN)/reno lint
	MULTIBOARD_FULL=1 $(BIN)/python -m pytest -n 4 tests/mutants
	MULTIBOARD_FULL=1 $(BIN)/python -m pytest -n 2 tests --ignore tests/mutants -m full
	tools/try-installed $(PYTHON)

soak: venv servers
	$(BIN)/python tests/faults/soak.py --minutes $(MINUTES) $(ARGS) $(CLUSTERS)

reports: venv servers
	$(BIN)/python tools/make-reports $(ARGS)

mutate: venv servers
	$(BIN)/python tools/mutate $(BACKEND) --sample $(SAMPLE) $(ARGS)

# TaskFlow's etcd board is judged too; its client is among what the tests need.
side-by-side: venv servers
	$(BIN)/python tools/side-by-side $(ARGS)

bench: venv servers
	$(BIN)/python -m benchmarks $(ARGS)

docs: venv
	$(BIN)/sphinx-build -W --keep-going -q -b html doc/source doc/build/html
	@echo "documentation: doc/build/html/index.html"

clean:
	rm -rf $(VENV) build dist doc/build .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
