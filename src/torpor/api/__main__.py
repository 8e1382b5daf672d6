"""`python -m torpor.api --home DIR`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torpor.api.server import main
from torpor.core.home import Home

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m torpor.api", description="The torpor server.")
    parser.add_argument("--home", type=Path, required=True, help="the data directory")
    sys.exit(main(Home(parser.parse_args().home.absolute())))
