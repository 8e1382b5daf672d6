"""What the figures of `torpor bench journal` say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torpor.bench.journalbars import DBOS, SQLITE, STEPS, Ledger, Measured, figures

GOOD = Measured(
    steps=STEPS,
    steps_per_s=1500.0,
    raw_per_s=3000.0,
    machine_steps=1000,
    machine_steps_per_s=200.0,
    machine_tail_ms=20.0,
    append_us={100: 50.0, 100_000: 52.0},
    appends=400,
    recovery_ms=[300.0, 400.0],
    wake_ms=[5.0] * 99 + [24.0],
    overshoot_ms=[5.0] * 100,
    message_bytes=1_000_000,
    stored_bytes=1_400_000,
    messages=1000,
    ledger=Ledger(kills=200, steps=4000, lost=0, unmarked=0, again=90, beside=4),
    peer_steps=2000,
    peer_steps_per_s=300.0,
    peer_recovery_ms=9000.0,
)


def test_what_meets_every_bar() -> None:
    assert [each.key for each in figures(GOOD) if each.met is not True] == []


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("steps_per_s", replace(GOOD, steps_per_s=999.0, peer_steps_per_s=100.0)),
        ("steps_over_dbos", replace(GOOD, peer_steps_per_s=501.0)),
        ("machine_steps_per_s", replace(GOOD, machine_steps_per_s=149.0)),
        ("append_growth", replace(GOOD, append_us={100: 50.0, 100_000: 56.0})),
        ("recovery_ms", replace(GOOD, recovery_ms=[100.0, 501.0])),
        ("machine_tail_ms", replace(GOOD, machine_tail_ms=51.0)),
        ("wake_p99_ms", replace(GOOD, wake_ms=[26.0] * 100)),
        ("overshoot_p99_ms", replace(GOOD, overshoot_ms=[31.0] * 100)),
        ("stored_ratio", replace(GOOD, stored_bytes=1_600_000)),
        ("ledger_lost", replace(GOOD, ledger=replace(GOOD.ledger, lost=1))),
        ("ledger_unmarked", replace(GOOD, ledger=replace(GOOD.ledger, unmarked=1))),
        ("ledger_again", replace(GOOD, ledger=replace(GOOD.ledger, again=801))),
    ],
)
def test_each_bar_can_be_missed_alone(key: str, bad: Measured) -> None:
    assert [each.key for each in figures(bad) if each.met is not True] == [key]


def test_what_is_not_here_is_left_out() -> None:
    bare = replace(
        GOOD,
        machine_steps_per_s=None,
        machine_tail_ms=None,
        peer_steps_per_s=None,
        peer_recovery_ms=None,
    )
    keys = {each.key for each in figures(bare)}
    assert not keys & {"machine_steps_per_s", "machine_tail_ms", "steps_over_dbos"}
    (rate,) = [each for each in figures(bare) if each.key == "steps_per_s"]
    assert set(rate.peers) == {SQLITE}
    (rate,) = [each for each in figures(GOOD) if each.key == "steps_per_s"]
    assert set(rate.peers) == {SQLITE, DBOS}
    assert rate.distance == 2.0
