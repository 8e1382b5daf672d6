"""What an agent's annotations say of its input: a JSON Schema, and values of those types from JSON.

The schema (2020-12) is made once, when the agent is loaded, and kept with it: the host checks an
input by it before there is a run, and forms and tools are made of it. The values are made here,
where the types are. An annotation that is not known takes anything, as none does.

What pydantic can check is left to it, if the agent has it: models, its dataclasses, `Annotated`
with its fields. Nothing of it is imported for that.

What is read here is written the same way by `torpor.sdk.values`: a result can be an input.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Union

from torpor.core import durations
from torpor.core.errors import Invalid, Part
from torpor.core.runfiles import FILE, INPUT_BYTES_MAX, check_path
from torpor.sdk import values

DRAFT = "https://json-schema.org/draft/2020-12/schema"

Object = dict[str, Any]
Read = Callable[[Any], Any]

_MISSING = inspect.Parameter.empty
_ABSENT = object()  # may be left out, without a default


class Misfit(ValueError):
    """A value is not of the type that is asked for; `parts` says where."""

    def __init__(self, *parts: Part) -> None:
        super().__init__("; ".join(map(str, parts)))
        self.parts = parts


@dataclass(frozen=True)
class Kind:
    """What a type is in JSON, and how a value of it is made of that. `read` raises Misfit."""

    schema: Object
    read: Read


def _same(value: Any) -> Any:
    return value


ANYTHING = Kind({}, _same)


@dataclass
class Kinds:
    """The kinds of the types of one agent, which share their definitions."""

    defs: Object = field(default_factory=dict)
    _named: dict[Any, str] = field(default_factory=dict)
    _readers: dict[str, Read] = field(default_factory=dict)

    def of(self, annotation: Any) -> Kind:
        """Never raises: what cannot be made out is anything."""
        try:
            return self._of(annotation)
        except Exception:
            return ANYTHING

    def _of(self, annotation: Any) -> Kind:
        if annotation is None or annotation is type(None):
            return _NULL
        if isinstance(annotation, type) and not typing.get_args(annotation):
            return self._class(annotation)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self._annotated(annotation, *args)
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is typing.Literal:
            return _choice({json.dumps(each): each for each in map(_literal, args)})
        if origin in (typing.Required, typing.NotRequired, typing.Final):
            return self._of(args[0])
        if isinstance(annotation, typing.NewType):
            return self._of(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType":  # of Python 3.12: type Names = list[str]
            return self._of(annotation.__value__)
        if annotation is getattr(typing, "LiteralString", None):
            return _PLAIN[str]
        if _of_pydantics(origin):  # a generic model
            return self._pydantics(annotation)
        if isinstance(origin, type):
            return self._generic(origin, args or _BARE.get(origin, ()))
        return ANYTHING

    def _class(self, cls: type) -> Kind:
        if cls in _PLAIN:
            return _PLAIN[cls]
        if _of_pydantics(cls):
            return self._pydantics(cls)
        if issubclass(cls, enum.Enum):
            return _choice({values.written(each.value): each for each in cls})
        if issubclass(cls, PurePath):
            return Kind({"type": "string", "format": "path"}, _from_text(cls, "a path"))
        if typing.is_typeddict(cls):
            return self._record(cls, self._typed_dict)
        if dataclasses.is_dataclass(cls):
            return self._record(cls, self._dataclass)
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return self._named_tuple(cls)
        if cls in _BARE:
            return self._generic(cls, _BARE[cls])
        return ANYTHING

    # ---- several of a kind ----

    def _generic(self, origin: type, args: tuple[Any, ...]) -> Kind:
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return self._items(args[0], tuple)
            return self._places([(self.of(each), None) for each in args], tuple, len(args))
        if origin in _LISTS:
            return self._items(args[0], list)
        if origin in _SETS:
            kind = self._items(args[0], frozenset if origin is frozenset else set)
            return Kind({**kind.schema, "uniqueItems": True}, kind.read)
        if origin in _DICTS:
            return self._mapping(*args)
        return ANYTHING

    def _items(self, annotation: Any, make: Callable[[Iterable[Any]], Any]) -> Kind:
        kind = self.of(annotation)
        schema = {"type": "array", "items": kind.schema} if kind.schema else {"type": "array"}
        return Kind(
            schema, lambda value: _converted(make, _each(_a(list, value), lambda _: kind.read))
        )

    def _places(
        self, kinds: list[tuple[Kind, str | None]], make: Callable[[Any], Any], least: int
    ) -> Kind:
        """A list with a type for each place, named or not."""
        schema: Object = {"type": "array", "minItems": least, "maxItems": len(kinds)}
        if kinds:
            schema["prefixItems"] = [
                kind.schema if name is None else {**kind.schema, "title": name}
                for kind, name in kinds
            ]

        def read(value: Any) -> Any:
            if not least <= len(_a(list, value)) <= len(kinds):
                few = f"{least} to {len(kinds)}" if least < len(kinds) else str(least)
                raise Misfit(Part((), f"has {len(value)} items; {few} are asked for"))
            return _converted(make, _each(value, lambda place: kinds[place][0].read))

        return Kind(schema, read)

    def _mapping(self, keys: Any, annotation: Any) -> Kind:
        key, kind = self.of(keys), self.of(annotation)
        schema: Object = {"type": "object"}
        if kind.schema:
            schema["additionalProperties"] = kind.schema
        options = key.schema.get("enum")
        if all(isinstance(each, str) for each in options or ()) and (
            options or "format" in key.schema
        ):
            schema["propertyNames"] = {**key.schema, "type": "string"}
        elif (pattern := _KEYS.get(str(key.schema.get("type")))) is not None:
            schema["propertyNames"] = {"pattern": pattern}

        def read(value: Any) -> Any:
            given = _a(dict, value)
            keyed = {name: _key(key, name) for name in given}
            return {keyed[name]: _within(name, kind.read, item) for name, item in given.items()}

        return Kind(schema, read)

    # ---- records ----

    def _record(self, cls: type, describe: Callable[[Any], Kind]) -> Kind:
        """Defined once, under its name: it may contain itself."""
        if cls not in self._named:
            name = _free(cls.__name__, self.defs)
            self._named[cls] = name
            self.defs[name], self._readers[name] = {}, _same
            kind = describe(cls)
            self.defs[name], self._readers[name] = kind.schema, kind.read
        name = self._named[cls]
        return Kind({"$ref": f"#/$defs/{name}"}, lambda value: self._readers[name](value))

    def _dataclass(self, cls: Any) -> Kind:
        hints = typing.get_type_hints(cls, include_extras=True)
        fields: dict[str, tuple[Kind, Any]] = {}
        for each in dataclasses.fields(cls):
            if each.init:
                default = each.default
                if each.default_factory is not dataclasses.MISSING:
                    default = _converted(lambda make: make(), each.default_factory)
                default = _MISSING if default is dataclasses.MISSING else default
                fields[each.name] = self.parameter(hints.get(each.name, Any), default), default
        kind = _object(cls, fields, lambda given: cls(**given))
        computed = {each.name for each in dataclasses.fields(cls) if not each.init}
        if not computed:
            return kind
        # Written with the others, and made of them.
        return Kind(
            kind.schema,
            lambda value: kind.read(
                {name: each for name, each in _a(dict, value).items() if name not in computed}
            ),
        )

    def _typed_dict(self, cls: Any) -> Kind:
        hints = typing.get_type_hints(cls, include_extras=True)
        needed = cls.__required_keys__  # without what is only said in annotations that are text
        fields = {}
        for name, each in hints.items():
            origin = typing.get_origin(each)
            may = origin is typing.NotRequired or (
                name not in needed and origin is not typing.Required
            )
            fields[name] = (self.of(each), _ABSENT if may else _MISSING)
        return _object(cls, fields, dict)

    def _named_tuple(self, cls: Any) -> Kind:
        hints, defaults = typing.get_type_hints(cls), cls._field_defaults
        kinds = [(self.of(hints.get(name, Any)), name) for name in cls._fields]
        return self._places(list(kinds), lambda items: cls(*items), len(kinds) - len(defaults))

    def _union(self, args: tuple[Any, ...]) -> Kind:
        """The first that fits, in their order; but a whole number is no float where it may be an
        int."""
        kinds = [self.of(each) for each in args]
        if any(not kind.schema for kind in kinds):
            return ANYTHING
        ordered = sorted(kinds, key=lambda kind: kind.schema == _PLAIN[float].schema)

        def read(value: Any) -> Any:
            problems: list[Misfit] = []
            for kind in ordered:
                try:
                    return kind.read(value)
                except Misfit as misfit:
                    problems.append(misfit)
            deepest = max(problems, key=lambda misfit: len(misfit.parts[0].path))
            if deepest.parts[0].path:
                raise deepest
            raise Misfit(Part((), " and ".join(dict.fromkeys(map(str, problems)))))

        return Kind({"anyOf": [kind.schema for kind in kinds]}, read)

    def parameter(self, annotation: Any, default: Any) -> Kind:
        """Of one with that default: None is given where it is the default."""
        kind = self.of(annotation)
        if default is None and kind.schema and not _takes_null(kind):
            return self._union_of(kind, _NULL)
        return kind

    def _union_of(self, *kinds: Kind) -> Kind:
        first, last = kinds
        return Kind(
            {"anyOf": [first.schema, last.schema]},
            lambda value: last.read(value) if value is None else first.read(value),
        )

    # ---- pydantic's ----

    def _annotated(self, whole: Any, inner: Any, *more: Any) -> Kind:
        if "pydantic" in sys.modules and not all(isinstance(each, str) for each in more):
            return self._pydantics(whole)
        kind = self.of(inner)
        texts = [each for each in more if isinstance(each, str)]
        return Kind({**kind.schema, "description": texts[0]}, kind.read) if texts else kind

    def _pydantics(self, annotation: Any) -> Kind:
        pydantic: Any = sys.modules.get("pydantic")
        adapter = pydantic.TypeAdapter(annotation)
        try:
            schema: Object = adapter.json_schema(ref_template="#/$defs/{model}")
        except pydantic.errors.PydanticInvalidForJsonSchema:
            schema = {}
        own: Object = schema.pop("$defs", {})
        taken = {name for name in own if self.defs.get(name, own[name]) != own[name]}
        for name in taken:
            # Of another module, by the same name.
            new = _free(name, {**self.defs, **own})
            schema, own = _renamed(schema, name, new), _renamed(own, name, new)
            own[new] = own.pop(name)
        self.defs |= own

        def read(value: Any) -> Any:
            try:
                return adapter.validate_json(json.dumps(value))
            except pydantic.ValidationError as error:
                raise Misfit(
                    *(Part(tuple(each["loc"]), each["msg"]) for each in error.errors())
                ) from None

        return Kind(schema, read)


# ---- single values ----


def _a(cls: type, value: Any) -> Any:
    if type(value) is not cls:
        raise Misfit(Part((), f"{_shown(value)} is not {_CALLED[cls]}"))
    return value


def _int(value: Any) -> int:
    if type(value) is float and value.is_integer():  # to JSON 1.0 is an integer
        return int(value)
    if type(value) is not int:
        raise Misfit(Part((), f"{_shown(value)} is not a whole number"))
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise Misfit(Part((), f"{_shown(value)} is not a number"))
    converted: float = _converted(float, value)
    return converted


def _from_text(make: Callable[[str], Any], called: str) -> Read:
    def read(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return make(value)
            except (ValueError, ArithmeticError):
                pass
        raise Misfit(Part((), f"{_shown(value)} is not {called}"))

    return read


def _decimal(value: Any) -> decimal.Decimal:
    text = value if isinstance(value, str) or type(value) not in (int, float) else repr(value)
    read: decimal.Decimal = _from_text(decimal.Decimal, "a decimal number")(text)
    return read


def _duration(value: Any) -> datetime.timedelta:
    try:
        if type(value) in (int, float, str):
            return durations.timedelta_of(value)
    except (ValueError, OverflowError):
        pass
    wanted = 'a duration: "PT90S", "90s" or seconds'
    raise Misfit(Part((), f"{_shown(value)} is not {wanted}"))


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict) and value.keys() == {FILE}:
        return _content(value[FILE])
    given = values.unpack(value)
    if not isinstance(given, bytes):
        raise Misfit(
            Part((), f'{_shown(value)} is not {{"$bytes": base64}}, nor {{"{FILE}": path}}')
        )
    return given


def _content(path: Any) -> bytes:
    """Of a file of the run: its agent begins where they are."""
    try:
        with open(check_path(_a(str, path)), "rb") as file:  # noqa: PTH123
            content = file.read(INPUT_BYTES_MAX + 1)
    except Invalid as error:
        raise Misfit(Part((), error.message)) from None
    except OSError as error:
        raise Misfit(Part((), f"the run has no file {path!r}: {error.strerror}")) from None
    if len(content) > INPUT_BYTES_MAX:
        problem = f"{path} has more than {INPUT_BYTES_MAX:,} bytes; annotate the parameter Path"
        raise Misfit(Part((), problem))
    return content


def _null(value: Any) -> None:
    if value is not None:
        raise Misfit(Part((), f"{_shown(value)} is not null"))


def _text(format: str, make: Callable[[str], Any], called: str) -> Kind:
    return Kind({"type": "string", "format": format}, _from_text(make, called))


_CALLED: dict[type, str] = {
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}
_NULL = Kind({"type": "null"}, _null)
_PLAIN: dict[Any, Kind] = {
    bool: Kind({"type": "boolean"}, lambda value: _a(bool, value)),
    int: Kind({"type": "integer"}, _int),
    float: Kind({"type": "number"}, _float),
    str: Kind({"type": "string"}, lambda value: _a(str, value)),
    bytes: Kind(
        {
            "type": "object",
            "properties": {"$bytes": {"type": "string"}, FILE: {"type": "string"}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        },
        _bytes,
    ),
    datetime.datetime: _text("date-time", datetime.datetime.fromisoformat, "a date and time"),
    datetime.date: _text("date", datetime.date.fromisoformat, "a date"),
    datetime.time: _text("time", datetime.time.fromisoformat, "a time"),
    datetime.timedelta: Kind({"type": ["string", "number"], "format": "duration"}, _duration),
    decimal.Decimal: Kind({"type": ["string", "number"], "format": "decimal"}, _decimal),
    uuid.UUID: _text("uuid", uuid.UUID, "a UUID"),
}
_BARE: dict[type, tuple[Any, ...]] = {
    list: (Any,),
    tuple: (Any, ...),
    set: (Any,),
    frozenset: (Any,),
    dict: (str, Any),
}
_LISTS = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
# A key of JSON is text.
_KEYS = {"integer": "^-?[0-9]+$", "number": "^-?[0-9.]+([eE][-+]?[0-9]+)?$"}


def _literal(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _choice(members: Mapping[str, Any]) -> Kind:
    """One of these, each by its JSON."""

    def read(value: Any) -> Any:
        try:
            return members[json.dumps(value)]
        except KeyError:
            raise Misfit(Part((), f"{_shown(value)} is not one of {', '.join(members)}")) from None

    return Kind({"enum": [json.loads(each) for each in members]}, read)


def _key(kind: Kind, name: str) -> Any:
    """A dict's key of that kind."""
    for given in (name, *_numbers(name)):
        try:
            return kind.read(given)
        except Misfit:
            continue
    return _within(name, kind.read, name)


