"""What the host must know of an agent before it runs, read without importing it.

An agent is one file, a file with `include = [globs]`, or a directory with a pyproject.toml. Its
facts stand in the PEP 723 block (`# /// script`) or in pyproject.toml: `requires-python`,
`dependencies`, `[tool.torpor]`. See https://peps.python.org/pep-0723/ for the block's grammar;
the regular expression is the one the PEP gives.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torpor.model.divergence import STOP, check_on_divergence
from torpor.model.environment import check_env
from torpor.model.errors import Invalid, NotFound
from torpor.model.ids import AgentVersion
from torpor.model.keep import parse_keep
from torpor.model.origins import origin_of
from torpor.model.rules import KEYS as RULES
from torpor.model.rules import Rules, check_name, parse_rules
from torpor.model.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN, size_mib
from torpor.model.webhooks import check_webhooks

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

DISK_MIB_MIN, DISK_MIB_MAX = 64, 65536
FILES_MAX = 2000
FILES_BYTES_MAX = 64 * 1024 * 1024
# The keys of [tool.torpor] this version knows; any other is refused rather than ignored.
KEYS = (
    *("name", "memory", "disk", "include", "entry", "env"),
    *("keep", "on_divergence", "webhooks", *RULES),
)


@dataclass(frozen=True)
class AgentSource:
    """An agent as it travels to the server: its files and the facts read from them.

    `entry` is the path of the file that holds the agent, relative, POSIX style, and a key of
    `files`. `dependencies` are PEP 508 requirement strings, sorted. Sizes are in MiB. `env` are
    environment variables that are there when it is imported. `keep` says
    how long its snapshots are kept (`torpor.model.keep`), `on_divergence` what happens when it does
    not do what its log says (`torpor.model.divergence`), `rules` how its runs are treated otherwise
    (`torpor.model.rules`), `webhooks` whom its waits may tell of themselves
    (`torpor.model.webhooks`); these make no other version. Nor do `name`, by which it is called
    (by default as its entry is), and `origin`, where it is from (`torpor.model.origins`).
    """

    entry: str
    files: Mapping[str, bytes] = field(repr=False)
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    memory_mib: int = 512
    disk_mib: int = 2048
    env: Mapping[str, str] = field(default_factory=dict)
    keep: str = ""
    on_divergence: str = STOP
    rules: Rules = field(default_factory=Rules)
    webhooks: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    origin: str = field(default="", compare=False)

    @property
    def called(self) -> str:
        return self.name or self.entry.removesuffix(".py")

    def version(self, image_digest: str) -> AgentVersion:
        """Digest of all that makes this agent what it is, with the image it runs on."""
        facts = {
            "entry": self.entry,
            "files": {
                path: hashlib.sha256(body).hexdigest() for path, body in sorted(self.files.items())
            },
            "dependencies": self.dependencies,
            "memory_mib": self.memory_mib,
            "disk_mib": self.disk_mib,
            "image": image_digest,
            **({"env": dict(self.env)} if self.env else {}),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        return AgentVersion(digest.hexdigest()[:32])


def may_define_agents(files: Mapping[str, bytes]) -> bool:
    """Whether anything in these files, which are good Python, has to do with torpor. If nothing
    does, only what they import, their dependencies, can define an agent."""
    return any(
        _mentions_torpor(body) if name.endswith(".py") else b"torpor" in body
        for name, body in files.items()
        if name != "pyproject.toml"
    )


def _mentions_torpor(body: bytes) -> bool:
    """In code, not in comments."""
    if b"torpor" not in body:
        return False
    names = ("id", "attr", "name", "module", "value", "asname")
    return any(
        isinstance(text := getattr(node, name, None), str) and "torpor" in text
        for node in ast.walk(ast.parse(body))
        for name in names
    )


def no_agent(entry: str) -> Invalid:
    return Invalid(
        f"{entry} defines no agent",
        hint="Import torpor, and write @torpor.agent above the function that is to run.",
    )


def pep723(text: str, where: str) -> dict[str, Any]:
    """The `script` block of `text` as a dict, {} if there is none. Raises Invalid."""
    blocks = [m for m in _BLOCK.finditer(text) if m.group("type") == "script"]
    if len(blocks) > 1:
        raise Invalid(f"{where}: more than one `# /// script` block", hint="Keep one of them.")
    if not blocks:
        if re.search(r"(?m)^# /// script\s*$", text):
            raise Invalid(
                f"{where}: the `# /// script` block is not closed, or a line of it lacks its '#'",
                hint="Every line of the block starts with '# ', and it ends with '# ///'.",
            )
        return {}
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in blocks[0].group("content").splitlines(keepends=True)
    )
    try:
        return _toml(content)
    except tomllib.TOMLDecodeError as error:
        first = text[: blocks[0].start()].count("\n") + 1
        raise Invalid(
            f"{where}: the `# /// script` block that starts at line {first} is not valid TOML: "
            f"{error} (counted from the line after it)",
            hint="It is TOML behind '# ', for example: # dependencies = [\"httpx\"]",
        ) from error


def read_agent(path: Path) -> AgentSource:
    """Read the agent at `path`, a file or a directory, without running any of it.

    Raises NotFound when there is none, Invalid when its block or its syntax is wrong.
    """
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise NotFound(f"no agent file at {path}", hint="Give the path of a Python file.")
    text = _python_text(path, path.name)
    meta = pep723(text, path.name)
    facts = _facts(meta, path.name, tool=_table(meta, "tool", path.name).get("torpor", {}))
    files = {path.name: text.encode()}
    for pattern in facts.include:
        matched = _matching(path.parent, pattern, path.name)
        if not matched:
            raise Invalid(f"{path.name}: include = [{pattern!r}] matches no file")
        for p in matched:
            _add(files, p.relative_to(path.parent).as_posix(), p)
    return _source(path, path.name, files, facts)


@dataclass(frozen=True)
class _Facts:
    name: str
    requires_python: str
    dependencies: tuple[str, ...]
    memory_mib: int
    disk_mib: int
    include: tuple[str, ...]
    entry: str | None
    env: dict[str, str]
    keep: str
    on_divergence: str
    rules: Rules
    webhooks: dict[str, str]


def _source(path: Path, entry: str, files: Mapping[str, bytes], facts: _Facts) -> AgentSource:
    for name, body in files.items():
        if name.endswith(".py"):
            _check_syntax(body, name)
    return AgentSource(
        entry=entry,
        files=dict(files),
        requires_python=facts.requires_python,
        dependencies=facts.dependencies,
        memory_mib=facts.memory_mib,
        disk_mib=facts.disk_mib,
        env=facts.env,
        keep=facts.keep,
        on_divergence=facts.on_divergence,
        rules=facts.rules,
        webhooks=facts.webhooks,
        name=facts.name,
        origin=origin_of(path),
    )


def _read_directory(path: Path) -> AgentSource:
    project = path / "pyproject.toml"
    if not project.is_file():
        raise Invalid(
            f"{path} is a directory without a pyproject.toml",
            hint="Give the agent's file, or add a pyproject.toml with [tool.torpor] entry = ….",
        )
    try:
        meta = _toml(project.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{project}: not valid TOML: {error}") from error
    facts = _facts(
        _table(meta, "project", str(project)),
        str(project),
        tool=_table(meta, "tool", str(project)).get("torpor", {}),
    )
    patterns = facts.include or ("**/*",)
    files: dict[str, bytes] = {}
    for pattern in patterns:
        for p in _matching(path, pattern, str(project)):
            relative = p.relative_to(path)
            if not any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
                _add(files, relative.as_posix(), p)
    entry = facts.entry or next((e for e in ("agent.py", "main.py") if e in files), None)
    if entry is None or entry not in files:
        raise Invalid(
            f"{path}: no entry file" + (f" {entry!r}" if entry else " (agent.py or main.py)"),
            hint='Name it in pyproject.toml: [tool.torpor] entry = "my_agent.py"',
        )
    return _source(path, entry, files, replace(facts, name=facts.name or path.absolute().name))


def _matching(root: Path, pattern: str, where: str) -> list[Path]:
    try:
        return [path for path in sorted(root.glob(pattern)) if path.is_file()]
    except ValueError as error:
        raise Invalid(f"{where}: include = [{pattern!r}] is no pattern: {error}") from error


def _add(files: dict[str, bytes], name: str, path: Path) -> None:
    """Read a file, unless that would be too much: a pattern may match anything."""
    count = len(files) + (name not in files)
    try:
        total = sum(map(len, files.values())) + path.stat().st_size
        if count > FILES_MAX or total > FILES_BYTES_MAX:
            raise Invalid(
                f"the agent has {count} files of {total:,} bytes together, or more; "
                f"at most {FILES_MAX} files and {FILES_BYTES_MAX:,} bytes are taken",
                hint="Narrow `include`, or give large data as input.",
            )
        files[name] = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror}") from error


def _facts(meta: Mapping[str, Any], where: str, *, tool: Any) -> _Facts:
    if not isinstance(tool, dict):
        raise Invalid(f"{where}: tool.torpor must be a table")
    unknown = sorted(set(tool) - set(KEYS))
    if unknown:
        raise Invalid(
            f"{where}: [tool.torpor] does not know {', '.join(unknown)}",
            hint=f"Known are: {', '.join(KEYS)}.",
        )
    requires = meta.get("requires-python", "")
    if not isinstance(requires, str):
        raise Invalid(f'{where}: requires-python must be a string, like ">=3.11"')
    name = tool.get("name", meta.get("name", ""))
    return _Facts(
        name=check_name(name, f"{where}: name") if name != "" else "",
        requires_python=requires,
        dependencies=tuple(sorted(_strings(meta, "dependencies", where))),
        memory_mib=_size(tool, "memory", 512, MEMORY_MIB_MIN, MEMORY_MIB_MAX, where),
        disk_mib=_size(tool, "disk", 2048, DISK_MIB_MIN, DISK_MIB_MAX, where),
        include=tuple(_relative(p, where) for p in _strings(tool, "include", where)),
        entry=_relative(tool["entry"], where) if "entry" in tool else None,
        env=check_env(tool.get("env", {}), f"{where}: env"),
        keep=_keep(tool, where),
        on_divergence=check_on_divergence(
            tool.get("on_divergence", STOP), f"{where}: on_divergence"
        ),
        rules=parse_rules({key: tool[key] for key in RULES if key in tool}, where),
        webhooks=check_webhooks(tool.get("webhooks", {}), f"{where}: webhooks"),
    )


def _table(meta: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = meta.get(key, {})
    if not isinstance(value, dict):
        raise Invalid(f"{where}: {key} must be a table")
    return value


def _strings(meta: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = meta.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise Invalid(f"{where}: {key} must be a list of strings")
    return value


def _relative(pattern: Any, where: str) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise Invalid(f"{where}: {pattern!r} is not a path")
    pure = PurePosixPath(pattern)
    if pure.is_absolute() or ".." in pure.parts:
        raise Invalid(f"{where}: {pattern!r} must stay below the agent's own directory")
    if not pure.parts:
        raise Invalid(f"{where}: {pattern!r} is the directory itself, not what is in it")
    return str(pure)


def _size(tool: Mapping[str, Any], key: str, default: int, low: int, high: int, where: str) -> int:
    if key not in tool:
        return default
    return size_mib(str(tool[key]), low, high, f"{where}: {key} = {tool[key]!r}")


def _keep(tool: Mapping[str, Any], where: str) -> str:
    text = str(tool.get("keep", ""))
    parse_keep(text, f"{where}: keep")
    return text


def _python_text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise Invalid(f"{where}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise Invalid(f"{where} cannot be read: {error.strerror}") from error


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("nested too deeply") from error


def _check_syntax(body: bytes, where: str) -> None:
    try:
        ast.parse(body, filename=where)
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
