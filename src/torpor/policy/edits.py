"""Which of an agent's steps a change of its files touches: read from the code, never run.

A result that is recorded is worth as much as the code that gave it. So a step is *touched* if its
function has changed, or anything of the agent's own files that it refers to, by name and however
far: functions, classes, constants, imports, what is around a nested function. Comments, formatting
and places are no change; docstrings are, since frameworks send them to models.

Names are looked for in all of the agent's files, whatever is imported from where, and an attribute
may be any method of that name. So a step may be taken for touched that is not, and is run once more
than needed; one that is touched is missed only where its code is found in no way by its name. What
a file does at its top without giving anything a name (a call, mostly) may change everything, and
touches all steps. What an agent depends on is not its own: a new version of a library touches none.

A file that is not Python touches the steps that name it: its name, a directory of its path, or its
suffix as in a pattern (`*.txt`) stands in a string that they refer to. If other code names it, or
the run's input, it may come to any step as an argument, and touches all of them.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeAlias

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.Lambda, ast.ClassDef)
_BINDING = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr, ast.withitem)
_LOOPS = (ast.For, ast.AsyncFor)
_IMPORTS = (ast.Import, ast.ImportFrom)
_WORD = re.compile(r"[^/\\\s]+")


class Edit:
    """Of an agent's files, from `old` to `new`, for a run with the input `given`. Reads them now:
    what is asked then takes no time."""

    def __init__(
        self, old: Mapping[str, bytes], new: Mapping[str, bytes], given: Mapping[str, Any]
    ) -> None:
        changed = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
        python = {path for path in changed if path.endswith(".py")}
        self._data = [_parts_of(path) for path in sorted(changed - python)]
        self._given = {json.dumps(given, ensure_ascii=False).replace('"', " ")}
        try:
            self._now = _Code(new)
            self._before = _Code(old) if python else self._now
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # of a Python unlike ours
            self._everything = True
            return
        now, before = self._now, self._before
        self._everything = now.loose != before.loose
        names = now.defined.keys() | before.defined.keys()
        self._differ = {name for name in names if now.texts(name) != before.texts(name)}

    def touched(self, steps: Iterable[str]) -> frozenset[str]:
        """Those of `steps`, or agents, by their names in the log, that it touches."""
        names = frozenset(steps)
        if self._everything:
            return names
        reached = {name: self._now.reach(name) for name in names}
        found = {name for name in names if reached[name].names & self._differ}
        if self._differ:
            found |= {name for name in names if not self._is_known(name)}
        for wanted in self._data:
            naming = {name for name in names if _names(reached[name].strings, wanted)}
            anybody = self._now.strings | self._before.strings | self._given
            if not naming and _names(anybody, wanted):
                return names
            found |= naming
        return frozenset(found)

    def _is_known(self, step: str) -> bool:
        """One that is not there any more is not asked for, which shows by itself."""
        return self._now.knows(step) or self._before.knows(step)


@dataclass(frozen=True)
class _Definition:
    """What a name stands for in one place: its code, without positions."""

    text: str
    mentions: frozenset[str]
    strings: frozenset[str]


@dataclass
class _Reached:
    names: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)


class _Code:
    """The agent's own code, by the names it defines. Raises SyntaxError, ValueError,
    RecursionError, MemoryError."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.defined: dict[str, list[_Definition]] = {}
        self.loose: Counter[str] = Counter()  # statements that name nothing
        self.strings: set[str] = set()
        self._called: dict[str, set[str]] = {}  # what is given a name= → what it is
        self._attributes: set[str] = set()
        for path, body in files.items():
            if path.endswith(".py"):
                self._read(ast.parse(body))

    def texts(self, name: str) -> Counter[str]:
        return Counter(each.text for each in self.defined.get(name, ()))

    def knows(self, step: str) -> bool:
        """Whether there is code of a step of this name, be it a library's, which is named as an
        attribute; and not a lambda, or what is named at run time."""
        return bool(self._begin(step)) or _own_name(step) in self._attributes

    def reach(self, step: str) -> _Reached:
        """All that a step of this name refers to."""
        reached, left = _Reached(), list(self._begin(step))
        while left:
            name = left.pop()
            if name in reached.names:
                continue
            reached.names.add(name)
            for each in self.defined.get(name, ()):
                reached.strings |= each.strings
                left += each.mentions - reached.names
        return reached

    def _begin(self, step: str) -> set[str]:
        names = {*self._called.get(step, ()), _own_name(step)}
        return names & self.defined.keys()

    def _read(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            match node:
                case ast.Attribute():
                    self._attributes.add(node.attr)
                case ast.Constant(value=str(text)):
                    self.strings.add(text)
                case ast.Call(func=ast.Call() as named) if _last(named) == "step":
                    self._name(named, _mentions(node))
                case ast.Call(func=called) if _last(called) == "step":
                    self._name(node, _mentions(node))
        for statement in tree.body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        """One of a file or of a class."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, ())
                return
            case ast.ClassDef():
                self._add(node.name, [node])
                for each in node.body:
                    self._statement(each)
                return
            case ast.Import() | ast.ImportFrom():
                self._import(node)
                return
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return
            case ast.If() if _is_main(node.test):
                return
        bound = _bound_at_top(node)
        for name in bound:
            self._add(name, [node])
        if not bound:
            self.loose[_text(node)] += 1
        for inner in _own_functions(node):
            self._function(inner, ())

    def _function(self, node: _Function, around: tuple[_Function, ...]) -> None:
        """A function; nested, with what it takes of those `around` it."""
        free = _mentions(node)
        taken = [piece for outer in around for piece in _binding(outer, free)]
        self._add(node.name, [node, *taken])
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call):
                self._name(decorator, {node.name})
        for inner in _own_functions(node):
            self._function(inner, (*around, node))
        for each in ast.walk(node):
            if isinstance(each, _IMPORTS):
                self._import(each)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        level = node.level if isinstance(node, ast.ImportFrom) else 0
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            text = f"import {level} {source} {alias.name} {name}"
            mentions = {*alias.name.split("."), *source.split(".")} - {name}
            found = _Definition(text, frozenset(mentions), frozenset())
            self.defined.setdefault(name, []).append(found)

    def _add(self, name: str, nodes: list[ast.AST]) -> None:
        text = "\n".join(map(_text, nodes))
        mentions = frozenset().union(*map(_mentions, nodes)) - {name}
        strings = frozenset(text for node in nodes for text in _strings(node))
        self.defined.setdefault(name, []).append(_Definition(text, mentions, strings))

    def _name(self, call: ast.Call, what: Iterable[str]) -> None:
        for keyword in call.keywords:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                self._called.setdefault(str(keyword.value.value), set()).update(what)


def _own_name(step: str) -> str:
    """Of Class.method."""
    return step.rpartition(".")[2]


def _text(node: ast.AST) -> str:
    return ast.dump(node)


def _last(node: ast.expr) -> str | None:
    """`step` of `torpor.step` and of `torpor.step(name="x")`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=called):
            return _last(called)
    return None


