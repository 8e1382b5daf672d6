"""Which modules an agent imports first, read without running any of it.

A machine in which they are imported already can be shared by all versions of an agent that begin
alike (`torpor.worker.bases`). So this must be exactly what the agent itself would do, in its
order: the imports among the *leading* statements of its entry, up to the first statement that might
have an effect. Besides imports only these have none: docstrings and other constants, `pass`,
functions and classes without decorators, bases or anything else to evaluate, literals given to
names, and what stands under `if TYPE_CHECKING`. A module of the agent's own is read in its place;
where its leading statements end before it does, all ends.

When in doubt it ends earlier: what is not imported ahead is imported by the agent itself.
"""

from __future__ import annotations

import ast
import contextlib
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from torpor.core.layout import PATHS, SITE

IMPORTS_MAX = 1000
_MODULES = frozenset({".py", ".pyc", ".so"})
# Names that Python itself reads. Giving others to a module changes nothing for what it imports.
_HARMLESS = frozenset({"__all__", "__author__", "__copyright__", "__license__", "__version__"})


class Import(NamedTuple):
    """`import module`, or `from module import names`."""

    module: str
    names: tuple[str, ...] = ()


class _End(Exception):
    """A statement that might have an effect."""


@dataclass
class _Module:
    """One of the agent's own, while it is read."""

    package: tuple[str, ...]  # what a relative import is relative to
    is_package: bool = False
    bound: set[str] = field(default_factory=set)  # its names so far
    checking: set[str] = field(default_factory=set)  # of these, typing's TYPE_CHECKING
    lazy: bool = False  # its annotations are not evaluated

    def bind(self, name: str) -> None:
        self.bound.add(name)
        self.checking.discard(name)


def leading_imports(files: Mapping[str, bytes], entry: str) -> list[Import]:
    """What is imported from outside of `files`, the agent's own, before anything else happens."""
    reader = _Reader(files, entry)
    with contextlib.suppress(_End):
        reader.read_entry()
    return reader.found[:IMPORTS_MAX]


