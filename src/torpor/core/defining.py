"""Whether an agent's files may define an agent at all, told from their syntax.

The answer *no* is never wrong: it is given only where torpor is not imported, or where all that is
used of it is written out, and none of it is what makes an agent. A program that may find its way to
that by a name made at run time *may* define one, and only running it tells.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

_AGENT = "agent"
# What can reach a module, or code, that the syntax does not name: builtins, and modules.
_BUILTINS = frozenset(
    {"exec", "eval", "compile", "globals", "locals", "vars", "__import__", "__builtins__"}
)
_MODULES = frozenset(
    {
        *("builtins", "importlib", "runpy", "zipimport", "pkgutil", "code", "codeop", "imp"),
        *("pickle", "marshal", "ctypes", "gc", "inspect"),
    }
)
_OF_SYS = frozenset({"modules", "path", "meta_path", "path_hooks", "_getframe"})
_COMPILED = (".so", ".pyd", ".pyc")


def may_define_agents(files: Mapping[str, bytes]) -> bool:
    """Whether anything in these files can define an agent. If nothing can, only what they import,
    their dependencies, may."""
    python = [name for name in files if name.endswith(".py")]
    # Those that say torpor come first: an agent is found in them, mostly, and the rest not read.
    python.sort(key=lambda name: b"torpor" not in files[name])
    trees: list[ast.Module] = []
    for name in python:
        try:
            tree = ast.parse(files[name])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return True
        if _names_agent(tree):
            return True
        trees.append(tree)
    modules = {each for tree in trees for each in _aliases(tree)}
    if any(_hands_on(tree, modules) or _is_dynamic(tree) for tree in trees):
        return True
    return any(name.endswith(_COMPILED) and b"torpor" in body for name, body in files.items())


def _names_agent(tree: ast.Module) -> bool:
    """Whether it names what makes an agent, as one may that has torpor, or torpor in a way that
    is none of a module's name."""
    documented = set(_docstrings(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=attr) if attr == _AGENT or "torpor" in attr:
                return True
            case ast.Name(id=name) if "torpor" in name and name != "torpor":
                return True
            case ast.Import(names=names):
                if any("torpor" in each.name and each.name != "torpor" for each in names):
                    return True
            case ast.ImportFrom(module=module, names=names):
                wanted = {each.name for each in names}
                if module != "torpor" and "torpor" in (module or ""):
                    return True
                if any("torpor" in each for each in wanted) or _AGENT in wanted:
                    return True
                if module == "torpor" and "*" in wanted:
                    return True
            case ast.Constant(value=str() | bytes() as value) if id(node) not in documented:
                if b"torpor" in (value.encode() if isinstance(value, str) else value):
                    return True
    return False


def _aliases(tree: ast.Module) -> Iterator[str]:
    """By what names it knows the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.asname or "torpor" for a in node.names if a.name == "torpor")


def _hands_on(tree: ast.Module, modules: set[str]) -> bool:
    """Whether it does anything with the module, by one of these names, but name a part of it."""
    parts = {
        id(node.value): node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in modules:
                if parts.get(id(node), "_").startswith("_"):
                    return True
            case ast.Attribute(attr=attr) if attr in modules:
                return True
            case ast.ImportFrom(names=names) if any(each.name in modules for each in names):
                return True
    return False


def _is_dynamic(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in _BUILTINS:
                return True
            case ast.Import(names=names):
                if any(each.name.partition(".")[0] in _MODULES for each in names):
                    return True
            case ast.ImportFrom(module=str(module), names=names):
                if module.partition(".")[0] in _MODULES:
                    return True
                if module == "sys" and any(each.name in (*_OF_SYS, "*") for each in names):
                    return True
            case ast.Attribute(value=ast.Name(id="sys"), attr=attr) if attr in _OF_SYS:
                return True
            case ast.Attribute(attr="__dict__" | "__globals__" | "__subclasses__"):
                return True
    return False


def _docstrings(tree: ast.Module) -> Iterator[int]:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr):
            yield id(node.body[0].value)
