"""Modules go in after what they depend on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import HostError
from torpor.image.kernel import insertion_order, module_dependencies


@given(st.lists(st.lists(st.integers(min_value=0, max_value=100), max_size=5), max_size=20))
def test_every_module_comes_once_and_after_its_dependencies(links: list[list[int]]) -> None:
    # Module n depends only on modules before it, so there is no cycle.
    graph = {f"m{n}": [f"m{i % n}" for i in deps] if n else [] for n, deps in enumerate(links)}
    wanted = list(graph)[::2]
    order = insertion_order(wanted, graph.__getitem__)
    assert len(set(order)) == len(order)
    assert set(wanted) <= set(order)
    for n, name in enumerate(order):
        assert set(graph[name]) <= set(order[:n])


def test_only_what_is_reached_is_asked_for() -> None:
    asked: list[str] = []

    def dependencies(name: str) -> list[str]:
        asked.append(name)
        return {"erofs": ["libcrc32c"], "libcrc32c": []}[name]

    assert insertion_order(["erofs"], dependencies) == ("libcrc32c", "erofs")
    assert sorted(asked) == ["erofs", "libcrc32c"]


def test_a_cycle_is_refused() -> None:
    with pytest.raises(HostError, match="depend on each other"):
        insertion_order(["a"], {"a": ["b"], "b": ["a"]}.__getitem__)


@pytest.mark.parametrize(
    ("depends", "expected"),
    [
        (b"", ()),
        (b"virtio", ("virtio",)),
        (b"crc32c-intel,virtio_ring", ("crc32c_intel", "virtio_ring")),
    ],
)
def test_dependencies_stand_in_the_module(depends: bytes, expected: tuple[str, ...]) -> None:
    module = b"\x7fELF...\0license=GPL\0depends=" + depends + b"\0retpoline=Y\0"
    assert module_dependencies(module) == expected


@pytest.mark.parametrize("body", [b"", b"\xfd7zXZ compressed", b"\x7fELF without the entry"])
def test_what_is_no_module_is_refused(body: bytes) -> None:
    with pytest.raises(HostError, match="not an uncompressed kernel module"):
        module_dependencies(body)
