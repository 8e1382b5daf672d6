"""Backups of a data directory that is in use, in a real log and a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.contextlog.conftest import claimable
from tests.unit.control.test_control_storage import IMAGE, Place, in_a_place, place
from tests.unit.snapshot.gc_world import age

from torpor.contextlog import entries, runs, snapshots, waits
from torpor.contextlog.entries import NewEntry
from torpor.control.service.forking import Forking
from torpor.control.storage import backup
from torpor.control.storage.backup import back_up, read_facts, restore
from torpor.core.errors import Conflict, Damaged, HostError, Invalid, Missing
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.service.runs import ForkRequest

LONG_S = 3600.0


def save(here: Place, directory: Path, *, with_key: bool = False) -> dict[str, Any]:
    return back_up(here.home, here.blobs, here.log.copy_to, directory, with_key=with_key, now=1.0)


def image(here: Place) -> None:
    """As much of one as a backup looks at."""
    (here.home.images / IMAGE).mkdir()
    (here.home.images / IMAGE / "root.erofs").write_bytes(b"root")
    (here.home.roots / "one").mkdir(parents=True)
    (here.home.roots / "one" / "root.json").write_bytes(b"{}")


async def sealed_run(here: Place) -> RunId:
    image(here)
    return await here.run(await here.deploy("1"), 3)


@pytest.mark.parametrize("with_key", [True, False])
def test_a_run_goes_on_from_a_backup(tmp_path: Path, with_key: bool) -> None:
    async def main() -> None:
        async with place(tmp_path / "one") as here:
            run = await sealed_run(here)
            fork = (await Forking(here.log, here.keys).fork(run, ForkRequest())).id
            made = save(here, tmp_path / "kept", with_key=with_key)
            assert (made["runs"], made["unfinished"], made["problems"]) == (2, 2, [])
            assert made["snapshots"] == 4 and made["key"] == with_key
            key = here.home.host_key.read_bytes()
            assert (tmp_path / "kept" / "host.key").exists() == with_key
            # What happens later is not in it.
            await here.end(run)
            (there,) = [tmp_path / "two"]
            told = restore(Home(there), tmp_path / "kept")
            assert told["key_there"] == with_key
        if not with_key:
            async with place(there) as two:
                with pytest.raises(Missing, match=r"host\.key is gone"):
                    await two.keys.check()
            (there / "host.key").write_bytes(key)
        async with place(there) as two:
            await two.keys.check()
            for each in (run, fork):
                verified = await two.storage.verify(each)
                assert verified["problems"] == [] and len(verified["snapshots"]) >= 2
            open_waits = await two.log.read(lambda c: waits.list_waits(c, run))
            assert len(open_waits) == 3
            last = open_waits[-1].id
            await two.commit(lambda c: waits.complete_wait(c, last, value={"data": 1}, now=9.0))
            ready = await two.log.read(claimable)
            assert {row.id for row in ready} == {run, fork}
            # It stands by itself: what is collected there is not missed here.
            age(two.blobs, LONG_S)
            await two.end(run)
            await two.end(fork)
            await two.storage.collect(dry_run=False)
        assert restore(Home(tmp_path / "three"), tmp_path / "kept")["runs"] == 2

    asyncio.run(main())


def test_a_backup_costs_links_and_holds_nothing_else(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        run = await sealed_run(here)
        # Garbage is left out.
        stray, _ = here.freeze(None, 99)
        made = save(here, tmp_path / "kept")
        kept = {
            str(path.relative_to(tmp_path / "kept")) for path in backup._files(tmp_path / "kept")
        }
        assert {"cache/roots/one/root.json", f"images/{IMAGE}/root.erofs"} < kept
        assert stray not in str(kept) and not any("tmp" in path for path in kept)
        facts = read_facts(tmp_path / "kept")
        assert {path for path, _, _ in facts["files"]} == kept - {"backup.json"}
        assert made["bytes"] == sum(size for _, size, _ in facts["files"])
        linked = [p for p in kept if (tmp_path / "kept" / p).stat().st_nlink == 2]
        assert set(linked) == kept - {"backup.json", "torpor.db"}
        live = await here.log.read(lambda c: snapshots.list_snapshots(c, run))
        assert all(row.manifest in str(kept) for row in live)

    in_a_place(tmp_path, story)


def test_writers_go_on_while_a_backup_is_made(tmp_path: Path) -> None:
    """The copy is of one moment: no entry without its run's position."""

    async def story(here: Place) -> None:
        version = await here.deploy("1")
        image(here)
        run = (
            await here.commit(
                lambda c: runs.create_run(c, version=version, agent="a", input={}, now=1.0)
            )
        ).id
        copying = True

        async def write() -> int:
            count = 0
            note = NewEntry("note.log", None, {"text": "x" * 5000})
            while copying:
                await here.commit(lambda c: entries.append(c, run, None, [note], 1.0))
                count += 1
            return count

        writing = asyncio.create_task(write())
        made = []
        for n in range(3):
            made.append(await asyncio.to_thread(save, here, tmp_path / f"kept {n}"))
        copying = False
        assert await writing > 0
        lengths = []
        for n in range(3):
            restore(Home(tmp_path / f"home {n}"), tmp_path / f"kept {n}")
            async with place(tmp_path / f"home {n}") as there:
                row = await there.log.read(lambda c: runs.get_run(c, run))
                log = await there.log.read(lambda c: entries.read_entries(c, run, 0, None, 10_000))
                assert [entry.seq for entry in log] == list(range(1, row.last_seq + 1))
                lengths.append(row.last_seq)
        assert lengths == sorted(lengths)

    in_a_place(tmp_path, story)


