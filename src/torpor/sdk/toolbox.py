"""Tools: functions that a model may call, each a step, with a permission.

A call of a tool is a step of the same name and arguments. If its permission is "ask", a person
decides before each call about just these arguments (`torpor.sdk.permissions`), and the step names
the permission that it uses. What is called a second time, after a denial say, asks a second time.

A tool stays a function, so that agent frameworks take it as one; `tools` describes several for the
APIs of models, and calls them by what a model wrote.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args, overload

from torpor.core import permissions
from torpor.core.durations import Duration
from torpor.core.errors import Invalid
from torpor.sdk import arguments, notes, steps, values
from torpor.sdk.agents import Agent
from torpor.sdk.current import outside
from torpor.sdk.errors import OutsideRun, PermissionDenied, StepError, text_of, type_name
from torpor.sdk.operations import Operation
from torpor.sdk.permissions import allow, begin
from torpor.sdk.steps import OnDoubt, step

_F = TypeVar("_F", bound=Callable[..., Any])

Rule: TypeAlias = Literal["allow", "ask", "deny"]
Style: TypeAlias = Literal["chat", "responses", "anthropic"]
_TOOL = "__torpor_tool__"
_NOT_OF_PARAMETERS = ("$schema", "title", "description")


@overload
def tool(fn: _F, /) -> _F: ...
@overload
def tool(
    *,
    permission: Rule | Callable[..., Rule] = "allow",
    permission_timeout: Duration | None = None,
    name: str | None = None,
    retries: int = 0,
    backoff: Duration = 1.0,
    timeout: Duration | None = None,
    on_doubt: OnDoubt = "again",
) -> Callable[[_F], _F]: ...
def tool(
    fn: _F | None = None,
    /,
    *,
    permission: Rule | Callable[..., Rule] = "allow",
    permission_timeout: Duration | None = None,
    name: str | None = None,
    retries: int = 0,
    backoff: Duration = 1.0,
    timeout: Duration | None = None,
    on_doubt: OnDoubt = "again",
) -> _F | Callable[[_F], _F]:
    """Make a function, plain or async, a tool that a model may call: each call is a step.

    `permission`: "allow" calls it; "ask" asks a person first, who sees the arguments, and is asked
    for `permission_timeout` at most; "deny" never does. Or a function of the same arguments that
    returns one of these. A denied call raises `PermissionDenied`, with the person's reason. All
    else is as for `step`. Its name, docstring and annotations are what a model is told
    (`torpor.tools`)."""
    if not callable(permission) and permission not in get_args(Rule):
        raise ValueError(f"permission={permission!r}: one of {', '.join(get_args(Rule))}")

    def decorate(fn: _F) -> _F:
        called = name or fn.__name__
        if permissions.is_request(called):
            raise ValueError(f"name={called!r}: requests are called so; choose another")
        options = {"retries": retries, "backoff": backoff, "timeout": timeout}
        body = step(name=called, on_doubt=on_doubt, **options)(fn)  # type: ignore[call-overload]
        guard = _Guard(called, fn, permission, permission_timeout)
        wrapped = (_async_tool if inspect.iscoroutinefunction(fn) else _tool)(fn, body, guard)
        setattr(wrapped, _TOOL, Agent(called, wrapped))
        return cast(_F, wrapped)

    return decorate if fn is None else decorate(fn)


class _Guard:
    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        rule: Rule | Callable[..., Rule],
        timeout: Duration | None,
    ) -> None:
        self.name = name
        self._signature = inspect.signature(fn)
        self._rule, self._timeout = rule, timeout

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        """The question, if there is one. Raises PermissionDenied."""
        rule = self._rule(*args, **kwargs) if callable(self._rule) else self._rule
        if rule == "allow":
            return None
        if rule == "ask" and outside():
            raise OutsideRun(
                f"the tool {self.name!r} asks a person for permission, and there is no run: "
                "call it in an agent, in tests by torpor.testing.run"
            )
        if rule == "ask":
            action = self._action(args, kwargs)
            return begin(f"tool ({self.name})", action, self._timeout, step=True)
        if rule != "deny":
            raise ValueError(f"the permission of {self.name} is {rule!r}: allow, ask or deny")
        notes.log(f"tool {self.name}: denied, as its permission says", level="warning")
        never = permissions.Decision(permissions.DENY, "its permission is deny")
        raise PermissionDenied(self.name, never)

    def check(self, question: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises PermissionDenied if the arguments are not any more what the person saw."""
        digest = permissions.digest({"action": self._action(args, kwargs)})
        if not digest.startswith(question.digest):
            changed = "its arguments were changed after the decision"
            raise PermissionDenied(self.name, permissions.Decision(permissions.DENY, changed))

    def _action(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {key: _shown(value) for key, value in bound.arguments.items()}
        return {"name": self.name, "arguments": given}


def _shown(value: Any) -> Any:
    """JSON as it is; of anything else, a framework's context say, the type."""
    try:
        return values.pack(value)
    except values.NotJson:
        return arguments.stand(value)


def _tool(fn: Callable[..., Any], body: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        question = guard.begin(args, kwargs)
        if question is None:
            return body(*args, **kwargs)
        allow(question, question.block())
        guard.check(question, args, kwargs)
        with steps.using(question.op):
            return body(*args, **kwargs)

    return call


def _async_tool(
    fn: Callable[..., Any], body: Callable[..., Any], guard: _Guard
) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        question = guard.begin(args, kwargs)
        if question is None:
            return await body(*args, **kwargs)
        allow(question, await question.wait())
        guard.check(question, args, kwargs)
        with steps.using(question.op):
            return await body(*args, **kwargs)

    return call


class Tools:
    """Several tools, as a model is told of them and as it calls them."""

    def __init__(self, *fns: Callable[..., Any]) -> None:
        self._tools: dict[str, Agent] = {}
        for fn in fns:
            found = getattr(fn, _TOOL, None)
            if not isinstance(found, Agent):
                raise TypeError(f"{fn!r} is no tool: decorate it with @torpor.tool")
            if found.name in self._tools:
                raise ValueError(f"two tools are named {found.name!r}")
            self._tools[found.name] = found

    def schemas(self, style: Style = "chat") -> list[dict[str, Any]]:
        """For `tools=` of OpenAI's chat completions, of its responses API, or of Anthropic's
        messages."""
        if style not in get_args(Style):
            raise ValueError(f"style={style!r}: one of {', '.join(get_args(Style))}")
        return [_STYLES[style](*_described(each)) for each in self._tools.values()]

    def call(self, name: str, given: str | Mapping[str, Any]) -> str:
        """What a model gets for its call of the tool `name` with `given`, JSON: the result as text;
        or what is wrong with its arguments, why a person denied it, what the tool raised."""
        try:
            bound = self._bind(name, given)
            return _text(bound())
        except (PermissionDenied, Invalid, StepError) as error:
            return _trouble(error)

    async def acall(self, name: str, given: str | Mapping[str, Any]) -> str:
        """As `call`, of tools that are async functions, too."""
        try:
            result = self._bind(name, given)()
            return _text(await result if inspect.isawaitable(result) else result)
        except (PermissionDenied, Invalid, StepError) as error:
            return _trouble(error)

    def _bind(self, name: str, given: str | Mapping[str, Any]) -> Callable[[], Any]:
        """Raises Invalid."""
        found = self._tools.get(name)
        if found is None:
            raise Invalid(f"there is no tool {name}; there are {', '.join(self._tools) or 'none'}")
        try:
            arguments = json.loads(given or "{}") if isinstance(given, str) else dict(given)
        except ValueError as error:
            raise Invalid(f"the arguments of {name} are not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise Invalid(f"the arguments of {name} must be a JSON object")
        return found.bind(arguments)


def tools(*fns: Callable[..., Any]) -> Tools:
    """Tools for a model: `.schemas()` tells it of them, `.call(name, arguments)` calls one."""
    return Tools(*fns)


def _described(found: Agent) -> tuple[str, str, dict[str, Any]]:
    schema = found.describe().get("schema", {"type": "object"})
    parameters = {key: schema[key] for key in schema if key not in _NOT_OF_PARAMETERS}
    return found.name, inspect.getdoc(found.fn) or "", parameters


def _chat(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    named = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": named}


def _responses(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": parameters,
        "strict": False,
    }


def _anthropic(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": description, "input_schema": parameters}


_STYLES: dict[str, Callable[[str, str, dict[str, Any]], dict[str, Any]]] = {
    "chat": _chat,
    "responses": _responses,
    "anthropic": _anthropic,
}


def _text(result: Any) -> str:
    packed = values.pack(result)
    return packed if isinstance(packed, str) else json.dumps(packed, ensure_ascii=False)


def _trouble(error: Exception) -> str:
    if isinstance(error, (PermissionDenied, Invalid)):
        return text_of(error)
    kind = error.type if isinstance(error, StepError) else type_name(type(error))
    return f"{kind}: {text_of(error)}"
