from __future__ import annotations

from pathlib import Path

import pytest
from tests.house import sources


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The trees of all sources take 110 MiB, which tests elsewhere shall not carry along."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        sources.tree.cache_clear()
