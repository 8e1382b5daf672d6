"""Agents: the functions that a run can start, and the check of a run's input."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from torpor.model.errors import Invalid
from torpor.model.inputs import check_input
from torpor.sdk import values

_F = TypeVar("_F", bound=Callable[..., Any])

_POSITIONAL, _NAMED = (
    (inspect.Parameter.POSITIONAL_ONLY,),
    (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY),
)


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
        return {
            "name": self.name,
            "doc": inspect.getdoc(self.fn),
            "params": [_describe(each) for each in self.parameters],
            "open": any(
                each.kind is inspect.Parameter.VAR_KEYWORD
                for each in inspect.signature(self.fn).parameters.values()
            ),
        }

    def bind(self, given: Mapping[str, Any]) -> Callable[[], Any]:
        """The call of the agent with the input `given`. Raises Invalid naming what is missing or
        unknown."""
        check_input(self.describe(), given)
        named = dict(given)
        args = [
            named.pop(each.name)
            for each in self.parameters
            if each.kind in _POSITIONAL and each.name in named
        ]
        return lambda: self.fn(*args, **named)


_registered: dict[str, Agent] = {}


@overload
def agent(fn: _F, /) -> _F: ...
@overload
def agent(*, name: str | None = None) -> Callable[[_F], _F]: ...
def agent(fn: _F | None = None, /, *, name: str | None = None) -> _F | Callable[[_F], _F]:
    """Make a function, plain or async, an agent that `torpor run` can start. A run's input gives
    its arguments by name; what it returns (JSON) is the run's result."""

    def register(fn: _F) -> _F:
        called = name or fn.__name__
        known = _registered.get(called)
        if known is not None and known.fn is not fn:
            raise ValueError(f"two agents are named {called!r}: give one of them another name=")
        _registered[called] = Agent(called, fn)
        return fn

    return register if fn is None else register(fn)


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
            f"there is no agent {wanted!r}", hint=f"There is: {', '.join(sorted(_registered))}."
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
