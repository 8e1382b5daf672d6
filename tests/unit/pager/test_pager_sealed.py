"""Sealed snapshots behind a real pager: served with their key, kept from everybody else."""

from __future__ import annotations

import errno
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.pager.test_pager_control import answers, connected

from torpor.core.errors import Damaged
from torpor.pager.content import Contents
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.seal import Key

MEMORY = np.random.default_rng(3).integers(0, 9, 40 * PAGE).astype(np.uint8).tobytes()


def sealed(pager: Any, key: Key, hot: tuple[int, ...] = ()) -> str:
    pages = np.frombuffer(MEMORY, np.uint8).reshape(-1, PAGE)
    changed = {"memory": Changed.at_hand(len(MEMORY), np.arange(len(pages)), pages)}
    built = build(None, None, changed, hot=np.array(hot, np.uint32), facts={}, key=key)
    digest: str = pager.store.put(built, key).manifest_digest
    return digest


def test_a_sealed_snapshot_is_served_with_its_key(pager: Any) -> None:
    key = Key.new()
    digest = sealed(pager, key, hot=(1, 2, 30))
    pager.ask("create", "sealed", len(MEMORY), 0)
    assert pager.ask("bind", "sealed", digest, key=key)["pushed"] == 3
    assert pager.path("sealed").read_bytes() == MEMORY


def test_nobody_else_is_served_not_even_from_the_cache(pager: Any) -> None:
    key = Key.new()
    digest = sealed(pager, key, hot=(1,))
    pager.ask("create", "owner", len(MEMORY), 0)
    pager.ask("bind", "owner", digest, key=key)
    assert pager.path("owner").read_bytes() == MEMORY
    pager.ask("create", "thief", len(MEMORY), 0)
    for other in (None, Key.new()):
        with pytest.raises(Damaged, match=digest):
            pager.ask("bind", "thief", digest, hot=True, key=other)
    pager.ask("drop", "owner")
    with pytest.raises(Damaged):  # nor does an opened snapshot outlive the slot
        pager.ask("bind", "thief", digest, hot=False)


def test_a_changed_sealed_layer_is_damage(pager: Any) -> None:
    key = Key.new()
    digest = sealed(pager, key)
    (layer,) = pager.store.layers(digest)
    path = pager.store.layer_path(layer)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    pager.ask("create", "changed", len(MEMORY), 0)
    pager.ask("bind", "changed", digest, hot=False, key=key)
    with pytest.raises(OSError) as failed:
        pager.path("changed").read_bytes()
    assert failed.value.errno == errno.EIO
    assert layer.digest in pager.ask("stats", "changed")["damage"]


def test_keys_are_in_no_answer_and_no_log(pager: Any) -> None:
    """Rule 9, whatever is wrong with the request."""
    key = Key.new()
    digest, secret = sealed(pager, key), key.secret.hex()
    bind: dict[str, Any] = {"op": "bind", "slot": "absent", "manifest": digest, "hot": True}
    requests = [
        bind | {"key": secret},
        bind | {"key": secret[:-1]},
        bind | {"key": secret + "0"},
        bind | {"key": secret.upper()},
        bind | {"key": [secret]},
        bind | {"keys": secret},
        bind | {"key": secret, "manifest": "no digest"},
        {"op": "stats", "key": secret},
    ]
    lines = [json.dumps(request).encode() for request in requests]
    lines += [lines[0][:-1], lines[0] + b"}"]
    got = answers(connected(pager), b"\n".join(lines) + b"\n")
    assert len(got) == len(lines) and all("error" in answer for answer in got)
    shown = json.dumps(got) + json.dumps(pager.ask("stats")) + json.dumps(pager.ask("ping"))
    logged = Path(pager.home.socket("pager").with_suffix(".log")).read_text()
    for text in (shown, logged):
        assert secret[:16].lower() not in text.lower()


def test_nothing_keeps_a_key_but_who_reads_with_it(pager: Any) -> None:
    """The frames that it opened stay in the cache, where only the key can name them."""
    key, contents = Key.new(), Contents(pager.home, 1 << 24)
    digest = sealed(pager, key, hot=(1, 2))
    content = contents.open(digest, key)
    assert len(content.hot_pages().numbers) == 2
    known = weakref.ref(key)
    del content, key
    gc.collect()
    assert known() is None
