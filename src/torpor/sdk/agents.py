"""Agents: the functions that a run can start, and the check of a run's input."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, overload

from torpor.core import jsonvalues
from torpor.core.errors import Invalid, Part
from torpor.core.inputs import check_input, misfit
from torpor.sdk import parameters, values
from torpor.sdk.current import outside
from torpor.sdk.parameters import ANYTHING, Kind, Kinds, Misfit

_F = TypeVar("_F", bound=Callable[..., Any])

_POSITIONAL, _NAMED = (
    (inspect.Parameter.POSITIONAL_ONLY,),
    (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY),
)


class Input(NamedTuple):
    schema: dict[str, Any]
    kinds: Mapping[str, Kind]
    rest: Kind  # of names that are not among them

    def read(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Part]]:
        """The arguments, by name, and what is wrong with them."""
        named: dict[str, Any] = {}
        wrong: list[Part] = []
        for name, value in given.items():
            try:
                named[name] = self.kinds.get(name, self.rest).read(value)
            except Misfit as problem:
                wrong += [Part((name, *part.path), part.message) for part in problem.parts]
        return named, wrong


@dataclass(frozen=True)
class Agent:
    """One registered agent."""

    name: str
    fn: Callable[..., Any]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Those that an input can name."""
        found = inspect.signature(self.fn).parameters.values()
        return [each for each in found if each.kind in (*_POSITIONAL, *_NAMED)]

    def describe(self) -> dict[str, Any]:
        """As the `loaded` message has it."""
        schema = self._input.schema
        return {
            "name": self.name,
            "doc": inspect.getdoc(self.fn),
            "params": [_describe(each) for each in self.parameters],
            "open": self._rest is not None,
            # One that could not be sent is of no use; the values are checked all the same.
            **({"schema": schema} if jsonvalues.fault(schema) is None else {}),
        }

    @property
    def _rest(self) -> inspect.Parameter | None:
        """That takes whatever else an input names."""
        found = inspect.signature(self.fn).parameters.values()
        return next((each for each in found if each.kind is each.VAR_KEYWORD), None)

    @cached_property
    def _input(self) -> Input:
        kinds, hints = Kinds(), parameters.hints(self.fn)
        known = {
            each.name: (kinds.parameter(hints.get(each.name, Any), each.default), each.default)
            for each in self.parameters
        }
        schema = parameters.closed(
            {name: parameters.described(kind, default) for name, (kind, default) in known.items()},
            [each.name for each in self.parameters if each.default is each.empty],
        )
        rest = ANYTHING if self._rest is None else kinds.of(hints.get(self._rest.name, Any))
        if self._rest is not None:
            schema["additionalProperties"] = rest.schema or True
        about = {"$schema": parameters.DRAFT, "title": self.name}
        if doc := inspect.getdoc(self.fn):
            about["description"] = doc
        defs = {"$defs": kinds.defs} if kinds.defs else {}
        return Input({**about, **schema, **defs}, {n: kind for n, (kind, _) in known.items()}, rest)

    def bind(self, given: Mapping[str, Any]) -> Callable[[], Any]:
        """The call of the agent with the input `given`, as its annotations say. Raises Invalid
        naming what is missing, unknown or not of its type."""
        described = self.describe()
        check_input(described, given)
        named, wrong = self._input.read(given)
        if wrong:
            raise misfit(described, wrong)
        args = [
            named.pop(each.name)
            for each in self.parameters
            if each.kind in _POSITIONAL and each.name in named
        ]
        return lambda: self.fn(*args, **named)


_registered: dict[str, Agent] = {}
_all: list[Agent] = []  # of plain Python, where several programs may have agents of one name


@overload
def agent(fn: _F, /) -> _F: ...
@overload
def agent(*, name: str | None = None) -> Callable[[_F], _F]: ...
def agent(fn: _F | None = None, /, *, name: str | None = None) -> _F | Callable[[_F], _F]:
    """Make a function, plain or async, an agent that `torpor run` can start. A run's input gives
    its arguments by name; what it returns (JSON) is the run's result."""

    def register(fn: _F) -> _F:
        called = name or fn.__name__
        known = _all if outside() else list(_registered.values())
        others = [each.fn for each in known if each.name == called and each.fn is not fn]
        if any(not outside() or _both_of(other, fn) for other in others):
            raise ValueError(
                f"two agents are named {called!r}: give one of them another name with "
                "@torpor.agent(name=…)"
            )
        created = _registered[called] = Agent(called, fn)
        if outside():
            _all.append(created)
        return fn

    return register if fn is None else register(fn)


def _both_of(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether both are of one file, and neither of a function in it."""
    both = (one, other)
    names = [str(getattr(each, "__qualname__", "<locals>")) for each in both]
    modules = {getattr(each, "__module__", None) for each in both}
    return len(modules) == 1 and names[0] != names[1] and "<locals>" not in "".join(names)


def of(fn: Callable[..., Any]) -> Agent:
    """The agent that `fn` is, in plain Python. Raises TypeError."""
    for each in reversed(_all):
        if each.fn is fn:
            return each
    raise TypeError(f"{fn!r} is not a torpor.agent: write @torpor.agent above it")


@contextlib.contextmanager
def of_program(agent: Agent) -> Iterator[None]:
    """While this lasts, the agents that there are, are those that `agent` has: of several of one
    name, that of its own file, else the newest."""
    before = dict(_registered)
    found = {each.name: each for each in _all}
    module = getattr(agent.fn, "__module__", None)
    found |= {each.name: each for each in _all if getattr(each.fn, "__module__", None) == module}
    _registered.clear()
    _registered.update(found | {agent.name: agent})
    try:
        yield
    finally:
        _registered.clear()
        _registered.update(before)


def registered() -> dict[str, Agent]:
    return dict(_registered)


def default() -> str | None:
    """The agent that is meant when none is named: the only one."""
    return next(iter(_registered)) if len(_registered) == 1 else None


def choose(name: str | None) -> Agent:
    """Raises Invalid, naming the agents there are."""
    wanted = name or default()
    if wanted is None:
        raise Invalid(
            f"the file has several agents ({', '.join(sorted(_registered))})",
            hint="Name one: torpor run FILE.py:NAME",
        )
    if wanted not in _registered:
        raise Invalid(
            f"there is no agent {wanted!r}", hint=f"Use one of: {', '.join(sorted(_registered))}."
        )
    return _registered[wanted]


def _describe(parameter: inspect.Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "required": parameter.default is inspect.Parameter.empty,
    }
    if not described["required"]:
        # A default that is not JSON cannot be shown; it is used all the same.
        with contextlib.suppress(values.NotJson):
            described["default"] = values.pack(parameter.default)
    return described
