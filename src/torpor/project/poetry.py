"""A project in Poetry's own words, `[tool.poetry]`, as `[project]` has it.

See https://python-poetry.org/docs/dependency-specification/. What is not on PyPI is refused, and so
is what these requirements cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from torpor.core.errors import Invalid
from torpor.project.facts import strings, table

_WHERE = "[tool.poetry.dependencies]"
_KEYS = frozenset({"version", "extras", "markers", "python", "optional", "allow-prereleases"})
_HINT = (
    "Name it under [project] dependencies, which Poetry reads, too (since 2.0). Dependencies are "
    "wheels from PyPI."
)


def as_project(poetry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """[tool.poetry] as [project] would say it; its groups are for those who work on the project.
    Raises Invalid."""
    named = table(poetry, "dependencies", where)
    python = named.get("python", "*")
    meta: dict[str, Any] = {
        key: poetry[key] for key in ("name", "version", "description") if key in poetry
    }
    if isinstance(python, str) and (bounds := _specifiers(python, "python")):
        meta["requires-python"] = bounds
    meta["dependencies"] = [
        each for name in named for each in _requirements(name, named[name], optional=False)
    ]
    known = {canonicalize_name(name): name for name in named}
    extras = table(poetry, "extras", where)
    meta["optional-dependencies"] = {
        extra: [
            each
            for name in strings(extras, extra, where)
            if (own := known.get(canonicalize_name(name))) is not None
            for each in _requirements(own, named[own], optional=True)
        ]
        for extra in extras
    }
    scripts = table(poetry, "scripts", where)
    meta["scripts"] = {name: spec for name, spec in scripts.items() if isinstance(spec, str)}
    meta["entry-points"] = table(poetry, "plugins", where)
    return meta


def _requirements(name: str, spec: Any, *, optional: bool) -> Iterator[str]:
    if name == "python":
        return
    for each in spec if isinstance(spec, list) else [spec]:
        one = {"version": each} if isinstance(each, str) else each
        if not isinstance(one, dict):
            raise Invalid(f"{_WHERE} {name} = {spec!r} is not a dependency", hint=_HINT)
        if bool(one.get("optional")) == optional:
            yield _requirement(name, one)


def _requirement(name: str, spec: Mapping[str, Any]) -> str:
    if unknown := sorted(spec.keys() - _KEYS):
        raise Invalid(
            f"{_WHERE} {name} has {', '.join(unknown)}, which torpor does not support", hint=_HINT
        )
    extras = spec.get("extras") or []
    if not isinstance(extras, list) or not all(isinstance(extra, str) for extra in extras):
        raise Invalid(f"{_WHERE} {name}: extras must be a list of strings")
    chosen = f"[{','.join(extras)}]" if extras else ""
    markers = [_marker(name, str(spec["markers"]))] if "markers" in spec else []
    if python := _specifiers(str(spec.get("python", "*")), name):
        bounds = (re.fullmatch(r"([<>=!~]+)(.*)", each) for each in python.split(","))
        markers += [f"python_full_version {b[1]} '{b[2]}'" for b in bounds if b]
    marker = f" ; {' and '.join(markers)}" if markers else ""
    return f"{name}{chosen}{_specifiers(str(spec.get('version', '*')), name)}{marker}"


def _marker(name: str, spec: str) -> str:
    try:
        return f"({Marker(spec)})"
    except InvalidMarker as error:
        raise Invalid(
            f"{_WHERE} {name}: markers = {spec!r} are not valid markers", hint=_HINT
        ) from error


def _specifiers(spec: str, name: str) -> str:
    """A constraint of Poetry's as PEP 440 has it; "" takes every version."""
    if "||" in spec or "|" in spec:
        raise Invalid(f"{_WHERE} {name} = {spec!r} has alternatives", hint=_HINT)
    parts = [each for each in re.split(r"\s*,\s*|(?<=[\w*])\s+(?=[\^~<>=!])", spec.strip()) if each]
    bounds = ",".join(bound for part in parts if (bound := _bounds(part, name)))
    try:
        SpecifierSet(bounds)
    except InvalidSpecifier as error:
        raise Invalid(f"{_WHERE} {name} = {spec!r} is not a version", hint=_HINT) from error
    return bounds


def _bounds(part: str, name: str) -> str:
    found = re.fullmatch(r"(\^|~=|~|[<>]=?|[!=]=|=)?\s*(\S+)", part)
    if found is None:
        raise Invalid(f"{_WHERE} {name}: {part!r} is not a version", hint=_HINT)
    sign, text = found[1] or "", found[2]
    if text == "*":
        return ""
    if sign not in ("^", "~"):
        return f"{'==' if sign in ('', '=') else sign}{text}"
    try:
        version = Version(text)
    except InvalidVersion as error:
        raise Invalid(f"{_WHERE} {name}: {part!r} is not a version", hint=_HINT) from error
    return f">={text},<{_next(version.release, caret=sign == '^')}"


def _next(release: tuple[int, ...], *, caret: bool) -> str:
    """The first version that is not meant: ^1.2.3 is up to 2, ^0.2.3 up to 0.3; ~1.2.3 up to 1.3,
    ~1 up to 2."""
    if caret:
        at = next((n for n, part in enumerate(release) if part), len(release) - 1)
    else:
        at = min(1, len(release) - 1)
    return ".".join(map(str, [*release[:at], release[at] + 1]))