def _numbers(text: str) -> list[Any]:
    if not re.fullmatch(r"-?[0-9.]+([eE][-+]?[0-9]+)?|true|false|null", text):
        return []
    try:
        return [json.loads(text)]
    except ValueError:
        return []


def _each(items: list[Any], read: Callable[[int], Read]) -> list[Any]:
    return [_within(place, read(place), item) for place, item in enumerate(items)]


def _within(place: str | int, read: Read, value: Any) -> Any:
    """Raises Misfit, saying that it is `place` that does not fit."""
    try:
        return read(value)
    except Misfit as misfit:
        parts = (Part((place, *part.path), part.message) for part in misfit.parts)
        raise Misfit(*parts) from misfit.__cause__


def _converted(make: Callable[[Any], Any], value: Any) -> Any:
    """What the agent's own code may refuse."""
    try:
        return make(value)
    except Misfit:
        raise
    except Exception as error:
        raise Misfit(Part((), f"{type(error).__name__}: {error}")) from error


def _object(cls: type, fields: Mapping[str, tuple[Kind, Any]], make: Read) -> Kind:
    """An object with these fields, each with its default."""
    properties = {name: described(kind, default) for name, (kind, default) in fields.items()}
    needed = [name for name, (_, default) in fields.items() if default is _MISSING]
    doc = cls.__doc__ or ""
    # A dataclass without a docstring is given its signature as one.
    about = {} if doc.startswith(f"{cls.__name__}(") or not doc else {"description": doc}
    schema = {"title": cls.__name__, **about, **closed(properties, needed)}

    def read(value: Any) -> Any:
        given = _a(dict, value)
        problems = [Part((name,), "is required") for name in needed if name not in given]
        problems += [Part((name,), "is unknown") for name in given if name not in fields]
        if problems:
            raise Misfit(*problems)
        return _converted(
            make,
            {name: _within(name, fields[name][0].read, each) for name, each in given.items()},
        )

    return Kind(schema, read)


