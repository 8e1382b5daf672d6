"""An agent's dependencies: for machines as a layer, a read-only file system that they see at
/opt/deps; for plain processes as a directory of modules.

uv resolves and unpacks them for the guest's Python and platform, whatever the host's. Only
wheels are taken: building a source distribution would run a stranger's code on the host. A
layer is named by the requirements as written and the guest's Python; what they resolved to
the first time stays, and stands in deps.json beside it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from torpor.core.errors import Invalid, Missing
from torpor.core.home import Home
from torpor.image import recipe
from torpor.image.build import Progress
from torpor.image.bytecode import compile_tree
from torpor.image.intact import damage, digests
from torpor.image.publish import Workspace, build_once
from torpor.image.tools import ProgramFailed, require, run

_LINES_FIRST, _LINES_LAST = 4, 8
# Counts changes in what a layer is made of.
_LAYOUT = 2


@dataclass(frozen=True)
class Target:
    """Which Python, where, dependencies are for."""

    python: str
    platform: str | None  # as uv calls it; None: this host
    shown: str
    path: str  # of Python there


GUEST = Target(recipe.PYTHON_VERSION, recipe.UV_PLATFORM, "Linux x86-64", recipe.PYTHON_PATH)
HOST_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_HOST = Target(HOST_PYTHON, None, "this host", sys.executable)


def check_python(requires: str, version: str, whose: str) -> None:
    """Refuse a `requires-python` that Python `version` does not satisfy. "" is none. `whose` says
    who has it: "machines have"."""
    try:
        accepted = SpecifierSet(requires)
    except InvalidSpecifier as error:
        raise Invalid(
            f"requires-python = {requires!r} is not a version specifier",
            hint='For example: requires-python = ">=3.11"',
        ) from error
    # The highest patch release: ">=3.11.4" must not fail for a number that Debian, which
    # backports fixes, does not raise.
    if not accepted.contains(f"{version}.99"):
        raise Invalid(
            f"the agent requires Python {requires}; {whose} Python {version}",
            hint=f"Change requires-python so that it accepts {version}.",
        )


def layer_digest(dependencies: Sequence[str]) -> str:
    """The name of the layer for these requirements, in any order."""
    facts = [_LAYOUT, sorted(dependencies), recipe.PYTHON_VERSION, recipe.UV_PLATFORM]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def ensure_modules(
    home: Home, dependencies: tuple[str, ...], progress: Progress = lambda *_: None
) -> Path | None:
    """The directory of modules for this host's Python, installed if need be; None if there are no
    dependencies. Blocks. Raises as `ensure_deps` does."""
    if not dependencies:
        return None
    for requirement in dependencies:
        _check(requirement)
    facts = [sorted(dependencies), HOST_PYTHON, sys.platform, platform.machine()]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def make(workspace: Workspace) -> Path:
        packages = workspace.directory / "packages"
        packages.mkdir()
        progress("deps", f"installing {', '.join(dependencies)}", None)
        install(dependencies, packages, _HOST, lock_fd=workspace.lock_fd)
        return packages

    return build_once(
        home.modules / digest,
        make,
        waiting=lambda: progress("deps", "waiting for another process that installs", None),
    )


def ensure_deps(
    home: Home, dependencies: tuple[str, ...], progress: Progress = lambda *_: None
) -> Path | None:
    """The layer's file, installed if need be; None if there are no dependencies.

    Blocks. Raises Invalid when a requirement is wrong or nothing satisfies them, Missing when
    the host lacks uv or mkfs.erofs, Exhausted when the disk is full.
    """
    if not dependencies:
        return None
    for requirement in dependencies:
        _check(requirement)
    layer = home.deps / layer_digest(dependencies)
    build_once(
        layer,
        lambda workspace: _make_layer(workspace, layer, dependencies, progress),
        waiting=lambda: progress("deps", "waiting for another process that installs", None),
        damage=layer_damage,
        damaged=lambda why: progress("deps", f"dependencies are installed anew: {why}", None),
    )
    return layer / "deps.erofs"


def deps_are_here(home: Home, dependencies: tuple[str, ...]) -> bool:
    """Whether the layer's file is; not whether it is whole."""
    return not dependencies or (home.deps / layer_digest(dependencies) / "deps.erofs").is_file()


def may_import_torpor(layer: Path) -> bool:
    """Whether any of the packages in a layer, whose file this is, has to do with torpor."""
    facts = json.loads((layer.parent / "deps.json").read_text())
    return bool(facts.get("torpor", True))


def layer_damage(directory: Path) -> str:
    """What is wrong with a layer's files, "" if nothing is."""
    return damage(directory, "deps.json")


