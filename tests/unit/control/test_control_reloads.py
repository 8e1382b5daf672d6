"""Reloads, on plain processes: an agent's file is edited, its run goes on as the new version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from torpor.contextlog import forks, waits
from torpor.control.service.forking import Forking
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.testing.fakes.plain import Plain
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio


AGENT = """
import os, urllib.request
import torpor

def ask(question):
    url = os.environ["OPENAI_BASE_URL"] + "/responses"
    request = urllib.request.Request(url, question.encode())
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()

def helper(text):
    return text + "."

@torpor.step
def one(ledger, what):
    spend(ledger, "one")
    return helper(what)

@torpor.step
def two(ledger, what):
    spend(ledger, "two")
    return ask("what is " + what).upper()

@torpor.step
def three(ledger, what):
    spend(ledger, "three")
    return what + "!"

@torpor.agent
def main(ledger):
    print("begin")
    found = one(ledger, "a")
    answer = two(ledger, found)
    print("end")
    return three(ledger, answer)

@torpor.agent
def asks(ledger):
    found = one(ledger, "a")
    if torpor.approve("Go on?"):
        return three(ledger, found)

def spend(ledger, what):
    with open(ledger, "a") as file:
        file.write(what + "\\n")
"""


class Reloaded(NamedTuple):
    run: RunId
    told: dict[str, Any]  # in its log's first entry of its own


async def reload(plain: Plain, run: RunId, text: str, *, fresh: bool = False) -> Reloaded:
    version = await plain.deploy(text)
    forking = Forking(plain.store, SealingKeys(plain.home, plain.store, on=False))
    row = await forking.reload(run, version, fresh=fresh)
    told = await plain.store.read(lambda c: forks.forked(c, row))
    assert told is not None
    return Reloaded(row.id, told)


def edited(*edits: tuple[str, str]) -> str:
    text = AGENT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def spent(ledger: Path) -> list[str]:
    """Which steps' bodies ran since it was last asked."""
    found = ledger.read_text().split() if ledger.exists() else []
    ledger.unlink(missing_ok=True)
    return found


RESULT = "ANSWER 1!"


@pytest.mark.parametrize(
    ("edits", "kept", "again", "ran", "result"),
    [
        # edit; operations kept; done again; bodies that ran; result
        ([("import torpor", "import torpor  # a comment")], 4, None, [], RESULT),
        ([("def main", "\n\n\ndef main")], 4, None, [], RESULT),
        ([('print("end")', 'print("ended")')], 4, None, [], RESULT),
        ([('what + "!"', 'what + "?"')], 3, "step:three#1", ["three"], "ANSWER 1?"),
        # What the model was asked in a step that runs again is not asked again.
        ([(".upper()", ".lower()")], 2, "step:two#1", ["two", "three"], "answer 1!"),
        ([('"what is "', '"who is "')], 2, "step:two#1", ["two", "three"], "ANSWER 2!"),
        # A helper is a part of the steps that use it.
        ([('text + "."', 'text + ","')], 0, "step:one#1", ["one", "two", "three"], "ANSWER 2!"),
        # The agent goes another way: from there on nothing that is recorded is used.
        ([('one(ledger, "a")', 'one(ledger, "b")')], 4, None, ["one", "two", "three"], "ANSWER 2!"),
        ([("two(ledger, found)", '"same"')], 4, None, ["three"], "same!"),
        ([("return three(ledger, answer)", "return answer")], 4, None, [], "ANSWER 1"),
        (
            [("return three(ledger, answer)", "return three(ledger, three(ledger, answer))")],
            4,
            None,
            ["three"],
            "ANSWER 1!!",
        ),
        (
            [("def one(", "def first("), ("one(ledger", "first(ledger")],
            4,
            None,
            ["one", "two", "three"],
            RESULT,
        ),
    ],
)
async def test_edits_of_a_run_that_has_ended(
    plain: Plain,
    tmp_path: Path,
    edits: list[tuple[str, str]],
    kept: int,
    again: str | None,
    ran: list[str],
    result: str,
) -> None:
    ledger = tmp_path / "ledger"
    run = await plain.run(await plain.deploy(AGENT), "main", ledger=str(ledger))
    assert await plain.result(run) == RESULT
    assert spent(ledger) == ["one", "two", "three"]
    made = await reload(plain, run, edited(*edits))
    assert await plain.result(made.run) == result
    assert (made.told["how"], made.told["kept"], made.told["again"]) == ("reload", kept, again)
    assert spent(ledger) == ran
    assert (await plain.row(run)).successor is None, "what has ended stays as it ended"


