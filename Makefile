# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
SHELL := /bin/bash
PY    := .venv/bin/python
UV    := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test test-fast lint docs site clean

setup: .venv/.ready

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv

.venv/.ready: pyproject.toml constraints.txt | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	test -x $(PY) || $(UV) venv --quiet --python ">=3.11" .venv
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --compile-bytecode --constraint constraints.txt --group dev --editable ".[demo]"
	touch $@

demo: setup
	.venv/bin/plumbline demo --output output/demo

test: setup lint
	OMP_NUM_THREADS=1 $(PY) -m pytest tests -n $$(( $$(env -u OMP_NUM_THREADS nproc) * 3 / 2 )) --dist worksteal --durations=15

test-fast: setup
	$(PY) -m pytest tests/unit tests/property -n auto -m "not slow and not gpu"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: setup
	.venv/bin/plumbline config reference > docs/CONFIG.md
	.venv/bin/plumbline config reference --stage-b > docs/STAGE_B_CONFIG.md

site: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
	@echo "output/site/index.html; with search: python -m http.server -d output/site"

clean:
	rm -rf .venv .uv output
