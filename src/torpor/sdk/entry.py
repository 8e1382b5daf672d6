"""Importing the agent's file, as Python would have it run where its author is.

One file that stands alone is imported as `python FILE` runs it: under its own name, its directory
first on the path. A project is installed (`torpor.core.layout`), and a file in one of its packages
is imported as `python -m package.file` runs it, by its whole name, so that `from . import` works.
What the agent starts finds the same modules and programs.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import site
import sys
from collections.abc import Sequence
from pathlib import Path

from torpor.core import layout
from torpor.core.layout import SITE
from torpor.sdk import compiled


class NotImported(Exception):
    """Why the file was not imported, where it is not the file's own exception."""


def find_modules(app: Path, entry: str, deps: Sequence[str]) -> list[Path]:
    """Have Python find what the agent may import: beside its file `entry` in the directory `app`,
    in its project, in the directories `deps`. The first two of them, in their order."""
    # As in a virtual environment: behind the standard library (there are packages with names out
    # of it), and with .pth files. In a machine the image has every Python find them.
    for directory in deps:
        if directory not in sys.path:
            site.addsitedir(directory)
            _append("PYTHONPATH", directory)
    roots, path = [app], app / entry
    if (app / SITE).is_dir():
        roots = layout.roots(app)
        sys.path.append(str(app / SITE))
        # Of what it starts: this process has them in another order.
        os.environ.update(layout.installed(app, os.environ))
    if path.parent in roots:
        roots = [path.parent, *(root for root in roots if root != path.parent)]
    elif module_name(path, roots) is None:
        roots = [path.parent, *roots]
    else:  # as a script it would find what is beside it: that comes last
        sys.path.append(str(path.parent))
    sys.path[:0] = map(str, roots)
    return roots


def forget_modules(app: str) -> None:
    """Have Python find no more what is below `app`: the agent's files are to be elsewhere."""

    def is_below(path: str) -> bool:
        return path == app or path.startswith(os.path.join(app, ""))  # noqa: PTH118

    sys.path[:] = [each for each in sys.path if not is_below(each)]
    for each in filter(is_below, list(sys.path_importer_cache)):
        del sys.path_importer_cache[each]
    for variable in ("PYTHONPATH", "PATH"):
        if variable in os.environ:
            paths = os.environ[variable].split(os.pathsep)
            os.environ[variable] = os.pathsep.join(p for p in paths if not is_below(p))


def module_name(path: Path, roots: Sequence[Path]) -> str | None:
    """The whole name of a file that is in a package; None for any other, be it one of a directory
    that would do as a package, but is not used as one."""
    for root in roots:
        if not path.is_relative_to(root):
            continue
        parts = path.relative_to(root).with_suffix("").parts
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            is_package = (path.parent / "__init__.py").is_file()
            return ".".join(parts) if is_package or _imports_relatively(path) else None
    return None


def import_entry(app: Path, entry: str, roots: Sequence[Path]) -> None:
    """Raises what the file raises, or NotImported."""
    path = app / entry
    dotted = module_name(path, roots)
    name = dotted or path.stem
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "torpor" or name in sys.modules:
        what = entry if dotted is None else f"the package {top!r} of {entry}"
        raise NotImported(f"{what} hides the module {top!r} that Python or torpor needs: rename it")
    if dotted is None:
        if path.suffix != ".py":
            raise NotImported(f"{entry} is not a Python file: its name must end with .py")
        loader = compiled.Loader(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loader.exec_module(module)
        return
    module = importlib.import_module(dotted)
    if module.__file__ is None or not os.path.samefile(module.__file__, path):  # noqa: PTH121
        raise NotImported(
            f"{dotted} is {module.__file__}, and not {entry}: there are two packages {top!r}, "
            "rename one"
        )


def _imports_relatively(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # importing it says what is wrong
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _append(variable: str, directory: str) -> None:
    os.environ[variable] = os.pathsep.join((os.environ[variable], directory))
