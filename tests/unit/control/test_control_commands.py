"""Commands beside agents: of plain processes, really; of machines, played by puppets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stage import wait_gone
from tests.unit.control.test_control_projects import SRC_LAYOUT, write

from torpor.contextlog import runs
from torpor.core.errors import (
    Conflict,
    Exhausted,
    GuestError,
    HostError,
    Invalid,
    TorporError,
)
from torpor.core.execs import CommandRequest, Size
from torpor.core.ids import RunId
from torpor.core.starting import Start
from torpor.core.states import RunState
from torpor.project.reading import read_agent
from torpor.testing.fakes.plain import PROCESS_STUCK_S, Plain
from torpor.testing.fakes.world import FREEZING, World
from torpor.worker.commands import HOST_MAX, RUN_MAX, WINDOW_BYTES, Command, Ended

pytestmark = pytest.mark.anyio

WAITER = """
import os
import torpor

@torpor.agent
def waiter(times: int = 1):
    with open("made.txt", "a") as file:
        file.write("by the agent")
    answers = [torpor.waitpoint(f"go on? {n}").result().data for n in range(times)]
    return [answers, open("made.txt").read()]
"""


class Seen:
    """A command and what its client has of it."""

    def __init__(self, command: Command) -> None:
        self.command, self.out, self.err = command, b"", b""

    async def more(self) -> None:
        async with asyncio.timeout(PROCESS_STUCK_S):
            for each in await self.command.changes(PROCESS_STUCK_S):
                if each.stream == 1:
                    self.out += each.data
                else:
                    self.err += each.data
                self.command.took(len(each.data))

    async def sees(self, text: bytes) -> None:
        while text not in self.out:
            assert self.command.end is None, (self.command.end, self.out, self.err)
            await self.more()

    async def end(self) -> Ended | TorporError:
        while self.command.end is None:
            await self.more()
        await self.more()
        return self.command.end


async def begin(plain: Plain, run: RunId, *command: str, **more: Any) -> Seen:
    asked = CommandRequest(command, **more)
    return Seen(await plain.execs.start(run, asked, "somebody"))


async def recorded(plain: Plain | World, run: RunId, count: int) -> list[dict[str, Any]]:
    """What the log has of commands, once it has so much; the order of keys says nothing."""
    with plain.store.subscribe(run) as subscription:
        async with asyncio.timeout(PROCESS_STUCK_S):
            while True:
                log = [e for e in await plain.entries(run) if e.kind.startswith("exec.")]
                if len(log) >= count:
                    return [{"kind": each.kind, **each.data} for each in log]
                await subscription.wait()


async def test_beside_an_agent_that_sleeps_and_is_left_asleep(plain: Plain, hasty: None) -> None:
    version = await plain.deploy(WAITER, env={"AGENTS": "a"})
    run = await plain.run(version, None, Start(env={"RUNS": "r"}))
    await plain.suspended(run)
    script = 'cat made.txt; echo; read line; echo "$line $AGENTS $RUNS $MINE"; pwd; echo no >&2'
    script += "; exit 3"
    asked = await begin(plain, run, "sh", "-c", script, stdin=True, env={"MINE": "m"})
    await asked.command.feed(b"typed\n", last=True)
    assert await asked.end() == Ended(code=3)
    directory = plain.home.work / run / "work"
    assert asked.out.decode() == f"by the agent\ntyped a r m\n{directory}\n"
    assert asked.err == b"no\n"
    # Not even a process of the agent was started for it.
    row = await plain.row(run)
    assert (row.state, row.epoch) == (RunState.SUSPENDED, 1)
    begun, ended = await recorded(plain, run, 2)
    who = {"exec": asked.command.id, "by": "somebody", "env": ["MINE"]}
    assert begun == {"kind": "exec.begin", "command": ["sh", "-c", script], **who}
    assert ended == {"kind": "exec.end", "exec": asked.command.id, "code": 3}
    below = await begin(plain, run, "sh", "-c", "pwd", dir="..")
    assert await below.end() == Ended(code=0)
    await plain.answer(run, "yes")
    assert (await plain.result(run))[0] == ["yes"]


async def test_what_the_agents_project_brings(plain: Plain, hasty: None, tmp_path: Path) -> None:
    main = "import torpor\n@torpor.agent\ndef main():\n    return torpor.approve('?').approved\n"
    root = write(tmp_path / "project", SRC_LAYOUT | {"src/hr/main.py": main})
    run = await plain.run(await plain.deploy_source(read_agent(root)))
    await plain.suspended(run)
    module = await begin(plain, run, "python3", "-m", "hr")
    assert (await module.end(), module.out) == (Ended(code=0), b"hello\n"), module.err
    program = await begin(plain, run, "hr")
    assert (await program.end(), program.out) == (Ended(code=0), b"cli hello\n"), program.err


async def test_what_cannot_begin(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(WAITER))
    await plain.suspended(run)
    missing = await (await begin(plain, run, "no-such-program")).end()
    assert missing == Ended(code=127, problem="no-such-program: No such file or directory")
    refused = await (await begin(plain, run, "/etc/passwd")).end()
    assert refused == Ended(code=126, problem="/etc/passwd: Permission denied")
    nowhere = await (await begin(plain, run, "true", dir="not/there")).end()
    assert isinstance(nowhere, Ended)
    assert nowhere.code == 126 and "there is no such directory" in nowhere.problem
    with pytest.raises(Invalid, match="commands can only run as the server's user"):
        await begin(plain, run, "true", root=True)
    with pytest.raises(Invalid, match="no command"):
        await begin(plain, run)
    await plain.answer(run)
    await plain.ended(run)
    with pytest.raises(Conflict, match=r"has ended \(completed\)") as ended:
        await begin(plain, run, "true")
    assert f"torpor fork {run} --at" in ended.value.hint
    later = await plain.run(await plain.deploy(WAITER), None, Start(delay_s=1000))
    with pytest.raises(Conflict, match="has not started"):
        await begin(plain, later, "true")


async def test_a_command_keeps_its_run_awake(plain: Plain, hasty: None) -> None:
    commands = plain.execs._commands
    run = await plain.run(await plain.deploy(WAITER))
    # There from its first moment on, so that it is never asleep before.
    early = Command(run, CommandRequest(("sh", "-c", "echo up; read go")), "somebody")
    commands.add(early)
    await plain.open_wait(run)
    seen = await begin(plain, run, "sh", "-c", "echo up; read go", stdin=True)
    await seen.sees(b"up")
    commands.remove(early)
    assert (await plain.row(run)).state is RunState.RUNNING
    await seen.command.feed(b"go\n")
    assert await seen.end() == Ended(code=0)
    await plain.suspended(run)
    assert (await plain.row(run)).epoch == 1


async def test_no_more_is_kept_than_a_window(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(WAITER))
    await plain.suspended(run)
    seen = await begin(plain, run, "sh", "-c", "yes & echo $! >&2; wait")
    while seen.command._unread < WINDOW_BYTES:
        await asyncio.wait_for(seen.command._news.wait(), PROCESS_STUCK_S)
        seen.command._news.clear()
    # Another command is a round trip to the same host: nothing more has come meanwhile.
    assert await (await begin(plain, run, "true")).end() == Ended(code=0)
    assert seen.command._unread == WINDOW_BYTES
    while not seen.err:
        await seen.more()
    seen.command.cut_off(HostError("the client went away"))
    await asyncio.to_thread(wait_gone, int(seen.err))
    deaf = await begin(plain, run, "sleep", "1000", stdin=True)
    feeding = asyncio.create_task(deaf.command.feed(bytes(10 * WINDOW_BYTES)))
    while not deaf.command._fed:
        await deaf.command.changes(0.001)
    deaf.command.signal("TERM")
    assert await deaf.end() == Ended(signal=15)
    await asyncio.wait_for(feeding, PROCESS_STUCK_S)
    assert deaf.command._fed <= WINDOW_BYTES + 32 * 1024
    both = await begin(plain, run, "cat", stdin=True)
    data = os.urandom(3_000_000)
    feeding = asyncio.create_task(both.command.feed(data, last=True))
    assert await both.end() == Ended(code=0) and both.out == data
    await feeding


async def test_a_terminal(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(WAITER))
    await plain.suspended(run)
    shell = await begin(plain, run, "sh", stdin=True, size=Size(30, 100))
    await shell.command.feed(b"stty size; test -t 0 && echo $TERM\n")
    await shell.sees(b"30 100\r\n")
    await shell.sees(b"xterm-256color\r\n")
    shell.command.resize(Size(50, 200))
    await shell.command.feed(b"stty size\n")
    await shell.sees(b"50 200\r\n")
    await shell.command.feed(b"exit 4\n")
    assert await shell.end() == Ended(code=4)


async def test_it_ends_with_what_it_is_beside(plain: Plain, hasty: None) -> None:
    version = await plain.deploy(WAITER)
    run = await plain.run(version, times=2)
    await plain.suspended(run)
    sleeper = ("sh", "-c", "echo up; sleep 1000")
    asked = await begin(plain, run, *sleeper)
    await asked.sees(b"up")
    await plain.answer(run)  # in a new process, whose directory is made anew
    end = await asked.end()
    assert isinstance(end, Conflict) and "in a new process" in end.message
    await plain.suspended(run)
    asked = await begin(plain, run, *sleeper)
    await asked.sees(b"up")
    await plain.store.write(lambda c: runs.request_cancel(c, run, 1.0))
    end = await asked.end()
    assert isinstance(end, Conflict) and "cancelled" in end.message
    await plain.ended(run)

    run = await plain.run(version)
    await plain.suspended(run)
    asked = await begin(plain, run, *sleeper)
    await asked.sees(b"up")
    plain.execs.leave()
    end = await asked.end()
    assert isinstance(end, HostError) and "is stopping" in end.message
    with pytest.raises(HostError, match="is stopping"):
        await begin(plain, run, "true")
    ended = (await recorded(plain, run, 2))[-1]
    assert ended["problem"] == "the server is stopping"


async def test_there_are_not_too_many(plain: Plain, hasty: None) -> None:
    version = await plain.deploy(WAITER)
    run = await plain.run(version)
    await plain.suspended(run)
    several = [await begin(plain, run, "sleep", "1000") for _ in range(RUN_MAX)]
    with pytest.raises(Exhausted, match=f"{RUN_MAX} commands run beside an agent at a time"):
        await begin(plain, run, "true")
    assert HOST_MAX > RUN_MAX
    for each in several:
        each.command.cut_off(HostError("enough"))
    await recorded(plain, run, RUN_MAX)


# ---- machines ----


# ---- machines ----

WAITS = [["step", "before"], ["wait", "a"], ["step", "after"]]


async def in_world(world: World, run: RunId, *command: str) -> Seen:
    return Seen(await world.execs.start(run, CommandRequest(command), "somebody"))


async def answered(world: World, run: RunId) -> None:
    """The run goes on as if nothing had been."""
    await world.answer("wait:a#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {"step:before#1": 1, "step:after#1": 1}


async def test_a_sleeping_run_gets_its_machine_for_it(world: World) -> None:
    run = await world.run(WAITS)
    await world.asleep(run)
    asked = await in_world(world, run, "echo", "hello")
    assert await asked.end() == Ended(code=0) and asked.out == b"hello"
    await world.asleep(run)
    assert (await world.row(run)).epoch == 2
    assert [each["kind"] for each in await recorded(world, run, 2)] == ["exec.begin", "exec.end"]
    assert len(await world.open_waits(run)) == 1
    await answered(world, run)


async def test_a_machine_stays_as_long_as_a_command_runs(world: World) -> None:
    run = await world.run(WAITS)
    await world.asleep(run)
    asked = await in_world(world, run, "hang")
    await recorded(world, run, 1)
    other = await in_world(world, run, "echo")
    assert await other.end() == Ended(code=0)
    assert (await world.row(run)).state is RunState.RUNNING
    assert len(await world.entries(run, "run.suspended")) == 1
    asked.command.signal("TERM")
    assert await asked.end() == Ended(signal=15)
    await world.asleep(run)
    await answered(world, run)


@pytest.mark.parametrize("point", FREEZING)
async def test_one_that_is_asked_for_while_its_run_falls_asleep(world: World, point: str) -> None:
    asked: asyncio.Queue[Seen] = asyncio.Queue()
    run = await world.run(WAITS)

    async def ask() -> None:
        asked.put_nowait(await in_world(world, run, "echo", "hello"))

    world.on(point, ask)
    seen = await asyncio.wait_for(asked.get(), PROCESS_STUCK_S)
    assert await seen.end() == Ended(code=0) and seen.out == b"hello"
    await world.asleep(run)
    await answered(world, run)


async def test_a_long_command_is_no_matter_to_its_run(world: World) -> None:
    """An entry takes less than a command may have."""
    run = await world.run(WAITS)
    await world.asleep(run)
    long = ["\U0001f600" * 900] * 100
    asked = await in_world(world, run, "echo", *long, "\U0001f600" * 9000)
    assert await asked.end() == Ended(code=0)
    begun, _ = await recorded(world, run, 2)
    assert begun["command"] == ["echo", *long[:63]]
    await world.asleep(run)
    await answered(world, run)


async def test_a_machine_that_is_lost_takes_its_commands_with_it(world: World) -> None:
    run = await world.run(WAITS)
    await world.asleep(run)
    asked = await in_world(world, run, "hang")
    await recorded(world, run, 1)
    await world.kill()
    end = await asked.end()
    assert isinstance(end, GuestError) and f"the machine of {run} is gone" in end.message
    again = await in_world(world, run, "echo")
    assert await again.end() == Ended(code=0)
    await world.asleep(run)
    await answered(world, run)


async def test_a_server_that_stops_says_so(world: World) -> None:
    run = await world.run([["work", "w"], *WAITS])
    await world.begun(run, "step:w#1")
    asked = await in_world(world, run, "hang")
    await recorded(world, run, 1)
    told = await world.hand_over()
    end = await asked.end()
    assert isinstance(end, HostError) and end.message == "the server is stopping"
    assert "frozen where it was" in told[-1]
    await world.start()
    world.let_end("step:w#1")
    await world.open_waits(run)
    await world.answer("wait:a#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
