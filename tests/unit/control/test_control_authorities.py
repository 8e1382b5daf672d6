"""One authority for a data directory, sealed; others by their fingerprints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from torpor.contextlog.authorities import put_foreign
from torpor.core.egress import Rule
from torpor.core.errors import Damaged, HostError, Invalid, NotFound
from torpor.core.home import Home
from torpor.egress.authority import Authority
from torpor.logstore.sqlite import SqliteStore
from torpor.worker.authorities import Authorities
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(Home(tmp_path).create().database)
    yield opened
    opened.close()


def opened(root: Path, store: SqliteStore) -> Authorities:
    """As a server that starts has them."""
    return Authorities(store, SealingKeys(Home(root), store, on=False))


async def test_it_is_made_once_and_its_key_is_sealed(tmp_path: Path, store: SqliteStore) -> None:
    several = [opened(tmp_path, store) for _ in range(4)]
    found = await asyncio.gather(*(each.current() for each in several for _ in range(2)))
    (first,) = {each.fingerprint for each in found}
    assert (await opened(tmp_path, store).current()).fingerprint == first
    key = found[0].key
    for path in tmp_path.glob("torpor.db*"):
        assert key not in path.read_bytes() and key[36:68] not in path.read_bytes()


async def test_more_certificates_are_of_the_authority_that_was_named(
    tmp_path: Path, store: SqliteStore
) -> None:
    ours, stranger = opened(tmp_path, store), Authority.new()
    current = await ours.current()
    with pytest.raises(NotFound, match=stranger.fingerprint):
        await ours.leaf_for("a.example", stranger.fingerprint)
    row = await ours.row_of(stranger)
    for _ in range(2):
        await store.write(lambda c: put_foreign(c, row))
    assert list(await ours.all()) == [current.fingerprint, stranger.fingerprint]
    for authority in (current, stranger):
        leaf = await opened(tmp_path, store).leaf_for("a.example", authority.fingerprint)
        assert leaf.names == ("a.example",) and leaf.chain.endswith(authority.certificate)
    with pytest.raises(Invalid):
        await ours.leaf_for("a\nb", current.fingerprint)
    (leaf,) = await ours.leaves_for([Rule("b.example")])
    assert leaf.chain.endswith(current.certificate)


async def test_it_needs_the_key_of_its_host(tmp_path: Path, store: SqliteStore) -> None:
    current = await opened(tmp_path, store).current()
    path = Home(tmp_path).host_key
    kept = path.read_bytes()
    path.write_bytes(bytes(32))
    with pytest.raises(HostError, match="is not the key"):
        await opened(tmp_path, store).current()
    path.unlink()
    with pytest.raises(HostError, match="is gone"):
        await opened(tmp_path, store).current()
    path.write_bytes(kept)
    assert await opened(tmp_path, store).current() == current
    # Nor does a row pass for another's.
    ours = opened(tmp_path, store)
    row = await ours.row_of(Authority.new())
    await store.write(lambda c: put_foreign(c, replace(row, fingerprint="other")))
    with pytest.raises(Damaged):
        await ours.find("other")
