# Everything happens in .venv, which is made on first use and again when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
# Processes under test mostly wait, so more of them than cores pay off.
JOBS ?= 8
ARGS ?=
# Test processes, and what they start, read what the first of them has compiled.
unexport PYTHONDONTWRITEBYTECODE
# The status of pytest is kept in a file, as make itself ends with 2 whatever it was.
NOTED := ; status=$$?; echo $$status >.venv/pytest.status; exit $$status
# Measuring makes processes slower, and tests of chaos race their clocks; COVERED= measures those too.
COVERED ?= --ignore=tests/chaos

.DEFAULT_GOAL := help
.PHONY: help demo example test long matrix rest oldest coverage lint docs bench bench-quick figures clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'
	@echo "PYTHON=python3.12 chooses another Python (3.10 or newer), after make clean; ARGS='...' is given to pytest."
	@echo "REDIS_URL=... and DATABASE_URL=... make the demo use your servers."

demo: .venv/demo.stamp ## the example project's main job, with faults, checked; ends by itself
	cd example_project && ../$(BIN)/python demo.py

example: .venv/demo.stamp ## the same, left running to play with
	cd example_project && ../$(BIN)/python demo.py --keep

test: .venv/dev.stamp ## all tests, on private servers; about six minutes on two cores
	@echo "about six minutes on two cores; a dot is a test"
	@$(BIN)/python -m compileall -q celery_perpetual
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)$(NOTED)

long: .venv/dev.stamp ## the tests that last for half a minute and more, or play with larger numbers
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m long $(ARGS)

matrix: .venv/dev.stamp ## the tests of the rarer pools and bases
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m matrix $(ARGS)

rest: .venv/dev.stamp ## all that make test leaves out: matrix and long in one run
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "matrix or long" $(ARGS)$(NOTED)

# Where we reach into Celery, and what depends on it most, on the oldest Celery that the package takes.
OLDEST := tests/integration/test_seams.py tests/integration/test_chords_counted_once.py tests/chaos/test_ends_of_workers.py 'tests/chaos/test_every_end.py::test_every_end_is_announced_once[prefork-late]'
oldest: .venv/oldest.stamp ## the seams and the tests nearest to them, on the oldest Celery that is supported
	.venv/oldest/bin/python -m pytest -n $(JOBS) --dist worksteal $(OLDEST) $(ARGS)

# The processes that tests start have folders of their own, so where they write is said by its full path.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: .venv/dev.stamp ## all tests but those of chaos, and which branches of the package they go through
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist worksteal $(COVERED) $(ARGS); \
	  status=$$?; $(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report && exit $$status

lint: .venv/dev.stamp ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy celery_perpetual $(wildcard tests/typing)

docs: .venv/dev.stamp ## the documentation as a site, in build/docs; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs build/docs

bench: .venv/dev.stamp .venv/peers.stamp ## all benchmarks, minutes; a table, and benchmarks/results.json
	$(BIN)/python benchmarks/run.py $(ARGS)

figures: .venv/dev.stamp ## the table of figures in docs/benchmarks.md, from the last make bench
	$(BIN)/python benchmarks/figures.py

bench-quick: .venv/dev.stamp .venv/peers.stamp ## the same with fewer rounds
	$(BIN)/python benchmarks/run.py --quick $(ARGS)

clean: ## remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "celery-perpetual needs Python 3.10 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# What `make test` needs includes what `make demo` needs.
.venv/dev.stamp: pyproject.toml | .venv/bin/python
	@echo "installing this package and its tools into .venv, once; about a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/demo.stamp $@

.venv/demo.stamp: pyproject.toml | .venv/bin/python
	@echo "installing this package and what the demo needs into .venv, once; about half a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/oldest.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m venv .venv/oldest
	.venv/oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' 'celery==5.6.*' 'kombu==5.6.*'
	@touch $@

# What the benchmarks compare with: it pins clients of its own and never meets ours.
.venv/peers.stamp: benchmarks/peers.txt | .venv/bin/python
	$(BIN)/python -m venv .venv/peers
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@
