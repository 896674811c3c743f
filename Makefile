# `make help` lists the targets. Everything runs in .venv, which the set-up makes and keeps up to date.

PYTHON ?= python3
BIN := .venv/bin
BENCHMARKS := $(filter-out __init__ bare_tune in_process report results continual continual_data dial discovery docstrings gpu gpu_steps loader on_policy plan short_runs soak stack sweep transfer,$(basename $(notdir $(wildcard benchmarks/*.py))))
text ?=
name ?=
dry ?=
minutes ?=

.PHONY: help setup setup-dev quickstart test gpu-test coverage verify check lint types secrets plugins docs bench lock release audit clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: ## Create .venv with what running needs, saying the download size first
	@$(PYTHON) tools/bootstrap.py

setup-dev: ## Create .venv with the tools for tests, checks and documentation too
	@$(PYTHON) tools/bootstrap.py --dev

quickstart: setup ## Raw text to a trained, evaluated, talking model; text=FOLDER takes your own
	$(BIN)/codex-ray quickstart $(if $(text),"text=$$text")

test: setup-dev ## Run the unit tests, then the integration tests (20 minutes on two cores)
	$(BIN)/python -m pytest tests/unit -m "not verify" --numprocesses logical --maxprocesses 8 --dist loadfile
	$(BIN)/python -m pytest tests/integration -m "not verify and not cluster" --numprocesses 3 --dist loadfile --no-loadscope-reorder --timeout 600

gpu-test: setup-dev ## Run the tests that need an NVIDIA GPU (minutes)
	$(BIN)/python -m pytest tests/gpu

coverage: setup-dev ## The lines that the tests run, in all processes (hours); minutes=N for a part
	$(BIN)/python -m tools.measure_coverage $(if $(minutes),--minutes "$(minutes)")

verify: setup-dev ## Run the long campaign (hours); what passed and has not changed is not run again
	$(BIN)/python -m tools.verify

check: lint types secrets plugins docs ## Code, types, secrets, components, documentation: the five

lint: setup-dev ## Rules and format of the code (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev ## Types (mypy --strict)
	$(BIN)/mypy

secrets: setup-dev ## Look for secrets in all files; known false ones are in .secrets.baseline
	$(BIN)/python tools/find_secrets.py

plugins: setup-dev ## Load every component, ours and those of installed packages
	$(BIN)/python -m codex_ray.plugins

docs: setup-dev ## Build the documentation into docs/_build/html, warnings as errors
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

bench: setup-dev ## Run all short benchmarks, or one with name=NAME; write benchmarks/README.md
	$(foreach benchmark,$(or $(name),$(BENCHMARKS)),$(BIN)/python -m benchmarks.$(benchmark) &&) true
	$(BIN)/python -m benchmarks.report

lock: setup-dev ## Write the lock from the versions in .venv, and the hashes for this platform
	$(BIN)/python -m tools.lock

release: setup-dev ## Build a release into dist/ with its bill of materials; dry=1 for trying
	$(BIN)/python tools/release.py $(if $(dry),--dry-run)

audit: setup ## Semgrep by tools/semgrep.yaml, and known advisories (asks a network)
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/pip install -q semgrep==1.185.0 pip-audit==2.10.1
	PATH=.venv/audit/bin:$$PATH semgrep scan --error --metrics=off --disable-version-check --quiet --config tools/semgrep.yaml codex_ray tools jobs
	$(BIN)/python tools/audit.py .venv/audit/bin/pip-audit

clean: ## Undo the set-up and remove caches; corpora, runs and quickstart folders stay
	rm -rf .venv docs/_build docs/settings.md docs/rules.md docs/licences.md docs/_static/notebooks docs/_static/diagrams .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
