"""What a test's `answers` say: which of them is meant for which wait, and what it comes to.

A key is what a wait is called: `approve`, `permission:NAME` (of a tool, or what is asked for),
`waitpoint:NAME`, `event:NAME`, `child:AGENT`. It may be
wider (`waitpoint`: all of them) or narrower: `approve:PROMPT`, or `waitpoint:NAME#2`, the second of
that name. The narrowest counts. A list is one answer for each, in the order in which they begin;
anything else is the answer to all of them.

Which of a list's answers a wait has got is kept by its operation: in a replay it has the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeAlias

from torpor.core import permissions
from torpor.core.durations import Duration, seconds
from torpor.core.errors import Invalid
from torpor.core.ids import op_number
from torpor.policy import answers
from torpor.sdk import values
from torpor.sdk.errors import text_of, type_name


class Unanswered(AssertionError):
    """The agent waits for what nobody answers. `waits` are those; the text says how to."""

    def __init__(self, message: str, waits: tuple[Wait, ...] = ()) -> None:
        super().__init__(message)
        self.waits = waits


class Unused(AssertionError):
    """The agent ended without having asked for all that there were answers to."""


class _Timeout:
    def __repr__(self) -> str:
        return "TIMEOUT"


# Nobody answers in time: the wait ends by its own timeout.
TIMEOUT: Final = _Timeout()


@dataclass(frozen=True)
class Answer:
    """An answer with more than its value. `data` is what it brings, `approved` the verdict of an
    approval, `by` who gave it; it comes `after` so long, by the test's clock."""

    data: Any = None
    approved: bool | None = None
    note: str | None = None
    by: str = "test"
    after: Duration = 0


@dataclass(frozen=True)
class Wait:
    """A wait that wants an answer. `kind` is "approve", "permission", "waitpoint", "event" or
    "child"; `name` its own, of a child its agent's; `number` counts those of its name. `data` is
    what its answerer sees, of a child its input, of a permission its arguments. `agent` is who
    asks, `timeout_s` how long it waits at most."""

    kind: str
    name: str
    number: int
    agent: str
    prompt: str = ""
    data: Any = None
    schema: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    timeout_s: float | None = None

    @property
    def key(self) -> str:
        """As `answers` has it."""
        return self.kind if self.kind == "approve" else f"{self.kind}:{self.name}"

    @property
    def keys(self) -> Iterator[str]:
        """What may say its answer, the narrowest first."""
        yield f"{self.key}#{self.number}"
        if self.kind == "approve":
            yield f"approve:{self.prompt}"
        yield self.key
        yield self.kind

    def __str__(self) -> str:
        shown = f" {self.prompt!r}" if self.prompt else ""
        return f"{self.key}{shown}"


