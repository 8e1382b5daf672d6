"""What the figures of `torpor bench egress` say, and that all but machines and peer runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from torpor.bench import egress, mitm, origin
from torpor.bench.egressbars import (
    DIRECT,
    LOGGED,
    MITM,
    TORPOR,
    Crowd,
    FromMachine,
    Measured,
    Way,
    figures,
)
from torpor.project.reading import read_agent

MIB = 1 << 20
GOOD = Measured(
    small={
        DIRECT: Way([1.0] * 100),
        TORPOR: Way([2.0] * 90 + [9.0] * 10, [0.5, 0.7, 1.2]),
        LOGGED: Way([3.0] * 100, [0.5]),
        MITM: Way([5.0] * 100, [3.0]),
    },
    fresh_ms={DIRECT: [3.0], TORPOR: [5.0]},
    first_ms=[0.5, 9.0],
    crowd=Crowd(100, 250, 300, 30 * MIB, 0, 90 * MIB, 3.0, 6.0),
    machine=FromMachine([20.0] * 99 + [90.0], [60.0], [4.0, 9.0]),
)


def test_what_meets_every_bar() -> None:
    assert [each.key for each in figures(GOOD) if each.met is False] == []
    assert sum(each.met is True for each in figures(GOOD)) == 7


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("cpu_ms", replace(GOOD, small={**GOOD.small, TORPOR: Way([2.0], [1.1])})),
        ("added_p50_ms", replace(GOOD, small={**GOOD.small, TORPOR: Way([2.6], [0.5])})),
        ("first_max_ms", replace(GOOD, first_ms=[0.5, 11.0])),
        ("crowd_lost", replace(GOOD, crowd=replace(GOOD.crowd, lost=1))),
        ("crowd_bytes", replace(GOOD, crowd=replace(GOOD.crowd, broker_bytes=150 * MIB))),
        ("machine_p50_ms", replace(GOOD, machine=FromMachine([26.0], [60.0], [4.0]))),
        ("first_logged_ms", replace(GOOD, machine=FromMachine([20.0], [60.0], [11.0]))),
    ],
)
def test_each_bar_can_be_missed_alone(key: str, bad: Measured) -> None:
    assert [each.key for each in figures(bad) if each.met is False] == [key]


def test_without_machines_and_without_the_peer() -> None:
    small = {name: way for name, way in GOOD.small.items() if name != MITM}
    bare = figures(replace(GOOD, small=small, machine=None))
    assert not any("machine" in each.key or MITM in each.peers for each in bare)


def test_the_agent_is_shipped_and_readable() -> None:
    assert read_agent(egress.AGENT).dependencies == ()


def test_what_came_is_whole_or_not() -> None:
    head, last = origin.event("0 "), origin.event("0" * 64)
    assert not origin.is_whole(head + last) and not origin.is_whole(b"")


def test_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORPOR_HOME", str(tmp_path))
    monkeypatch.setattr(mitm, "find", lambda: mitm.Peer(about="none in tests"))
    sizes = egress.Sizes(requests=10, guests=3, machine_requests=0)
    assert egress.main(sizes, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peer"] == "none in tests"
    assert found["figures"]["crowd_lost"]["value"] == 0
    assert {each.key for each in figures(replace(GOOD, machine=None))} == set(found["figures"])
