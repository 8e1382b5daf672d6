"""`python -m torpor.image [--home DIR]`: build the guest image and print where it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.image.build import ensure_image


def _print(stage: str, message: str, fraction: float | None) -> None:
    percent = "" if fraction is None else f" ({fraction:.0%})"
    print(f"{stage}: {message}{percent}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torpor.image", description=__doc__)
    parser.add_argument("--home", type=Path, help="data directory; default: $TORPOR_HOME")
    arguments = parser.parse_args()
    home = Home(arguments.home.absolute()) if arguments.home else Home.find()
    try:
        image = ensure_image(home.create(), _print)
    except TorporError as error:
        print(error.message, error.hint, sep="\n", file=sys.stderr)
        return 1
    print(image.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
