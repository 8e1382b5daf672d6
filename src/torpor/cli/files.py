"""The files of a run as `show` lists them: what it published, what was kept, what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from torpor.terminal.screen import table
from torpor.web import words

Object = dict[str, Any]

SHOWN_MAX = 20
_MOVES = ("run.started", "run.resumed", "run.recovered", "run.suspended")
# How runs ended of which nothing was kept, by the types of their errors.
_CUT_OFF = {
    **dict.fromkeys(("AgentExited", "OutOfMemory"), "its process did not come to its end"),
    "MachineLost": "its machine was lost",
    "Divergence": "it diverged from its log",
}


def listed(artifacts: Sequence[Object], now: float) -> RenderableType:
    """The newest of each name."""
    newest = {(each["kept"], each["name"]): each for each in reversed(artifacts)}
    shown = list(newest.values())[::-1]
    rows = [
        (words.line(each["name"]), words.size(each["bytes"]), words.ago(each["at"], now), _of(each))
        for each in shown[:SHOWN_MAX]
    ]
    more = f"and {len(shown) - SHOWN_MAX:,} more; " if len(shown) > SHOWN_MAX else ""
    how = Text(f"{more}torpor cp RUN:FILE . fetches one", "dim")
    return Group(table(("FILE", "SIZE", "WHEN", ""), rows), how)


def _of(artifact: Object) -> str:
    described = [f"version {artifact['version']}"] if artifact["version"] > 1 else []
    return ", ".join([*described, *(["kept at the end"] if artifact["kept"] else [])])


def not_kept(run: Object, entries: Sequence[Object]) -> str:
    """Why nothing was kept that a run had written and not published; empty if it was."""
    why = ""
    if run["state"] == "failed":
        why = _CUT_OFF.get(str((run["error"] or {}).get("type")), "")
    moves = [each["kind"] for each in entries if each["kind"] in _MOVES]
    if run["state"] == "cancelled" and moves[-1:] == ["run.suspended"]:
        why = "it was cancelled while it slept"
    return why and f"{why}: what it had written and not published was not kept"
