# Every target works on a fresh machine: it makes .venv and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONPATH := tests
N ?= 10000
# One process for each core; a process that is done takes over tests of another.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

.PHONY: demo test test-torch bench bench-scale bench-plans fuzz build check clean gpu-test gpu-bench

demo: .venv/installed
	$(BIN)/sparank-gen build
	$(BIN)/python tests/demo/wisconsin.py

# One thread for each process, or they would fight over the cores.
test: export OMP_NUM_THREADS := 1
test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/sparank-gen check
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) tests/kernels generated/tests -k "kernels or triton or mutants"

# The tests of what is generated, with another torch and the triton that it brings: make test-torch TORCH=2.4.0
test-torch: export OMP_NUM_THREADS := 1
test-torch:
	$(PYTHON) -m venv .venv-$(TORCH)
	.venv-$(TORCH)/bin/python -m pip install --quiet torch==$(TORCH) numpy pytest hypothesis pytest-xdist --editable .
	.venv-$(TORCH)/bin/python -m pip install --quiet --no-deps sparank==0.1.7
	.venv-$(TORCH)/bin/python -m pytest --numprocesses=auto --dist=worksteal generated/tests $(addprefix tests/test_, \
		drop_in_*.py own_gradients.py package_functions.py paper_layers.py present.py submodules.py widths.py)

bench: .venv/installed
	@failed=0; for part in layer generator; do $(BIN)/python tests/bench/$$part.py || failed=1; done; exit $$failed

bench-scale: .venv/installed
	$(BIN)/python tests/bench/scale.py $(ARGS)

bench-plans: .venv/installed
	$(BIN)/python tests/bench/plans.py $(ARGS)

# A machine with a GPU brings its own torch, triton, pytest and numpy: these two install nothing.
# Fixtures of other tests need what such a machine lacks, so pytest looks for none above tests/gpu.
gpu-test gpu-bench: export PYTHONPATH := generated:tests

gpu-test:
	$(PYTHON) -m pytest --confcutdir=tests/gpu generated/tests tests/gpu

gpu-bench:
	$(PYTHON) tests/bench/gpu.py $(ARGS)

fuzz: export OMP_NUM_THREADS := 1
fuzz: export FUZZ_EXAMPLES := $(N)
fuzz: .venv/installed
	$(PYTEST) tests/test_random_programs.py tests/test_random_gradients.py tests/test_random_pools.py tests/test_random_present.py tests/test_random_widths.py
	TRITON_INTERPRET=1 $(PYTEST) tests/kernels/test_random_kernels.py

build check: .venv/installed
	$(BIN)/sparank-gen $@

clean:
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps sparank==0.1.7
	touch $@
