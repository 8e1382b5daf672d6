"""What `scripts/release` does.

    scripts/release                   build dist/ and try it; a tagged commit is what its tag says
    scripts/release prepare VERSION   write the version and the changelog, to be read and committed

What is tried, and how, is tests/unit/test_wheel.py: here with the files that are to be published,
there on each run of the tests.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version
from uv import find_uv_bin

import torpor

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
TESTS = "tests/unit/test_wheel.py"
# Tells these tests which files to try.
TRIED = "TORPOR_TEST_DIST"
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
NOT_FRAGMENTS = ("README.md", "template.md.jinja")


class Refused(Exception):
    """There is no release as things are."""


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def build(target: Path) -> Built:
    """Wheel and sdist of this clone, each from its files as they are."""
    for kind in ("--sdist", "--wheel"):
        run(find_uv_bin(), "build", "--quiet", kind, "--out-dir", str(target), str(ROOT))
    return built(target)


def build_from(sdist: Path, target: Path) -> Path:
    """The wheel that `sdist` gives."""
    run(find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(target), str(sdist))
    (wheel,) = target.glob("*.whl")
    return wheel


def built(directory: Path) -> Built:
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return Built(wheel, sdist)


def disagreements(
    version: str, *, tags: Collection[str], changelog: str, fragments: Sequence[str], dirty: bool
) -> list[str]:
    """Why a commit with these tags is no release of `version`. Without tags it claims nothing."""
    if not tags:
        return []
    found = []
    if f"v{version}" not in tags:
        found.append(f"the commit's tag is {', '.join(sorted(tags))}, its version {version}")
    if not re.search(rf"^## {re.escape(version)}, \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no '## {version}, DATE'")
    if fragments:
        found.append(f"changelog.d still has {', '.join(fragments)}")
    if dirty:
        found.append("files are not as they were committed")
    return found


def fragments() -> list[str]:
    return sorted(p.name for p in (ROOT / "changelog.d").iterdir() if p.name not in NOT_FRAGMENTS)


def prepare(given: str) -> None:
    """Write the version and the changelog of a release. Raises Refused."""
    try:
        version = Version(given)
    except InvalidVersion as error:
        raise Refused(f"{given} is no version (PEP 440)") from error
    tagged = [Version(tag[1:]) for tag in git("tag", "--list", "v*").split()]
    if tagged and version <= max(tagged):
        raise Refused(f"{version} does not come after {max(tagged)}, which is tagged")
    file = Path(torpor.__file__)
    file.write_text(VERSION.sub(f'__version__ = "{version}"', file.read_text()))
    run(sys.executable, "-m", "towncrier", "build", "--yes", "--version", str(version))
    say(f"torpor {version}: read CHANGELOG.md, then")
    say(f"    git commit -am 'torpor {version}' && git tag -a v{version} -m 'torpor {version}'")
    say("    scripts/release")


def release() -> None:
    """Build what would be published, and try it. Raises Refused."""
    version = torpor.__version__
    tags = git("tag", "--points-at", "HEAD", "v*").split()
    if found := disagreements(
        version,
        tags=tags,
        changelog=(ROOT / "CHANGELOG.md").read_text(),
        fragments=fragments(),
        dirty=bool(git("status", "--porcelain")),
    ):
        raise Refused("\n".join(found))
    say(f"torpor {version}: building dist/")
    shutil.rmtree(DIST, ignore_errors=True)
    for each in build(DIST):
        say(f"    {each.relative_to(ROOT)}  {each.stat().st_size / 1e6:.1f} MB")
    say("installing it into an environment of its own, with pip alone, and trying it there")
    run(
        *(sys.executable, "-m", "pytest", "-v", "-rN", "--no-header", TESTS),
        **{TRIED: str(DIST)},
    )
    if tags:
        say(f"torpor {version} is ready: uv publish dist/*")
    else:
        say("All is well. It was a rehearsal: the commit has no tag (CONTRIBUTING.md, A release).")


def run(*command: str, **environment: str) -> None:
    """Raises Refused if it fails; what it said is on the terminal then."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment})
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)} failed with code {done.returncode}")


def git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="prepare")
    commands.add_parser("prepare").add_argument("version")
    try:
        given = vars(parser.parse_args()).get("version")
        release() if given is None else prepare(given)
    except Refused as error:
        print(f"scripts/release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
