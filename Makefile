# make demo | make test | make conform BACKEND=NAME; each makes what it needs first
PYTHON  ?= python3
BACKEND ?= cpu
VENV    := .venv
BIN     := $(VENV)/bin
TORCH   := 2.13.0
# two OpenMP pools on few cores are far slower than one thread each
WORKERS ?= 2
ONE     := OMP_NUM_THREADS=1

# a layer is an environment that sees everything in $(VENV) and adds one package that must not be there
TRITON  := .venv-triton
NPU     := .venv-npu
NPUSIM  := build/npusim
# a torch_npu that is made for another torch
NPU_ODD := .venv-npu-odd
ASCEND  := .venv-ascend

.PHONY: demo test environments lint unit conformance slow gpu-sim npu-sim installs ascend-compile conform \
	conform-cpu conform-cuda conform-npu bench certify-cuda certify-npu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: help fix

demo: $(VENV)/.ready  ## prune a small model at three sparsities and show what it costs
	$(BIN)/unipruning demo

# the environments are fetched and built beside each other, while the code is read
test:  ## run everything that continuous integration runs
	$(MAKE) -j 3 -Otarget lint environments
	$(MAKE) conformance unit gpu-sim npu-sim installs slow

environments: $(TRITON)/.ready $(NPU)/.ready $(NPU_ODD)/.ready $(NPUSIM)/.ready  ## make the environments that the tests need

lint: $(VENV)/.ready  ## check style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy

fix: $(VENV)/.ready  ## format, and apply the fixes that ruff and typos know
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/typos --write-changes

unit: $(VENV)/.ready  ## run the quick tests
	$(ONE) $(BIN)/python -m pytest -q -n $(WORKERS) -m "not e2e and not packaging"

conformance: $(VENV)/.ready  ## check the CPU backend against the contract, with and without C
	$(ONE) $(BIN)/unipruning conform --backend cpu -- -q -n $(WORKERS)
	$(ONE) UNIPRUNING_CPU_NATIVE=0 $(BIN)/unipruning conform --backend cpu -- -q -n $(WORKERS)

# Triton's kernels without a GPU: in its interpreter, then through its compiler; never both in one process
gpu-sim: conform-cuda  ## test the Triton kernels without a GPU
	$(ONE) TRITON_INTERPRET=1 $(TRITON)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests/kernels
	$(ONE) $(TRITON)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests/kernels/test_triton_compile.py

# the real torch_npu on a simulated CANN; conform-npu holds every simulated chip, which takes minutes more
npu-sim: $(NPU)/.ready $(NPUSIM)/.ready  ## test the NPU backend on a simulated CANN
	$(ONE) tests/npusim/conform.sh $(NPUSIM) $(NPU)/bin/python --soc Ascend910B2
	# fetched outside the simulation, where nothing else is loaded
	$(BIN)/python -c 'from unipruning_core.tools.demo.assets import demo_model, demo_texts; demo_model(); demo_texts()'
	$(ONE) TORCH_DEVICE_BACKEND_AUTOLOAD=0 $(NPU)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests/npusim --npusim $(NPUSIM)

# what is said where torch_npu is broken: without CANN, beside another torch, or not there
installs: $(NPU)/.ready $(NPU_ODD)/.ready  ## test the messages about broken installations of torch_npu
	$(ONE) $(BIN)/python -m pytest -q -n $(WORKERS) tests/installs --no-cann $(NPU)/bin/python --other-torch $(NPU_ODD)/bin/python

# the optional kernels for Ascend through their own compiler and its interpreter; 215 MB to fetch, not part of test
ascend-compile: $(ASCEND)/.ready  ## compile and test the optional Triton kernels for Ascend
	$(ONE) $(ASCEND)/bin/python -m pytest -q tests/ascend
	$(ONE) TRITON_INTERPRET=1 $(ASCEND)/bin/python -m pytest -q tests/kernels/test_triton_interpret_ascend.py

slow: $(VENV)/.ready  ## test the pretrained model and the wheels
	$(ONE) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "e2e or packaging"

conform: conform-$(BACKEND)  ## check one backend against the contract: make conform BACKEND=cpu

conform-cpu: $(VENV)/.ready
	$(ONE) $(BIN)/unipruning conform --backend cpu

conform-cuda: $(TRITON)/.ready
	$(ONE) TRITON_INTERPRET=1 $(TRITON)/bin/python -m unipruning_core.cli conform --backend cuda -- -q -n $(WORKERS)

conform-npu: $(NPU)/.ready $(NPUSIM)/.ready
	$(ONE) tests/npusim/conform.sh $(NPUSIM) $(NPU)/bin/python

# on a machine with a card: chip, versions, the whole suite and timings in certificate.json
certify-npu: $(VENV)/.ready  ## run the suite and timings on an NPU, into one file
	$(BIN)/python benchmarks/certify_npu.py --backend npu

bench: $(VENV)/.ready  ## time the CPU backend and whole searches
	$(ONE) $(BIN)/unipruning bench --backend cpu --baseline released
	$(ONE) $(BIN)/python benchmarks/search_cost.py --samples 4 --seq-len 1024

# for whoever has a GPU: the tests that need one, doctor and bench, into build/certificate
certify-cuda: $(VENV)/.ready  ## run the tests and timings on a GPU
	$(BIN)/python benchmarks/certify_gpu.py

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

LAYER = $(PYTHON) -m venv $(1) && printf 'import site; site.addsitedir("%s")\n' \
	"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	> "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"

$(TRITON)/.ready: $(VENV)/.ready
	$(call LAYER,$(TRITON))
	$(TRITON)/bin/python -m pip install --quiet --no-deps triton==3.7.1
	touch $@

$(NPU)/.ready: $(VENV)/.ready
	$(call LAYER,$(NPU))
	$(NPU)/bin/python -m pip install --quiet --no-deps torch-npu==$(TORCH) pyyaml
	touch $@

# it takes the place of triton, and wants Python 3.11 or older and, for its interpreter, numpy before 2.4
$(ASCEND)/.ready: $(VENV)/.ready
	$(call LAYER,$(ASCEND))
	$(ASCEND)/bin/python -m pip install --quiet --no-deps triton-ascend==3.2.0 ascendnpu-ir==1.2.0 pybind11 "numpy<2.4"
	touch $@

$(NPU_ODD)/.ready: $(VENV)/.ready
	$(call LAYER,$(NPU_ODD))
	$(NPU_ODD)/bin/python -m pip install --quiet --no-deps torch-npu==2.14.0
	touch $@

$(NPUSIM)/.ready: $(NPU)/.ready $(wildcard tests/npusim/runtime/* tests/npusim/operators/*) tests/npusim/build.sh
	tests/npusim/build.sh $(NPUSIM) $(NPU)/bin/python
	touch $@

clean:  ## remove the environments and what was built
	rm -rf $(VENV) $(TRITON) $(NPU) $(NPU_ODD) $(ASCEND) build dist *.egg-info
