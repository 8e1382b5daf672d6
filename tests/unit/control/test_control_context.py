"""Conversations on the `process` engine: no turn is lost or taken twice, whatever is killed."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from torpor.contextlog import events
from torpor.contextlog.conversation import Spoken, spoken
from torpor.contextlog.entries import EntryRow
from torpor.contextlog.runs import RunRow
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.egress.upstream import Request
from torpor.testing.fakes.broker import Reply
from torpor.testing.fakes.plain import Plain

EXAMPLE = Path(__file__).parents[3] / "examples" / "chat.py"

pytestmark = pytest.mark.anyio

CHAT = '''
import json, os, urllib.request
import torpor

def ask(messages):
    body = json.dumps({"messages": messages}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()

@torpor.agent
def chat(budget=400):
    """A turn for each event `say`, asleep between them."""
    talk = torpor.context
    talk.append("system", "Be brief.", pinned=True)
    while True:
        said = torpor.event("say").result().data
        if said == "bye":
            return talk.messages
        talk.append("user", said)
        reply = ask(talk.window(budget, summarise=ask))
        talk.append("assistant", reply)
'''
SAID = ["one", "two", "three"]
ROLES = ["system", *["user", "assistant"] * len(SAID)]


async def say(plain: Plain, run: RunId, text: str) -> None:
    await plain.store.write(lambda c: events.send_event(c, run, "say", text, now=time.time()))


async def messages(plain: Plain, run: RunId) -> list[tuple[str, str]]:
    """Those of the log."""
    begun = await plain.entries(run, "op.begin")
    told = [entry.data["data"]["message"] for entry in begun if is_of(entry, "append")]
    return [(message["role"], message["content"]) for message in told]


def is_of(entry: EntryRow, name: str) -> bool:
    return str(entry.op).startswith(f"context:{name}#")


def reached(seq: int, row: RunRow) -> bool:
    return row.last_seq >= seq or row.state in FINAL


async def test_killed_after_every_entry_of_its_log_no_turn_is_lost_or_taken_twice(
    plain: Plain,
) -> None:
    version = await plain.deploy(CHAT)
    killed = 0
    for k in range(2, 80, 2):
        plain.upstream.requests.clear()
        run = await plain.run(version)
        for text in [*SAID, "bye"]:  # all at once: what is sent early is kept
            await say(plain, run, text)
        row = await plain.until(run, partial(reached, k + 4))
        if row.state is RunState.COMPLETED:
            break
        await plain.kill(run)
        killed += 1
        result = await plain.result(run)
        told = [(each["role"], each["content"]) for each in result]
        assert [turn for turn in told if turn[0] == "user"] == [("user", text) for text in SAID], k
        assert [role for role, _ in told] == ROLES, k
        assert await messages(plain, run) == told, k
        asked = [json.loads(body)["messages"][-1]["content"] for body in plain.requests]
        assert asked == SAID, k
    assert killed > 15


async def test_older_turns_are_summarised_by_the_model_once(plain: Plain) -> None:
    version = await plain.deploy(CHAT)
    run = await plain.run(version, budget=80)
    texts = [f"{n} " + "word " * 20 for n in range(8)]
    for text in [*texts, "bye"]:
        await say(plain, run, text)
    await plain.until(run, partial(reached, 50))
    await plain.kill(run)
    result = await plain.result(run)
    assert [each["content"] for each in result if each["role"] == "user"] == texts
    log = await plain.entries(run, "op.begin")
    compactions = [entry.data["data"] for entry in log if is_of(entry, "compact")]
    assert compactions
    assert all(each["after"] < each["before"] for each in compactions)
    assert len(plain.requests) == len(texts) + len(compactions)
    told = await plain.store.read(lambda c: spoken(c, run))
    assert isinstance(told, Spoken)
    assert (told.messages, told.turns, told.compactions) == (17, 8, len(compactions))
    assert told.tokens_sent < told.tokens_whole / 2


async def test_the_example_keeps_to_its_budget_and_says_what_it_answers(plain: Plain) -> None:
    async def in_many_words(request: Request) -> Reply:
        said = {
            "choices": [{"message": {"content": f"No. {len(plain.requests)}. " + "word " * 30}}]
        }
        return Reply(200, {"content-type": "application/json"}, json.dumps(said).encode())

    plain.upstream.answers = in_many_words
    run = await plain.run(await plain.deploy(EXAMPLE.read_text()), budget=200)
    for text in [*(f"question {n}?" for n in range(6)), "bye"]:
        await say(plain, run, text)
    said = await plain.result(run)
    assert said.startswith("13 messages, ")
    emitted = [entry.data["assistant"] for entry in await plain.entries(run, "note.emit")]
    assert emitted == [text for role, text in await messages(plain, run) if role == "assistant"]
    told = await plain.store.read(lambda c: spoken(c, run))
    assert told is not None and told.compactions > 0
    windows = [e.data["data"] for e in await plain.entries(run, "op.begin") if is_of(e, "window")]
    assert [each["sent"] <= 200 for each in windows] == [True] * 6
