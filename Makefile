# Each target sets up .venv by itself, once. STEELMAN_DATA may name a folder with MNIST/raw and the weight files.
PYTHON ?= python3
BIN := .venv/bin

# compiled modules are kept: the tests' workers, and the commands that they start, need not compile them again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench docs clean

demo: .venv/ready
	$(BIN)/steelman study finetune --data digits --preset corrected --scale smoke --out out/finetune

test: .venv/ready
	$(BIN)/python -m pytest -q -m "not peers" -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=95

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: .venv/peers
	$(BIN)/python -m pytest -q -m peers -n auto --dist worksteal
	$(BIN)/python benchmarks/run.py

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv
	test -x $(BIN)/pip || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/peers: .venv/ready benchmarks/peers.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt
	touch $@

docs: .venv/ready
	$(BIN)/python docs/tables.py

clean:
	rm -rf .venv out build
