"""Which snapshots and templates are kept.

| the agent says     | of an unfinished run            | of a finished run   |
| ------------------ | ------------------------------- | ------------------- |
| nothing            | the newest 2                    | none                |
| `keep = "last N"`  | the newest N                    | the newest N        |
| `keep = "7d"`      | the newest 2, all younger       | all younger         |
| `keep = "all"`     | all                             | all                 |

Two: the newest, and one to fall back on should that be damaged. Pinned ones are kept always.
A run that could lose its newest snapshot would be set back, so N is at least 1.

A template is kept while an unfinished run may have to go back to it, while its agent's version
is the one of its file that was used last, and for a while after any use: who has just deployed
is about to start a run. A base, upon which templates are made, is kept for some days after the
last of them, and only the few that were used last: it is there to be quicker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torpor.core.ids import AgentVersion, SnapshotId
from torpor.core.keep import Keep

UNFINISHED_LAST, FINISHED_LAST = 2, 0
TEMPLATE_UNUSED_S = 3600.0
BASES_MAX = 12
BASE_UNUSED_S = 7 * 86400.0


@dataclass(frozen=True)
class Taken:
    """A snapshot of a run. Times are unix seconds."""

    id: SnapshotId
    taken_at: float
    pinned: bool


@dataclass(frozen=True)
class Deployed:
    """An agent's version that has a template. `used_at`: last deployed, or a run started."""

    version: AgentVersion
    entry: str
    used_at: float
    unfinished: int  # runs


def reclaimable(
    newest_first: Sequence[Taken], keep: Keep, *, finished: bool, now: float
) -> list[SnapshotId]:
    """Those of one run's snapshots that are not kept any more."""
    default = FINISHED_LAST if finished else UNFINISHED_LAST
    last = default if keep.last is None else keep.last
    return [
        snapshot.id
        for place, snapshot in enumerate(newest_first)
        if place >= last and now - snapshot.taken_at >= keep.for_s and not snapshot.pinned
    ]


def templates_kept(deployed: Sequence[Deployed], *, now: float) -> dict[AgentVersion, str]:
    """The versions whose templates are kept, and why."""
    newest = {each.entry: each.version for each in sorted(deployed, key=lambda d: d.used_at)}
    kept = {}
    for each in deployed:
        if each.unfinished:
            runs = "run" if each.unfinished == 1 else "runs"
            kept[each.version] = f"{each.unfinished} unfinished {runs}"
        elif newest[each.entry] == each.version:
            kept[each.version] = f"the version of {each.entry} used last"
        elif now - each.used_at < TEMPLATE_UNUSED_S:
            kept[each.version] = "used lately"
    return kept


def bases_kept(used_at: Mapping[str, float], *, now: float) -> list[str]:
    """The keys of the bases that are kept, of those that were used last at these times."""
    newest = sorted(used_at, key=lambda key: used_at[key], reverse=True)[:BASES_MAX]
    return [key for key in newest if now - used_at[key] < BASE_UNUSED_S]
