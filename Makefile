# What the README and CI call. Every target does its own set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := run
.PHONY: run test test-long chaos check format lint types unit clean

run: $(READY)  ## B-STaR on the embedded default, at most 4 minutes on 2 cores
	$(BIN)/ratchet run recipe=b_star

test: check  ## everything CI runs

check: format lint types unit

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	@# The installed layout as a type checker can read it: package-dir maps flows/ to ratchet.flows.
	@rm -rf .links && mkdir -p .links/ratchet
	@for file in ratchet/*.py ratchet/py.typed; do ln -s ../../$$file .links/ratchet/; done
	@for layer in components configs flows infra; do ln -s ../../$$layer .links/ratchet/$$layer; done
	$(BIN)/mypy

# Much of a test's time is waiting for a server: two files at a time are tested on two cores, in the order of the tree.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

unit: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-long: $(READY)  ## the same proofs on the real tiny policy, minutes rather than seconds
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

N ?= 3
SEED ?= 0
chaos: $(READY)  ## N schedules of deaths against runs and sweeps on a Slurm of their own, from SEED on; a minute or two each, as root
	$(BIN)/python -m pytest tests/chaos -k schedule_of --chaos $(N) --chaos-seed $(SEED)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# torch by its exact version first: an open range takes a build with gigabytes of CUDA.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .links build *.egg-info .pytest_cache .mypy_cache .ruff_cache
