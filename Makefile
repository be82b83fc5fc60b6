# Two commands: `make demo` runs the main job, `make test` passes the tests. Both do all the set-up they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test torture format docs lock bench clean

help:
	@echo "make demo    the whole way on the sample: import, send into a local outbox, and the tally"
	@echo "make test    everything that must pass: ruff, mypy, import-linter, pytest"
	@echo "make torture the ledger under kill -9 at full size (about seven minutes)"
	@echo "make format  put the code into its canonical form"
	@echo "make docs    write the generated reference pages again"
	@echo "make bench   measure what docs/performance.md states"
	@echo "make lock    resolve the dependencies again (needs uv)"

# The stamp keeps a second run from installing again; it is older than the lock file after a change of dependencies.
$(VENV)/runtime.stamp: requirements/runtime.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "newsletter needs Python 3.11 or newer; name one: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@echo "installing what newsletter needs (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp requirements/dev.lock
	@echo "installing what the tests need (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

demo: $(VENV)/runtime.stamp
	@$(BIN)/newsletter demo

test: $(VENV)/dev.stamp
	@sh tools/test-packages.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

torture: $(VENV)/dev.stamp
	@sh tools/test-packages.sh
	PYTHONPATH=tests $(BIN)/python -m torture

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev.stamp
	$(BIN)/python tools/reference.py

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/seal.py
	PYTHONPATH=. $(BIN)/python benchmarks/mailing.py
	PYTHONPATH=. $(BIN)/python benchmarks/mailing.py --database postgresql
	PYTHONPATH=. $(BIN)/python benchmarks/mailing.py 20000 --late 50 --connections 20 --hanging
	PYTHONPATH=.:tests $(BIN)/python benchmarks/importing.py
	PYTHONPATH=. $(BIN)/python benchmarks/signing.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/sendgrid_provider.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/sendgrid_mailing.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/anymail_provider.py
	PYTHONPATH=. $(BIN)/python benchmarks/fleet.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/planning.py
	PYTHONPATH=. $(BIN)/python benchmarks/answering.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/serving.py
	PYTHONPATH=.:tests $(BIN)/python benchmarks/serving.py --database postgresql

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --group build -o requirements/runtime.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --extra postgres --group build -o requirements/postgres.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --group dev -o requirements/dev.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
