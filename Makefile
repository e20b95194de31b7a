# make demo   sets up .venv and lip-syncs a face end to end
# make test   sets up .venv and runs the tests, three at a time: many of them wait for ffmpeg or other processes
# make test-image   installs what the Dockerfile installs into a fresh environment and starts its page: two minutes
# make lint   checks style with ruff and types with mypy
# make demo-checkpoints PORTRAITS=photos SPEAKERS=videos [WORK=folder]   retrains the shipped networks, see
#                    demo/train_checkpoints.sh
PYTHON ?= python3
BIN := .venv/bin
WORK ?= demo-work
# waiting OpenMP threads sleep instead of spinning; freed memory is kept, in huge pages, for the next tensor; what is
# compiled is kept for the programs that tests start
QUICKLY := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: setup demo test test-image lint demo-checkpoints

setup: .venv/ready

.venv/ready: requirements.txt requirements-dev.txt constraints.txt $(wildcard requirements/*.txt)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

demo: setup
	$(BIN)/python -m demo.run_demo

test: setup
	$(QUICKLY) $(BIN)/python -m pytest -q -n 3 --dist worksteal

test-image: setup
	$(BIN)/python -m pytest -q -m slow -o faulthandler_timeout=0 tests/test_docker.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo-checkpoints: setup
	demo/train_checkpoints.sh "$(PORTRAITS)" "$(SPEAKERS)" "$(WORK)"