async def test_what_is_printed_otherwise_is_printed_again(plain: Plain, tmp_path: Path) -> None:
    run = await plain.run(await plain.deploy(AGENT), "main", ledger=str(tmp_path / "ledger"))
    await plain.result(run)
    made = await reload(plain, run, edited(('print("end")', 'print("ended")')))
    await plain.result(made.run)
    after = made.told["seq"]
    own = [e for e in await plain.entries(made.run, "output") if e.seq > after]
    assert "".join(entry.data["text"] for entry in own) == "ended\n"


async def test_a_fresh_one_keeps_nothing(plain: Plain, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    run = await plain.run(await plain.deploy(AGENT), "main", ledger=str(ledger))
    await plain.result(run)
    made = await reload(plain, run, AGENT + "#\n", fresh=True)
    await plain.result(made.run)
    assert spent(ledger) == ["one", "two", "three"] * 2
    assert (made.told["kept"], made.told["again"]) == (0, None)


async def test_a_run_that_waits_is_replaced_and_its_wait_withdrawn(
    plain: Plain, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    run = await plain.run(await plain.deploy(AGENT), "asks", ledger=str(ledger))
    old = await plain.open_wait(run)
    made = await reload(plain, run, edited(('what + "!"', 'what + "?"')))
    await plain.gone(run)
    row = await plain.row(run)
    assert row.state is RunState.CANCELLED and row.error is not None
    assert (row.error["type"], row.successor) == ("Reloaded", made.run)
    assert made.run in row.error["message"]
    ended = await plain.store.read(lambda c: waits.get_wait(c, old.id))
    assert ended.state == waits.CANCELLED
    await plain.answer(made.run, approved=True)
    assert await plain.result(made.run) == "a.?"
    assert spent(ledger) == ["one", "three"]


async def test_a_run_is_replaced_in_the_middle_of_a_step(plain: Plain, tmp_path: Path) -> None:
    ledger, go_on = tmp_path / "ledger", tmp_path / "go on"
    slow = edited(
        ('return what + "!"', f"while not os.path.exists({str(go_on)!r}): pass\n    return what"),
    )
    run = await plain.run(await plain.deploy(slow), "main", ledger=str(ledger))
    pid = await plain.pid(run)
    assert pid is not None
    await plain.until(run, lambda row: "three" in _text(ledger))
    made = await reload(plain, run, AGENT)
    assert await plain.result(made.run) == RESULT
    await plain.gone(run)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (made.told["kept"], made.told["again"]) == (3, None)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_question_that_changes_again_and_again(plain: Plain, tmp_path: Path) -> None:
    """Each time the agent goes on without the recorded question, whose name stays taken."""
    run = await plain.run(await plain.deploy(AGENT), "asks", ledger=str(tmp_path / "ledger"))
    await plain.open_wait(run)
    for number in range(2, 5):
        run, told = await reload(plain, run, edited(("Go on?", f"Go on, {number}?")))
        await plain.until_requested(run, f"wait:approve#{number}")
        assert (told["kept"], told["again"]) == (1, None)
    (wait,) = await plain.store.read(lambda c: waits.list_waits(c, run))
    assert (wait.prompt, wait.op) == ("Go on, 4?", "wait:approve#4")
    # A process that replays all of it finds the same.
    await plain.kill(run)
    await plain.answer(run, approved=True)
    assert await plain.result(run) == "a.!"


async def test_what_failed_is_tried_again(plain: Plain, tmp_path: Path) -> None:
    """Though the step's code is as it was: the file that it reads is mended."""
    given = tmp_path / "given"
    broken = edited(('return what + "!"', f"return open({str(given)!r}).read()"))
    ledger = tmp_path / "ledger"
    run = await plain.run(await plain.deploy(broken), "main", ledger=str(ledger))
    assert (await plain.ended(run)).state is RunState.FAILED
    assert spent(ledger) == ["one", "two", "three"]
    given.write_text("given")
    made = await reload(plain, run, broken + "\n# mended\n")
    assert await plain.result(made.run) == "given"
    assert spent(ledger) == ["three"]
    assert (made.told["kept"], made.told["retried"]) == (3, ["step:three#1"])


MANY = """
import asyncio, torpor

@torpor.step
async def each(n):
    return n

@torpor.agent
async def main():
    return await asyncio.gather(*(each(n) for n in (1, 2, 3)))
"""


async def test_steps_side_by_side_with_other_arguments(plain: Plain) -> None:
    """They may be what is recorded, in other order: it is not waited long for that to show."""
    run = await plain.run(await plain.deploy(MANY), "main")
    assert await plain.result(run) == [1, 2, 3]
    made = await reload(plain, run, MANY.replace("(1, 2, 3)", "(4, 2, 5)"))
    assert await plain.result(made.run) == [4, 2, 5]


CHILDREN = """
import torpor

@torpor.agent
def child(n):
    return n + 1

@torpor.agent
def other(n):
    return n * 10

@torpor.agent
def main():
    first = torpor.spawn(child, n=1).result()
    return first + torpor.spawn(other, n=2).result()
"""


async def test_a_child_whose_agent_is_edited_is_spawned_again(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(CHILDREN), "main")
    assert await plain.result(run) == 22
    made = await reload(plain, run, CHILDREN.replace("n * 10", "n * 100"))
    assert await plain.result(made.run) == 202
    assert (made.told["kept"], made.told["again"]) == (1, "child:other#1")


async def test_a_reload_goes_on_from_the_newest(plain: Plain, tmp_path: Path) -> None:
    run = await plain.run(await plain.deploy(AGENT), "asks", ledger=str(tmp_path / "ledger"))
    await plain.open_wait(run)
    one = await reload(plain, run, AGENT + "\n# 1\n")
    two = await reload(plain, run, AGENT + "\n# 2\n")
    assert two.told["origin"] == one.run
    assert (await plain.row(one.run)).successor == two.run
    await plain.answer(two.run, approved=True)
    assert await plain.result(two.run) == "a.!"


async def test_code_that_the_run_does_not_fit_changes_nothing(plain: Plain, tmp_path: Path) -> None:
    run = await plain.run(await plain.deploy(AGENT), "asks", ledger=str(tmp_path / "ledger"))
    await plain.open_wait(run)
    with pytest.raises(Conflict, match="has no agent 'asks'"):
        await reload(plain, run, AGENT.replace("def asks", "def asking"))
    with pytest.raises(Invalid, match="more"):
        await reload(plain, run, AGENT.replace("def asks(ledger)", "def asks(ledger, more)"))
    with pytest.raises(NotFound):
        await Forking(plain.store, SealingKeys(plain.home, plain.store, on=False)).reload(
            run, "0" * 32, fresh=False
        )
    assert (await plain.row(run)).state in (RunState.RUNNING, RunState.SUSPENDED)
    assert (await plain.row(run)).successor is None


FILES = """
import os, torpor

@torpor.step
def note():
    open("note.txt", "w").close()

@torpor.agent
def main():
    note()
    torpor.approve("Go on?")
    return os.path.exists("note.txt")
"""


async def test_what_a_step_no_longer_writes_is_not_there_after_a_replay(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(FILES), "main")
    await plain.open_wait(run)
    made = await reload(plain, run, FILES.replace('open("note.txt", "w").close()', "pass"))
    await plain.until_recorded(made.run, "step:note#1")
    await plain.kill(made.run)
    await plain.answer(made.run)
    assert await plain.result(made.run) is False
