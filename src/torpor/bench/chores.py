# /// script
# requires-python = ">=3.11"
# ///
"""What `torpor bench snapshots` freezes: an agent that gets a chore, does it, and waits.

Each answer names a chore and how much of it; all change memory and files as agents do.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import torpor

MODULES = (
    *("csv", "decimal", "difflib", "fractions", "html.parser"),
    *("sqlite3", "statistics", "tomllib", "xml.etree.ElementTree", "zipfile"),
)
MIB = 1 << 20

# What the agent holds in memory while it sleeps.
notes: list[str] = []
ballast: list[str] = []


@torpor.step
def note(number: int) -> str:
    """A small step: a line in memory, a line in a file."""
    notes.append(f"note {number}: {'all is well. ' * (number % 7 + 1)}")
    with Path("notes.txt").open("a") as file:
        file.write(notes[-1] + "\n")
    return notes[-1]


@torpor.step
def study(name: str) -> int:
    """A larger one: import a module, and write down what it offers."""
    offered = dir(importlib.import_module(name))
    Path(f"{name}.txt").write_text("\n".join(f"{name}.{each}" for each in offered) + "\n")
    return len(offered)


@torpor.step
def fill(mib: int) -> int:
    """Change so much memory: hexadecimal text, of which no compressor saves more than half."""
    ballast.clear()
    ballast.extend(os.urandom(MIB // 2).hex() for _ in range(mib))
    return len(ballast)


def studies(count: int) -> None:
    for name in MODULES[:count]:
        study(name)


def checkpoints(count: int) -> None:
    """A snapshot after each of so many small steps."""
    for number in range(count):
        note(number)
        torpor.checkpoint()


CHORES: dict[str, Callable[[int], object]] = {
    "note": note,
    "study": studies,
    "fill": fill,
    "checkpoints": checkpoints,
}


@torpor.agent
def chores(study: int = 0) -> dict[str, object]:
    """Do chores until told to stop; study before the first sleep, so much."""
    Path("notes.txt").touch()
    studies(study)
    while (answer := torpor.waitpoint("chore").result().data)["chore"] != "stop":
        CHORES[answer["chore"]](answer["count"])
    kept = Path("notes.txt").read_text().splitlines()
    return {"notes": len(notes), "intact": kept == notes}
