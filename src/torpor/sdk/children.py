"""Children: other runs that this one spawns, and may wait for.

    child = torpor.spawn(research, {"topic": "tea"})  # it runs from now on, in its own machine
    notes = child.result()                            # or: await child

A child may be started as any run may: in a queue, with a key and a priority, later, or in time or
not at all (`torpor.core.starting.Start`).

A child that did not complete raises `ChildFailed` where its result is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from torpor.core.durations import Duration, seconds
from torpor.core.errors import Invalid
from torpor.core.limits import NAME_MAX
from torpor.core.starting import AT_ONCE, Start
from torpor.sdk import agents, arguments, values
from torpor.sdk.current import current
from torpor.sdk.errors import ChildFailed, refused
from torpor.sdk.steps import refuse_inside
from torpor.sdk.waits import Ready, Wait, WaitResult, all_ended, all_ending, here
from torpor.wire import messages

# Of a batch: it is one message.
_INPUTS_CHARS_MAX = messages.SIZE_MAX - 1024 * 1024


class Child(Wait):
    """A child run. `result()` blocks, `await` awaits; both may be used repeatedly. A parent that
    waits for nothing else sleeps meanwhile."""

    def result(self) -> Any:
        """What the child returned. Raises ChildFailed if it failed or was cancelled."""
        return _result(self._ended())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        return _result(await self._ending())


class Results(list[Any], Ready):
    """The results of a batch, in its order."""


class Children(list[Child]):
    """A batch of children, in the order of their inputs."""

    def results(self) -> Results:
        """What all of them returned. Raises ChildFailed for the first that did not complete, once
        all have ended."""

        def block() -> Results:
            return Results([_result(each) for each in all_ended(self)])

        async def wait() -> Results:
            return Results([_result(each) for each in await all_ending(self)])

        return here("spawn_many(...).results", block, wait)


def spawn(
    agent: str | Callable[..., Any],
    input: Mapping[str, Any] | None = None,
    /,
    *,
    queue: str | None = None,
    key: str | None = None,
    priority: int | None = None,
    delay: Duration | None = None,
    expires: Duration | None = None,
    env: Mapping[str, str] | None = None,
    **given: Any,
) -> Child:
    """Start a run of `agent` as a child of this one, and go on. `agent` is an agent of this file,
    as the function or by its name, and has this run's version; or another that is deployed, by its
    name: FILE, FILE:AGENT, or AGENT where just one file has it. `input` gives its arguments by
    name, and so do keywords, but for those that say how it is to be started, as the options of
    `torpor run` do: the environment variables `env` (those of this run are not passed on), the
    `queue` that it waits in for a machine, its `key` there and its `priority`
    (the higher goes first), after which `delay` it is due, and how long after that it `expires`, if
    it has not been started: it is cancelled then. ValueError says what is wrong with one."""
    refuse_inside("spawn")
    runtime = current("spawn")
    how = _how(queue=queue, key=key, priority=priority, delay=delay, expires=expires, env=env)
    both = {**_mapping("spawn", {} if input is None else input), **given}
    name, digest, data = _request("spawn", agent, both, how)
    try:
        return Child(runtime.begin("child", name, digest, data))
    except Invalid as error:
        raise refused("spawn", error) from None


def spawn_many(
    agent: str | Callable[..., Any],
    inputs: Iterable[Mapping[str, Any]],
    /,
    *,
    queue: str | None = None,
    key: str | None = None,
    priority: int | None = None,
    delay: Duration | None = None,
    expires: Duration | None = None,
    env: Mapping[str, str] | None = None,
) -> Children:
    """As `spawn`, one child for each input: at most 1,000, which are started all or, if there is a
    crash, none. How they are to be started is the same for all."""
    refuse_inside("spawn_many")
    runtime = current("spawn_many")
    how = _how(queue=queue, key=key, priority=priority, delay=delay, expires=expires, env=env)
    given = [_mapping("spawn_many", each) for each in inputs]
    requests = [_request("spawn_many", agent, each, how) for each in given]
    if len(requests) > messages.BATCH_MAX:
        raise ValueError(f"spawn_many takes {messages.BATCH_MAX:,} inputs, not {len(requests):,}")
    chars = sum(len(json.dumps(data)) for _, _, data in requests)
    if chars > _INPUTS_CHARS_MAX:
        raise ValueError(
            f"spawn_many: the inputs take {chars:,} characters; {_INPUTS_CHARS_MAX:,} go at once"
        )
    try:
        return Children(Child(each) for each in runtime.begin_all("child", requests))
    except Invalid as error:
        raise refused("spawn_many", error) from None


def _mapping(what: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"torpor.{what}: an input must be a dict of arguments by name, not {given!r}"
        )
    return given


def _how(**options: Any) -> dict[str, Any]:
    return {word: value for word, value in options.items() if value is not None}


def _request(
    what: str,
    agent: str | Callable[..., Any],
    given: Mapping[str, Any],
    how: Mapping[str, Any],
) -> tuple[str, str, dict[str, Any]]:
    """The operation's name, its digest and its data. Raises TypeError, ValueError."""
    registered = agents.registered()
    if callable(agent):
        names = [name for name, each in registered.items() if each.fn is agent]
        if not names:
            raise ValueError(f"torpor.{what}: {agent!r} is not an @torpor.agent of this file")
        name, own = names[0], True
    else:
        name, own = agent, agent in registered
    try:
        start = _start(how)
        packed = values.pack(dict(given))
        if own:  # a slip is found where it is made
            _refuse_both(registered[name], how, packed)
            registered[name].bind(packed)
    except values.NotJson as error:
        raise TypeError(f"torpor.{what}: the input cannot be sent: {error}") from None
    except (Invalid, ValueError) as error:
        raise ValueError(f"torpor.{what}: {error}") from None
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"torpor.{what}: a name must have 1 to {NAME_MAX} characters")
    data = {"agent": name, "own": own, "input": packed}
    if start != AT_ONCE:  # else not a word: its digest is what it was before there were any
        data["start"] = start.given()
    return name, arguments.digest(data), data


def _start(how: Mapping[str, Any]) -> Start:
    """Raises Invalid, ValueError."""
    start = Start(
        queue=how.get("queue"),
        key=how.get("key"),
        priority=how.get("priority", 0),
        delay_s=seconds(how.get("delay", 0)),
        expires_s=seconds(how["expires"]) if "expires" in how else None,
        env=dict(how.get("env", {})),
    )
    return start.check()


def _refuse_both(agent: agents.Agent, how: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """What might be meant for the agent is not taken for how it is to be started."""
    for each in agent.parameters:
        if each.name in how and each.name not in given:
            raise Invalid(
                f"{each.name} says how the child is started, and {agent.name} has an argument "
                f"of that name: give that in the input, as in {{{each.name!r}: …}}"
            )


def _result(ended: WaitResult) -> Any:
    if ended.status != "completed":
        raise ChildFailed(ended.name, {**vars(ended)})
    return ended.data