def imports_relatively(body: bytes) -> bool:
    """Whether a file can only be imported as part of a package."""
    try:
        tree = ast.parse(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


class _Reader:
    def __init__(self, files: Mapping[str, bytes], entry: str) -> None:
        self.found: list[Import] = []
        self._files = files
        self._entry = PurePosixPath(entry)
        self._parts: tuple[str, ...] = ()  # of the entry's whole name, if it is in a package
        self._roots = self._find_roots()
        # Whatever might be meant by a module's first name, wherever it is looked for.
        paths = [path for path in map(PurePosixPath, files) if path.suffix in _MODULES]
        self._own = {part for path in paths for part in path.parts[:-1]}
        self._own |= {path.name.partition(".")[0] for path in paths}
        self._modules: dict[PurePosixPath, _Module] = {}

    def _find_roots(self) -> list[PurePosixPath]:
        """Where modules are looked for, as `torpor.sdk.entry.find_modules` has it."""
        roots = [PurePosixPath()]
        if installed := self._files.get(PATHS):
            lines = installed.decode().splitlines()
            roots = [PurePosixPath(posixpath.normpath(f"{SITE}/{line}")) for line in lines if line]
        parent = self._entry.parent
        if parent in roots:
            return [parent, *(root for root in roots if root != parent)]
        for root in roots:
            if self._entry.is_relative_to(root):
                parts = self._entry.relative_to(root).with_suffix("").parts
                body = self._files.get(str(self._entry), b"")
                in_package = str(parent / "__init__.py") in self._files or imports_relatively(body)
                if len(parts) > 1 and all(part.isidentifier() for part in parts) and in_package:
                    # What is beside it is found, too, but last of all, after dependencies: what is
                    # only there is not found here, and ends it.
                    self._parts = parts
                    return roots
        return [parent, *roots]

    def read_entry(self) -> None:
        if not self._parts:
            self.read(self._entry, _Module(()))
            return
        self._import_own(".".join(self._parts))
        if self._entry not in self._modules:
            raise _End  # another is found by its name

    def read(self, path: PurePosixPath, module: _Module) -> _Module:
        """All statements of a module, once; _End at the first that might have an effect."""
        if path in self._modules:
            return self._modules[path]
        self._modules[path] = module
        try:
            tree = ast.parse(self._files[str(path)])
        except (KeyError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise _End from error
        self._statements(tree.body, module)
        return module

    def _statements(self, body: Sequence[ast.stmt], module: _Module) -> None:
        for statement in body:
            match statement:
                case ast.Import(names):
                    for alias in names:
                        self._import(alias.name, ())
                        module.bind(alias.asname or alias.name.partition(".")[0])
                case ast.ImportFrom():
                    self._import_from(statement, module)
                case ast.If(test=ast.Name(id=name), orelse=otherwise) if name in module.checking:
                    self._statements(otherwise, module)
                case ast.FunctionDef(name=name) if name.startswith("__"):
                    raise _End  # __getattr__, for one, is called by an import
                case _:
                    if not _is_idle(statement, module):
                        raise _End

    def _import_from(self, statement: ast.ImportFrom, module: _Module) -> None:
        names = {alias.asname or alias.name: alias.name for alias in statement.names}
        if statement.module == "__future__" and not statement.level:
            module.lazy |= "annotations" in names
            return
        if statement.level > len(module.package):
            raise _End
        parts = module.package[: len(module.package) - statement.level + 1]
        base = ".".join(parts) if statement.level else ""
        imported = ".".join(filter(None, (base, statement.module)))
        self._import(imported, tuple(names.values()))
        for name in names:
            module.bind(name)
        if imported == "typing":
            module.checking |= {name for name in names if names[name] == "TYPE_CHECKING"}

    def _import(self, name: str, names: tuple[str, ...]) -> None:
        first = name.partition(".")[0]
        if first not in self._own:
            self.found.append(Import(name, names))
            return
        if first in sys.stdlib_module_names or "*" in names:
            raise _End  # its origin, or what it brings, cannot be known
        module = self._import_own(name)
        for each in names:
            if each not in module.bound:
                if not module.is_package:
                    raise _End
                self._import_own(f"{name}.{each}")

    def _import_own(self, name: str) -> _Module:
        """A module of the agent's own, and first the packages that it is in."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path, is_package = self._find(parts[:end])
            package = tuple(parts[: end if is_package else end - 1])
            module = self.read(path, _Module(package, is_package))
        return module

    def _find(self, parts: Sequence[str]) -> tuple[PurePosixPath, bool]:
        """The file of a module, and whether that is a package."""
        for root in self._roots:
            below = root.joinpath(*parts)
            for path in (below / "__init__.py", below.parent / f"{below.name}.py"):
                if str(path) in self._files:
                    return path, path.name == "__init__.py"
        raise _End


def _is_idle(statement: ast.stmt, module: _Module) -> bool:
    """Whether running it does nothing but to give names values that were there."""
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            module.bind(statement.name)
            return not statement.decorator_list and all(
                map(_is_plain, _evaluated(statement, module))
            )
        case ast.ClassDef():
            module.bind(statement.name)
            evaluated = (*statement.bases, *statement.keywords, *statement.decorator_list)
            return not evaluated and all(_is_idle(each, module) for each in statement.body)
        case ast.Assign(targets, value):
            return all(_may_be_given(each, module) for each in targets) and _is_literal(value)
        case ast.AnnAssign(target, annotation, value):
            return (
                _may_be_given(target, module)
                and (module.lazy or _is_plain(annotation))
                and (value is None or _is_literal(value))
            )
    return False


def _evaluated(
    function: ast.FunctionDef | ast.AsyncFunctionDef, module: _Module
) -> Iterator[ast.expr]:
    """What is evaluated when a function is defined."""
    given = function.args
    yield from given.defaults
    yield from (each for each in given.kw_defaults if each is not None)
    if not module.lazy:
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        yield from (each.annotation for each in named if each is not None and each.annotation)
        if function.returns is not None:
            yield function.returns


def _is_plain(value: ast.expr) -> bool:
    """A constant or a name; `X | None` of those may call something of X's class."""
    return isinstance(value, ast.Constant | ast.Name)


def _may_be_given(target: ast.expr, module: _Module) -> bool:
    if not isinstance(target, ast.Name):
        return False
    module.bind(target.id)
    return not (target.id.startswith("__") and target.id not in _HARMLESS)


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
