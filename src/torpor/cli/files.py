"""The files of a run as `show` lists them: what it published, what was kept, what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from torpor.cli import words
from torpor.cli.screen import table

Object = dict[str, Any]

SHOWN_MAX = 20
_MOVES = ("run.started", "run.resumed", "run.recovered", "run.suspended")
# Errors of runs whose agents' processes did not come to their ends.
_CUT_OFF = ("AgentExited", "OutOfMemory", "MachineLost")


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
    told = [f"version {artifact['version']}"] if artifact["version"] > 1 else []
    return ", ".join([*told, *(["kept at the end"] if artifact["kept"] else [])])


def not_kept(run: Object, entries: Sequence[Object]) -> str:
    """Why nothing was kept that a run had written and not published; empty if it was."""
    if run["state"] == "failed" and (run["error"] or {}).get("type") in _CUT_OFF:
        return "its process did not come to its end: what it had not published was not kept"
    moves = [each["kind"] for each in entries if each["kind"] in _MOVES]
    if run["state"] == "cancelled" and moves[-1:] == ["run.suspended"]:
        return "it was cancelled while it slept: what it had not published was not kept"
    return ""