class ModelRequest(NamedTuple):
    """A model call. `json` is its body, None if that is no JSON; `path` as in "/v1/embeddings"."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    json: Any


Answers: TypeAlias = Mapping[str, Any] | Callable[[Wait], Any]


class Ending(NamedTuple):
    """How a wait ends, and after how long. `value` is None: nobody says, and it is the test's
    mistake."""

    value: dict[str, Any] | None
    after_s: float


def wait_of(agent: str, message: Mapping[str, Any]) -> Wait:
    """The wait that a `begin` begins."""
    data, name = message["data"], message["name"]
    number, shown = op_number(message["op"]), values.unpack(data.get("data"))
    if message["kind"] == "event":
        return Wait("event", name, number, agent, timeout_s=data["timeout_s"])
    if message["kind"] == "child":
        return Wait("child", name, number, agent, data=values.unpack(data["input"]))
    if message["kind"] == permissions.KIND:
        shown = values.unpack(data["action"]["arguments"])
        prompt, timeout_s = data.get("reason", ""), data["timeout_s"]
        return Wait(permissions.KIND, name, number, agent, prompt, shown, timeout_s=timeout_s)
    kind = "approve" if data["approve"] else "waitpoint"
    more = {"schema": data.get("schema"), "tags": tuple(data["tags"])}
    return Wait(
        kind, name, number, agent, data["prompt"], shown, **more, timeout_s=data["timeout_s"]
    )


@dataclass
class Script:
    """`given`, and what of its lists each operation got:
    (run, operation), to key and place."""

    given: Answers
    taken: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    waits: list[Wait] = field(default_factory=list)

    def replaying(self) -> Script:
        """The same for another execution of the same run."""
        return Script(self.given, dict(self.taken))

    def find(self, run: str, op: str, wait: Wait) -> Any:
        """The answer to `wait`, the operation `op`; ... if there is none."""
        self.waits.append(wait)
        if callable(self.given):
            return self.given(wait)
        for key in wait.keys:
            if key not in self.given:
                continue
            found = self.given[key]
            self.used.add(key)
            if isinstance(found, list):
                known = self.taken.get((run, op))
                place = known[1] if known and known[0] == key else self._next(run, key)
                if place >= len(found):
                    continue
                self.taken[run, op] = key, place
                found = found[place]
            return found(wait) if callable(found) else found
        return ...

    def _next(self, run: str, key: str) -> int:
        places = [place for (of, _), (by, place) in self.taken.items() if (of, by) == (run, key)]
        return max(places, default=-1) + 1

    def check_used(self) -> None:
        """Raises Unused."""
        if callable(self.given):
            return
        unused = [key for key in self.given if key not in self.used]
        for key, found in self.given.items():
            last = max((place for by, place in self.taken.values() if by == key), default=-1)
            if isinstance(found, list) and key in self.used and last + 1 < len(found):
                unused.append(f"{key} (number {last + 2} of {len(found)})")
        if unused:
            were = ", ".join(dict.fromkeys(each.key for each in self.waits)) or "nothing"
            raise Unused(f"the agent never asked for {', '.join(unused)}; it asked for: {were}")


def ending(wait: Wait, given: Any) -> Ending:
    """How `wait` ends by the answer `given`. Raises TypeError, or AssertionError for an answer that
    the real host would refuse."""
    if given is ...:
        return Ending(None, float("inf") if wait.timeout_s is None else wait.timeout_s)
    if given is TIMEOUT:
        if wait.timeout_s is None:
            raise TypeError(f"{wait} has no timeout: TIMEOUT cannot answer it")
        return Ending(value("timeout"), wait.timeout_s)
    if isinstance(given, BaseException):
        if wait.kind != "child":
            raise TypeError(f"{wait} cannot be answered with an exception: only a child can fail")
        described = {"type": type_name(type(given)), "message": text_of(given)}
        return Ending(value("failed", described, by="test"), 0)
    answer = given if isinstance(given, Answer) else _answer(wait, given)
    if wait.kind == permissions.KIND:
        answer = _decided(wait, answer)
    after_s = seconds(answer.after)
    if wait.timeout_s is not None and after_s >= wait.timeout_s:
        return Ending(value("timeout"), wait.timeout_s)
    data = values.pack(answer.data)
    _check(wait, answer, data)
    return Ending(value("completed", data, answer.by, answer.approved, answer.note), after_s)


def value(
    status: str,
    data: Any = None,
    by: str | None = None,
    approved: bool | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """What a wait ends with, as the log has it."""
    return {"status": status, "data": data, "approved": approved, "note": note, "by": by}


def _answer(wait: Wait, given: Any) -> Answer:
    return (
        Answer(approved=given)
        if wait.kind == "approve" and isinstance(given, bool)
        else Answer(given)
    )


def _decided(wait: Wait, answer: Answer) -> Answer:
    """An answer about a permission: yes or no, "once", "run" or "deny"."""
    data = answer.data
    if isinstance(data, bool):
        data = permissions.ONCE if data else permissions.DENY
    if isinstance(data, str):
        data = {"decision": data}
    try:
        return replace(answer, **permissions.settled(data, answer.approved, answer.note))
    except Invalid:
        raise TypeError(
            f'{wait} is answered by True, False, "once", "run", "deny", TIMEOUT or '
            f"Answer(approved=…, note=…), not {answer!r}"
        ) from None


def _check(wait: Wait, answer: Answer, data: Any) -> None:
    if wait.kind == "approve" and not isinstance(answer.approved, bool):
        raise TypeError(
            f"{wait} is answered by True, False, TIMEOUT or Answer(approved=…), not {answer!r}"
        )
    try:
        answers.check_answer(wait.schema, data)
    except Invalid as error:
        shown = json.dumps(data)[:200]
        raise AssertionError(f"{wait}: {error.message} (answered with {shown})") from None


def unanswered(waits: tuple[Wait, ...]) -> Unanswered:
    """For these, which are all that the agent waits for."""
    lines = "".join(f"\n  {each}" + _hint(each) for each in waits)
    keys = ", ".join(f'"{key}": …' for key in dict.fromkeys(each.key for each in waits))
    return Unanswered(
        f"the agent waits, and no answer is given:{lines}\nGive one: run(agent, …, "
        f"answers={{{keys}}}). TIMEOUT lets a wait time out.",
        waits,
    )


def _hint(wait: Wait) -> str:
    known = [f"{wait.timeout_s:g} s" if wait.timeout_s is not None else ""]
    known += ["" if wait.schema is None else f"schema {json.dumps(wait.schema)[:200]}"]
    described = ", ".join(each for each in known if each)
    return f" ({described})" if described else ""
