# agentkit: `make lab` opens the course, `make test` checks everything, `make` alone lists the rest.
#
# The environment is made in .venv when it is first needed, and again when pyproject.toml changes.
# Another interpreter, in an environment of its own:  PYTHON=python3.13 VENV=.venv/3.13 make test

VENV   ?= .venv
EXTRAS ?= lab,dev
WITH_BROWSER = $(EXTRAS),browser
WITH_BENCH = $(EXTRAS),bench
# The first of these that is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python

.PHONY: help lab test test-all lint bench mutants notebooks test-browser test-clients doctor clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

lab: $(VENV)/.installed  ## open JupyterLab at the first lesson
	@$(PY) -m agentkit.lab.host.notebook lab

test: $(VENV)/.installed  ## run unit tests and doctests, then every notebook, outputs compared strictly
	$(PY) -m pytest
	$(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout=60 notebooks

test-all: lint test test-browser test-clients bench  ## check everything, what is too heavy for every change included
	$(PY) tests/mutation/mutate.py --sample 60

lint: $(VENV)/.installed  ## check style, format and types, and the rules of notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PY) -m agentkit.lab.course check

bench: $(VENV)/.bench  ## measure speed and memory; prints figures, asserts bounds
	$(PY) -m pytest tests/benchmarks -o python_files='bench_*.py' -s

mutants: $(VENV)/.installed  ## break the code in 200 small ways; 90 % of them must make a test fail
	$(PY) tests/mutation/mutate.py --sample 200

notebooks: $(VENV)/.installed  ## run the solutions again and make the lessons from them
	$(PY) -m agentkit.lab.course make

test-browser: $(VENV)/.browser  ## drive the notebooks in a real Chromium, Stop and sliders included
	$(PY) -m pytest tests/browser -m browser

test-clients: $(VENV)/.installed  ## check the provider with three majors of the openai client (downloads them)
	$(PY) tests/compat/check_clients.py

doctor: $(VENV)/.installed  ## say what is missing on this machine, and the fix
	@$(PY) -m agentkit.lab.host.notebook doctor

clean:  ## remove the environment, caches and build products
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# pip writes to a log; only if it fails is the end of it shown, with the index's address left out.
define pip_install
	@$(PY) -m pip install --disable-pip-version-check --no-input $(1) >"$(VENV)/pip.log" 2>&1 || { \
		sed 's#[a-z+]*://[^ ,]*#(address)#g' "$(VENV)/pip.log" | cut -c 1-300 | tail -n 25 >&2; \
		echo "pip could not install agentkit; all it said is in $(VENV)/pip.log" >&2; exit 1; }
endef

$(VENV)/.installed: pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "agentkit needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3.11 make" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version); the first time takes a minute or two."
	@[ -x $(PY) ] && $(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(call pip_install,-e ".[$(EXTRAS)]")
	@touch $@

$(VENV)/.browser: $(VENV)/.installed
	$(call pip_install,-e ".[$(WITH_BROWSER)]")
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(call pip_install,-e ".[$(WITH_BENCH)]")
	@touch $@
