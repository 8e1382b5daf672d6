"""`python -m torpor.pager --home DIR`: serve a data directory's snapshots."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from torpor.core.home import Home
from torpor.core.memory import PAGER_FRAMES_BYTES, keep_small
from torpor.pager import server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torpor.pager", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the data directory")
    parser.add_argument(
        "--cache-mib",
        type=int,
        default=PAGER_FRAMES_BYTES >> 20,
        help="bound of the cache of frames (default: %(default)s)",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    keep_small()
    return server.run(Home(options.home.resolve()), cache_bytes=options.cache_mib << 20)


if __name__ == "__main__":
    sys.exit(main())
