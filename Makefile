# Every target sets up what it needs: .venv with the pinned packages, and a build in place.
# Each step leaves a file that make compares, so that what is done is not done again.

PYTHON ?= python3
OUT ?= out/gpu
# Test processes: each holds some 1.5 GB.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))

VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported: the tests, not half of all files.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
  --constraint constraints.txt
TOOLS := $(VENV)/.tools
SETUP := $(VENV)/.segfast
ORIGINALS := $(VENV)/.originals
BUILD := segfast/_build_info.json
HOST_GPU := $(CURDIR)/build/shipped/tests/host_gpu
# Runs pytest with these arguments, where `make shipped` has found a build with CUDA.
define ON_HOST_GPU
if [ ! -e $(HOST_GPU)/_C.so ]; then echo "no tests with a GPU on the host: built without CUDA"; else \
  SEGFAST_HOST_GPU=$(HOST_GPU) PYTHONPATH=$(CURDIR)/tests/host_gpu LD_PRELOAD=$(HOST_GPU)/libcuda.so.1 \
  $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(1); fi
endef
# What of it takes half the time and lies above a launch: nightly has it.
LONG := gradients or registration or compiles_whole or sample_inputs or test_training_cuda
# Ninja shares no jobs with make.
ALONE := env -u MAKEFLAGS

# Without a GPU in sight, one architecture is enough to prove that the CUDA code compiles.
ifeq ($(shell nvidia-smi -L 2>/dev/null),)
export TORCH_CUDA_ARCH_LIST ?= 9.0
endif

.DELETE_ON_ERROR:
.PHONY: demo test nightly ctest shipped hostgpu bench docs ptxas gpu lint build clean

demo: $(BUILD)
	$(BIN)/segfast bench --quick
	$(BIN)/segfast train --data synthetic --model segnet_basic --option width=16 \
	  --epochs 6 --out out/demo

# Two builds at a time: one fills the core that the other's last file or pip leaves idle. A test
# process starts with tests that stand side by side, so that a fixture is built once, and takes over
# another's when it is done.
test:
	$(MAKE) --jobs=2 ctest shipped $(ORIGINALS)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
	@$(call ON_HOST_GPU,-m 'cuda and not nightly' -k 'not ($(LONG))')

# What is slow and exhaustive: random options by the thousand, every loss compiled, 2^31 elements.
# And the CPU kernels' AVX-512 variant, emulated: machines without it run it too. And their baseline
# under the sanitizers, which machines with AVX2 do not run: `make test` has it as shipped. And all
# tests for a GPU on the host.
nightly: export PATH := $(CURDIR)/$(BIN):$(PATH)
nightly: $(ORIGINALS) shipped
	for preset in emulated sanitize-all; do \
	  cmake --preset $$preset && $(ALONE) cmake --build --preset $$preset && ctest --preset $$preset || exit 1; \
	done
	$(BIN)/python -m pytest -m nightly
	@$(call ON_HOST_GPU,-m 'cuda and not nightly')

# The kernels under the sanitizers, those for CUDA run on the CPU. Without torch, which need not be
# installed yet.
ctest: export PATH := $(CURDIR)/$(BIN):$(PATH)
ctest: $(TOOLS)
	cmake --preset sanitize && $(ALONE) cmake --build --preset sanitize && ctest --preset sanitize

# The same tests of the CPU kernels as the extension holds them.
shipped: export PATH := $(CURDIR)/$(BIN):$(PATH)
shipped: $(BUILD)
	cmake --preset shipped -D SEGFAST_OBJECTS="$$(dirname $$(ls -t build/*-torch*/build.ninja | head -n 1))"
	$(ALONE) cmake --build --preset shipped && ctest --preset shipped

# Tests marked cuda with a GPU that is the host (tests/host_gpu/sitecustomize.py). For a part of them:
# make hostgpu ARGS="-k pool".
hostgpu: shipped
	@$(call ON_HOST_GPU,-m 'cuda and not nightly' $(ARGS))

# Some minutes; `pytest benchmarks` runs every cell.
bench: $(BUILD)
	$(BIN)/segfast bench --size large --size middle --threads 1 --threads $$(nproc) --seconds 0.5

# The pages of docs/, with every public name, into out/site.
docs: $(BUILD)
	$(PIP) mkdocs-material 'mkdocstrings[python]' ruff
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "out/site/index.html"

# Registers and spills of every CUDA kernel, for every architecture; needs nvcc, some minutes.
ptxas:
	$(PYTHON) scripts/ptxas_report.py

# For a machine that has torch and a GPU but no network: no .venv, nothing installed.
gpu:
	$(PYTHON) scripts/gpu.py --out $(OUT)

lint: $(ORIGINALS)
	$(PIP) clang-format mypy ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

build: $(BUILD)

clean:
	rm -rf build *.egg-info segfast/_C.*.so $(BUILD)

$(TOOLS): constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools ninja cmake
	@touch $@

$(SETUP): $(TOOLS) pyproject.toml
	@echo "Installing torch into $(VENV) (some minutes the first time)"
	@$(PIP) torch torchvision
	@touch $@

# What tests compare with, and users of the rest do not need. The last three by themselves: see the
# extra in pyproject.toml.
$(ORIGINALS): $(BUILD)
	@echo "Installing the libraries whose numbers the tests compare with"
	@$(PIP) --no-build-isolation --editable '.[compat,export,timm]'
	@$(PIP) --no-deps fastai fastcore mmsegmentation nnunetv2 segmentation-models
	@touch $@

# The switches of a build: a change of any of them builds again.
SWITCHES := $(TORCH_CUDA_ARCH_LIST) $(SEGFAST_FORCE_CUDA) $(SEGFAST_NO_CUDA) $(CUDA_HOME)
build/switches: FORCE
	@mkdir -p build && echo '$(SWITCHES)' | cmp -s - $@ || echo '$(SWITCHES)' > $@
FORCE:

# Written by setup.py as its last step.
$(BUILD): $(SETUP) build/switches setup.py $(wildcard segfast/_*.py csrc/sources.txt csrc/*/*.* csrc/*/*/*.*)
	@echo "Compiling segfast (some minutes the first time)"
	@$(PIP) --no-build-isolation --editable '.[test]'
	@sed -n 's/.*"summary": "\(.*\)".*/segfast: built \1/p' $@
