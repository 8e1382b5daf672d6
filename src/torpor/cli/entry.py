"""What runs first of the command `torpor`. Loading the rest takes long enough for somebody to
change their mind: Ctrl-C in that time ends it as quietly as later. The version, which scripts ask
for, needs none of the rest."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        from torpor import __version__

        print(f"torpor {__version__}")
        return
    try:
        from torpor.cli.main import app
    except KeyboardInterrupt:
        from torpor.cli.exits import Exit

        raise SystemExit(Exit.INTERRUPTED) from None
    app()
