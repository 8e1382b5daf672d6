"""The table of what is kept, row by row, and what holds for any run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.core.ids import AgentVersion, SnapshotId
from torpor.core.keep import Keep, parse_keep
from torpor.policy.retention import (
    BASES_MAX,
    Deployed,
    Taken,
    bases_kept,
    reclaimable,
    templates_kept,
)

DAY_S = 86400.0
NOW = 1000 * DAY_S


def taken(*days_ago: float, pinned: tuple[int, ...] = ()) -> list[Taken]:
    """Newest first; ids are their places."""
    return [
        Taken(SnapshotId(str(n)), NOW - days * DAY_S, n in pinned)
        for n, days in enumerate(days_ago)
    ]


@pytest.mark.parametrize(
    ("keep", "unfinished", "finished"),
    [
        ("", "234", "01234"),
        ("last 1", "1234", "1234"),
        ("last 3", "34", "34"),
        ("last 9", "", ""),
        ("7d", "34", "34"),
        ("1h", "234", "01234"),
        ("all", "", ""),
    ],
)
def test_the_table(keep: str, unfinished: str, finished: str) -> None:
    snapshots = taken(0.5, 1, 6, 8, 30)
    rule = parse_keep(keep, "keep")
    assert "".join(reclaimable(snapshots, rule, finished=False, now=NOW)) == unfinished
    assert "".join(reclaimable(snapshots, rule, finished=True, now=NOW)) == finished


def test_pinned_ones_are_kept_and_count_as_the_newest() -> None:
    snapshots = taken(1, 2, 3, 4, pinned=(0, 3))
    assert reclaimable(snapshots, Keep(), finished=True, now=NOW) == ["1", "2"]
    assert reclaimable(snapshots, Keep(), finished=False, now=NOW) == ["2"]


rules = st.builds(Keep, st.none() | st.integers(1, 5), st.sampled_from([0.0, DAY_S, math.inf]))
ages = st.lists(st.floats(0, 10), max_size=8).map(sorted)


@given(ages, rules, st.sets(st.integers(0, 7)), st.booleans())
def test_of_any_run(days: list[float], keep: Keep, pins: set[int], finished: bool) -> None:
    snapshots = taken(*days, pinned=tuple(pins))
    gone = set(reclaimable(snapshots, keep, finished=finished, now=NOW))
    assert not gone & {each.id for each in snapshots if each.pinned}
    if snapshots and not finished:
        assert snapshots[0].id not in gone, "a run never loses its newest"
    # Ending and growing older only ever let more go; what went does not come back.
    assert gone <= set(reclaimable(snapshots, keep, finished=True, now=NOW + DAY_S))


@pytest.mark.parametrize(
    "text", ["last", "last 0", "last -1", "last 1000000", "7", "7 d", "0d", "7w", "ALL", "none"]
)
def test_any_other_rule_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"agent.py: keep: .* not a time to keep") as refused:
        parse_keep(text, "agent.py: keep")
    assert "last 3" in refused.value.hint


def test_templates() -> None:
    def deployed(version: str, entry: str, hours: float, unfinished: int = 0) -> Deployed:
        return Deployed(AgentVersion(version), entry, NOW - hours * 3600, unfinished)

    kept = templates_kept(
        [
            deployed("a1", "a.py", 50),
            deployed("a2", "a.py", 40, unfinished=2),
            deployed("a3", "a.py", 30),
            deployed("a4", "a.py", 0.5),
            deployed("a5", "a.py", 0.2),
            deployed("b1", "b.py", 900),
        ],
        now=NOW,
    )
    assert kept == {
        "a2": "2 unfinished runs",
        "a4": "used lately",
        "a5": "the version of a.py used last",
        "b1": "the version of b.py used last",
    }


def test_bases_that_were_used_lately_are_kept_but_not_too_many() -> None:
    used_at = {f"b{n}": NOW - n * DAY_S for n in range(10)}
    assert bases_kept(used_at, now=NOW) == [f"b{n}" for n in range(7)]
    used_at = {f"b{n}": NOW - n for n in range(BASES_MAX + 5)}
    assert bases_kept(used_at, now=NOW) == [f"b{n}" for n in range(BASES_MAX)]
