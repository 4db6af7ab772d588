# make demo: install, build the demo's catalog, show what is in it. make test: install, check, run every test.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint bench clean

demo: $(INSTALLED)
	$(BIN)/saeql demo demo

test: $(INSTALLED) lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy .

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/harvest.py

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first, at its pin: left to the others' ranges, a build with gigabytes of CUDA would come along.
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info demo
