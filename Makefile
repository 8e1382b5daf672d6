# `make demo` and `make test` do all of their own set-up on a bare Debian or Ubuntu machine.
# The second time that is a matter of a second.

PYTHON := .venv/bin/python

.PHONY: demo test check setup clean

demo: setup
	@$(PYTHON) scripts/demo.py

test: check
	$(PYTHON) -m torpor.image --home "$${TORPOR_TEST_HOME:-$(CURDIR)/.cache/test-home}"
	$(PYTHON) -m pytest

# What needs no machine: style, types, layers.
check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

setup:
	@scripts/setup.sh

clean:
	rm -rf .venv .cache .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis
