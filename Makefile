# make run   executes every notebook and writes build/index.html    (NB=01 for one, SCALE=gpu for larger)
# make lab   opens JupyterLab in the same environment
# make test  lint, unit tests, strict nbval over all notebooks
# make lock  refreshes the pinned set (requirements.lock and environment.yml) from pyproject.toml
PYTHON ?= python3.11
BIN := .venv/bin
NB ?=
SCALE ?= cpu
export KIT_SCALE = $(SCALE)
# The environment of the kit is its own: nothing from the user's site-packages, no other kit on the path.
export PYTHONNOUSERSITE = 1
unexport PYTHONPATH

.PHONY: run lab test lint lock clean

run: .venv/ready
	$(BIN)/kit run $(NB)

lab: .venv/ready
	$(BIN)/kit lab

test: .venv/ready lint
	$(BIN)/kit test

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# uv fills the environment in seconds; where it cannot be had, pip does the same more slowly. Both check every hash.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "The pinned set is for Python 3.11, which '$(PYTHON)' is not; name yours: make PYTHON=path/to/python3.11 run"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo "Installing the pinned set (1.4 GB on disk) ..."
	@if $(BIN)/python -m pip install -q uv 2>/dev/null; then \
	    $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock && \
	    $(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	    $(BIN)/python -m pip install -q --require-hashes -r requirements.lock && \
	    $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e . ; \
	fi
	@touch .venv/ready

lock: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --extra lab --extra test --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header --upgrade -q -o requirements.lock
	$(BIN)/python tests/environment.py --write

clean:
	rm -rf .venv build
