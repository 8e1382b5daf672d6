"""What is sent to models comes back byte by byte, and is stored once."""

from __future__ import annotations

import json
from base64 import b64encode
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, select, text

from torpor.contextlog import schema
from torpor.contextlog.calls import BODY_CHARS_MAX
from torpor.contextlog.deletion import delete_run, mark
from torpor.contextlog.entries import NewEntry, append, read_entries, read_op
from torpor.contextlog.forks import fork_of, fork_run, shared_end
from torpor.contextlog.messages import BODY_CHARS_MIN, cut, fold, unfold
from torpor.contextlog.runs import get_run, transition
from torpor.contextlog.transfer import read_run, stream_entries, write_run
from torpor.core.errors import Invalid
from torpor.core.ids import OpId, RunId, Seq
from torpor.core.jsonvalues import ENTRY_BYTES_MAX
from torpor.core.states import RunState

CALLS = 100
TOKEN_CHARS = 4
CONVERSATION_TOKENS = 200_000

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])


@given(JSON, SEPARATORS, st.booleans(), st.none() | st.integers(0, 400), st.text(max_size=3))
def test_what_was_cut_joins_again(
    value: Any, separators: tuple[str, str], ascii_only: bool, at: int | None, junk: str
) -> None:
    body = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    if at is not None:  # and what is no JSON any more
        body = body[:at] + junk + body[at:]
    parts = cut(body)
    joined = "".join(part if isinstance(part, str) else "".join(part) for part in parts)
    assert joined == body
    if at is None and isinstance(value, dict):
        items = [len(part) for part in parts if isinstance(part, list)]
        assert items == [len(v) for v in value.values() if isinstance(v, list) and v]


def test_where_a_body_is_cut() -> None:
    body = '{"model": "m", "messages": [ {"a": []}, "b" ], "empty": [], "tools":[1],"seed":7}'
    assert cut(body) == [
        '{"model": "m", "messages": [',
        [' {"a": []}', ', "b"'],
        ' ], "empty": [], "tools":[',
        ["1"],
        '],"seed":7}',
    ]
    for whole in ("[1, 2]", "plain", "", "{", '{"a"', '{"a": [1'):
        assert cut(whole) == ([whole] if whole else [])


