"""Which files an agent's own imports name, read from its syntax.

Python looks for a module beside the file that is run, so that is where it is looked for here. What
is there is a neighbour, wherever it is imported: at the top, in a function, in a `try`. What is not
there is a dependency, or the standard library's. Modules that are imported by a name which is only
known at run time cannot be found like this: `include` names them.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torpor.core.errors import Invalid
from torpor.project.tree import is_never_taken

# The standard library's names are never a neighbour's, nor is torpor's own.
_NOT_LOCAL = sys.stdlib_module_names | {"torpor"}
_COMPILED = ("so", "pyd")


@dataclass(frozen=True)
class Found:
    """A module's file, or a package's directory."""

    path: Path
    is_package: bool


def parse(body: bytes, where: str) -> ast.Module:
    """Raises Invalid."""
    try:
        return ast.parse(body, filename=where)
    except (RecursionError, MemoryError) as error:
        raise Invalid(f"{where}: nested too deeply to be Python") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        text = (getattr(error, "text", None) or "").rstrip()
        shown = f"\n    {text.strip()}" if text else ""
        raise Invalid(
            f"{where}{f', line {line}' if line else ''}: {getattr(error, 'msg', error)}{shown}",
            hint="The file is not valid Python; nothing was started.",
        ) from error


def is_in_package(file: Path) -> bool:
    return (file.parent / "__init__.py").is_file()


def package_root(file: Path) -> Path:
    """The directory that its outermost package is in."""
    at = file.parent
    while (at / "__init__.py").is_file() and at != at.parent:
        at = at.parent
    return at


def has_relative_imports(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def neighbours(
    file: Path, bases: Sequence[Path], root: Path, *, whole_packages: bool
) -> Iterator[Found]:
    """What `file` imports and what that imports in turn, each once: of what is in one of the
    directories `bases`, which Python would search, and below `root`. With `whole_packages` that
    counts as imported, too, which any file of a package that is imported names.

    Raises Invalid for a file that is imported by name and is not Python, named by its path below
    `root`; other files of a package may be anything."""
    seen = {file}
    to_read = [(file, True)]
    while to_read:
        at, by_name = to_read.pop()
        for found in _named(at, bases, root, by_name=by_name):
            if found.path in seen:
                continue
            seen.add(found.path)
            yield found
            if not found.is_package:
                to_read += [(found.path, True)] if found.path.suffix == ".py" else []
            elif whole_packages:
                to_read[:0] = ((path, False) for path in _python_files(found.path))


def _python_files(package: Path) -> Iterator[Path]:
    for directory, inner, files in os.walk(package):
        at = Path(directory)
        inner[:] = sorted(name for name in inner if not is_never_taken(at, name))
        yield from (at / name for name in sorted(files) if name.endswith(".py"))


def _named(file: Path, bases: Sequence[Path], root: Path, *, by_name: bool) -> Iterator[Found]:
    where = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    try:
        body = file.read_bytes()
    except OSError as error:
        raise Invalid(f"{where} cannot be read: {error.strerror}") from error
    try:
        tree = parse(body, where)
    except Invalid:
        if by_name:
            raise
        return
    for level, module, names in _imports(tree):
        if level:
            directory = file.parents[level - 1] if level <= len(file.parents) else file.parent
            searched = [directory] if directory.is_relative_to(root) else []
        elif module and module[0] in _NOT_LOCAL:
            continue
        else:
            searched = list(bases)
        for base in searched:
            found = [each for name in names for each in _resolve(base, [*module, *name])]
            yield from found
            if found:
                break


def _imports(tree: ast.Module) -> Iterator[tuple[int, list[str], list[list[str]]]]:
    """Level, module, and what of it: a name, or nothing but the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name.split("."), [[]]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            yield node.level, module, [[], *([alias.name] for alias in node.names)]


def _resolve(base: Path, parts: list[str]) -> Iterator[Found]:
    """What is imported on the way to a module: packages, their first lines, itself."""
    at = base
    within = False  # a package
    for part in parts:
        directory, module = at / part, at / f"{part}.py"
        if (directory / "__init__.py").is_file():
            if not within:
                yield Found(directory, True)
            yield Found(directory / "__init__.py", False)
            within, at = True, directory
            continue
        if module.is_file():
            yield Found(module, False)
        elif part.isidentifier() and (
            compiled := [path for end in _COMPILED for path in at.glob(f"{part}.*{end}")]
        ):
            yield from (Found(path, False) for path in sorted(compiled))
        elif directory.is_dir():  # perhaps a namespace, of which only what is named is taken
            at = directory
            continue
        return
