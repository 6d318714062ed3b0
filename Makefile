# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/demo
JOBS ?= 2

.PHONY: help demo test unit lint types notebooks test-tl4 testbed benchmarks clean

help:
	@echo "make demo       transplant concepts between the embedded models; results in $(OUT)"
	@echo "make test       lint, types, tests, notebooks"
	@echo "make test-tl4   the tests on TransformerLens 4.x (a second environment)"
	@echo "make lint       ruff and mypy"
	@echo "make notebooks  run the notebooks"
	@echo "make testbed    train the embedded family again from nothing (about an hour at most, two cores)"
	@echo "make benchmarks measure the speed claims (both sides in one run)"

# torch goes first and by its exact pin, so that the CPU build of the constraints file is the one installed.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

.venv-tl4/.ready: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv .venv-tl4
	.venv-tl4/bin/pip install --quiet "$$(grep '^torch==' constraints-tl4.txt)"
	.venv-tl4/bin/pip install --quiet -c constraints-tl4.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/contrans-lens demo --out $(OUT)

test: lint unit notebooks

unit: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadgroup

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbmake --nbmake-timeout=600 -n $(JOBS) notebooks -p no:cacheprovider

test-tl4: .venv-tl4/.ready
	OMP_NUM_THREADS=1 .venv-tl4/bin/pytest -n $(JOBS) --dist loadgroup

testbed: $(VENV)/.ready
	$(BIN)/python -m contrans_lens.testbed train --out out/testbed --jobs $(JOBS)

benchmarks: $(VENV)/.ready
	for study in capture maps steering similarity_speed probe_speed causal_sweep tradeoff_speed pace_speed removal_overhead activity_fit; do $(BIN)/python analysis/benchmarks/$$study.py --out out/benchmarks/$$study.json; done

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
