"""Forms from JSON Schemas, and answers from what was typed into them. Pure.

A field is drawn for what people fill in: text, numbers, yes or no, one or several of a list,
several lines, groups of fields. Whatever else a schema says (a list of objects, alternatives) is
typed as JSON. Whether the answer fits is not decided here (`torpor.policy.answers`): a form only
brings values of the right type, and leaves out what was left empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.core import jsonvalues
from torpor.core.errors import Part, pointer
from torpor.core.schemas import resolve

DEPTH_MAX = 6
FIELDS_MAX = 200
_LONG = 200  # characters: what may be longer gets several lines

_WHOLE = re.compile(r"[+-]?[0-9]+")

Json = Mapping[str, Any]
Typed = Mapping[str, list[str]]

_INPUTS = {"email": "email", "date": "date", "time": "time", "uri": "url", "url": "url"}
_ATTRIBUTES = {
    "minLength": "minlength",
    "maxLength": "maxlength",
    "minimum": "min",
    "maximum": "max",
}


@dataclass(frozen=True)
class Field:
    """`kind`: text, long, number, yesno, choice, choices, lines, group, const, json. `path` is
    where its value belongs in the answer, `name` what it is called in the form."""

    path: tuple[str, ...]
    kind: str
    label: str
    description: str = ""
    required: bool = False
    input: str = "text"  # of a text
    attributes: dict[str, Any] = field(default_factory=dict)
    options: tuple[tuple[str, str], ...] = ()  # (JSON of a value, what it is called)
    each: str = "string"  # type of the items of lines; "integer" or "number" of a number
    initial: Any = None  # the schema's default
    value: Any = None  # of a const
    fields: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        return "a" + pointer(self.path)

    @property
    def id(self) -> str:
        return "field-" + "-".join(self.path) if self.path else "field"


def form(schema: Json | None) -> Field:
    """The field, mostly a group, that `schema` asks for; None: anything."""
    if schema is None:
        return Field((), "json", "Answer")
    form = _field(schema, schema, (), "Answer", True)
    return form if sum(1 for _ in leaves(form)) <= FIELDS_MAX else _json((), schema, "Answer", True)


def leaves(of: Field) -> Iterator[Field]:
    if of.kind == "group":
        for each in of.fields:
            yield from leaves(each)
    else:
        yield of


def typed_first(of: Field) -> dict[str, list[str]]:
    """What stands in the form at first: the schema's defaults."""
    return {
        each.name: _shown(each, each.initial) for each in leaves(of) if each.initial is not None
    }


def _field(schema: Any, root: Json, path: tuple[str, ...], label: str, required: bool) -> Field:
    schema, nullable = _plain(schema, root)
    if not isinstance(schema, dict) or len(path) > DEPTH_MAX:
        return _json(path, {}, label, required)
    about: dict[str, Any] = {
        "path": path,
        "label": str(schema.get("title") or label),
        "description": str(schema.get("description") or ""),
        "required": required and not nullable,
        "initial": schema.get("default"),
    }
    if "const" in schema:
        return Field(kind="const", value=schema["const"], **about)
    if (options := _options(schema)) is not None:
        return Field(kind="choice", options=options, **about)
    match schema.get("type"):
        case "object" if isinstance(schema.get("properties"), dict):
            needed = schema.get("required") or ()
            inner = tuple(
                _field(each, root, (*path, name), name, name in needed)
                for name, each in schema["properties"].items()
            )
            return Field(kind="group", fields=inner, **about)
        case "array":
            return _list(schema, root, about) or _json(path, schema, label, required)
        case "boolean":
            return Field(kind="yesno", **about)
        case "integer" | "number" as kind:
            step = {"step": 1 if kind == "integer" else "any"}
            attributes = _attributes(schema, "minimum", "maximum") | step
            return Field(kind="number", each=kind, attributes=attributes, **about)
        case "string":
            return _text(schema, about)
    return _json(path, schema, label, required)


def _text(schema: Json, about: dict[str, Any]) -> Field:
    attributes = _attributes(schema, "minLength", "maxLength")
    wide = schema.get("format") in ("textarea", "multiline", "markdown")
    if wide or schema.get("maxLength", 0) > _LONG:
        return Field(kind="long", attributes=attributes, **about)
    kind = _INPUTS.get(str(schema.get("format")), "text")
    return Field(kind="text", input=kind, attributes=attributes, **about)


def _list(schema: Json, root: Json, about: dict[str, Any]) -> Field | None:
    items, _ = _plain(schema.get("items"), root)
    if not isinstance(items, dict):
        return None
    if (options := _options(items)) is not None:
        return Field(kind="choices", options=options, **about)
    if items.get("type") in ("string", "integer", "number"):
        return Field(kind="lines", each=items["type"], **about)
    return None


def _json(path: tuple[str, ...], schema: Json, label: str, required: bool) -> Field:
    title, description = str(schema.get("title") or label), str(schema.get("description") or "")
    return Field(path, "json", title, description, required, initial=schema.get("default"))


