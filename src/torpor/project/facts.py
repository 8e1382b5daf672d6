"""What a `# /// script` block, or [tool.torpor] of a pyproject.toml, says of an agent.

See https://peps.python.org/pep-0723/ for the block's grammar; the regular expression is the one
that the PEP gives.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torpor.core.agentfile import DISK_MIB_MAX, DISK_MIB_MIN
from torpor.core.divergence import STOP, check_on_divergence
from torpor.core.egress import parse_egress
from torpor.core.environment import check_env
from torpor.core.errors import Invalid
from torpor.core.keep import parse_keep
from torpor.core.rules import KEYS as RULES
from torpor.core.rules import Rules, parse_rules
from torpor.core.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN, size_mib
from torpor.core.starting import check_name
from torpor.core.webhooks import check_webhooks
from torpor.engine import registry

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_PLACE = re.compile(r" \(at line (?P<line>\d+), column (?P<column>\d+)\)$")

# What says which files are the agent's, and what is installed: of a project it names all of these.
_FILES = ("include", "exclude", "entry", "extras")
# The keys of [tool.torpor] this version knows; any other is refused rather than ignored.
KEYS = (
    "name",
    "memory",
    "disk",
    "env",
    "egress",
    *_FILES,
    "keep",
    "on_divergence",
    "webhooks",
    *RULES,
)


@dataclass(frozen=True)
class Facts:
    name: str
    requires_python: str
    dependencies: tuple[str, ...]
    memory_mib: int
    disk_mib: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    entry: str | None
    env: dict[str, str]
    egress: tuple[dict[str, Any], ...]
    keep: str
    on_divergence: str
    rules: Rules
    webhooks: dict[str, str]


def pep723(text: str, where: str) -> dict[str, Any] | None:
    """The `script` block of `text` as a dict, None if there is none. Raises Invalid."""
    blocks = [m for m in _BLOCK.finditer(text) if m.group("type") == "script"]
    if len(blocks) > 1:
        raise Invalid(f"{where}: more than one `# /// script` block", hint="Keep one of them.")
    if not blocks:
        if re.search(r"(?m)^# /// script\s*$", text):
            raise Invalid(
                f"{where}: the `# /// script` block is not closed, or a line of it lacks its '#'",
                hint="Every line of the block starts with '# ', and it ends with '# ///'.",
            )
        return None
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in blocks[0].group("content").splitlines(keepends=True)
    )
    first = text[: blocks[0].start("content")].count("\n")
    last = text[: blocks[0].end("content")].count("\n")
    try:
        return toml(content)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(
            error,
            where,
            "the `# /// script` block",
            first=first,
            last=last,
            indent=2,
            hint="Each line is TOML after '# ', for example: # dependencies = [\"httpx\"]",
        ) from error


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """Raises Invalid."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{where}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise Invalid(f"{where} cannot be read: {error.strerror}") from error
    try:
        return toml(text)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(error, where, "it", last=text.count("\n")) from error


def toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("nested too deeply") from error


def _no_toml(
    error: tomllib.TOMLDecodeError,
    where: str,
    what: str,
    *,
    last: int,
    first: int = 0,
    indent: int = 0,
    hint: str = "",
) -> Invalid:
    """With the line of the file itself: `first` lines and `indent` columns are before the TOML."""
    message = str(error)
    if place := _PLACE.search(message):
        line = first + int(place["line"])
        column = indent + int(place["column"])
        message, at = message[: place.start()], f", line {line}, column {column}"
    elif message.endswith(" (at end of document)"):
        message, at = (
            message.removesuffix(" (at end of document)"),
            f", line {max(last, 1)}, at its end",
        )
    else:
        at = f", from line {first + 1} on"
    return Invalid(f"{where}{at}: {what} is not valid TOML: {message}", hint=hint)


def facts(meta: Mapping[str, Any], where: str, *, tool: Any) -> Facts:
    """`meta` has `requires-python`, `dependencies` and perhaps a `name`, `tool` is [tool.torpor].
    Raises Invalid."""
    if not isinstance(tool, dict):
        raise Invalid(f"{where}: tool.torpor must be a table")
    unknown = sorted(set(tool) - set(KEYS))
    if unknown:
        raise Invalid(
            f"{where}: [tool.torpor] does not know {', '.join(unknown)}",
            hint=f"It knows: {', '.join(KEYS)}.",
        )
    requires = meta.get("requires-python", "")
    if not isinstance(requires, str):
        raise Invalid(f'{where}: requires-python must be a string, like ">=3.11"')
    name = tool.get("name", meta.get("name", ""))
    return Facts(
        name=check_name(name, f"{where}: name") if name != "" else "",
        requires_python=requires,
        dependencies=tuple(sorted(without_torpor(strings(meta, "dependencies", where)))),
        memory_mib=_size(tool, "memory", 512, MEMORY_MIB_MIN, MEMORY_MIB_MAX, where),
        disk_mib=_size(tool, "disk", 2048, DISK_MIB_MIN, DISK_MIB_MAX, where),
        include=tuple(_relative(p, where) for p in strings(tool, "include", where)),
        exclude=tuple(strings(tool, "exclude", where)),
        entry=_relative(tool["entry"], where) if "entry" in tool else None,
        env=check_env(tool.get("env", {}), f"{where}: env"),
        egress=_egress(tool, where),
        keep=_keep(tool, where),
        on_divergence=check_on_divergence(
            tool.get("on_divergence", STOP), f"{where}: on_divergence"
        ),
        rules=registry.checked(
            parse_rules({key: tool[key] for key in RULES if key in tool}, where), where
        ),
        webhooks=check_webhooks(tool.get("webhooks", {}), f"{where}: webhooks"),
    )


def without_torpor(dependencies: list[str]) -> list[str]:
    """An editor and pip want it named; where agents run it is there, and is not what PyPI has."""
    return [each for each in dependencies if not re.match(r"\s*torpor\s*($|[^\w.-])", each, re.I)]


def table(meta: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = meta.get(key, {})
    if not isinstance(value, dict):
        raise Invalid(f"{where}: {key} must be a table")
    return value


def strings(meta: Mapping[str, Any], key: str, where: str) -> list[str]:
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


def _egress(tool: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    given = tool.get("egress", [])
    parse_egress(given, f"{where}: egress")
    return tuple(given)


def _keep(tool: Mapping[str, Any], where: str) -> str:
    text = str(tool.get("keep", ""))
    parse_keep(text, f"{where}: keep")
    return text
