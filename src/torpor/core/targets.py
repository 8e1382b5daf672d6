"""What a request is for: methods, targets, patterns for paths. Pure.

A rule that looks at paths must see what the server will see. Servers differ in what they make of
`/a/../b`, `//`, `%2f`, `;x`: a target with any of these is ambiguous, and no such rule allows it.
Otherwise a path is compared as servers read it: `%61` is `a`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from torpor.core.errors import Invalid

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATTERN_CHARS_MAX = 1024
# Headers by which some servers take another method, or another path, than that of the request.
METHOD_OVERRIDES = frozenset(
    {"x-http-method-override", "x-http-method", "x-method-override", "x-method"}
)
PATH_OVERRIDES = frozenset({"x-original-url", "x-rewrite-url", "x-original-uri", "x-rewrite-uri"})
_METHOD_PARAMETER = re.compile(r"(?:^|[&;])(?:_|%5f)(?:m|%6d)ethod=", re.IGNORECASE)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Escaped, these would divide or end a path, or be unescaped twice.
_DIVIDES = frozenset("/\\.%;?#")

Part = TypeVar("Part")


def target_fault(target: str) -> str:
    """Why `target` is none at all, whatever the rules say; "" if it is one."""
    if not target.startswith("/"):
        return "does not begin with /"
    if not all("!" <= c <= "~" for c in target):
        return "has characters that no target has"
    return "has a fragment" if "#" in target else ""


def path_of(target: str) -> str:
    return target.partition("?")[0]


@lru_cache(maxsize=1024)
def ambiguity(target: str) -> str:
    """Why servers may differ about the path of `target`; "" if they agree."""
    path = path_of(target)
    if "//" in path:
        return "has //"
    if "\\" in path or ";" in path:
        return "has \\" if "\\" in path else "has ;"
    if any(segment in (".", "..") for segment in path.split("/")):
        return "has . or .. between slashes"
    if _BAD_ESCAPE.search(path):
        return "has a % that escapes nothing"
    for code in _ESCAPE.findall(path):
        char = chr(int(code, 16))
        if char in _DIVIDES or not " " <= char <= "\xff" or char == "\x7f":
            return f"has %{code}"
    return ""


@lru_cache(maxsize=1024)
def plain_path(target: str) -> str:
    """The path of a target that is not ambiguous, unescaped as far as it is ASCII."""

    def unescape(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        return char if char.isascii() else match[0].upper()

    return _ESCAPE.sub(unescape, path_of(target))


def overrides_method(target: str) -> bool:
    return _METHOD_PARAMETER.search(target.partition("?")[2]) is not None


def check_method(value: str, what: str) -> str:
    """Raises Invalid."""
    method = value.upper()
    if method not in METHODS:
        raise Invalid(
            f"{what}: {value[:40]!a} is not a method that torpor sends",
            hint=f"It sends {', '.join(METHODS)}.",
        )
    return method


def check_path(value: str, what: str) -> str:
    """A pattern for paths: `*` stands for anything within a segment, `**` for any number of
    segments. Raises Invalid."""
    fault = target_fault(value) or ("has a query" if "?" in value else "") or ambiguity(value)
    if not fault and any("**" in part and part != "**" for part in value.split("/")):
        fault = "has ** that is not a segment of its own"
    if not fault and len(value) > PATTERN_CHARS_MAX:
        fault = f"is longer than {PATTERN_CHARS_MAX:,} characters"
    if fault:
        raise Invalid(
            f"{what}: the path {value[:80]!a} {fault}",
            hint="A path looks like /repos/acme/*/issues or /v1/**",
        )
    return plain_path(value)


def path_matches(pattern: str, path: str) -> bool:
    """`path` as `plain_path` has it."""
    return _matches(_segments(pattern), path.split("/"))


@lru_cache(maxsize=1024)
def _segments(pattern: str) -> tuple[tuple[str, ...], ...]:
    """What stands between `**`."""
    pieces: list[list[str]] = [[]]
    for segment in pattern.split("/"):
        if segment == "**":
            pieces.append([])
        else:
            pieces[-1].append(segment)
    return tuple(map(tuple, pieces))


def _matches(pieces: Sequence[Sequence[str]], path: Sequence[str]) -> bool:
    """Leftmost first, which finds a match if there is one and takes no time beyond it."""
    first, *middle = pieces
    if not middle:
        return len(first) == len(path) and _fits(first, path)
    last = middle.pop()
    if len(first) + len(last) > len(path) or not _fits(first, path[: len(first)]):
        return False
    end = len(path) - len(last)
    if not _fits(last, path[end:]):
        return False
    at = len(first)
    for piece in middle:
        while at + len(piece) <= end and not _fits(piece, path[at : at + len(piece)]):
            at += 1
        at += len(piece)
    return at <= end


def _fits(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return all(map(segment_matches, pattern, segments))


def segment_matches(pattern: str, text: str) -> bool:
    first, *middle = pattern.split("*")
    if not middle:
        return first == text
    last = middle.pop()
    if len(first) + len(last) > len(text) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return at <= end
