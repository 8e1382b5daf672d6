"""Runs that come of one another by forks: in order, and as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torpor.terminal.screen import state
from torpor.web import words

if TYPE_CHECKING:
    from rich.tree import Tree

Object = dict[str, Any]


def origin(run: Object) -> str:
    """How a fork was made, on one line."""
    fork_facts = run["forked"]
    parts = [f"{fork_facts['how']} of {run['origin']} at {run['origin_seq']}"]
    if fork_facts["retried"]:
        parts.append(f"tries again {words.line(', '.join(fork_facts['retried']))}")
    if fork_facts["set"]:
        parts.append(f"sets {words.line(', '.join(fork_facts['set']))}")
    return ", ".join(parts)


def tree(run: Object) -> Tree:
    """The family of a run, which is marked in it."""
    from rich.text import Text
    from rich.tree import Tree

    drawn: dict[str, Tree] = {}
    for member in run["family"]:
        name = Text(member["id"], "bold" if member["id"] == run["id"] else "")
        place = "" if member["origin"] is None else f"  from {member['origin_seq']}"
        text = Text.assemble(name, (place, "dim"), "  ", state(member["state"]))
        above = drawn.get(member["origin"] or "")
        drawn[member["id"]] = Tree(text, guide_style="dim") if above is None else above.add(text)
    return next(iter(drawn.values()))


def in_order(found: Sequence[Object]) -> list[tuple[int, Object]]:
    """Runs as they were given, but each fork below its origin where that is among them; with how
    deep it is."""
    known = {run["id"] for run in found}
    below: dict[str | None, list[Object]] = {}
    for run in found:
        below.setdefault(run["origin"] if run["origin"] in known else None, []).append(run)
    ordered = []
    waiting = [(0, run) for run in reversed(below.get(None, []))]
    while waiting:
        depth, run = waiting.pop()
        ordered.append((depth, run))
        waiting += [(depth + 1, fork) for fork in reversed(below.get(run["id"], []))]
    return ordered
