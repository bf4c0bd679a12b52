# make lab    JupyterLab on the first example, with everything it needs (LAB_FLAGS=--no-browser: serve only)
# make test   every test: Python, TypeScript, browser
# make lint   ruff and mypy, prettier
# All work in .venv, which the first of them makes; node comes from PyPI, none has to be installed.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
FRONTEND := $(shell find labextension/src labextension/style labextension/schema -type f) \
	$(addprefix labextension/,install.json package.json tsconfig.json yarn.lock .yarnrc.yml)

# JupyterLab asks root, as who containers run, to say so.
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

export PATH := $(VENV)/bin:$(PATH)

.PHONY: lab test lint clean

lab: .venv/frontend
	jupyter lab --LabApp.default_url=/lab/tree/examples/quickstart.ipynb $(ROOT_FLAG) $(LAB_FLAGS)

test: .venv/frontend
	pytest $(PYTEST_FLAGS)
	cd labextension && jlpm test

lint: .venv/frontend
	ruff check .
	mypy
	cd labextension && jlpm lint

clean:
	rm -rf .venv labextension/lib labextension/node_modules labextension/tsconfig.tsbuildinfo \
		jupyter_sc2/labextension

# The front end is left out here, since the rule below builds and links it.
.venv/installed: pyproject.toml constraints.txt labextension/package.json labextension/yarn.lock
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	SKIP_JUPYTER_BUILDER=1 python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

.venv/frontend: .venv/installed $(FRONTEND)
	cd labextension && jlpm install && jlpm build
	jupyter-builder develop . --overwrite
	touch $@
