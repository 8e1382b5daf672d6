"""`scripts/frameworks.py`: frameworks, unmodified, against kill -9.

For each framework an agent pays, asks a person, asleep, and pays again. Agent, server or broker is
killed before, in and after each model call and each tool, and while it sleeps. Each model call must
be paid for once, each effect happen once. The model is a fake of OpenAI's API that counts; what is
counted and where is struck: `tests/frameworks`.

    scripts/frameworks.py                   each as plain processes, one run a victim
    scripts/frameworks.py --each            one run for each kill
    scripts/frameworks.py --engine qemu     machines; the heavy frameworks only with --heavy
    scripts/frameworks.py openai crewai --victim server --place "in pay 5"
    scripts/frameworks.py --first           nobody is killed: how long first calls take
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from tests.frameworks.blows import PLACES, VICTIMS, Blow, faults, possible, sweep
from tests.frameworks.first_calls import FILES, measure
from tests.frameworks.matrix import FRAMEWORKS, matrix_of

from torpor.core.errors import TorporError

COLUMNS = ("framework", "killed", "payments a call", "bodies an effect", "slept", "right", "s")
FIRST_RUNS = 3
console = Console(highlight=False)


def plans(args: argparse.Namespace) -> list[tuple[str, list[Blow]]]:
    """What each framework's runs are called, and their blows."""
    found: list[tuple[str, list[Blow]]] = [("nobody", [])] if args.place is None else []
    for victim in args.victim or VICTIMS:
        if args.each or args.place is not None:
            places = [place for place in PLACES if args.place in (None, str(place))]
            each = filter(possible, (Blow(victim, place) for place in places))
            found += [(str(blow), [blow]) for blow in each]
        else:
            blows = sweep(victim, args.engine)
            found.append((f"{victim}, {len(blows)} times", blows))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", nargs="*", help=", ".join(FRAMEWORKS))
    parser.add_argument("--engine", choices=("process", "qemu"), default="process")
    parser.add_argument("--victim", action="append", choices=VICTIMS)
    parser.add_argument("--place", help=", ".join(map(str, PLACES)))
    parser.add_argument("--each", action="store_true", help="one run for each kill")
    parser.add_argument("--heavy", action="store_true", help="machines: the heavy ones, too")
    parser.add_argument("--first", action="store_true", help="how long first model calls take")
    args = parser.parse_args(arguments)
    known = FILES if args.first else FRAMEWORKS
    if unknown := set(args.framework) - known.keys():
        parser.error(f"no framework {', '.join(unknown)}; there are {', '.join(known)}")
    if args.first:
        return first_calls(args.framework or list(FILES))
    if args.place is not None and args.place not in map(str, PLACES):
        parser.error(f"no place {args.place!r}; there are {', '.join(map(str, PLACES))}")
    names = args.framework or [
        name
        for name, framework in FRAMEWORKS.items()
        if args.engine == "process" or args.heavy or not framework.heavy
    ]
    table = Table(
        "framework", "killed", "payments a call", "bodies an effect", "slept", "right", "s"
    )
    failed = 0
    with matrix_of(args.engine) as matrix:
        for name in names:
            for shown, blows in plans(args):
                began = time.monotonic()
                try:
                    outcome = matrix.run(FRAMEWORKS[name], blows)
                except TorporError as error:  # it cannot be installed or imported, for example
                    failed += 1
                    console.print(f"{FRAMEWORKS[name].title} | {shown} | {error}", style="red")
                    continue
                wrong = faults(blows, outcome)
                failed += bool(wrong)
                row = (
                    FRAMEWORKS[name].title,
                    shown,
                    " ".join(map(str, outcome.payments.values())),
                    " ".join(map(str, outcome.effects.values())),
                    "yes" if outcome.slept else "no",
                    "; ".join(wrong) or "yes",
                    f"{time.monotonic() - began:.0f}",
                )
                table.add_row(*row)
                console.print(" | ".join(row))
    console.print(table)
    return 1 if failed else 0


def first_calls(names: Sequence[str]) -> int:
    table = Table("framework", "", "first call, s", "second, s")
    for each in measure(names, FIRST_RUNS):
        row = (each.framework, each.way, f"{each.first_s:.2f}", f"{each.second_s:.2f}")
        table.add_row(*row)
        console.print(" | ".join(row))
    console.print(table)
    console.print(f"Medians of {FIRST_RUNS} runs each.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
