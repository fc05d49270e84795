# The habits: `make demo`, `make test-fast`, `make test`, `make lint`. Every target makes the
# environment that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := out/demo
LOCK := deploy/requirements-dev.lock
# Errors alone: an index or a folder of wheels that pip is set up with and can't reach is a line each.
PIP_INSTALL := $(BIN)/pip install -qq --disable-pip-version-check
SUPPORTED := import sys, platform as p; \
	sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and p.machine() == 'x86_64'))
# Measured: the wheels of the lock, and the environment that they make.
DOWNLOAD := about 3.4 GB
ON_DISK := 6.7 GB

# Small machines: Ray without token files or usage pings, and a patient start.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_raylet_start_wait_time_s := 120
# Some images switch Python's caches of compiled code off: a test run then takes 8 s longer to begin,
# and each of the hundred processes that it starts half a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-fast test-long test-s3 bench gpu-check bench-pipeline bench-scale bench-browse bench-table lint pictures errors-table faults-table columns-table settings-reference format lock clean

setup: $(STAMP)

# The lock's exact versions, each checked against its hash; from the index and the local files that
# pip is set up with. The stamp holds how many seconds the installation took.
$(STAMP): pyproject.toml $(LOCK)
	@test -x $(BIN)/python || $(PYTHON) -c "$(SUPPORTED)" || { \
		echo "The lock covers Python 3.11 to 3.13 on Linux x86_64: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $$(grep -c == $(LOCK)) packages into $(VENV): $(DOWNLOAD) to download, less" \
		"what pip has cached or finds in local files; $(ON_DISK) on disk"
	@start=$$(date +%s); \
		$(PIP_INSTALL) --require-hashes --requirement $(LOCK) && \
		$(PIP_INSTALL) --no-deps --no-build-isolation --editable . && \
		echo $$(($$(date +%s) - start)) >$(STAMP)

demo: setup
	@mkdir -p out
	@date +%s >out/demo-start
	$(BIN)/musicgen-batch manifest build manifests/examples/demo.jsonl out/demo.parquet
	@$(BIN)/musicgen-batch run --config manifests/examples/demo.yaml \
		--manifest out/demo.parquet --output $(DEMO); code=$$?; \
		test $$code = 3 || { echo "expected exit code 3 (one dead letter), got $$code"; exit 1; }
	@$(BIN)/python -m tests.check_demo $(DEMO)
	@echo "the demo took $$(($$(date +%s) - $$(cat out/demo-start))) s;" \
		"the installation in $(VENV) had taken $$(cat $(STAMP)) s"

# Trains the bundled model from nothing within 90 minutes on 2 idle cores; stopped, the same command
# goes on. The allocator keeps its memory: a third of the time otherwise goes into getting it anew.
.PHONY: tiny
tiny: setup
	MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 \
		$(BIN)/python -m musicgen.tiny.training.train

# Measures the bundled model on what its training held out; writes out/eval/tiny.json and the card.
.PHONY: eval-tiny
eval-tiny: setup
	$(BIN)/python -m musicgen.tiny.evaluation.evaluate --card musicgen/tiny/checkpoint

# Two processes: one for all that starts Ray, which leaves the other core free while it waits.
test: setup
	RAY_AUTH_MODE=disabled $(BIN)/python -m pytest -m "not long" -n 2

# Within 90 s on 2 idle cores: no Ray, no server, no browser. Tests that need one fail in this run
# unless they are marked.
FAST := not (long or ray or s3 or slow)
test-fast: setup
	MUSICGEN_TEST_S3=none $(BIN)/python -m pytest -m "$(FAST)" -n 2 --ignore=tests/integration

# What takes too long for every change.
test-long: setup
	RAY_AUTH_MODE=disabled $(BIN)/python -m pytest -m long

# The same storage and job suite against a real Ceph RADOS gateway, installed and started here.
test-s3: setup
	bash tests/install_ceph.sh
	RAY_AUTH_MODE=disabled MUSICGEN_TEST_S3=ceph $(BIN)/python -m pytest -m "s3 and not long"

# Against transformers on this machine, within an hour on 2 cores; writes out/bench/engine.json.
bench: setup
	$(BIN)/python -m tests.bench.engine

# The CUDA path, checked and timed on a GPU within 8 minutes; writes out/bench/gpu-check.json. Needs no
# environment of this Makefile but torch, transformers, triton and numpy.
gpu-check:
	$(PYTHON) -m tests.gpu.check --out out/bench

# What the job costs around the model; writes out/bench/pipeline.json.
bench-pipeline: setup
	RAY_AUTH_MODE=disabled $(BIN)/python -m tests.bench.pipeline

# What grows with the manifest: planning 10^6 and 10^7 rows of which 99.9 % are done. Writes 2 GB into
# out/bench/scale-*, once, within about 20 minutes on 2 idle cores, and out/bench/scale.json.
bench-scale: setup
	RAY_AUTH_MODE=disabled $(BIN)/python -m tests.bench.scale

# The page of `browse` on 10^6 clips. Writes 0.4 GB into out/bench/browse-*, once, and
# out/bench/browse.json.
bench-browse: setup
	$(BIN)/python -m tests.bench.browse

# What they wrote, as tables in docs/reference/benchmarks.md.
bench-table: setup
	$(BIN)/python -m tests.bench.table

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The README's pictures, from the demo's output.
pictures: demo
	$(BIN)/python -m tests.docs.pictures $(DEMO)

# The tables of docs/reference/errors.md, from the tests' own.
errors-table: setup
	$(BIN)/python -m tests.errors.page

# The tables of docs/reliability.md: causes every fault, those of `make test-long` too, stores what the
# tests measure, and writes it down.
faults-table: setup
	RAY_AUTH_MODE=disabled MUSICGEN_WRITE_FAULTS=1 $(BIN)/python -m pytest -m fault
	$(BIN)/python -m tests.reliability.page

# The columns of docs/dataset-schema.md, from the schema of the ledger.
columns-table: setup
	$(BIN)/python -m tests.docs.dataset_tables

# The reference of the settings and the JSON schema of job.yaml, from JobConfig.
settings-reference: setup
	$(BIN)/python -m tests.docs.settings

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions of `make setup`, and those of the image, which are a part of them. Keeps the pins that
# still fit; renew them with `make lock UV_FLAGS=--upgrade`.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: setup
	$(UV_COMPILE) $(UV_FLAGS) --universal --extra dev --output-file $(LOCK)
	$(UV_COMPILE) $(UV_FLAGS) --python-platform x86_64-manylinux_2_28 --constraint $(LOCK) \
		--output-file deploy/requirements.lock

clean:
	rm -rf out $(VENV)
