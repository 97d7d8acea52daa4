# Thin names for people over the CMake presets. `make help` lists them.
.DEFAULT_GOAL := build
.PHONY: help deps need-deps build demo real test abi check format-check header-check asan tsan fuzz bench bundle device-archive kernels \
        format tidy install clean
MAKEFLAGS += --no-print-directory
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60

# Every Debian package the build needs; `make deps` installs what is missing.
PACKAGES := build-essential cmake ninja-build pkg-config git ca-certificates catch2 \
  libopenblas-dev libsimdjson-dev libutf8proc-dev libpcre2-dev libxxhash-dev libfmt-dev libssl-dev libboost-dev \
  libboost-program-options-dev libboost-context-dev nlohmann-json3-dev libtomlplusplus-dev \
  gnuplot-nox

# Our own C, C++ and CUDA files: known to git, or new and not ignored.
SOURCES = git ls-files --cached --others --exclude-standard -- \
  '*.h' '*.hpp' '*.inl' '*.c' '*.cpp' '*.cu' '*.cuh'

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## Install the Debian packages that are missing; does nothing when all are there
	@SAY=1; $(install_missing)

# The same check without the line "all there"; a few hundredths of a second, so it needs no stamp.
need-deps:
	@SAY=; $(install_missing)

define install_missing
if ! command -v dpkg-query >/dev/null; then \
  echo "make deps: not a Debian system; install the counterparts of: $(PACKAGES)" >&2; exit 0; \
fi; \
have=$$(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $(PACKAGES) 2>/dev/null \
        | sed -n 's/ installed$$//p'); \
missing=; \
for p in $(PACKAGES); do \
  case " $$(echo $$have) " in *" $$p "*) ;; *) missing="$$missing $$p" ;; esac; \
done; \
if [ -z "$$missing" ]; then \
  [ -z "$$SAY" ] || echo "deps: all $(words $(PACKAGES)) packages are installed"; exit 0; \
fi; \
echo "deps: installing$$missing"; \
root=; \
if [ "$$(id -u)" != 0 ]; then \
  if command -v sudo >/dev/null; then root=sudo; \
  else echo "deps: not root and no sudo; run as root: apt-get install$$missing" >&2; exit 1; fi; \
fi; \
$$root env DEBIAN_FRONTEND=noninteractive apt-get -q update && \
$$root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing
endef

build: need-deps ## Build everything into build/ (the default)
	@[ -f build/build.ninja ] || cmake --preset release
	@cmake --build --preset release

demo: need-deps ## Run the study's Track C on the embedded models, ends with report.html
	@[ -f build/build.ninja ] || cmake --preset release
	@cmake --build --preset release --target programs
	@build/bin/ptq-host experiments/trackC.toml

# REAL: further options, for instance the official text (see experiments/real.toml).
real: need-deps ## Fetch SmolLM2-135M with pip (93 MB, to the user's cache) and compare methods on it
	@[ -f build/build.ninja ] || cmake --preset release
	@cmake --build --preset release --target programs
	@folder=$$(bash models/fetch_smollm2.sh) && \
	  PTQ_MODELS="$$folder" build/bin/ptq-host experiments/real.toml $(REAL)

test: build ## Run all tests: unit tests and test/*/test_*.sh
	@bash test/run_all.sh

abi: ## Compare the layout of plugin.h with test/abi/baseline.abi (needs Debian's abigail-tools), see docs/abi.md
	@bash test/abi/baseline.sh || [ $$? = 77 ]

check: need-deps format-check header-check tidy asan ## Format, headers compile alone, clang-tidy, tests under sanitizers

format-check:
	@if command -v clang-format >/dev/null; then \
	  bad=$$($(SOURCES) | while read -r f; do \
	    clang-format "$$f" | cmp -s - "$$f" || echo "  $$f"; done); \
	  [ -z "$$bad" ] || { echo "format: run \`make format\` for"; echo "$$bad"; exit 1; }; \
	  echo "format: clean"; \
	else echo "format: skipped, clang-format is not installed"; fi

