# Thin names for the project's commands. Each target makes the environment first.
#   make demo       the whole pipeline on synthetic lesions, to a report
#   make check      ruff, mypy and the fast tests
#   make test       every test, then the benchmarks alone (COVERAGE=--cov: what they cover; slower by a third)
#   make mutants    is each small change of the code seen by its tests? (hours; ONLY='pipeline.gate.*': some)
#   make setup      the environment only
#   make reproduce  the paper's study (downloads ISIC 2018, wants a GPU)
#   make mlflow     each study's verdict and runs in the browser; PORT=5001: at another port than 5000
#   make study NAME=mine DATA=<folder of cases>    a study of your own; LIKE=<study> instead of DATA
#   make studies    give each study the pipeline as dvc.yaml has it now
#   make lint       ruff and mypy
#   make lock       resolve requirements.lock anew from pyproject.toml (needs uv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Stages are started by DVC as `python -m pipeline.<stage>`: this environment's python comes first.
# Nothing here may phone home; the studies' own downloads are the only network calls.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export NO_ALBUMENTATIONS_UPDATE := 1

# A test computes with one thread: two that share two cores would wait for each other.
TESTS := OMP_NUM_THREADS=1 python -m pytest --numprocesses logical --maxprocesses 8 \
    --dist loadfile --no-loadscope-reorder

.PHONY: demo test check mutants setup reproduce mlflow study studies lint lock repository

# As `dvc --cd studies/demo repro`, but several runs at once: one a core.
demo: $(READY)
	python -m pipeline.fanout studies/demo
	@echo "Report: studies/demo/reports/index.html   Runs: make mlflow"

check: lint
	$(TESTS) -m "not slow" --ignore tests/benchmarks

# Side by side first, a test a core; then what measures time, which wants the machine for itself.
test: $(READY)
	$(TESTS) --ignore tests/benchmarks $(COVERAGE)
	python -m pytest tests/benchmarks

# mutmut is no part of the lock: nothing else wants it. Interrupted, it goes on where it stopped.
mutants: $(READY)
	@python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["mutation"])' \
	    | xargs python -m pip install -q --disable-pip-version-check
	OMP_NUM_THREADS=1 mutmut run $(if $(ONLY),'$(ONLY)')
	@mutmut results --all true | python tests/survivors.py

setup: $(READY)

reproduce: $(READY)
	dvc repro

mlflow: $(READY)
	@python -m pipeline.tracking ui --port $(or $(PORT),5000)

study: $(READY)
	@python -m pipeline.new_study studies/$(NAME) $(if $(DATA),--data $(DATA),--like $(or $(LIKE),.))

studies: $(READY)
	python -m pipeline.new_study --renew

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy

lock:
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --all-extras --group test --group lint \
	    --custom-compile-command "make lock" pyproject.toml -o requirements.lock

# pip is kept quiet: its messages name the user's package index, which may hold a password.
# The lock is whole: without --no-deps older pips look for newer releases of packages with extras.
$(READY): requirements.lock pyproject.toml | repository
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: install a newer one, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it first (Debian: python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) from requirements.lock (several GB: some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

# DVC works in git repositories alone, and would say so when the environment is made.
repository:
	@command -v git >/dev/null || { echo "git is missing: install it first" >&2; exit 1; }
	@told=$$(LC_ALL=C git rev-parse --git-dir 2>&1) || { \
	    case "$$told" in *"not a git repository"*) told="DVC needs a git repository here: git clone the project, or, in an unpacked archive, run: git init" ;; esac; \
	    printf '%s\n' "$$told" >&2; exit 1; }