def _check(requirement: str) -> None:
    try:
        Requirement(requirement)
    except InvalidRequirement as error:
        raise Invalid(
            f"dependency {requirement!r} is not a requirement: {error}",
            hint='Write it as for pip, for example "httpx>=0.27".',
        ) from error


def uv() -> list[str]:
    """What runs uv, wherever it is called. Raises Missing."""
    if find_spec("uv") is not None:
        return [sys.executable, "-P", "-m", "uv"]  # not the uv.py of a current directory
    if (found := shutil.which("uv")) is not None:
        return [found]
    raise Missing(
        "Python packages are wanted, and uv, which installs them, is not on this host",
        hint="Install it: pip install uv, or see https://docs.astral.sh/uv/",
    )


def _make_layer(
    workspace: Workspace, damaged: Path, dependencies: Sequence[str], progress: Progress
) -> Path:
    require("mkfs.erofs")
    packages = workspace.directory / "packages"
    packages.mkdir()
    progress("deps", f"installing {', '.join(dependencies)}", None)
    install(
        dependencies,
        packages,
        GUEST,
        versions=_versions(damaged),
        lock_fd=workspace.lock_fd,
    )
    progress("deps", "compiling and packing", None)
    compile_tree(packages, recipe.DEPS_DIRECTORY)

    layer = workspace.directory / "layer"
    layer.mkdir()
    pack = ["mkfs.erofs", "--quiet", f"-T{recipe.EPOCH_S}", f"-U{recipe.UUID}", "-x-1"]
    pack += ["-Enoinline_data", "--all-root", str(layer / "deps.erofs"), str(packages)]
    run(pack, lock_fd=workspace.lock_fd)
    facts = {
        "content": digests(layer, list(layer.iterdir())),
        "requirements": sorted(dependencies),
        "torpor": any(b"torpor" in path.read_bytes() for path in packages.rglob("*.py")),
        "python": recipe.PYTHON_VERSION,
        "packages": {
            found.name: found.version
            for found in importlib.metadata.distributions(path=[str(packages)])
        },
    }
    (layer / "deps.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    return layer


def _versions(damaged: Path) -> dict[str, str]:
    """What a layer that is replaced had: snapshots may hold pages of its files."""
    try:
        packages: dict[str, str] = json.loads((damaged / "deps.json").read_text())["packages"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return packages


def install(
    dependencies: Sequence[str],
    directory: Path,
    target: Target,
    *,
    versions: Mapping[str, str] | None = None,
    lock_fd: int | None = None,
) -> None:
    """Resolve and unpack them in the empty `directory`, in these `versions` where it says so.

    Raises Invalid, Missing, Exhausted."""
    command = [*uv(), "pip", "install", "--no-progress", "--color", "never"]
    command += ["--target", str(directory), "--python", sys.executable, "--link-mode", "copy"]
    command += ["--python-version", target.python]
    command += [] if target.platform is None else ["--python-platform", target.platform]
    command += ["--only-binary", ":all:"]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="torpor-versions-", suffix=".txt") as pins:
            pins.writelines(f"{name}=={version}\n" for name, version in (versions or {}).items())
            pins.flush()
            command += ["--constraint", pins.name, "--", *dependencies]
            # Elsewhere than the caller's directory, whose pyproject.toml is none of the agent's.
            run(command, lock_fd=lock_fd, cwd=directory)
    except ProgramFailed as error:
        raise Invalid(
            f"the dependencies {', '.join(dependencies)} cannot be installed:\n"
            + essential_lines(error.output),
            hint=(
                f"They must exist as wheels for Python {target.python} on "
                f"{target.shown}. Nothing is built on the host, because that would "
                "run the package's code there."
            ),
        ) from error
    for script in (directory / "bin").glob("*"):
        _point_to(script, target.path)


def _point_to(script: Path, python: str) -> None:
    """Have a console script begin with the Python that it is for: uv wrote the one it ran with."""
    with script.open("rb") as file:
        if file.read(2) != b"#!":
            return
    body = script.read_bytes()
    script.write_bytes(body.replace(sys.executable.encode(), python.encode(), 1))


def essential_lines(output: str) -> str:
    """What uv said from its first complaint on, without the drawing around it, a dozen lines.

    The conclusion and the hints stand at the end, so what is too much goes from the middle.
    """
    lines = output.splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith(("error", "  ×"))), 0)
    plain = [text for line in lines[first:] if (text := line.strip(" ×╰─▶│├"))]
    if len(plain) > _LINES_FIRST + _LINES_LAST:
        plain = [*plain[:_LINES_FIRST], "…", *plain[-_LINES_LAST:]]
    return "\n".join(plain)
