# Each target makes its own virtual environment in .venv. It is installed into again only when pyproject.toml or
# constraints.txt change. Needs nothing but make and Python 3.11 or newer.
#
#   make demo                             # or, where pip would otherwise fetch torch with CUDA (Linux):
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all fuzz check format bench bench-regression bench-compiler bench-inside clean

help:
	@echo "make demo      write demo/report.html: landscapes, samples and tables of the shipped models"
	@echo "make test      the tests (what continuous integration runs)"
	@echo "make test-all  the tests, long reproductions included"
	@echo "make fuzz      altered model folders, tables and command lines: each is answered or refused in a line"
	@echo "make check     lint, formatting and types"
	@echo "make format    repair what of lint and formatting can be repaired"
	@echo "make bench     measure the speeds of energies that README.md states"
	@echo "make bench-regression  measure what README.md states of regression; takes long"
	@echo "make bench-compiler    measure what README.md states of weights by hand"
	@echo "make bench-inside      measure what README.md states of looking inside"

# One thread: on a machine that is busy besides, two that wait for one another are far slower.
demo: $(VENV)/.installed-demo
	OMP_NUM_THREADS=1 $(BIN)/iclkit demo --out demo
	@echo "Open $(CURDIR)/demo/report.html"

# Two workers of one thread each: torch's own threads would fight over the same two cores.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(VENV)/.installed-all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"

fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz folders --count 5000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz tables --count 5000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz commands --count 1000

check: $(VENV)/.installed-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

format: $(VENV)/.installed-check
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.energy

bench-regression: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.regression_all

bench-compiler: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.compiler --full

bench-inside: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.dual_forms
	$(BIN)/python -m benchmarks.fine_tuning
	$(BIN)/python -m benchmarks.probes
	$(BIN)/python -m benchmarks.hooks

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .hypothesis

# One stamp for each set of extras.
EXTRAS_demo := plots,sklearn
EXTRAS_test := test
EXTRAS_all := test
EXTRAS_check := test,dev

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --editable ".[$(EXTRAS_$*)]"
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
