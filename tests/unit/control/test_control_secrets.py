"""Secrets are set, rotated and removed; the broker has them; their bytes are nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from torpor.contextlog import secrets as rows
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.runs import claim, create_run
from torpor.control.handing import Handing
from torpor.control.service.secrets import Secrets
from torpor.core.errors import Conflict, HostError, Invalid, Missing, NotFound
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, OpId
from torpor.core.secrets import Author
from torpor.egress.sealed import opener
from torpor.egress.secrets import parse_entry
from torpor.logstore.sqlite import SqliteStore
from torpor.testing.clock import ManualClock
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio

ME, YOU = Author("the local socket"), Author("key k1 (ci)", "10.0.0.7")
VALUES = ("first-5e0c1d2f", "second-77aa90b3")


class Broker:
    """Opens what it is given, as the real one does."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.has: dict[str, str] = {}
        self.gone = False

    async def set_secrets(self, entries: Sequence[Mapping[str, Any]]) -> None:
        if self.gone:
            raise Missing("there is no broker")
        secrets = [parse_entry(each, opener(self._home)) for each in entries]
        self.has = {each.name: each.value for each in secrets}


class Place:
    def __init__(self, root: Path) -> None:
        self.home = Home(root).create()
        self.store = SqliteStore.open(self.home.database)
        self.clock = ManualClock()
        keys = SealingKeys(self.home, self.store, on=True)
        self.handing = Handing(self.store)
        self.secrets = Secrets(self.store, keys, self.handing, self.clock)
        self.broker = Broker(self.home)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    made.store.close()


async def test_a_secret_s_life(place: Place) -> None:
    secrets = place.secrets
    await secrets.set("TOKEN", f"{VALUES[0]}\n", hosts=["a.example"], agents=["x"], author=ME)
    await place.handing.begin(place.broker)
    assert place.broker.has == {"TOKEN": VALUES[0]}
    place.clock.skip(10)
    rotated = await secrets.rotate("TOKEN", VALUES[1], author=YOU)
    assert place.broker.has == {"TOKEN": VALUES[1]}
    assert (rotated["set_by"], rotated["rotated_by"]) == (ME.by, YOU.by)
    assert rotated["rotated_at"] == rotated["set_at"] + 10
    assert await secrets.list() == [rotated]
    assert rotated["hosts"] == ["a.example"] and rotated["agents"] == ["x"]
    removed = await secrets.remove("TOKEN", author=ME)
    assert removed == rotated
    assert (place.broker.has, await secrets.list()) == ({}, [])
    changes = await secrets.changes()
    assert [(each["what"], each["by"], each["whence"]) for each in changes] == [
        ("set", ME.by, ""),
        ("rotated", YOU.by, "10.0.0.7"),
        ("removed", ME.by, ""),
    ]
    again = await secrets.set("TOKEN", VALUES[0], hosts=["b.example"], author=YOU)
    assert (again["set_by"], again["rotated_at"]) == (YOU.by, None)
    assert len(await secrets.changes("TOKEN")) == 4 and await secrets.changes("OTHER") == []
    for answer in (rotated, removed, again, await secrets.list(), await secrets.changes()):
        assert not any(value in str(answer) or value[:6] in str(answer) for value in VALUES)


async def test_what_is_not_there_is_neither_rotated_nor_removed(place: Place) -> None:
    for act in (
        place.secrets.rotate("TOKEN", VALUES[0], author=ME),
        place.secrets.remove("TOKEN", author=ME),
    ):
        with pytest.raises(NotFound, match="no secret 'TOKEN'"):
            await act
    with pytest.raises(Invalid, match="no name"):
        await place.secrets.set("a b", VALUES[0], hosts=["a.example"], author=ME)
    assert await place.secrets.changes() == []


async def test_a_rotation_is_for_the_terms_that_it_found(place: Place) -> None:
    secrets, store = place.secrets, place.store
    await secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
    old = await store.read(lambda c: rows.get_secret(c, "TOKEN"))
    await secrets.set("TOKEN", VALUES[0], hosts=["b.example"], author=ME)
    author = Author("me")
    with pytest.raises(Conflict, match="set anew"):
        await store.write(
            lambda c: rows.rotate_secret(c, "TOKEN", old.terms, old.sealed, author, 1.0)
        )


