# Each target is the only command needed on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# uv, where it is there, does in seconds what pip does in minutes.
UV     := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
VENV_MAKE = $(PYTHON) -m venv $(VENV)
INSTALL   = $(BIN)/python -m pip install --quiet --constraint constraints.txt
else
VENV_MAKE = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL   = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt
endif
# Every core runs tests; each test process keeps to one thread so that they do not fight over cores.
PYTEST_ARGS ?= -n auto --dist worksteal

.PHONY: run test gpu bench-check docs lint format clean

run: $(VENV)/metarun
	$(BIN)/metarun

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# On a machine with a CUDA device and torch's build for it: the GPU's tests, then its rows of the benchmark.
gpu: $(VENV)/installed
	$(BIN)/python -m pytest tests/test_gpu.py
	$(BIN)/metarun bench --device cuda --only conv4-5q-5steps --only conv4-75q-5steps --only conv4-84 \
		--only sinusoid-5 --only sinusoid-5-compiled --only floor --json benchmarks/results/gpu.json

# Whether metarun is slower than when benchmarks/results/kernels.json was measured, on a machine of the same kind; run
# it on a free one. Ratios to the plain loop, which share their noise, may be a quarter smaller.
bench-check: $(VENV)/installed
	$(BIN)/metarun bench --only conv4-5q --only conv4-5q-5steps --only conv4-75q --only protonet-conv4-20way --peer loop \
		--seconds 5 --against benchmarks/results/kernels.json

# The site of docs/, in build/site, with the pages that are made of conf/, the schema and docs/results/; a warning is an error.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What `make run` needs, and nothing else; the tests bring every peer and every launcher, half a gigabyte.
$(VENV)/metarun: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metarun needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(VENV_MAKE)
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

# easyfsl wants torchvision, which the tests do without: its methods alone are compared with. Of aeon and mlxtend
# only files are read, and aeon's numba does not know the newest numpy. trackio holds back Pillow, which it needs for
# pictures only.
$(VENV)/installed: $(VENV)/metarun
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps easyfsl aeon mlxtend trackio
	touch $@