header-check: need-deps
	@[ -f build/build.ninja ] || cmake --preset release
	@cmake --build --preset release --target header_check
	@echo "headers: each one compiles alone"

asan: need-deps
	@[ -f build/asan/build.ninja ] || cmake --preset asan
	@cmake --build --preset asan
	@UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PTQ_SLOW=5 PTQ_BUILD=build/asan bash test/run_all.sh

# Hours on two cores; `make check` leaves it out.
tsan: need-deps
	@[ -f build/tsan/build.ninja ] || cmake --preset tsan
	@cmake --build --preset tsan
	@TSAN_OPTIONS=halt_on_error=1 PTQ_SLOW=20 PTQ_BUILD=build/tsan bash test/run_all.sh

# Installed by `make fuzz` only; `make deps` does not know them.
fuzz: PACKAGES += clang libclang-rt-14-dev
fuzz: need-deps ## Run every fuzz target for FUZZ_SECONDS=60 seconds, see docs/fuzzing.md
	@mkdir -p build
	@cmake -S . -B build/fuzz -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPTQ_CUDA=OFF -DPTQ_FUZZ=ON >build/fuzz.log 2>&1 \
	  || { cat build/fuzz.log; exit 1; }
	@cmake --build build/fuzz --target fuzzers
	@bash test/fuzz/run.sh build/fuzz "$(FUZZ_SECONDS)"

bench: build ## Measure tokens per second beside the limits of this machine
	@build/bin/ptq-bench

# A build of its own: for any x86-64 processor with AVX2, and nvcc must be there.
bundle: need-deps ## One folder with all that a GPU machine needs, build/ptq-gpu (CUDA_LIBS=no: less), see docs/cuda.md
	@[ -f build/cuda/build.ninja ] || cmake --preset cuda
	@cmake --build --preset cuda --target programs ptq-bench ptq-engine-cuda ptq-cuda-tests
	@bash bench/bundle.sh build/cuda build/ptq-gpu $(if $(filter no,$(CUDA_LIBS)),--without-cuda)

# One architecture, small; what it is for says bench/device_run.sh.
device-archive: need-deps ## build/device/gpu.tar.xz, all that one call on a borrowed H100 needs, see docs/cuda.md
	@[ -f build/device/build.ninja ] || cmake --preset device
	@cmake --build --preset device --target programs ptq-bench ptq-engine-cuda ptq-cuda-tests
	@bash bench/device_archive.sh build/device build/device/gpu.tar.xz

kernels: need-deps ## Registers, stack and spills of the CUDA kernels; fails when a hot one spills
	@[ -f build/build.ninja ] || cmake --preset release
	@bash bench/kernels.sh build

format: ## Rewrite our C and C++ files with clang-format
	@$(SOURCES) | xargs -r -d '\n' clang-format -i

# Its own list of commands: that of build/ has a program's files as one.
tidy: need-deps ## Run clang-tidy over our C++ files
	@if command -v clang-tidy >/dev/null; then \
	  cmake --preset release -B build/tidy -DPTQ_UNITY=OFF >/dev/null && \
	  ls host/*.cpp analysis/*.cpp bench/*.cpp plugins/*.cpp plugins/*/*.cpp 2>/dev/null \
	    | xargs -r -n 1 -P "$$(nproc)" clang-tidy -p build/tidy --quiet && echo "tidy: clean"; \
	else echo "tidy: skipped, clang-tidy is not installed"; fi

install: need-deps ## Install programs, plugins, headers and the CMake package (PREFIX=/usr/local)
	@[ -f build/build.ninja ] || cmake --preset release
	@cmake --build --preset release --target installed
	@cmake --install build --prefix "$(PREFIX)"

clean: ## Remove build/ (results/ stays)
	@rm -rf build
