from __future__ import annotations

import enum
import json
import threading
from array import array
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from tests.unit.sdk.test_sdk_values import VALUES, cycle, deep

from torpor.sdk.arguments import digest, identity, is_data, key_of, preview
from torpor.sdk.values import pack, unpack


class Plain:
    def __init__(self, holds: Any = None) -> None:
        self.id = uuid4()
        self.lock = threading.Lock()
        self.holds = holds

    def __repr__(self) -> str:
        raise AssertionError("nobody takes an object's repr")


@dataclass
class Order:
    number: int
    secret: str = "sk-123"
    parts: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        raise AssertionError("nobody takes an object's repr")


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Declared(Plain):
    def __torpor_key__(self) -> Any:
        return self.holds


class Colour(enum.Enum):
    RED = 1
    ODD = Plain


@given(VALUES)
def test_digests_of_equal_arguments_are_equal(value: Any) -> None:
    assert digest(value) == digest(unpack(pack(value)))
    assert len(digest(value)) == 32


def test_digests_ignore_where_objects_are_and_how_sets_are_ordered() -> None:
    assert digest(Plain()) == digest(Plain())
    assert digest({"b", "a", "c"}) == digest({"c", "b", "a"})
    assert digest({1: "a", "b": 2}) == digest({1: "a", "b": 2})
    assert digest({(1,): {"b", "a", "c"}}) == digest({(1,): {"c", "b", "a"}})
    assert digest("\ud800") != digest("\ud801")
    assert digest(1) != digest("1")


DATA: list[Any] = [
    *(None, True, 1, 1.5, "text", b"bytes", bytearray(b"b"), 2j, Decimal("1.20"), Fraction(1, 3)),
    *(date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), timedelta(2), UUID(int=3), Path("/a")),
    *(Colour.RED, range(3), ip_address("::1"), int, len),
    *({1, "a"}, frozenset("a"), (1, 2), deque("a")),
    *({"a": [(1, {2})]}, {1: 2, "b": 3}, {(1, 2): Decimal(1)}, MappingProxyType({"a": 1})),
]


def test_data_counts_by_value_in_whatever_it_is() -> None:
    for value in DATA:
        assert is_data(value)
        for inside in (value, [value], {"a": (value,)}, {(1,): [value]}):
            assert identity(inside).hint == ""
            assert digest(inside) != digest(other(inside))
    assert len({digest(value) for value in DATA}) == len(DATA)


def other(value: Any) -> Any:
    return ["more", value] if not isinstance(value, dict) else value | {"more": 1}


def test_digests_of_data_are_those_of_old_logs() -> None:
    """As they were made when everything but JSON counted by its repr."""
    assert digest((1, "a"), {}) == "1caab8733f2a090f38f95f041d46d068"
    stdlib = (Path("/a"), UUID(int=3), date(2026, 1, 2))
    assert digest(stdlib, {"x": {1, 2}}) == "d5db4941216fc2afa36272a566e6519b"
    assert digest(({(1, 2): Decimal(1)},), {}) == "aa3c66b26e31bfbe8817e6f36a8cfee8"


@pytest.mark.parametrize(
    "inside", [lambda o: o, lambda o: [o], lambda o: {"k": (o,)}, lambda o: {(1,): {o}}]
)
def test_objects_count_by_their_type(inside: Any) -> None:
    one, other = identity(inside(Plain(1))), identity(inside(Plain(1)))
    assert one.digest == other.digest != digest(inside(threading))
    assert not is_data(inside(Plain()))
    assert digest(1, inside(Plain())) != digest(2, inside(Plain()))


def test_hints_tell_objects_apart_by_what_they_hold() -> None:
    def hints(*values: Any) -> set[str]:
        assert len({identity(value).digest for value in values}) == 1
        return {identity(value).hint for value in values}

    assert len(hints(Order(1), Order(2), Order(1, "other"), Order(1, parts=[Order(2)]))) == 4
    assert hints(Order(1, parts=[{1}, b"x"])) == hints(Order(1, parts=[{1}, b"x"]))
    assert len(hints(Slotted(1), Slotted(2))) == 2
    assert len(hints(array("l", [1, 2]), array("l", [2, 1]))) == 2
    assert len(hints(slice(1), slice(2))) == 2  # nothing of it can be seen, but pickled
    assert len(hints([Order(1), Order(2)], [Order(2), Order(1)])) == 2
    locks = hints(threading.Lock(), threading.Lock())
    assert len(locks) == 1


def test_hints_are_made_in_a_bounded_time() -> None:
    first = order = Order(0)
    for number in range(100_000):
        order.parts.append(Order(number))
        if number % 1000 == 0:
            order = order.parts[-1]
    first.parts.append(first)
    assert len(identity(first).hint) == 16


def test_what_an_object_says_that_it_is_counts() -> None:
    assert digest(Declared({"id": 1})) == digest(Declared({"id": 1})) != digest(Declared({"id": 2}))
    assert digest([{1: Declared(1)}]) != digest([{1: Declared(2)}])
    assert preview((Declared(7),), {})["args"] == [{"$type": f"{__name__}.Declared", "key": 7}]
    with pytest.raises(RuntimeError, match="must return data"):
        digest(Declared(Plain()))


def pay(order: Order, amount: int = 1, *rest: int, **more: int) -> None: ...


@pytest.mark.parametrize(
    ("key", "args", "kwargs", "found"),
    [
        ("order.number", (Order(3),), {}, [3]),
        ("order.number, amount", (Order(3),), {"amount": 5}, [3, 5]),
        ("order.number, amount", ({"number": 4},), {}, [4, 1]),
        ("more", (Order(3),), {"x": 1}, [{"x": 1}]),
        (lambda order, *_: order.number, (Order(3), 2), {}, 3),
    ],
)
def test_a_key_is_a_function_or_parameters_by_name(
    key: Any, args: Any, kwargs: Any, found: Any
) -> None:
    assert key_of(pay, key)(args, kwargs) == found


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter 'ordr'"):
        key_of(pay, "ordr.number")
    with pytest.raises(TypeError, match=r"key must be data, not .*Order"):
        key_of(pay, lambda order: order)((Order(1),), {})


def test_a_preview_shows_data_and_of_objects_the_type() -> None:
    shown = preview((1, Order(2), {"deps": [Plain()]}, b"x" * 5000), {"at": date(2026, 1, 2)})
    assert shown == {
        "args": [
            1,
            {"$type": f"{__name__}.Order"},
            {"deps": [{"$type": f"{__name__}.Plain"}]},
            {"$type": "builtins.bytes", "bytes": 5000},
        ],
        "kwargs": {"at": "datetime.date(2026, 1, 2)"},
    }


def test_a_preview_is_small_and_sendable_whatever_the_arguments_are() -> None:
    assert preview((1, Plain()), {"x": {2}})["args"][0] == 1
    assert "omitted" in preview(("x" * 100_000,), {})
    assert "omitted" in preview((float("nan"),), {})
    json.dumps(preview(("\ud800",), {}), ensure_ascii=False).encode("utf-8", "surrogatepass")
    for value in (cycle(), deep()):
        assert preview((value,), {}) == {"omitted": "arguments that are not JSON"}
        assert len(digest(value)) == 32
