# `make run` and `make test` do their own set-up: .venv from pinned requirements, made anew when those change.
# ARGS go to snakemake or pytest, e.g.  make run ARGS="--configfile experiments/imdb.yaml"
PYTHON := $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& command -v $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
MUTMUT := .mutmut/bin/mutmut
ARGS ?=

.PHONY: run test lint mutation setup clean

# Goes on after a crash by itself, and ends with the leaderboard. An experiment in ARGS stands instead of config.yaml.
run: $(READY)
	$(BIN)/python -m moa run config.yaml $(ARGS)

# Two processes, for two cores; ARGS="-n 0 ..." is one.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile tests/tiny.yaml

# Changes the equations one place at a time and counts what the unit tests notice: studies/mutation.
mutation: $(MUTMUT)
	$(BIN)/python benchmarks/mutation.py --mutmut $(MUTMUT) $(ARGS)

setup: $(READY)

# torch comes first and alone: asked for by another package it may arrive as a build for another machine.
$(READY): requirements.txt requirements-dev.txt requirements.lock.txt pyproject.toml
	$(if $(PYTHON),,$(error Python 3.11 or 3.12 is needed, and neither python3.12, python3.11 nor python3 is one))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet -c requirements.lock.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

# Not in .venv: mutmut brings its own pytest. It finds torch and the rest where .venv has them.
$(MUTMUT): $(READY)
	$(BIN)/python -m venv .mutmut
	.mutmut/bin/python -m pip install --quiet mutmut==3.8.1
	site="import sysconfig; print(sysconfig.get_path('purelib'))"; \
		$(BIN)/python -c "$$site" > "$$(.mutmut/bin/python -c "$$site")/project.pth"
	touch $@

clean:
	rm -rf results reports/*.html logs .moa .snakemake
