# `make run` and `make test` do their own set-up: .venv from locked packages, installed anew when the lock changes.
# ARGS go to snakemake or pytest, e.g.  make run ARGS="--configfile experiments/imdb.yaml"
PYTHON := $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& command -v $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
TORCH := .venv/.torch
TOOLS := .tools/.ready
MUTMUT := .mutmut/bin/mutmut
LOCKED := $(BIN)/python -m pip install --quiet --no-deps --require-hashes
ARGS ?=

.PHONY: run test slow faults lint mutation setup lock audit sbom clean

# Goes on after a crash by itself, and ends with the leaderboard. An experiment in ARGS stands instead of config.yaml.
run: $(READY)
	$(BIN)/python -m moa run config.yaml $(ARGS)

# Two processes, for two cores; ARGS="-n 0 ..." is one.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
test: $(READY)
	$(PYTEST) -m "not slow" $(ARGS)

# Whole runs: killed at any moment, of every method, of a trial, on damaged files.
slow: $(READY)
	$(PYTEST) -m slow $(ARGS)

# Kills, damaged and hostile files, full disks: docs/reliability.md.
faults: $(READY)
	$(BIN)/python -m benchmarks.faults --minutes 20 $(ARGS)

lint: $(READY)
	$(BIN)/python -m pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile tests/tiny.yaml

# Changes the equations one place at a time and counts what the unit tests notice: studies/mutation.
mutation: $(MUTMUT)
	$(BIN)/python benchmarks/mutation.py --mutmut $(MUTMUT) $(ARGS)

setup: $(READY)

# The package index decides nothing here: every file has a hash in the lock, and nothing is asked for that is not in it.
# Packages without a wheel are built by setuptools from the lock, not by one that pip fetches for itself.
$(READY): $(TORCH) requirements.lock.txt pyproject.toml
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock.txt > .venv/setuptools.txt
	$(LOCKED) --only-binary :all: -r .venv/setuptools.txt
	$(LOCKED) --no-build-isolation -r requirements.lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# torch comes first and alone. Which build of it a machine gets is for pip's settings to say: pip downloads the one that
# it prefers, and installs that if its hash is known. Asked for with hashes at once, it would prefer the package index's.
# A build with CUDA names packages for it, which no other needs.
$(TORCH): requirements-torch.txt requirements-cuda.txt
	$(if $(PYTHON),,$(error Python 3.11 or 3.12 is needed, and neither python3.12, python3.11 nor python3 is one))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	rm -rf .venv/torch
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest .venv/torch \
		$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-torch.txt)
	$(LOCKED) --no-index --find-links .venv/torch -r requirements-torch.txt
	rm -r .venv/torch
	if grep -qsE '^Requires-Dist: (cuda|nvidia)-' .venv/lib/python*/site-packages/torch-*.dist-info/METADATA; then \
		$(LOCKED) -r requirements-cuda.txt; fi
	touch $@

# What only some targets need is not in .venv: mutmut brings its own pytest.
$(TOOLS): $(READY) requirements-tools.txt
	$(BIN)/python -m venv .tools
	.tools/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements-tools.txt
	touch $@

# mutmut finds torch and the rest where .venv has them.
$(MUTMUT): $(READY) requirements-tools.txt
	$(BIN)/python -m venv .mutmut
	.mutmut/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements-tools.txt
	site="import sysconfig; print(sysconfig.get_path('purelib'))"; \
		$(BIN)/python -c "$$site" > "$$(.mutmut/bin/python -c "$$site")/project.pth"
	touch $@

# Versions and hashes of all packages, from requirements.txt and requirements-dev.txt; then `make sbom`.
lock: $(TOOLS)
	.tools/bin/python .ci/lock.py $(ARGS)

# Known vulnerabilities of the locked packages. It asks a service, so neither lint nor test depends on it.
audit: $(TOOLS)
	.tools/bin/python .ci/audit.py

# The bill of materials: docs/sbom.cdx.json.
sbom: $(TOOLS)
	.tools/bin/python .ci/sbom.py $(BIN)/python

clean:
	rm -rf results reports/*.html logs .moa .snakemake
