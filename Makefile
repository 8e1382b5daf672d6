# On a bare Debian or Ubuntu machine each target does its own set-up; the second time that takes a second.

.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
TEST_HOME := $(or $(TORPOR_TEST_HOME),$(CURDIR)/.cache/test-home)

.PHONY: help setup demo check unit test bench release clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## install what is needed here: Debian packages (root or sudo), .venv
	@scripts/setup.sh

demo: setup  ## one agent falls asleep three times, and what that costs
	@.venv/bin/torpor setup
	@$(PYTHON) scripts/demo.py

check: setup  ## style, types, layers: needs no machine
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

unit: setup  ## the tests that need no machine, no browser, no image
	$(PYTHON) -m pytest tests/unit tests/house tests/golden

test: check  ## everything that is checked: all tests, with machines
	$(PYTHON) -m torpor.image --home "$(TEST_HOME)"
	$(PYTHON) -m pytest

bench: setup  ## sleeping and waking, measured on this host
	.venv/bin/torpor bench sleep

release: setup  ## build dist/ and try it in an environment of its own
	@scripts/release

clean:  ## remove what the targets made in this directory
	rm -rf .venv .cache .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
