"""Unit tests take seconds: none of them builds a guest image. One that comes to it is refused by
the mirror that it would be fetched from, here and in the processes that it starts."""

from __future__ import annotations

from collections.abc import Generator

import pytest

NO_MIRROR = "http://127.0.0.1:9/unit-tests-build-no-image"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around fixtures, too, whatever their scope."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORPOR_DEBIAN_MIRROR", NO_MIRROR)
        return (yield)
