"""A step's result is of the type that its return annotation names, at once and in a replay."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pydantic
import pytest

import torpor
from torpor.testing import run


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    sku: str
    due: date
    raw: bytes = b""
    extra: Any = None
    label: str = field(init=False)

    def __post_init__(self) -> None:
        self.label = self.sku.upper()


class Item(pydantic.BaseModel):
    price: Decimal = pydantic.Field(alias="unitPrice")


def result(body: Callable[[], Any], annotation: Any) -> Any:
    """What an agent gets of a step of that annotation: the first time, and replayed."""

    def fn() -> Any:
        return body()

    fn.__annotations__["return"] = annotation
    given: list[Any] = []

    @torpor.agent
    def agent() -> None:
        given.append(torpor.step(fn)())

    run(agent).replay()
    first, again = given
    assert (again, type(again)) == (first, type(first))
    return first


ORDER = Order("tea", date(2026, 11, 28), b"\xff", [b"\xfe", 1])


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (ORDER, Order),
        (ORDER, "Order"),
        (ORDER, Order | None),
        ([ORDER], list[Order]),
        ({"a": ORDER}, dict[str, Order]),
        (Item(unitPrice=Decimal("1.50")), Item),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        ({1: "a"}, dict[int, str]),
        (Point(1, 2), Point),
        (Colour.RED, Colour),
        (date(2026, 1, 2), date),
        (timedelta(hours=1), timedelta),
        (Decimal("1.10"), Decimal),
        (UUID(int=7), UUID),
        (Path("a/b"), Path),
        (b"\xff", bytes),
        ([b"\xff"], list[bytes]),
        ("red", Literal["red"]),
        (5, float),
    ],
)
def test_it_comes_back_as_it_was(value: Any, annotation: Any) -> None:
    got = result(lambda: value, annotation)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "annotation", "given"),
    [
        ((1, 2), Any, [1, 2]),
        ((1, 2), "Unknown", [1, 2]),  # imported for type checkers only
        (None, Order, None),
        ({"sku": "tea"}, Order, {"sku": "tea"}),  # what the body returned
        ({"price": "x"}, Item, {"price": "x"}),
        ((1, 2), list[int], [1, 2]),
        ({1: (2,)}, typing.Dict, {"1": [2]}),  # noqa: UP006
    ],
)
def test_what_does_not_fit_is_as_json_gives_it_back(
    value: Any, annotation: Any, given: Any
) -> None:
    assert result(lambda: value, annotation) == given


def test_each_gets_one_of_its_own_also_where_it_is_async_or_large() -> None:
    @torpor.step
    async def orders(number: int) -> list[Order]:
        return [Order("tea" * 100_000, date(2026, 11, 28))] * number

    orders.__wrapped__.__annotations__["return"] = list[Order]  # type: ignore[attr-defined]

    @torpor.agent
    async def agent() -> list[Any]:
        found = await orders(6)
        return [len(found), len(found[5].label), found[0] is found[1]]

    outcome = run(agent)
    assert outcome.result == [6, 300_000, False]
    outcome.replay_all()