async def test_agents_that_are_not_deployed_are_named(place: Place) -> None:
    new = NewAgent(
        engine="process",
        version=AgentVersion("0" * 32),
        name="file",
        entry="agent.py",
        source=b"",
        spec={},
        agents=[{"name": "known"}],
    )
    await place.store.write(lambda c: put_agent(c, new, 1.0))
    names = ["known", "later"]
    found = await place.secrets.set("T", VALUES[0], hosts=["a.example"], agents=names, author=ME)
    assert found["unknown_agents"] == ["later"]


async def test_without_a_broker_it_is_kept_for_the_next(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.handing.begin(place.broker)
    place.broker.gone = True
    with caplog.at_level(logging.WARNING):
        await place.secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
    assert "no broker is there" in caplog.text and VALUES[0] not in caplog.text
    with pytest.raises(HostError):
        await place.handing.begin(place.broker)
    place.broker.gone = False
    await place.handing.begin(place.broker)
    assert place.broker.has == {"TOKEN": VALUES[0]}


async def test_one_that_the_broker_cannot_use_keeps_no_other_from_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(entries: Sequence[Mapping[str, Any]]) -> None:
        raise Invalid("the secret OLD must have hosts")

    place.broker.set_secrets = refuse  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        await place.handing.begin(place.broker)
        await place.secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
    assert "OLD must have hosts" in caplog.text


async def test_the_broker_has_what_was_set_last(place: Place) -> None:
    await place.secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
    await place.handing.begin(place.broker)
    turns = [f"value-{n}-0f0f0f" for n in range(20)]
    await asyncio.gather(*(place.secrets.rotate("TOKEN", each, author=ME) for each in turns))
    last = place.broker.has
    await place.handing.hand()
    assert place.broker.has == last


async def test_a_use_is_noted_to_the_minute(place: Place) -> None:
    secrets, store = place.secrets, place.store
    await secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
    times = []
    for now in (100.0, 130.0, 161.0):
        await store.write(lambda c, now=now: rows.note_use(c, "TOKEN", now))  # type: ignore[misc]
        times.append((await secrets.list())[0]["used_at"])
    assert times == [100.0, 100.0, 161.0]
    await secrets.rotate("TOKEN", VALUES[1], author=ME)
    assert (await secrets.list())[0]["used_at"] == 161.0


async def test_what_a_log_says_was_sent_is_noted(place: Place) -> None:
    secrets, store = place.secrets, place.store
    for name in ("PLAIN", "RECORDED", "UNUSED"):
        await secrets.set(name, VALUES[0], hosts=["a.example"], author=ME)
    new = NewAgent(AgentVersion("0" * 32), "process", "a", "a.py", b"", {}, [])

    def write(c: Connection) -> None:
        put_agent(c, new, 1.0)
        run = create_run(c, version=new.version, agent="a", input={}, now=2.0)
        epoch, op = claim(c, run.id, 3.0), OpId("http:GET a.example/#1")
        asked = {"id": "x1", "method": "GET", "url": "https://a.example/", "rule": "host a.example"}
        begun = {"kind": "http", "name": "GET a.example/", "digest": "d", "data": {}}
        end = {"ok": True, "value": 1, "egress": {"rule": "r", "secret": "RECORDED"}}
        entries = [
            NewEntry("egress.request", None, asked | {"secret": "PLAIN"}),
            NewEntry("egress.request", None, asked | {"id": "x2"}),
            NewEntry("op.begin", op, begun),
            NewEntry("op.end", op, end),
        ]
        append(c, run.id, epoch, entries, 100.0)

    await store.write(write)
    used = {each["name"]: each["used_at"] for each in await secrets.list()}
    assert used == {"PLAIN": 100.0, "RECORDED": 100.0, "UNUSED": None}


async def test_no_byte_of_a_value_is_in_the_data_directory(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.handing.begin(place.broker)
    with caplog.at_level(logging.DEBUG):
        await place.secrets.set("TOKEN", VALUES[0], hosts=["a.example"], author=ME)
        await place.secrets.rotate("TOKEN", VALUES[1], author=ME)
        with pytest.raises(Invalid):
            await place.secrets.rotate("TOKEN", f"{VALUES[1]}\n{VALUES[1]}", author=ME)
    files = [path for path in place.home.root.rglob("*") if path.is_file()]
    assert {"torpor.db", "torpor.db-wal", "host.key"} <= {path.name for path in files}
    for value in VALUES:
        assert value not in caplog.text
        for path in files:
            assert value.encode() not in path.read_bytes(), path