def test_garbage_collection_waits_for_a_backup(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        run = await sealed_run(here)
        await here.end(run)
        age(here.blobs, LONG_S)
        async with here.storage.undisturbed():
            collecting = asyncio.create_task(here.storage.collect(dry_run=False))
            made = await asyncio.to_thread(save, here, tmp_path / "kept")
            assert made["problems"] == [] and not collecting.done()
        assert (await collecting)["layers"] > 0

    in_a_place(tmp_path, story)


def test_what_is_lost_or_damaged_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        run = await sealed_run(here)
        newest, older, *_ = await here.log.read(lambda c: snapshots.list_snapshots(c, run))
        (lost,) = {layer.digest for layer in here.blobs.layers(newest.manifest)} - {
            layer.digest for layer in here.blobs.layers(older.manifest)
        }
        here.blobs.delete_layer(lost)
        path = here.blobs.blobs.materialize("manifests", older.manifest)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (here.home.images / IMAGE / "root.erofs").unlink()
        (here.home.images / IMAGE).rmdir()
        made = save(here, tmp_path / "kept")
        assert len(made["problems"]) == 4, made["problems"]
        said = "\n".join(made["problems"])
        for told in (f"layer {lost} is missing", f"manifest {older.manifest} is damaged", IMAGE):
            assert told in said
        assert restore(Home(tmp_path / "two"), tmp_path / "kept")["runs"] == 1

    in_a_place(tmp_path, story)


def test_a_backup_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(here: Place) -> None:
        await sealed_run(here)
        taken = tmp_path / "taken"
        taken.mkdir()
        (taken / "file").touch()
        for directory, error, said in (
            (taken, Conflict, "exists already"),
            (taken / "file", Conflict, "exists already"),
            (Path("relative"), Invalid, "not an absolute path"),
            (here.home.root / "inside", Invalid, "inside the data directory"),
            (taken / "file" / "below", HostError, "cannot write"),
        ):
            with pytest.raises(error, match=said):
                save(here, directory)

        def full(source: Any, target: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(backup, "_copy", full)
        with pytest.raises(HostError, match="No space left"):
            save(here, tmp_path / "kept", with_key=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "taken"]

    in_a_place(tmp_path, story)


def test_where_links_are_refused_it_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    async def story(here: Place) -> None:
        await sealed_run(here)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "hardlink_to", refuse)
            made = save(here, tmp_path / "kept")
        assert made["problems"] == []
        files = list(backup._files(tmp_path / "kept"))
        assert {path.stat().st_nlink for path in files} == {1}
        restore(Home(tmp_path / "two"), tmp_path / "kept")

    in_a_place(tmp_path, story)


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(kept: Path) -> None:
        facts = json.loads((kept / "backup.json").read_text())
        change(facts)
        (kept / "backup.json").write_text(json.dumps(facts))

    return edit


def _damage(kept: Path) -> None:
    path = next(iter(backup._files(kept / "blobs" / "layers")))
    data = path.read_bytes()
    path.unlink()  # not the original, which it is linked with
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no facts": (lambda kept: (kept / "backup.json").unlink(), Invalid, "not a backup of torpor"),
    "newer": (_edit(lambda facts: facts.update(version=2)), Invalid, "this torpor reads"),
    "no files": (_edit(lambda facts: facts.pop("files")), Invalid, "not a backup of torpor"),
    "a path out of it": (
        _edit(lambda facts: facts["files"].append(["../x", 1, "0" * 64])),
        Invalid,
        "not a path in it",
    ),
    "a file lost": (lambda kept: (kept / "torpor.db").unlink(), Damaged, r"1 files .*torpor\.db"),
    "a byte changed": (_damage, Damaged, "1 files of the backup are missing or damaged"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_whole_backup_is_not_restored(tmp_path: Path, what: str) -> None:
    breaks, error, said = BROKEN[what]

    async def story(here: Place) -> None:
        await sealed_run(here)
        kept = tmp_path / "kept"
        save(here, kept)
        with pytest.raises(Conflict, match="it has a database"):
            restore(here.home, kept)
        breaks(kept)
        with pytest.raises(error, match=said):
            restore(Home(tmp_path / "two"), kept)
        assert not (tmp_path / "two").exists()

    in_a_place(tmp_path, story)
