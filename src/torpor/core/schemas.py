"""JSON Schemas as people meet them: in words, and as what a text on a command line stands for.

Whether a value fits is `torpor.policy.answers`'s to say; nothing here refuses anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torpor.core import jsonvalues

_REFS_MAX = 16
_OPTIONS_MAX = 8

_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_FORMATS = {
    "date": "a date, YYYY-MM-DD",
    "date-time": "a date and time, ISO 8601",
    "time": "a time, HH:MM",
    "duration": "a duration",
    "decimal": "a decimal number",
    "uuid": "a UUID",
    "path": "a path",
    "email": "an e-mail address",
    "uri": "a URL",
}
_YES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def resolve(reference: Any, root: Any) -> Any:
    """The part of the schema `root` that a `$ref` names; None if it names none."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    at = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and key.isdecimal() and int(key) < len(at):
            at = at[int(key)]
        elif isinstance(at, dict) and key in at:
            at = at[key]
        else:
            return None
    return at


def arms(schema: Any, root: Any) -> Iterator[Mapping[str, Any]]:
    """The alternatives that a schema is, without references; none if it may be anything."""
    left = [schema]
    for _ in range(_REFS_MAX):
        if not left:
            return
        one = left.pop(0)
        if not isinstance(one, dict):
            continue
        if "$ref" in one:
            left.insert(0, resolve(one["$ref"], root))
        elif isinstance(either := one.get("anyOf") or one.get("oneOf"), list):
            left = [*either, *left]
        else:
            yield one


def words(schema: Any, root: Any) -> str:
    """What fits, in a few words; empty: anything."""
    fitting: list[str] = []
    for arm in arms(schema, root):
        if not (word := _arm(arm, root)):
            return ""
        fitting.append(word)
    return " or ".join(dict.fromkeys(fitting))


def takes_file(schema: Any, root: Any) -> str | None:
    """As what a parameter takes a file: "path", "bytes" or "text"; None: anything goes."""
    found = list(arms(schema, root))
    if any(arm.get("format") in ("path", "file-path") for arm in found):
        return "path"
    if any(_is_bytes(arm) for arm in found):
        return "bytes"
    return "text" if words(schema, root) else None


def _is_bytes(arm: Mapping[str, Any]) -> bool:
    return isinstance(known := arm.get("properties"), dict) and "$bytes" in known


def _arm(arm: Mapping[str, Any], root: Any) -> str:
    if _is_bytes(arm):
        return "bytes"
    if isinstance(options := arm.get("enum"), list):
        shown = [_called(each) for each in options[:_OPTIONS_MAX]]
        more = ["…"] if len(options) > _OPTIONS_MAX else []
        return " | ".join([*shown, *more])
    if "const" in arm:
        return _called(arm["const"])
    if (phrase := _FORMATS.get(str(arm.get("format")))) is not None:
        return phrase
    kinds = arm.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "array" in kinds and (inner := words(arm.get("items"), root)):
        return f"a list: {inner}"
    if "object" in kinds and isinstance(arm.get("properties"), dict):
        needed = arm.get("required") or ()
        names = (name if name in needed else f"{name}?" for name in arm["properties"])
        return f"{{{', '.join(names)}}}"
    return " or ".join(_WORDS[kind] for kind in kinds if kind in _WORDS)


def _called(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def from_text(text: str, schema: Any, root: Any) -> Any:
    """What `text` stands for where `schema` asks for something: `5` is a number, or text. What
    stands for nothing of the kind is as it is read. Raises Refused for JSON that is not taken."""
    found = list(arms(schema, root))
    options = [each for arm in found for each in arm.get("enum", ())]
    if text in options:
        return text
    kinds = {kind for arm in found for kind in _kinds(arm)}
    kinds |= {_kind(each) for each in options}
    if kinds == {"string"}:
        return _string(text)
    try:
        value = jsonvalues.read(text)
    except jsonvalues.Refused:
        raise
    except ValueError:
        value = text
    kind = _kind(value)
    if kind in ("integer", "number") and any(arm.get("format") == "decimal" for arm in found):
        return text  # with all its digits
    if not kinds or kind in kinds or (kind == "integer" and "number" in kinds):
        return value
    if "boolean" in kinds and (yes := _YES.get(text.lower())) is not None:
        return yes
    return text if "string" in kinds else value


def _string(text: str) -> str:
    """What somebody has quoted as JSON is meant as that."""
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        try:
            return str(jsonvalues.read(text))
        except ValueError:
            pass
    return text


def _kinds(arm: Mapping[str, Any]) -> list[str]:
    if "enum" in arm:
        return []
    if "const" in arm:
        return [_kind(arm["const"])]
    kinds = arm.get("type", [*_WORDS])  # without a type, anything
    return kinds if isinstance(kinds, list) else [kinds]


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"
