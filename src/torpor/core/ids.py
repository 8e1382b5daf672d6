"""Ids: distinct types for distinct things, and how new ones are made."""

from __future__ import annotations

import time
from typing import NewType

RunId = NewType("RunId", str)  # "run_…"
WorkerId = NewType("WorkerId", str)  # names its host, and the start of its server
WaitId = NewType("WaitId", str)  # "wait_…"
SnapshotId = NewType("SnapshotId", str)  # "snap_…"
AgentVersion = NewType("AgentVersion", str)  # hex digest of all that makes an agent what it is
Epoch = NewType("Epoch", int)  # 1, 2, …: each start or restore of a run's machine
Seq = NewType("Seq", int)  # 1, 2, …: position of an entry in its run's context log
OpId = NewType("OpId", str)  # "kind:name#n"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u


def _base32(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_id(prefix: str) -> str:
    """`prefix_` and 16 characters: 9 of time in ms (so ids sort by age), 7 random (35 bits)."""
    import secrets  # only here: most commands make no ids, and it loads hmac, hashlib, random

    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 9)}{_base32(secrets.randbits(35), 7)}"


def op_kind(op: str) -> str:
    """The kind in an operation's id."""
    return op.partition(":")[0]


def op_name(op: str) -> str:
    """The name in an operation's id."""
    return op.partition(":")[2].rpartition("#")[0]


def op_number(op: str) -> int:
    """The n in an operation's id."""
    return int(op.rpartition("#")[2])


def op_id(kind: str, name: str, n: int) -> OpId:
    """The name of an operation: unique in its run; n counts uses of (kind, name) from 1."""
    return OpId(f"{kind}:{name}#{n}")
