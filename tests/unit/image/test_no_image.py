"""Of the unit tests themselves."""

from __future__ import annotations

from torpor.image import recipe


def test_unit_tests_build_no_image() -> None:
    """What would have to be fetched is not there: tests/unit/conftest.py."""
    assert recipe.mirror().startswith("http://127.0.0.1:9/")