class Conversation:
    """Calls of a model, with all that was said before each."""

    def __init__(self, commit: Any) -> None:
        self.commit = commit
        self.run, self.epoch = commit.claimed()
        self.messages: list[dict[str, str]] = []
        self.bodies: list[str] = []

    def say(self, chars: int, *, last: int | None = None) -> None:
        number = len(self.messages)
        role = "assistant" if number % 2 else "user"
        content = f"{number} " + "naïve text " * (chars // 11)
        self.messages.append({"role": role, "content": content})
        if role == "user":
            self.call(self.messages if last is None else self.messages[-last:])

    def call(self, messages: list[dict[str, str]]) -> None:
        tools = [{"name": f"tool {n}", "description": "does " * 100} for n in range(5)]
        request = {"messages": messages, "model": "m", "tools": tools, "temperature": 0.5}
        body = json.dumps(request, ensure_ascii=False)
        op = OpId(f"model:m#{len(self.bodies) + 1}")
        asked = {"method": "POST", "path": "/v1/chat/completions", "headers": {}, "body": body}
        begin = {"kind": "model", "name": "m", "digest": "d", "data": asked}
        self.commit(
            lambda c: append(c, self.run, self.epoch, [NewEntry("op.begin", op, begin)], 1.0)
        )
        self.bodies.append(body)

    def content(self) -> int:
        return sum(len(json.dumps(m, ensure_ascii=False).encode()) for m in self.messages)

    def stored(self) -> int:
        """Bytes of the database's pages in use."""

        def read(c: Any) -> int:
            count, size, free = (
                c.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("page_count", "page_size", "freelist_count")
            )
            return int((count - free) * size)

        return int(self.commit(read))

    def read(self, run: RunId | None = None) -> list[str]:
        rows = self.commit(lambda c: read_entries(c, run or self.run, 0, ["op.begin"]))
        return [row.data["data"]["body"] for row in rows]


def test_a_growing_conversation_takes_what_is_said_in_it(commit: Any) -> None:
    talk = Conversation(commit)
    before = talk.stored()
    for _ in range(2 * CALLS - 1):
        talk.say(CONVERSATION_TOKENS * TOKEN_CHARS // (2 * CALLS))
    content, took = talk.content(), talk.stored() - before
    assert len(talk.bodies) == CALLS and content > 0.95 * CONVERSATION_TOKENS * TOKEN_CHARS
    assert sum(len(body.encode()) for body in talk.bodies) > 40 * content
    assert took < 1.5 * content, (took, content)
    assert talk.read() == talk.bodies
    assert (
        commit(lambda c: read_op(c, talk.run, OpId("model:m#7")))["data"]["body"]
        == (talk.bodies[6])
    )


def test_a_call_more_costs_a_message_more_however_long_the_talk_is(commit: Any) -> None:
    talk = Conversation(commit)

    def rows() -> tuple[int, ...]:
        tables = (schema.messages, schema.conversations, schema.entries)
        return tuple(
            commit(lambda c, t=table: c.scalar(select(func.count()).select_from(t)))
            for table in tables
        )

    def data_bytes() -> int:
        size = func.max(func.length(schema.entries.c.data))
        return int(commit(lambda c: c.scalar(select(size))))

    for _ in range(9):
        talk.say(300)
    first, size = rows(), data_bytes()
    for _ in range(100):
        talk.say(300)
    second = rows()
    assert [b - a for a, b in zip(first, second, strict=True)] == [100, 100, 50]
    assert data_bytes() <= size + 2, "an entry is as long as ever"


def test_a_window_that_slides_shares_its_messages(commit: Any) -> None:
    talk = Conversation(commit)
    before = talk.stored()
    for _ in range(200):
        talk.say(2000, last=20)
    assert talk.read() == talk.bodies
    assert talk.stored() - before < 4 * talk.content()


def test_forks_and_copies_read_it_whole(commit: Any) -> None:
    talk = Conversation(commit)
    for _ in range(5):
        talk.say(1000)

    def fork(c: Any) -> RunId:
        origin = get_run(c, talk.run)
        place = fork_of(origin, shared_end(c, origin))
        return fork_run(c, origin, place, lambda owner, wrapped, fork: wrapped, 2.0).id

    copy = commit(fork)
    assert talk.read(copy) == talk.bodies

    def moved(c: Any) -> RunId:
        """Out of this database, and in again as another."""
        rows = read_run(c, copy)
        other = RunId("run_other")
        entries = [row | {"run": other} for row in stream_entries(c, copy)]
        assert all("parts" not in str(row["data"]) for row in entries)
        rows.run["id"] = other
        write_run(c, rows, json.loads(json.dumps(entries)), [])
        return other

    count = select(func.count()).select_from(schema.messages)
    known = commit(lambda c: c.scalar(count))
    assert talk.read(commit(moved)) == talk.bodies
    assert commit(lambda c: c.scalar(count)) == known


@settings(deadline=None)
@given(
    st.text(max_size=50),
    st.sampled_from(["", "x" * BODY_CHARS_MIN, '{"messages": [' + "1, " * 800 + "2]}"]),
)
def test_any_body_comes_back(some: str, more: str) -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as c:
        schema.metadata.create_all(c)
        for body in (some + more, more + some, json.dumps({"input": [some, more, some] * 10})):
            asked = {"method": "POST", "body": body}
            kept = json.loads(json.dumps(fold(c, asked)))
            assert unfold(c, kept) == asked
            assert ("parts" in kept) == (len(body) >= BODY_CHARS_MIN)
        for size in (10, 4 * BODY_CHARS_MIN):
            binary = {"method": "POST", "body_b64": "AAAA" * size}
            kept = json.loads(json.dumps(fold(c, binary)))
            assert unfold(c, kept) == binary
            assert ("parts_b64" in kept) == (size > BODY_CHARS_MIN)
    engine.dispose()


def test_half_a_surrogate_pair_is_kept_in_the_entry(commit: Any) -> None:
    talk = Conversation(commit)
    talk.call([{"role": "user", "content": "\ud800" + "x" * 3000}])
    assert talk.read() == talk.bodies


def test_how_a_request_is_stored_is_not_the_agents_to_say(commit: Any) -> None:
    """What stands for a body's parts is read from what others have sent."""
    talk = Conversation(commit)
    several: list[Any] = [["text"], [["0" * 32]], [[]], 7]
    for kind, key, parts in product(("model", "http"), ("parts", "parts_b64"), several):
        begin = {"kind": kind, "name": "m", "digest": "d", "data": {key: parts}}
        entry = NewEntry("op.begin", OpId(f"{kind}:m#1"), begin)
        with pytest.raises(Invalid, match=f"'{key}', which is no part of a request"):
            commit(lambda c, entry=entry: append(c, talk.run, talk.epoch, [entry], 1.0))
    assert commit(lambda c: read_entries(c, talk.run, 0, ["op.begin"])) == []


@pytest.mark.parametrize("kind", ["model", "http"])
def test_a_body_that_is_no_text_is_kept_whole_and_goes_with_its_run(commit: Any, kind: str) -> None:
    talk = Conversation(commit)
    body = b64encode(bytes(range(256)) * 8000).decode()
    assert len(body) > ENTRY_BYTES_MAX
    asked = {"method": "POST", "path": "/", "headers": {}, "body_b64": body}
    begin = {"kind": kind, "name": "m", "digest": "d", "data": asked}
    entry = NewEntry("op.begin", OpId(f"{kind}:m#1"), begin)
    commit(lambda c: append(c, talk.run, talk.epoch, [entry], 1.0))
    (read,) = commit(lambda c: read_entries(c, talk.run, 0, ["op.begin"]))
    assert read.data["data"] == asked
    assert commit(lambda c: read_op(c, talk.run, OpId(f"{kind}:m#1")))["data"] == asked
    count = select(func.count()).select_from(schema.messages)
    assert commit(lambda c: c.scalar(count)) == 1
    commit(lambda c: transition(c, talk.run, talk.epoch, RunState.COMPLETED, 2.0, result=None))
    commit(lambda c: delete_run(c, talk.run, mark(c, talk.run)))
    assert commit(lambda c: c.scalar(count)) == 0


def test_a_request_may_be_longer_than_an_entry_but_not_without_end(commit: Any) -> None:
    talk = Conversation(commit)
    talk.call([{"role": "user", "content": "x" * 3_000_000}])
    assert talk.read() == talk.bodies
    with pytest.raises(Invalid, match="characters; the limit is 16,777,216"):
        talk.call([{"role": "user", "content": "x" * BODY_CHARS_MAX}])
    begin = {"kind": "model", "name": "m", "digest": "d", "data": {"body": 1, "x": "x" * 2_000_000}}
    with pytest.raises(Invalid, match="bytes as JSON"):
        talk.commit(
            lambda c: append(
                c, talk.run, talk.epoch, [NewEntry("op.begin", OpId("model:n#1"), begin)], 1.0
            )
        )
    assert len(talk.read()) == 1
    assert commit(lambda c: get_run(c, talk.run)).last_seq == Seq(3)
