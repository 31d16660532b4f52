# make demo | make test | make conform BACKEND=NAME; each makes its own .venv first
PYTHON  ?= python3
BACKEND ?= cpu
VENV    := .venv
BIN     := $(VENV)/bin
TORCH   := 2.13.0
# two OpenMP pools on few cores are far slower than one thread each
WORKERS ?= 2
ONE     := OMP_NUM_THREADS=1

.PHONY: demo test lint unit conformance slow conform bench clean

demo: $(VENV)/.ready
	$(BIN)/unipruning demo

test: lint conformance unit slow

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.ready
	$(ONE) $(BIN)/python -m pytest -q -n $(WORKERS) -m "not e2e and not packaging"

conformance: $(VENV)/.ready
	$(ONE) $(BIN)/unipruning conform --backend cpu -- -q
	$(ONE) UNIPRUNING_CPU_NATIVE=0 $(BIN)/unipruning conform --backend cpu -- -q

slow: $(VENV)/.ready
	$(ONE) $(BIN)/python -m pytest -q -n $(WORKERS) -m "e2e or packaging"

conform: $(VENV)/.ready
	$(BIN)/unipruning conform --backend $(BACKEND)

bench: $(VENV)/.ready
	$(ONE) $(BIN)/python benchmarks/cpu_operations.py

# a machine with npu-smi brings its own torch and torch_npu, which must match its CANN; one with nvidia-smi takes the
# CUDA build and triton; any other takes the CPU build where the package index offers it
$(VENV)/.ready: setup.py pyproject.toml
	if command -v npu-smi >/dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	if command -v npu-smi >/dev/null; then true; \
	elif command -v nvidia-smi >/dev/null; then $(BIN)/python -m pip install --quiet torch==$(TORCH); \
	else $(BIN)/python -m pip install --quiet torch==$(TORCH)+cpu || $(BIN)/python -m pip install --quiet torch==$(TORCH); fi
	if command -v nvidia-smi >/dev/null; then $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev,demo,cuda]'; \
	else $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev,demo]'; fi
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
