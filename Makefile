# make run     executes every notebook and makes the site, build/site    (NB=01 for one, SCALE=gpu for larger)
# make lab     opens JupyterLab in the same environment
# make quick   lint, types and the unit tests that matter most, in two minutes
# make test    lint, types, all unit tests, strict nbval over all notebooks
# make newest  all unit tests with the newest versions of every dependency, in an environment of its own
# make lock    refreshes the pinned set (requirements.lock and environment.yml) from pyproject.toml
# PYTHON=path/to/python3 chooses the Python, 3.11 to 3.14; otherwise the newest that is there and can make environments.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
    $$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
NB ?=
SCALE ?= cpu
export KIT_SCALE = $(SCALE)
# The environment of the kit is its own: nothing from the user's site-packages, no other kit on the path.
export PYTHONNOUSERSITE = 1
unexport PYTHONPATH

.PHONY: help run lab quick test newest lint lock clean

run: .venv/ready
	$(BIN)/kit run $(NB)

help:
	@sed -n 's/^# //p' Makefile | head -7

lab: .venv/ready
	$(BIN)/kit lab

quick: .venv/ready lint
	$(BIN)/kit test --quick

test: .venv/ready lint
	$(BIN)/kit test

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

newest: .venv-newest/ready
	.venv-newest/bin/kit test tests

# Which Python an environment is made with; one sentence where none of the supported ones is there.
define check_python
@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
    { echo "kitlib needs Python 3.11 to 3.14, got '$(PYTHON)'; name yours: make PYTHON=path/to/python3.12 run"; exit 1; }
endef

# uv fills the environment in seconds; where it cannot be had, pip does the same more slowly. Both check every hash, and
# uv itself is the version of the lock, with its hash.
# Compiled once here, and not by every process where PYTHONDONTWRITEBYTECODE is set: a notebook imports in 3 s, not 8.
.venv/ready: requirements.lock pyproject.toml
	$(check_python)
	$(PYTHON) -m venv --clear .venv
	@echo "Installing the pinned set (1.7 GB on disk) for $$($(PYTHON) --version) ..."
	@awk '/^[^ ]/ {found = /^uv==/} found' requirements.lock > .venv/installer.lock
	@if $(BIN)/python -m pip install -q --no-deps --require-hashes -r .venv/installer.lock 2>/dev/null; then \
	    $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock && \
	    $(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	    $(BIN)/python -m pip install -q --require-hashes -r requirements.lock && \
	    $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e . ; \
	fi
	@touch .venv/ready

.venv-newest/ready: pyproject.toml
	$(check_python)
	$(PYTHON) -m venv --clear .venv-newest
	@echo "Installing the newest versions for $$($(PYTHON) --version) ..."
	@.venv-newest/bin/python -m pip install -q uv
	@.venv-newest/bin/uv pip install -q --python .venv-newest/bin/python --compile-bytecode --upgrade -e '.[lab,test]'
	@touch .venv-newest/ready

# JAX from 0.11 and Flax from 0.12.9 need Python 3.12: there the lock has the newest, and for 3.11 what still runs on it.
# (Not in pyproject.toml: from there uv would take it as a requirement without a hash when it installs.)
define newest_jax
jax>=0.12 ; python_full_version >= '3.12'
flax>=0.12.12 ; python_full_version >= '3.12'
endef
export newest_jax

lock: .venv/ready
	echo "$$newest_jax" | $(BIN)/uv pip compile pyproject.toml --constraint - --extra lab --extra test --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade -q -o requirements.lock
	$(BIN)/python tests/environment.py --write

clean:
	rm -rf .venv .venv-newest build
