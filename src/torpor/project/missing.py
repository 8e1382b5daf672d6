"""What a module or a file is that an agent lacks, as far as its author's directory tells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from torpor.core.agentfile import AgentSource
from torpor.project.tree import is_never_taken, is_secret

_LACKS = re.compile(r"No module named '([\w.]+)'")
_NO_FILE = re.compile(r"No such file or directory: '([^']+)'")
_ENTRIES_MAX = 20_000


def missing_module(error_text: str, source: AgentSource) -> str:
    """What to do about an error that says that a module is missing, "" if there is none, or nothing
    of that name among the author's files."""
    lacks = _LACKS.search(error_text)
    if lacks is None or source.root is None:
        return ""
    path = lacks[1].replace(".", "/")
    top = path.partition("/")[0]
    beside = Path(source.entry).parent.as_posix()
    for base in dict.fromkeys(("", "src/", f"{beside}/" if beside != "." else "")):
        for name in (f"{base}{path}.py", f"{base}{path}/", f"{base}{top}.py", f"{base}{top}/"):
            if _is_there(source.root, name) and not _is_taken(source, name):
                pattern = f"{name}**/*" if name.endswith("/") else name
                return (
                    f"{source.root / name} is not among the agent's files: an ignore file or "
                    "`exclude` names it, or nothing that torpor reads imports it by its name. "
                    f'Include it with [tool.torpor] include = ["{pattern}"]'
                )
    for found in _elsewhere(source.root, top):
        return (
            f"{found} is in {source.root}, but not where Python looks for {lacks[1]!r}: import it "
            "by its package, or say in pyproject.toml where packages are"
        )
    return ""


def missing_file(error_text: str, source: AgentSource) -> str:
    """What to do about an error that says that a file is missing, "" if there is none, or none of
    that name among the author's files that was not taken along."""
    lacks = _NO_FILE.search(error_text)
    if lacks is None or source.root is None:
        return ""
    for name in _relative(lacks[1]):
        here = source.root / name
        taken = any(f"{each}/".startswith(f"{name}/") for each in source.files)
        if taken or name.startswith("..") or not here.exists():
            continue
        if is_secret(here.name):
            return f"{here} is left out: files that hold secrets are never included"
        within = [here, *(each for each in here.parents if source.root in each.parents)]
        if any(is_never_taken(each.parent, each.name) for each in within):
            return ""
        beside = f"{name.rpartition('/')[0]}/*{here.suffix}" if "/" in name else name
        pattern = f"{name}/**/*" if here.is_dir() else beside
        return (
            f"{here} is not among the agent's files. Include it with "
            f'[tool.torpor] include = ["{pattern}"], or give it to a run: --file {name}'
        )
    return ""


def _relative(path: str) -> Iterator[str]:
    """What `path`, as the agent has it, may be in its working directory, which is called work."""
    parts = os.path.normpath(path).split("/")
    if not path.startswith("/"):
        yield "/".join(parts)
    for place, part in enumerate(parts):
        if path.startswith("/") and part == "work":
            yield "/".join(parts[place + 1 :])


def _is_there(root: Path, name: str) -> bool:
    if name.endswith("/"):
        return (root / name).is_dir() and any((root / name).glob("*.py"))
    return (root / name).is_file()


def _is_taken(source: AgentSource, name: str) -> bool:
    return any(
        file.startswith(name) and file.endswith(".py") if name.endswith("/") else file == name
        for file in source.files
    )


def _elsewhere(root: Path, name: str) -> Iterator[str]:
    count = 0
    for directory, inner, files in os.walk(root):
        at = Path(directory)
        inner[:] = sorted(each for each in inner if not is_never_taken(at, each))
        count += len(inner) + len(files)
        if count > _ENTRIES_MAX:
            return
        if f"{name}.py" in files:
            yield (at / f"{name}.py").relative_to(root).as_posix()
        if name in inner and (at / name / "__init__.py").is_file():
            yield f"{(at / name).relative_to(root).as_posix()}/"
