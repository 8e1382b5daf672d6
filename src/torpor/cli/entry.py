"""What runs first of the command `torpor`. Loading the rest takes long enough for somebody to
change their mind: Ctrl-C in that time ends it as quietly as later."""

from __future__ import annotations

INTERRUPTED = 130


def main() -> None:
    try:
        from torpor.cli.main import app
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    app()