def _plain(schema: Any, root: Json) -> tuple[Any, bool]:
    """`schema` without references and without "or null", and whether it had that."""
    nullable = False
    for _ in range(DEPTH_MAX):
        if not isinstance(schema, dict):
            break
        if "$ref" in schema:
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            found = resolve(schema["$ref"], root)
            schema = {**found, **beside} if isinstance(found, dict) else found
            continue
        either = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(either, list) and {"type": "null"} in either:
            rest = [each for each in either if each != {"type": "null"}]
            if len(rest) == 1 and isinstance(rest[0], dict):
                beside = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
                schema, nullable = {**rest[0], **beside}, True
                continue
        kinds = schema.get("type")
        if isinstance(kinds, list) and {"string", "number"}.issuperset(kinds):
            schema = {**schema, "type": "string"}  # a decimal number, a duration
        elif isinstance(kinds, list) and len(rest := [k for k in kinds if k != "null"]) == 1:
            nullable = nullable or "null" in kinds
            schema = {**schema, "type": rest[0]}
        break
    return schema, nullable


def _options(schema: Json) -> tuple[tuple[str, str], ...] | None:
    values = schema.get("enum")
    if isinstance(values, list) and all(_simple(value) for value in values):
        return tuple((json.dumps(value), _called(value)) for value in values if value is not None)
    either = schema.get("oneOf") or schema.get("anyOf")
    if isinstance(either, list) and either:
        named = [each for each in either if isinstance(each, dict) and "const" in each]
        if len(named) == len(either) and all(_simple(each["const"]) for each in named):
            return tuple(
                (json.dumps(e["const"]), str(e.get("title") or _called(e["const"]))) for e in named
            )
    return None


def _simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _called(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _attributes(schema: Json, *keys: str) -> dict[str, Any]:
    found = {_ATTRIBUTES[key]: schema.get(key) for key in keys}
    return {key: value for key, value in found.items() if type(value) in (int, float)}


def _shown(of: Field, value: Any) -> list[str]:
    """A value as it is typed."""
    match of.kind:
        case "choice" | "yesno":
            return [json.dumps(value)]
        case "choices" if isinstance(value, list):
            return [json.dumps(each) for each in value]
        case "lines" if isinstance(value, list):
            return ["\n".join(map(_called, value))]
        case "json":
            return [json.dumps(value, indent=2, ensure_ascii=False)]
    return [_called(value)]


# -- from what was typed to an answer -----------------------------------------------------------

_ABSENT = object()


def answer(of: Field, typed: Typed, *, free: bool = False) -> tuple[Any, list[Part]]:
    """The answer that was typed, and what could not be read of it. With `free`, what is no JSON is
    text."""
    wrong: list[Part] = []
    value = _read(of, typed, wrong, free)
    if value is _ABSENT:
        value = {} if of.kind == "group" else None
        if of.kind != "group" and of.required and not wrong:
            wrong.append(Part((), "is required"))
    return value, wrong


def _read(of: Field, typed: Typed, wrong: list[Part], free: bool) -> Any:
    if of.kind == "group":
        read = {each.path[-1]: _read(each, typed, wrong, free) for each in of.fields}
        given = {name: value for name, value in read.items() if value is not _ABSENT}
        return given if given or of.required else _ABSENT
    if of.kind == "const":
        return of.value if of.required else _ABSENT
    texts = [text for text in typed.get(of.name, []) if text.strip()]
    if of.kind == "choices":
        return [_parsed(of, text, wrong) for text in texts] if texts or of.required else _ABSENT
    if not texts:
        return _ABSENT
    text = texts[0].replace("\r\n", "\n")
    match of.kind:
        case "text" | "long":
            return text
        case "number":
            return _number(of, text.strip(), wrong)
        case "lines":
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            return lines if of.each == "string" else [_number(of, line, wrong) for line in lines]
    return _parsed(of, text, wrong, free)


def _number(of: Field, text: str, wrong: list[Part]) -> Any:
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        number = float(text)
        if number - number == 0:
            return number
    except ValueError:
        pass
    wrong.append(Part(of.path, f"{text[:40]!r} is not a number"))
    return _ABSENT


def _parsed(of: Field, text: str, wrong: list[Part], free: bool = False) -> Any:
    try:
        return jsonvalues.read(text)
    except jsonvalues.Refused as error:
        wrong.append(Part(of.path, str(error)))
    except ValueError as error:
        if free:
            return text
        wrong.append(Part(of.path, f"is not valid JSON: {error}"))
    return _ABSENT


def by_field(of: Field, parts: Iterable[Part]) -> tuple[dict[str, list[str]], list[str]]:
    """What is wrong, by the name of the field where it is shown; and what belongs to none."""
    fields = {each.path: each for each in leaves(of)}
    at: dict[str, list[str]] = {}
    nowhere: list[str] = []
    for part in parts:
        path = tuple(map(str, part.path))
        while path not in fields and path:
            path = path[:-1]
        if path in fields:
            rest = Part(part.path[len(path) :], part.message)
            at.setdefault(fields[path].name, []).append(str(rest))
        else:
            nowhere.append(str(part))
    return at, nowhere
