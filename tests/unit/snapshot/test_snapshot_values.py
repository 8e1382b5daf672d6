from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Damaged
from torpor.snapshot.seal import Key
from torpor.snapshot.values import CHUNK, VALUES, Incoming, Kept, collect, read

KEY = Key(bytes(range(32)))


def store(blobs: LocalBlobs, content: bytes, key: Key | None, piece: int = 300_000) -> Kept:
    with closing(Incoming(blobs.root, key)) as incoming:
        for at in range(0, len(content), piece):
            incoming.write(content[at : at + piece])
        return incoming.store(blobs)


@pytest.mark.parametrize("key", [None, KEY])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    size=st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7]),
    piece=st.sampled_from([1000, CHUNK, 2 * CHUNK]),
)
def test_what_comes_in_pieces_is_read_whole(
    tmp_path: Path, key: Key | None, size: int, piece: int
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    kept = store(blobs, content, key, piece)
    assert kept.bytes == size
    assert b"".join(read(blobs, kept, key)) == content
    # The same again is the same file, and nothing is left of its coming.
    assert store(blobs, content, key) == kept
    assert [each.name for each in blobs.present(VALUES) if each.name == kept.name] == [kept.name]
    assert not blobs.sweep()


def test_sealed_it_shows_nothing_and_opens_with_its_key_alone(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    content = b"a secret that stands there often. " * 100_000
    kept = store(blobs, content, KEY)
    clear = store(blobs, content, None)
    assert kept.digest == clear.digest and kept.name != clear.name == clear.digest
    assert b"secret" not in blobs.get(VALUES, kept.name)
    for key in (None, Key.new()):
        with pytest.raises(Damaged):
            list(read(blobs, kept, key))


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "gone"])
def test_damage_is_noticed(tmp_path: Path, key: Key | None, harm: str) -> None:
    blobs = LocalBlobs(tmp_path)
    kept = store(blobs, b"".join(bytes([n]) * CHUNK for n in range(3)), key)
    path = blobs.materialize(VALUES, kept.name)
    data = bytearray(path.read_bytes())
    match harm:
        case "flip":
            data[CHUNK // 2] ^= 1
        case "cut":
            del data[-CHUNK - 16 * (key is not None) :]
        case "swap":
            step, salt = (CHUNK, 0) if key is None else (CHUNK + 16, 32)
            one, two = data[salt : salt + step], data[salt + step : salt + 2 * step]
            data[salt : salt + 2 * step] = two + one
        case "gone":
            path.unlink()
    if harm != "gone":
        path.write_bytes(data)
    with pytest.raises(Damaged, match=kept.digest):
        list(read(blobs, kept, key))


def test_only_what_no_log_names_goes_and_only_once_it_is_old(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    named, stray = store(blobs, b"named", None), store(blobs, b"stray", None)
    young = collect(blobs, {named.name}, before=0.0, dry_run=False)
    assert (young.values, young.bytes, young.young_bytes, young.kept_bytes) == (0, 0, 5, 5)
    later = time.time() + 1
    told = collect(blobs, {named.name}, before=later, dry_run=True)
    with blobs.held(VALUES, [stray.name]):
        assert collect(blobs, {named.name}, before=later, dry_run=False).values == 0
    assert collect(blobs, {named.name}, before=later, dry_run=False) == told
    assert (told.values, told.bytes) == (1, 5)
    assert [each.name for each in blobs.present(VALUES)] == [named.name]
