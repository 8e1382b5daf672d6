"""From a path to an agent, without running any of it.

    a directory                            the project in it, or that it is in
    a file with a `# /// script` block     stands alone, with its neighbours, as for `uv run`
    a file in a project                    the project, with this file for its entry
    any other file                         stands alone, with its neighbours

A *project* is a directory whose pyproject.toml has [project], [tool.torpor] or [tool.poetry], or
one that has a requirements.txt beside the file. One is looked for upwards as far as the repository
goes. All of its files are taken along but for what `torpor.project.tree` leaves out, and it is
installed (`torpor.project.pyproject`). Of a file that stands alone what its imports name is taken
along (`torpor.project.imports`). Either way what an agent finds in its working directory is what is
in its project's, or its file's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid, NotFound
from torpor.core.origins import origin_of
from torpor.project.facts import Facts, facts, pep723, read_toml, table
from torpor.project.imports import (
    has_relative_imports,
    is_in_package,
    neighbours,
    package_root,
    parse,
)
from torpor.project.pyproject import Pyproject
from torpor.project.requirements import read_requirements
from torpor.project.tree import Taken, Tree, read_bytes

PYPROJECT, REQUIREMENTS = "pyproject.toml", "requirements.txt"
ENTRIES = ("agent.py", "main.py")
_CANDIDATES_MAX = 5


def read_agent(path: Path) -> AgentSource:
    """Read the agent at `path`, a file or a directory.

    Raises NotFound when there is none, Invalid when what it says of itself or its syntax is wrong.
    """
    if ".." in path.parts:
        path = Path(os.path.normpath(path.absolute()))
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise NotFound(f"no agent file at {path}", hint="Give the path of a Python file.")
    if path.suffix != ".py":
        raise Invalid(
            f"{path} is not a Python file: its name must end with .py",
            hint=f"For a project, give its directory: torpor run {path.parent}"
            if path.name in (PYPROJECT, REQUIREMENTS)
            else "",
        )
    block = pep723(_text(path), path.name)
    if block is not None:
        return _read_alone(path, block, path.parent)
    if (root := project_of(path)) is not None:
        return _read_project(root, path)
    return _read_alone(path, {}, package_root(path) if is_in_package(path) else path.parent)


def project_of(path: Path) -> Path | None:
    """The directory of the project that the file or directory `path` is in."""
    at = path.absolute()
    first = at if at.is_dir() else at.parent
    for directory in (first, *first.parents):
        if _is_project(directory):
            return directory
        if directory == first and path.is_file() and (directory / REQUIREMENTS).is_file():
            return directory
        if (directory / ".git").exists():
            return None
    return None


def _is_project(directory: Path) -> bool:
    file = directory / PYPROJECT
    if not file.is_file():
        return False
    meta = read_toml(file, str(file))
    tool = meta.get("tool")
    tools = tool.keys() if isinstance(tool, dict) else ()
    return "project" in meta or "torpor" in tools or "poetry" in tools


# One file.


def _read_alone(path: Path, meta: Mapping[str, Any], root: Path) -> AgentSource:
    about = facts(meta, path.name, tool=table(meta, "tool", path.name).get("torpor", {}))
    entry = path.relative_to(root).as_posix()
    tree = Tree(root, about.exclude, path.name)
    taken = Taken(root, {entry: path})
    if "/" in entry:  # it is in a package, which is imported first
        tree.walk(taken, f"{entry.partition('/')[0]}/")
        taken.files[entry] = path
    for found in neighbours(path, [root], root, whole_packages=True):
        if found.is_package:
            tree.walk(taken, f"{found.path.relative_to(root).as_posix()}/")
        else:
            tree.add(taken, found.path)
    named = Taken(root)
    for pattern in about.include:
        tree.include(named, pattern, path.name)
    for name, file in named.files.items():
        if name.endswith(".py"):
            parse(read_bytes(name, file), name)
    taken.files |= named.files
    taken.outside += named.outside
    if not about.name and "/" in entry:
        about = replace(about, name=path.stem)
    return _source(path, entry, taken, about)


# A project.


def _read_directory(path: Path) -> AgentSource:
    if not (path / PYPROJECT).is_file():
        entry = next((path / name for name in ENTRIES if (path / name).is_file()), None)
        if (above := project_of(path)) is not None and entry is not None:
            return _read_project(above, entry)
        if entry is None:
            raise Invalid(
                f"{path} is a directory without a pyproject.toml, and has no "
                f"{' or '.join(ENTRIES)}",
                hint="Give the agent's file, or add a pyproject.toml with [tool.torpor] entry = ….",
            )
    return _read_project(path, None)


def _read_project(root: Path, file: Path | None) -> AgentSource:
    """The project in `root`, with `file` for its entry, by default its own."""
    where = str(root / PYPROJECT)
    has_pyproject = (root / PYPROJECT).is_file()
    pyproject = Pyproject(root, read_toml(root / PYPROJECT, where) if has_pyproject else {}, where)
    about = _facts_of(pyproject, where, file)
    own = about.entry or next((name for name in ENTRIES if (root / name).is_file()), None)
    named = own if file is None else file.absolute().relative_to(root.absolute()).as_posix()
    tree = Tree(root, about.exclude, where)
    taken = Taken(root)
    tree.walk(taken)
    if named is None or not (root / named).is_file():
        raise _no_entry(root, named, taken)
    for pattern in about.include:
        tree.include(taken, pattern, where)
    entry = root / named
    taken.files[named] = entry
    text = _text(entry)
    is_dotted = is_in_package(entry) or has_relative_imports(parse(text.encode(), named))
    roots = pyproject.roots()
    bases = [root / each for each in roots] + ([] if is_dotted else [entry.parent])
    # What it imports is needed, though git may ignore it: a module that its build has written.
    for found in neighbours(entry, bases, root, whole_packages=False):
        if not found.is_package:
            tree.add(taken, found.path)
    notes: list[str] = []
    if has_pyproject and pep723(text, named):
        notes.append(f"{PYPROJECT} counts, and not the `# /// script` block of {named}")
    is_own = named == own
    called = about.name or root.absolute().name if is_own else entry.stem
    source = _source(root if is_own else entry, named, taken, replace(about, name=called))
    files, programs = pyproject.installed(roots)
    return replace(
        source,
        files={**source.files, **files},
        executable=source.executable | programs,
        notes=(*source.notes, *notes),
    )


def _facts_of(pyproject: Pyproject, where: str, file: Path | None) -> Facts:
    """What stands of a project's agent in its pyproject.toml; if it has none, in the block of its
    own entry, or in its requirements.txt."""
    root = pyproject.root
    if (root / PYPROJECT).is_file():
        meta = {**pyproject.project, "dependencies": pyproject.dependencies()}
        return facts(meta, where, tool=pyproject.torpor)
    own = next((name for name in ENTRIES if file is None and (root / name).is_file()), None)
    block = None if own is None else pep723(_text(root / own), own)
    if own is not None and block is not None:
        return facts(block, own, tool=table(block, "tool", own).get("torpor", {}))
    listed = root / REQUIREMENTS
    dependencies = read_requirements(listed, root) if listed.is_file() else []
    return facts({"dependencies": dependencies}, REQUIREMENTS, tool={})


def _no_entry(root: Path, named: str | None, taken: Taken) -> Invalid:
    def mentions(name: str) -> bool:
        return name.endswith(".py") and b"torpor.agent" in read_bytes(name, taken.files[name])

    found = [name for name in taken.files if mentions(name)][:_CANDIDATES_MAX]
    shown = found[0] if found else "my_agent.py"
    others = f" ({', '.join(found)} define agents)" if len(found) > 1 else ""
    return Invalid(
        f"{root}: no entry file" + (f" {named!r}" if named else f" ({' or '.join(ENTRIES)})"),
        hint=f'Name it in pyproject.toml: [tool.torpor] entry = "{shown}"{others}',
    )


def _source(path: Path, entry: str, taken: Taken, about: Facts) -> AgentSource:
    return AgentSource(
        entry=entry,
        files=_read(taken, entry),
        requires_python=about.requires_python,
        dependencies=about.dependencies,
        memory_mib=about.memory_mib,
        disk_mib=about.disk_mib,
        env=about.env,
        egress=about.egress,
        keep=about.keep,
        on_divergence=about.on_divergence,
        rules=about.rules,
        webhooks=about.webhooks,
        name=about.name,
        executable=taken.executable(),
        root=taken.root.absolute(),
        notes=tuple(taken.notes()),
        origin=origin_of(path),
    )


def _read(taken: Taken, entry: str) -> dict[str, bytes]:
    files = taken.read()
    # Some editors begin a file with a mark, and other readers of the entry expect none.
    return files | {entry: files[entry].decode("utf-8-sig").encode()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise Invalid(f"{path.name} cannot be read: {error.strerror}") from error
