"""Files of runs: from an upload to the working directory of a real process, and away again."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from sqlalchemy import Connection
from tests.unit.control.test_control_storage import IMAGE, Place, place

from torpor.blobs.local import LocalBlobs, LocalDraft
from torpor.contextlog import agents, deletion, files, forks, runs
from torpor.contextlog.agents import AgentRow
from torpor.control.storage import transfer
from torpor.control.storage.backup import back_up, restore
from torpor.core.errors import Conflict, Damaged, Exhausted, HostError, Invalid, NotFound
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, RunId
from torpor.core.runfiles import UNTAKEN_S
from torpor.core.runfiles import Place as FilePlace
from torpor.core.states import RunState
from torpor.snapshot.values import VALUES, Deposit
from torpor.testing.fakes.plain import Plain
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 12_000  # some 3 MB, in four chunks


def digest(data: bytes) -> str:
    return blake3(data).hexdigest()


async def coming(data: bytes, step: int = 70_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


async def put(known: RunFiles, data: bytes) -> str:
    told = await known.receive(coming(data), digest(data), len(data))
    assert told == {"digest": digest(data), "bytes": len(data)}
    return str(told["digest"])


AGENT = '''
from pathlib import Path
import torpor

@torpor.agent
def look(wait=False, spoil=False):
    """What there is, before and after it slept."""
    def seen():
        found = sorted(p for p in Path().rglob("*") if p.is_file() and p.name != "agent.py")
        return {str(p): [p.stat().st_size, p.read_bytes()[:4].hex()] for p in found}
    before = seen()
    if spoil:
        Path("a.bin").write_text("spoilt")
        Path("d/b.bin").unlink()
    if wait:
        torpor.approve("go on?")
    return [before, seen()]

@torpor.agent
def take(doc: Path, raw: bytes):
    return [doc.read_text(), len(raw)]
'''
GIVEN = {"a.bin": [len(LARGE), "00010203"], "d/b.bin": [1, "78"], "e": [0, ""]}


async def given(plain: Plain) -> dict[str, str]:
    known = plain.files
    contents = {"a.bin": LARGE, "d/b.bin": b"x", "e": b""}
    return {path: await put(known, data) for path, data in contents.items()}


async def test_they_are_there_before_the_agent_begins(plain: Plain) -> None:
    version = await plain.deploy(AGENT)
    run = await plain.run(version, "look", files=await given(plain))
    assert await plain.result(run) == [GIVEN, GIVEN]
    created = (await plain.entries(run, "run.created"))[0].data
    assert created["files"].keys() == GIVEN.keys()
    listed = await plain.store.read(lambda c: files.files_of(c, run))
    assert {each.path: each.bytes for each in listed} == {p: n for p, (n, _) in GIVEN.items()}
    file, content = await plain.files.content(run, "a.bin")
    assert b"".join(content) == LARGE and file.to_json() in [each.to_json() for each in listed]
    with pytest.raises(NotFound, match="has no file 'a'"):
        await plain.files.content(run, "a")


async def test_one_that_is_recovered_finds_them_as_they_were_given(plain: Plain) -> None:
    version = await plain.deploy(AGENT)
    had = await given(plain)
    run = await plain.run(version, "look", files=had, wait=True, spoil=True)
    await plain.open_wait(run)
    await plain.kill(run)
    await plain.answer(run, approved=True)
    before, after = await plain.result(run)
    assert before == GIVEN and after == {"a.bin": [6, "73706f69"], "e": [0, ""]}


@pytest.mark.limits(full_disk_retry_s=0.0)
async def test_a_full_disk_is_waited_out_before_the_agent_begins(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [errno.ENOSPC] * 5  # more often than a run may lose its process
    write = FilePlace.write

    def full(place: FilePlace, data: bytes) -> None:
        if refused:
            raise OSError(refused.pop(), "No space left on device")
        write(place, data)

    monkeypatch.setattr(FilePlace, "write", full)
    run = await plain.run(await plain.deploy(AGENT), "look", files=await given(plain))
    assert await plain.result(run) == [GIVEN, GIVEN]
    assert not refused and not await plain.entries(run, "run.recovered")


async def test_a_run_file_stands_in_place_of_the_projects(plain: Plain) -> None:
    text = "import torpor\n@torpor.agent\ndef own():\n    return open('agent.py').read()\n"
    version = await plain.deploy(text)
    run = await plain.run(version, "own", files={"agent.py": await put(plain.files, b"ours")})
    assert await plain.result(run) == "ours"
    assert await plain.result(await plain.run(version, "own")) == text


async def test_a_fork_and_a_retry_share_them(plain: Plain) -> None:
    version = await plain.deploy(AGENT)
    run = await plain.run(version, "look", files=await given(plain))
    await plain.result(run)

    def fork(c: Connection) -> RunId:
        origin = runs.get_run(c, run)
        wanted = forks.fork_of(origin, forks.shared_end(c, origin))
        return forks.fork_run(c, origin, wanted, lambda *_: b"", time.time()).id

    forked = await plain.store.write(fork)
    assert await plain.result(forked) == [GIVEN, GIVEN]
    assert len(plain.files._blobs.present(VALUES)) == 3


async def test_a_path_and_bytes_are_files_of_the_run(plain: Plain) -> None:
    version = await plain.deploy(AGENT)
    had = {"inputs/doc.txt": await put(plain.files, b"text"), "r": await put(plain.files, LARGE)}
    named: dict[str, Any] = {"doc": "inputs/doc.txt", "raw": {"$file": "r"}}
    run = await plain.run(version, "take", files=had, **named)
    assert await plain.result(run) == ["text", len(LARGE)]
    for wrong, said in (("s", "the run has no file 's'"), ("../x", "leads out of it")):
        run = await plain.run(version, "take", files=had, **named | {"raw": {"$file": wrong}})
        row = await plain.ended(run)
        assert row.state is RunState.FAILED and row.error is not None
        assert said in row.error["message"]


async def test_what_an_agent_left_in_the_way_does_not_keep_them_out(plain: Plain) -> None:
    version = await plain.deploy(
        'open("d", "w").close()\nimport os\nos.symlink("/etc/passwd", "a.bin")\n' + AGENT
    )
    run = await plain.run(version, "look", files=await given(plain))
    assert await plain.result(run) == [GIVEN, GIVEN]
    assert Path("/etc/passwd").read_bytes()[:4] != LARGE[:4]


# ---- without an agent: what is stored ----


@pytest.fixture
async def here(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Place]:
    async with place(tmp_path / "one") as here:
        yield here


def of(here: Place) -> RunFiles:
    return RunFiles(here.blobs.blobs, here.log, here.keys)


async def agent_row(here: Place, engine: str = "qemu", **spec: Any) -> AgentRow:
    spec = {"disk_mib": 64, "image": "an image", "keep": ""} | spec
    version = AgentVersion(digest(repr((engine, spec)).encode()))

    def put_agent(c: Connection) -> AgentRow:
        known: dict[str, Any] = {"name": "f", "entry": "f.py", "source": b"", "agents": []}
        agents.put_agent(
            c, agents.NewAgent(engine=engine, version=version, spec=spec, **known), 1.0
        )
        return agents.get_agent(c, version)

    return await here.log.write(put_agent)


async def started(here: Place, had: dict[str, str], id_key: str | None = None) -> RunId:
    version = (await agent_row(here)).version
    how: dict[str, Any] = {"agent": None, "input": {}, "id_key": id_key, "files": had}
    return (
        await here.log.write(
            lambda c: runs.create_run(c, version=AgentVersion(version), now=time.time(), **how)
        )
    ).id


async def whole(known: RunFiles, run: RunId, path: str) -> bytes:
    return b"".join((await known.content(run, path))[1])


async def delete(here: Place, run: RunId) -> None:
    def gone(c: Connection) -> deletion.Gone:
        if runs.get_run(c, run).ended_at is None:
            runs.transition(c, run, None, RunState.CANCELLED, time.time())
        return deletion.delete_run(c, run, deletion.Unused())

    told = await here.log.write(gone)
    await here.storage.remove(told.manifests, told.values)


def stored(here: Place) -> list[Path]:
    names = [each.name for each in here.blobs.blobs.present(VALUES)]
    drafts = list((here.home.blobs / "tmp").iterdir())
    return [here.blobs.blobs.materialize(VALUES, name) for name in names] + drafts


async def test_equal_ones_are_stored_once_and_sealed(here: Place) -> None:
    known = of(here)
    assert await put(known, LARGE) == await put(known, LARGE)
    first, second = await asyncio.gather(put(known, b"at once"), put(known, b"at once"))
    assert first == second
    assert len(await here.log.read(lambda c: files.sizes(c, [first, digest(LARGE)]))) == 2
    assert all(LARGE[:64] not in path.read_bytes() for path in stored(here))
    assert (await known.known(digest(LARGE)))["bytes"] == len(LARGE)
    with pytest.raises(NotFound):
        await known.known(digest(b"other"))


async def test_one_that_breaks_off_or_is_another_leaves_nothing(here: Place) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in coming(LARGE):
            yield chunk
        raise ConnectionResetError("the client was killed")

    with pytest.raises(ConnectionResetError):
        await of(here).receive(broken(), None, len(LARGE))
    with pytest.raises(Invalid, match="changed while it was being uploaded"):
        await of(here).receive(coming(LARGE), digest(LARGE + b"x"), None)
    assert stored(here) == []


async def test_one_that_is_too_large_leaves_nothing(here: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torpor.worker.runfiles.FILE_BYTES_MAX", len(LARGE) - 1)
        with pytest.raises(Invalid, match="the file has more than 3,071,999 bytes"):
            await of(here).receive(coming(LARGE), None, None)
    assert stored(here) == []


async def test_a_full_disk_is_said_before_and_in_between(here: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        usage = shutil.disk_usage(here.home.root)._replace(free=1 << 20)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(Exhausted, match=r"has 1,048,576 bytes free; the file needs 3,072,000"):
            await of(here).receive(coming(LARGE), None, len(LARGE))

    def full(*_: Any) -> None:
        raise Exhausted("the disk is full")

    for cls, name in ((LocalDraft, "write"), (LocalBlobs, "put_all")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cls, name, full)
            with pytest.raises(Exhausted):
                await of(here).receive(coming(LARGE), None, None)
        assert stored(here) == []
    assert await here.log.read(lambda c: files.find_file(c, digest(LARGE))) is None


async def test_what_was_lost_is_stored_again(here: Place) -> None:
    run = await started(here, {"a": await put(of(here), LARGE)})
    (path,) = stored(here)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged):
        await whole(of(here), run, "a")
    path.unlink()
    with pytest.raises(NotFound):
        await of(here).known(digest(LARGE))
    await put(of(here), LARGE)
    assert await whole(of(here), run, "a") == LARGE


async def test_they_go_with_the_last_run_that_has_them(here: Place) -> None:
    shared, own = await put(of(here), LARGE), await put(of(here), b"own")
    one = await started(here, {"a": shared, "again": shared, "b": own})
    two = await started(here, {"c": shared})
    await delete(here, one)
    assert [path.stat().st_size > 1000 for path in stored(here)] == [True]
    assert await whole(of(here), two, "c") == LARGE
    again = await put(of(here), LARGE)  # somebody else is about to start one with it
    await delete(here, two)
    await here.storage.collect(dry_run=False)
    assert len(stored(here)) == 1
    await delete(here, await started(here, {"d": again}))
    assert stored(here) == []


async def test_an_upload_that_no_run_takes_goes_after_a_while(here: Place) -> None:
    await put(of(here), LARGE)
    kept = await started(here, {"k": await put(of(here), b"kept")})
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        for later, left in ((UNTAKEN_S - 60, 2), (UNTAKEN_S + 60, 1)):
            patch.setattr(time, "time", lambda later=later: now + later)
            dry = await here.storage.collect(dry_run=True)
            told = await here.storage.collect(dry_run=False)
            assert dry["values"] == told["values"] == 2 - left
            assert len(stored(here)) == left
    assert await whole(of(here), kept, "k") == b"kept"


async def test_the_same_key_gives_the_same_run_only_with_the_same_files(here: Place) -> None:
    one, two = await put(of(here), b"1"), await put(of(here), b"2")
    run = await started(here, {"a": one}, "key")
    assert await started(here, {"a": one}, "key") == run
    for other in ({"a": two}, {"b": one}, {}, {"a": one, "b": two}):
        with pytest.raises(Conflict, match="with other files"):
            await started(here, other, "key")


async def test_what_cannot_be_a_runs_is_refused_before_there_is_one(here: Place) -> None:
    known, agent = of(here), await agent_row(here)
    large = await put(known, LARGE)
    await known.check(agent, {"a": large})
    with pytest.raises(NotFound, match=r"no file '00.* has been uploaded, for b"):
        await known.check(agent, {"a": large, "b": "00"})
    with pytest.raises(Invalid, match="leads out of it"):
        await known.check(agent, {"../a": large})
    small = await agent_row(here, disk_mib=2)
    with pytest.raises(Invalid, match="has room for 1,887,436") as told:
        await known.check(small, {"a": large})
    assert 'disk = "8G"' in told.value.hint
    process = await agent_row(here, disk_mib=2, engine="process")
    await known.check(process, {"a": large})
    with pytest.raises(NotFound):
        await started(here, {"a": "0" * 64})
    assert not await here.log.read(lambda c: runs.list_runs(c))


async def test_an_export_and_a_backup_carry_them(here: Place, tmp_path: Path) -> None:
    version = await here.deploy("1")
    had = {"a": await put(of(here), LARGE), "b/c": await put(of(here), b""), "d": digest(LARGE)}
    how: dict[str, Any] = {"agent": "a", "input": {}, "files": had}
    run = (
        await here.log.write(lambda c: runs.create_run(c, version=version, now=time.time(), **how))
    ).id
    exported = await here.export(run)
    async with place(tmp_path / "other") as there:
        assert (await there.take(exported)).id == run
        assert await whole(of(there), run, "a") == await whole(of(there), run, "d") == LARGE
        assert await whole(of(there), run, "b/c") == b""
        assert all(LARGE[:64] not in path.read_bytes() for path in stored(there))
        await delete(there, run)
        assert stored(there) == []
    (here.home.images / IMAGE).mkdir()
    back_up(here.home, here.blobs, here.log.copy_to, tmp_path / "kept", with_key=True, now=1.0)
    restore(Home(tmp_path / "two"), tmp_path / "kept")
    async with place(tmp_path / "two") as again:
        assert await whole(of(again), run, "a") == LARGE


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../x": digest(LARGE)}, "leads out of it"),
        ({"a": digest(b"another")}, "the export lacks the file"),
        ({"a": 5}, "malformed"),
        (["a"], "malformed"),
    ],
)
async def test_an_export_that_names_other_files_is_refused(
    here: Place, tmp_path: Path, files: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await here.deploy("1")
    how: dict[str, Any] = {"agent": "a", "input": {}, "files": {"a": await put(of(here), LARGE)}}
    run = (
        await here.log.write(lambda c: runs.create_run(c, version=version, now=time.time(), **how))
    ).id
    exported = await here.export(run)
    begin = transfer.Import.begin

    def begun(taken: transfer.Import, file: Any) -> None:
        begin(taken, file)
        taken._head["files"] = files

    monkeypatch.setattr(transfer.Import, "begin", begun)
    async with place(tmp_path / "other") as there:
        with pytest.raises(Invalid, match=said):
            await there.take(exported)
        assert not await there.log.read(lambda c: runs.list_runs(c))


async def test_their_keys_need_the_hosts(here: Place) -> None:
    run = await started(here, {"a": await put(of(here), LARGE)})
    keys = SealingKeys(here.home, here.log, on=True)
    again = RunFiles(here.blobs.blobs, here.log, keys)
    assert await whole(again, run, "a") == LARGE
    key = here.home.host_key.read_bytes()
    here.home.host_key.write_bytes(bytes(32))
    with pytest.raises(HostError, match="is not the key"):
        await SealingKeys(here.home, here.log, on=False).check()
    here.home.host_key.unlink()
    with pytest.raises(HostError, match="is gone"):
        await SealingKeys(here.home, here.log, on=True).check()
    here.home.host_key.write_bytes(key)
    await SealingKeys(here.home, here.log, on=True).check()


async def test_in_the_clear_they_are_read_as_well(here: Place) -> None:
    known = RunFiles(here.blobs.blobs, here.log, SealingKeys(here.home, here.log, on=False))
    run = await started(here, {"a": await put(known, LARGE), "e": await put(known, b"")})
    assert await whole(known, run, "a") == LARGE
    assert await whole(known, run, "e") == b""
    assert sorted(path.read_bytes() for path in stored(here)) == [b"", LARGE]


def test_a_deposit_takes_little_memory_of_what_it_is_given(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with blobs.draft() as draft:
        deposit = Deposit(draft, None)
        for _ in range(3):
            deposit.write(LARGE)
            assert len(deposit._held) < 1 << 20
        assert deposit.store(blobs).digest == digest(LARGE * 3)
