"""Positions of old versions are read for ever. `position-0.json` is a snapshot's `detail` as torpor
recorded it before positions had versions: of an agent that was handed over in a step's body."""

from __future__ import annotations

import json
from pathlib import Path

from torpor.core.ids import OpId
from torpor.core.position import Position, StreamPosition

HERE = Path(__file__).parent
STREAMS = {1: StreamPosition(7), 2: StreamPosition(0, after=0)}
PAGES = {"changed": 2, "plain": 2, "stored_bytes": 432}


def test_version_0() -> None:
    position = Position.of_json(json.loads((HERE / "position-0.json").read_text()))
    assert position == Position(
        unanswered=frozenset({OpId("wait:q#1")}),
        waiting=1,
        busy=1,
        at_work=True,
        streams=STREAMS,
        pages=dict.fromkeys(("zero", "same", "dup", "image", "xor", "moved"), 0) | PAGES,
    )


def test_version_1() -> None:
    text = (HERE / "position-1.json").read_text()
    position = Position.of_json(json.loads(text))
    assert position == Position(
        unanswered=frozenset({OpId("model:m#1"), OpId("wait:q#1")}),
        waiting=2,
        patient=True,
        streams={1: StreamPosition(70, "ü".encode()[:1]), 2: StreamPosition(0, after=12)},
        printed={OpId("step:a#1"): {"stdout": 7, "stderr": 0}},
        pages={"changed": 2},
    )
    assert json.dumps(position.to_json(), indent=1) + "\n" == text  # written so today