def described(kind: Kind, default: Any) -> Object:
    """The schema of what has that default. One that is not JSON cannot be shown; it is used all the
    same."""
    if default is _MISSING or default is _ABSENT:
        return kind.schema
    try:
        return {**kind.schema, "default": values.pack(default)}
    except values.NotJson:
        return kind.schema


def closed(properties: Object, required: list[str]) -> Object:
    converted: Object = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**converted, "required": required} if required else converted


def _takes_null(kind: Kind) -> bool:
    try:
        kind.read(None)
    except Misfit:
        return False
    return True


def _of_pydantics(cls: Any) -> bool:
    return "pydantic" in sys.modules and (
        hasattr(cls, "__pydantic_core_schema__") or hasattr(cls, "__get_pydantic_core_schema__")
    )


def _free(name: str, taken: Mapping[str, Any]) -> str:
    free, n = name, 2
    while free in taken:
        free, n = f"{name}{n}", n + 1
    return free


def _renamed(schema: Any, old: str, new: str) -> Any:
    if isinstance(schema, dict):
        converted = {key: _renamed(value, old, new) for key, value in schema.items()}
        return (
            {**converted, "$ref": f"#/$defs/{new}"}
            if converted.get("$ref") == f"#/$defs/{old}"
            else converted
        )
    return [_renamed(each, old, new) for each in schema] if isinstance(schema, list) else schema


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"


def hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's parameters, those that can be made out."""
    inner: Any = inspect.unwrap(fn)
    inner = getattr(inner, "func", inner)
    found: dict[str, Any] = {}
    for name, annotation in getattr(inner, "__annotations__", {}).items():
        holder: Any = types.SimpleNamespace(__annotations__={name: annotation})
        names = getattr(inner, "__globals__", {})
        try:
            found |= typing.get_type_hints(holder, globalns=names, include_extras=True)
        except Exception:  # a name that is imported for type checkers only, …
            continue
    return found
