"""Warm hooks: what a program does at its first use, done before there is a first run.

Frameworks import lazily, and make schemas and clients at the first call. A hook has that done while
the agent's template is made: after the agent's file is imported, before the machine is frozen. It
is as the end of the import, with its limit and its output, but for two things. Steps are plain
functions in it, as outside of any run. And a model call, which is answered "not yet" (`refusals`),
may end it: who calls a framework needs no `except`. Whatever else it raises fails the deployment.

Without a machine no hook is run: there the agent's file, and so its hooks, are only known to a
process whose run is due, and it would begin later by all that they do. So an agent must be right
without its hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TypeVar

from torpor.core import refusals
from torpor.sdk import current
from torpor.sdk.errors import text_of

Hook = TypeVar("Hook", bound=Callable[[], object])

_hooks: list[Callable[[], object]] = []


def warm(hook: Hook) -> Hook:
    """Call `hook`, plain or async, once the agent's file is imported, and before the template is
    made of which all runs begin: for what is imported and made at the first use only. Call your
    framework in it as the agent does: a model call is answered with an error, "not yet", which may
    end the hook. It cannot use operations; steps in it are plain functions."""
    try:
        inspect.signature(hook).bind()
    except TypeError as error:
        raise TypeError(f"torpor.warm: a hook must not need arguments: {error}") from None
    if not current.outside():
        _hooks.append(hook)
    return hook


def run() -> None:
    """Run the hooks, in the order of their definition. Raises what they raise."""
    for hook in _hooks:
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        try:
            with current.warming():
                copy_context().run(_call, hook)  # what it sets in contexts ends with it
        except SystemExit as exit:
            raise RuntimeError(f"the warm hook {name} called sys.exit({exit.code!r})") from None
        except Exception as error:
            if not is_not_yet(error):
                with contextlib.suppress(Exception):  # what takes no notes
                    error.add_note(f"raised in the warm hook {name}")
                raise


def _call(hook: Callable[[], object]) -> None:
    if not inspect.iscoroutinefunction(hook):
        hook()
        return
    # asyncio.run would leave this thread with the word that it has no loop.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(_awaited(hook()))


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


def is_not_yet(error: BaseException, seen: frozenset[int] = frozenset()) -> bool:
    """Whether it is what a client made of the answer to a model call, or came of that: the answer's
    words are in its text, or in that of an error that it was raised from or beside. Of a group,
    that must be so of each."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_not_yet(each, seen) for each in error.exceptions)
    seen |= {id(error)}
    earlier = (error.__cause__, error.__context__)
    return refusals.NOT_YET in text_of(error) or any(
        is_not_yet(each, seen) for each in earlier if each is not None and id(each) not in seen
    )
