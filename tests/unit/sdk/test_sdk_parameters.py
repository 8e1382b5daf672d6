"""Inputs follow annotations: the schema that is told of them, and the values that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.policy import inputs
from torpor.sdk import values
from torpor.sdk.agents import Agent
from torpor.sdk.parameters import Kinds, Misfit


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Line:
    """What is ordered."""

    sku: str
    count: int = 1
    colours: list[Colour] = field(default_factory=list)
    made_of: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("a line has at least one")


class Place(TypedDict):
    street: str
    zip: NotRequired[int]


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Order(pydantic.BaseModel):
    total: Decimal
    due: date
    lines: list[Line] = []


UserId = NewType("UserId", int)
MOMENT = datetime(2026, 11, 27, 8, 30, tzinfo=UTC)

# annotation, JSON, the value it becomes
FITS: list[tuple[Any, Any, Any]] = [
    (bool, False, False),
    (int, 5, 5),
    (int, 5.0, 5),
    (float, 5, 5.0),
    (str, "5", "5"),
    (bytes, {"$bytes": "eA=="}, b"x"),
    (None, None, None),
    (Optional[int], None, None),  # noqa: UP045
    (int | str, "5", "5"),
    (float | int, 5, 5),
    (date | str, "2026-11-27", date(2026, 11, 27)),
    (date | str, "tomorrow", "tomorrow"),
    (Literal["a", 1, None], 1, 1),
    (Colour, "red", Colour.RED),
    (Level, 2, Level.HIGH),
    (date, "2026-11-27", date(2026, 11, 27)),
    (datetime, "2026-11-27T08:30:00+00:00", MOMENT),
    (datetime, "2026-11-27T08:30:00Z", MOMENT),
    (time, "08:30:00", time(8, 30)),
    (timedelta, "P1DT90S", timedelta(days=1, seconds=90)),
    (timedelta, "90s", timedelta(seconds=90)),
    (timedelta, 1.5, timedelta(seconds=1.5)),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, 1.1, Decimal("1.1")),
    (UUID, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
    (Path, "a/b", Path("a/b")),
    (list[date], ["2026-11-27"], [date(2026, 11, 27)]),
    (Sequence[int], [1], [1]),
    (list, [1, "a"], [1, "a"]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (set[Colour], ["red"], {Colour.RED}),
    (frozenset[int], [1], frozenset({1})),
    (dict[str, date], {"a": "2026-11-27"}, {"a": date(2026, 11, 27)}),
    (Mapping[int, str], {"1": "a"}, {1: "a"}),
    (dict[date, Level], {"2026-11-27": 1}, {date(2026, 11, 27): Level.LOW}),
    (dict[Colour, int], {"red": 1}, {Colour.RED: 1}),
    (Line, {"sku": "a", "colours": ["red"]}, Line("a", 1, [Colour.RED])),
    (Line, {"sku": "a", "made_of": [{"sku": "b"}]}, Line("a", made_of=[Line("b")])),
    (Place, {"street": "x"}, {"street": "x"}),
    (Point, [1, 2.5], Point(1.0, 2.5)),
    (Point, [1], Point(1.0)),
    (
        Order,
        {"total": "2.50", "due": "2026-11-27"},
        Order(total=Decimal("2.50"), due=MOMENT.date()),
    ),
    (list[Order], [], []),
    (Annotated[int, pydantic.Field(gt=0)], 3, 3),
    (Annotated[int, "how many"], 3, 3),
    (UserId, 3, 3),
    (Any, {"a": [1]}, {"a": [1]}),
    (object, 1, 1),
    ("Nowhere", 1, 1),
]
# annotation, JSON, what is said
MISFITS: list[tuple[Any, Any, str]] = [
    (int, "abc", '"abc" is not a whole number'),
    (int, True, "true is not a whole number"),
    (int, 1.5, "1.5 is not a whole number"),
    (bool, "False", '"False" is not true or false'),
    (bool, 0, "0 is not true or false"),
    (str, 5, "5 is not text"),
    (float, "1", '"1" is not a number'),
    (float, 10**400, "too large"),
    (bytes, "eA==", '"eA==" is not {"$bytes": base64}'),
    (None, 0, "0 is not null"),
    (int | None, "x", '"x" is not a whole number and "x" is not null'),
    (Literal["a"], "b", '"b" is not one of "a"'),
    (Colour, "green", '"green" is not one of "red", "blue"'),
    (date, "27.11.2026", '"27.11.2026" is not a date'),
    (datetime, "soon", "is not a date and time"),
    (timedelta, "P", "is not a duration"),
    (Decimal, "1,5", "is not a decimal number"),
    (UUID, "1", "is not a UUID"),
    (list[int], ["a"], '[0]: "a" is not a whole number'),
    (list[int], {}, "{} is not a list"),
    (tuple[int, str], [1], "has 1 items; 2 are asked for"),
    (dict[int, str], {"a": "b"}, 'a: "a" is not a whole number'),
    (set[list[int]], [[1]], "unhashable"),
    (Line, {}, "sku: is required"),
    (Line, {"sku": "a", "skew": 1}, "skew: is unknown"),
    (Line, {"sku": "a", "count": 0}, "a line has at least one"),
    (list[Line], [{"sku": "a", "made_of": [{"sku": 1}]}], "[0].made_of[0].sku: 1 is not text"),
    (Place, {"street": "x", "zip": "y"}, 'zip: "y" is not a whole number'),
    (Order, {"total": "x", "due": "2026-11-27"}, "total: "),
    (Annotated[int, pydantic.Field(gt=0)], 0, "greater than 0"),
]


@pytest.mark.parametrize(("annotation", "given", "wanted"), FITS, ids=lambda each: str(each)[:30])
def test_what_fits_becomes_a_value_of_the_type(annotation: Any, given: Any, wanted: Any) -> None:
    kinds = Kinds()
    kind = kinds.of(annotation)
    made = kind.read(given)
    assert (made, type(made)) == (wanted, type(wanted))
    host_takes(kind.schema, kinds.defs, given)
    # What it is written as can be an input again.
    again = values.pack(made)
    host_takes(kind.schema, kinds.defs, again)
    assert kind.read(again) == wanted


def host_takes(schema: Any, defs: Any, value: Any) -> None:
    agent = {"name": "a", "params": [{"name": "x", "required": True}], "open": False}
    whole = {"properties": {"x": schema}, "$defs": defs}
    assert inputs.usable({**agent, "schema": whole})["schema"] is whole
    inputs.check_input({**agent, "schema": whole}, {"x": value})


@pytest.mark.parametrize(("annotation", "given", "says"), MISFITS, ids=lambda each: str(each)[:30])
def test_what_does_not_fit_is_said(annotation: Any, given: Any, says: str) -> None:
    with pytest.raises(Misfit) as caught:
        Kinds().of(annotation).read(given)
    assert says in str(caught.value)


@given(
    st.timedeltas(), st.datetimes(timezones=st.none() | st.just(UTC)), st.decimals(allow_nan=False)
)
def test_times_and_decimals_are_exact(span: timedelta, moment: datetime, number: Decimal) -> None:
    kinds = Kinds()
    for value in (span, moment, moment.date(), moment.time(), number):
        assert kinds.of(type(value)).read(values.pack(value)) == value


async def buy(
    order: Order,
    line: Line,
    where: Place = {"street": "x"},  # noqa: B006
    at: date = None,  # type: ignore[assignment]  # noqa: RUF013
    dry_run: bool = True,
    how: Literal["fast", "cheap"] = "fast",
    anything: Nowhere = Path(),  # type: ignore[name-defined]  # noqa: F821
    **more: int,
) -> None:
    """Buy something."""


def test_an_agent_describes_its_input() -> None:
    described = Agent("buy", buy).describe()
    schema = described["schema"]
    assert (schema["title"], schema["description"]) == ("buy", "Buy something.")
    assert schema["required"] == ["order", "line"]
    assert schema["additionalProperties"] == {"type": "integer"}
    assert schema["properties"]["dry_run"] == {"type": "boolean", "default": True}
    assert schema["properties"]["at"]["anyOf"][0] == {"type": "string", "format": "date"}
    assert schema["properties"]["anything"] == {"default": "."}
    assert schema["$defs"]["Line"]["description"] == "What is ordered."
    assert inputs.usable(described) is described
    assert json.loads(json.dumps(described)) == described


def test_the_host_and_the_agent_refuse_the_same() -> None:
    agent = Agent("buy", buy)
    described = agent.describe()
    fine = {"order": {"total": "1", "due": "2026-11-27"}, "line": {"sku": "a"}}
    for wrong, at in (
        ({**fine, "dry_run": "False"}, "dry_run"),
        ({**fine, "how": "slow"}, "how"),
        ({**fine, "line": {"sku": "a", "made_of": [{"sku": 5}]}}, "line.made_of[0].sku"),
        ({**fine, "order": {"total": "x" * 5, "due": "soon"}}, "order.due"),
        ({**fine, "extra": "x"}, "extra"),
        ({"line": {"sku": "a"}}, "order"),
    ):
        for refuse in (lambda g: inputs.check_input(described, g), agent.bind):
            with pytest.raises(Invalid, match="the input does not fit agent buy") as caught:
                refuse(wrong)
            said = [str(part).partition(":")[0] for part in caught.value.parts]
            assert at in said
            assert "dry_run? (true or false)" in caught.value.hint
    inputs.check_input(described, fine)
    agent.bind(fine)


def test_arguments_are_of_their_types() -> None:
    got: dict[str, Any] = {}

    def take(day: date, line: Line, /, *, levels: tuple[Level, ...] = (), **rest: Decimal) -> None:
        got.update(day=day, line=line, levels=levels, **rest)

    Agent("take", take).bind(
        {"day": "2026-11-27", "line": {"sku": "a"}, "levels": [1], "tax": "0.19"}
    )()
    assert got == {
        "day": date(2026, 11, 27),
        "line": Line("a"),
        "levels": (Level.LOW,),
        "tax": Decimal("0.19"),
    }


def test_a_schema_that_cannot_be_checked_leaves_the_rest() -> None:
    described = Agent("buy", buy).describe()
    bad = {"type": "object", "patternProperties": {"a": {}}}
    schema = described["schema"]
    found = inputs.usable(
        {**described, "schema": {**schema, "properties": {**schema["properties"], "at": bad}}}
    )
    assert found["schema"]["properties"]["at"] == {}
    assert found["schema"]["properties"]["dry_run"]["type"] == "boolean"


def test_two_types_of_one_name_are_two() -> None:
    def of(kind: Any) -> Any:
        return pydantic.create_model("Same", n=(kind, ...))

    kinds = Kinds()
    first, second = kinds.of(of(int)), kinds.of(list[of(str)])  # type: ignore[misc]
    assert first.read({"n": 1}).n == 1
    assert second.read([{"n": "a"}])[0].n == "a"
