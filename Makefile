# make demo | make test | make conform BACKEND=NAME; each makes what it needs first
PYTHON  ?= python3
BACKEND ?= cpu
VENV    := .venv
BIN     := $(VENV)/bin
TORCH   := 2.13.0
# two OpenMP pools on few cores are far slower than one thread each
WORKERS ?= 2
ONE     := OMP_NUM_THREADS=1
# how many processes share one stage; make test has one a stage, and WORKERS stages at once
SPLIT   ?= $(WORKERS)
STAGE   := @$(ONE) tests/stage.sh

# a layer is an environment that sees everything in $(VENV) and adds one package that must not be there
TRITON  := .venv-triton
NPU     := .venv-npu
NPUSIM  := build/npusim
# a torch_npu built for another torch
NPU_ODD := .venv-npu-odd
ASCEND  := .venv-ascend
FUZZER  := .venv-fuzzer
# the oldest transformers that setup.py allows, with what it needs of its time
OLDEST  := .venv-oldest
# attacks of make torture and their options, such as TORTURE="fuzz --fuzz-seconds 600"
TORTURE ?=
# options of make certify-cuda, such as CERTIFY="--only doctor tests --seconds 540"
CERTIFY ?=
# families of make families, such as FAMILIES="mixtral gemma3"
FAMILIES ?=

# what fails soonest first, then the longest, so that no core is idle at the end
STAGES := environments assets lint docs gpu-compile unit npu-tests e2e gpu-interpret gpu-conformance packaging \
	npu-conformance installs conformance browser families-24 versions

.PHONY: help demo test environments lint docs fix unit conformance slow e2e packaging gpu-sim gpu-compile gpu-interpret \
	gpu-conformance npu-sim npu-tests npu-conformance installs browser assets ascend-compile torture families families-24 versions \
	conform conform-cpu conform-cuda conform-npu bench certify-cuda certify-npu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready  ## prune a small model at three sparsities and show what it costs
	$(BIN)/unipruning demo

# every check, in environments made on the way; the output of a stage is printed when it ends
test:  ## run everything that continuous integration runs
	@rm -f build/stages
	@$(MAKE) --no-print-directory -j $(WORKERS) -Otarget SPLIT=0 $(STAGES); \
	status=$$?; sort -rnk 3 build/stages; exit $$status

environments: $(VENV)/.ready $(TRITON)/.ready $(NPU)/.ready $(NPU_ODD)/.ready $(NPUSIM)/.ready $(OLDEST)/.ready  ## make the environments that the tests need

lint: $(VENV)/.ready  ## check style, spelling and types
	$(STAGE) ruff $(BIN)/ruff check .
	$(STAGE) format $(BIN)/ruff format --check .
	$(STAGE) typos $(BIN)/typos
	$(STAGE) mypy $(BIN)/mypy

# -E reads every page again, since a page that is not read again gives no warning
docs: $(VENV)/.ready  ## build the site of the documentation into build/site
	$(STAGE) $@ $(BIN)/python -m sphinx -W --keep-going -E -q -d build/doctrees docs build/site

fix: $(VENV)/.ready  ## format, and apply the fixes that ruff and typos know
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/typos --write-changes

unit: $(VENV)/.ready  ## run the quick tests
	$(STAGE) unit $(BIN)/python -m pytest -q -n $(SPLIT) -m "not e2e and not packaging and not browser"

# the pages that are written, in Chromium without a screen
browser: $(VENV)/.ready  ## open the pages of reports in a browser, which it installs where it may
	$(STAGE) $@ tests/browser.sh $(BIN)/python -m pytest -q -m browser tests/core/test_report_browser.py

conformance: $(VENV)/.ready  ## check the CPU backend against the contract, with and without C
	$(STAGE) native $(BIN)/unipruning conform --backend cpu -- -q -n $(SPLIT)
	$(STAGE) portable env UNIPRUNING_CPU_NATIVE=0 $(BIN)/unipruning conform --backend cpu -- -q -n $(SPLIT)

slow: e2e packaging  ## test the pretrained model and the wheels

e2e packaging: assets
	$(STAGE) $@ $(BIN)/python -m pytest -q -n $(SPLIT) --dist loadfile -m $@

# Triton's kernels without a GPU: in its interpreter, then through its compiler; never both in one process
gpu-sim: gpu-conformance gpu-interpret gpu-compile  ## test the Triton kernels without a GPU

gpu-conformance: $(TRITON)/.ready $(VENV)/.ready
	$(STAGE) $@ env TRITON_INTERPRET=1 $(TRITON)/bin/python -m unipruning_core.cli conform --backend cuda -- -q -n $(SPLIT)

gpu-interpret: $(TRITON)/.ready $(VENV)/.ready
	$(STAGE) $@ env TRITON_INTERPRET=1 $(TRITON)/bin/python -m pytest -q -n $(SPLIT) tests/kernels

gpu-compile: $(TRITON)/.ready $(VENV)/.ready
	$(STAGE) $@ $(TRITON)/bin/python -m pytest -q tests/kernels/test_triton_compile.py

# the real torch_npu on a simulated CANN; conform-npu checks every simulated chip, which takes minutes more
npu-sim: npu-conformance npu-tests  ## test the NPU backend on a simulated CANN

npu-conformance: $(NPUSIM)/.ready
	$(STAGE) $@ tests/npusim/conform.sh $(NPUSIM) $(NPU)/bin/python --soc Ascend910B2 --processes $(SPLIT)

npu-tests: $(NPUSIM)/.ready assets
	$(STAGE) $@ env TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
		$(NPU)/bin/python -m pytest -q -n $(SPLIT) --dist loadfile tests/npusim --npusim $(NPUSIM)