def _is_main(test: ast.expr) -> bool:
    """Of what is not run where an agent is loaded."""
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def _bound_at_top(node: ast.AST) -> set[str]:
    """The names that a statement of a file gives something to, or changes what they stand for."""
    bound: set[str] = set()
    for each in _within(node):
        match each:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
            case ast.ClassDef(name=name):
                bound.add(name)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                bound.add(name)
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                bound |= _identifiers(each)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
    return bound


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is below it, but not what is in functions and classes that it defines."""
    yield node
    if isinstance(node, _SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _within(child)


def _own_functions(node: ast.AST) -> Iterator[_Function]:
    """The functions directly in this one, or in this statement."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            yield child
        else:
            yield from _own_functions(child)


def _binding(outer: _Function, names: frozenset[str]) -> Iterator[ast.AST]:
    """Where a function gives these names something, as far as that says what."""
    for statement in outer.body:
        for node in _within(statement):
            piece: list[ast.AST] = []
            if isinstance(node, _LOOPS):
                piece = [node.target, node.iter]
            elif isinstance(node, _BINDING):
                piece = [node]
            if any(_stores(each) & names for each in piece):
                yield from piece


def _stores(node: ast.AST) -> set[str]:
    return {
        each.id
        for each in _within(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }


def _mentions(node: ast.AST) -> frozenset[str]:
    """The names that it refers to, less those that are its own; and all attributes."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        found |= _mentions(child)
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            found.add(name)
        case ast.Attribute(attr=name):
            found.add(name)
        case ast.alias(name=name):
            found.update(name.split("."))
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            attributes = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            return frozenset(found - _locals(node)) | attributes
    return frozenset(found)


def _locals(node: _Function | ast.Lambda) -> set[str]:
    inner = node.body if isinstance(node.body, list) else [node.body]
    nodes = [each for statement in inner for each in _within(statement)]
    arguments = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
    stored = {
        each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
    shared = {
        name for each in nodes if isinstance(each, ast.Global | ast.Nonlocal) for name in each.names
    }
    return (arguments | stored) - shared


def _identifiers(node: ast.AST) -> set[str]:
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }


def _strings(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _parts_of(path: str) -> frozenset[str]:
    """What in a string names the file."""
    pure = PurePosixPath(path)
    return frozenset((*pure.parts, pure.suffix, f"*{pure.suffix}")) - {"", "*"}


def _names(strings: Iterable[str], wanted: frozenset[str]) -> bool:
    return any(not wanted.isdisjoint(_WORD.findall(text)) for text in strings)