# the messages where torch_npu is broken: without CANN, built for another torch, or missing
installs: $(VENV)/.ready $(NPU)/.ready $(NPU_ODD)/.ready  ## test the messages about broken installations of torch_npu
	$(STAGE) $@ $(BIN)/python -m pytest -q -n $(SPLIT) \
		tests/installs --no-cann $(NPU)/bin/python --other-torch $(NPU_ODD)/bin/python

# the pretrained model and its texts, fetched once and where no simulation is loaded
assets: $(VENV)/.ready
	$(STAGE) $@ $(BIN)/python -c 'from unipruning_core.tools.demo.assets import demo_model, demo_texts; demo_model(); demo_texts()'

# the optional kernels for Ascend through their own compiler and its interpreter; 215 MB to fetch, not part of test
ascend-compile: $(ASCEND)/.ready $(VENV)/.ready  ## compile and test the optional Triton kernels for Ascend
	$(ONE) $(ASCEND)/bin/python -m pytest -q tests/ascend
	$(ONE) TRITON_INTERPRET=1 $(ASCEND)/bin/python -m pytest -q tests/kernels/test_triton_interpret_ascend.py

# every command killed, told to stop and raced, every file that is read damaged and fuzzed; not part of test, which has a
# few cases of each
torture: $(FUZZER)/.ready  ## attack every command and every reader, in some 15 minutes
	@mkdir -p build
	$(ONE) $(FUZZER)/bin/python tests/torture --workers $(WORKERS) --json build/torture.json $(TORTURE)

# a tiny checkpoint of every family that transformers has, pruned and checked; make test has 24 that cover every layout
families: $(VENV)/.ready  ## prune and check every family of models, in half an hour, into docs/families.md
	@mkdir -p build
	$(ONE) $(BIN)/python tests/families --jobs $(WORKERS) --json build/families.json \
		$(if $(FAMILIES),$(FAMILIES),--table docs/families.md)

families-24: $(VENV)/.ready
	$(STAGE) $@ $(BIN)/python tests/families --expected tests/families/expected.json --jobs $(or $(filter-out 0,$(SPLIT)),1)

versions: $(OLDEST)/.ready  ## compare the oldest supported transformers with the installed one
	$(STAGE) $@ $(BIN)/python -m pytest -q tests/versions --oldest-transformers $(OLDEST)/bin/python

conform: conform-$(BACKEND)  ## check one backend against the contract: make conform BACKEND=cpu

conform-cpu: $(VENV)/.ready
	$(ONE) $(BIN)/unipruning conform --backend cpu

conform-cuda: $(TRITON)/.ready $(VENV)/.ready
	$(ONE) TRITON_INTERPRET=1 $(TRITON)/bin/python -m unipruning_core.cli conform --backend cuda -- -q -n $(WORKERS)

conform-npu: $(NPUSIM)/.ready
	$(ONE) tests/npusim/conform.sh $(NPUSIM) $(NPU)/bin/python

# on a machine with a card: chip, versions, the whole suite and timings in certificate.json
certify-npu: $(VENV)/.ready  ## run the suite and timings on an NPU, into one file
	$(BIN)/python benchmarks/certify_npu.py --backend npu

bench: $(VENV)/.ready  ## time the CPU backend and whole searches
	$(ONE) $(BIN)/unipruning bench --backend cpu --baseline released
	$(ONE) $(BIN)/python benchmarks/search_cost.py --samples 4 --seq-len 1024

# for anyone with a GPU: the tests that need one, doctor, bench and the cost of searches, into build/certificate
certify-cuda: $(VENV)/.ready  ## run the tests and timings on a GPU
	$(BIN)/python benchmarks/certify_gpu.py $(CERTIFY)

$(VENV)/.ready: setup.py pyproject.toml tests/environment.sh
	$(STAGE) $(@D) tests/environment.sh $(PYTHON) $(VENV) $(TORCH)
	@touch $@

LAYER = $(STAGE) $(@D) tests/layer.sh $(PYTHON) $(abspath $(VENV)) $(@D)

$(TRITON)/.ready: tests/layer.sh
	$(LAYER) triton==3.7.1
	@touch $@

$(NPU)/.ready: tests/layer.sh
	$(LAYER) torch-npu==$(TORCH) pyyaml
	@touch $@

$(NPU_ODD)/.ready: tests/layer.sh
	$(LAYER) torch-npu==2.14.0
	@touch $@

# it takes the place of triton, and needs Python 3.11 or older and, for its interpreter, numpy before 2.4
$(ASCEND)/.ready: tests/layer.sh
	$(LAYER) triton-ascend==3.2.0 ascendnpu-ir==1.2.0 pybind11 "numpy<2.4"
	@touch $@

# for coverage-guided fuzzing
$(FUZZER)/.ready: tests/layer.sh $(VENV)/.ready
	$(LAYER) atheris==3.0.0
	@touch $@

$(OLDEST)/.ready: tests/layer.sh $(VENV)/.ready
	$(LAYER) transformers==4.56.0 "huggingface_hub<1" "tokenizers==0.22.*" datasets==4.0.0
	@touch $@

$(NPUSIM)/.ready: $(VENV)/.ready $(NPU)/.ready $(wildcard tests/npusim/runtime/* tests/npusim/operators/*) tests/npusim/build.sh
	$(STAGE) $(@D) tests/npusim/build.sh $(NPUSIM) $(NPU)/bin/python
	@touch $@

clean:  ## remove the environments and what was built
	rm -rf $(VENV) $(TRITON) $(NPU) $(NPU_ODD) $(ASCEND) $(FUZZER) $(OLDEST) build dist *.egg-info
