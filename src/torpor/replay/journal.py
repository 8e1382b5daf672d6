"""What the log holds past the snapshot, matched to what the restored agent asks for again.

A restored agent runs on from its snapshot. Each operation it starts is looked up here: `match`
gives the recorded outcome (the operation does not happen again), or None (live: the log ends
before it), or raises `Divergence`. It never guesses.

An operation is found by its id `kind:name#n`, and the digest of its arguments must be the
recorded one. Concurrent code may start the same operations in another order, so that `n` falls on
another call: then the first unused record of the same kind, name and digest is the one. Every
record is used at most once (rule 2). A call that raises changes nothing.

Pure; standard library only, because it runs in the machine, beside the agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from torpor.model.errors import GuestError


class _Identified(TypedDict):
    op: str
    kind: str
    name: str
    digest: str
    ok: bool


class Recorded(_Identified, total=False):
    """The outcome of one operation: `value` if ok, else `error` (type, message, traceback)."""

    value: Any
    error: dict[str, Any]


class Divergence(GuestError):
    """The agent does something else than it did when the log was written."""

    code = "divergence"


class Journal:
    def __init__(self, records: Iterable[Recorded] = ()) -> None:
        self._unused: dict[str, Recorded] = {}
        self._used: set[str] = set()
        # (kind, name, digest) → the ids of its records, in the log's order.
        self._alike: dict[tuple[str, str, str], list[str]] = {}
        for record in records:
            self._unused[record["op"]] = record
            key = (record["kind"], record["name"], record["digest"])
            self._alike.setdefault(key, []).append(record["op"])

    @property
    def unused(self) -> tuple[Recorded, ...]:
        """The records that no operation has asked for yet, in the log's order."""
        return tuple(self._unused.values())

    def match(
        self, op: str, kind: str, name: str, digest: str, *, where: str = ""
    ) -> Recorded | None:
        """The recorded outcome of this operation, now used up, or None if it is live.

        `where` is the place in the agent's source, for the message of Divergence.
        """
        alike = self._alike.get((kind, name, digest), ())
        # Its own number first, then any other of the same arguments.
        preferred = (op, *alike) if op in alike else alike
        found = next((each for each in preferred if each in self._unused), None)
        if found is not None:
            self._used.add(found)
            return self._unused.pop(found)
        if op in self._unused:
            record = self._unused[op]
            raise _divergence(
                f"{op} with {record['kind']} {record['name']}, arguments {record['digest']}",
                kind,
                name,
                digest,
                where,
            )
        if op in self._used:
            # Its number is taken: it cannot go into the log as a new operation either.
            raise _divergence(
                f"{op} as a call that was already matched by its arguments",
                kind,
                name,
                digest,
                where,
            )
        return None


def _divergence(recorded: str, kind: str, name: str, digest: str, where: str) -> Divergence:
    place = f" at {where}" if where else ""
    return Divergence(
        f"the agent diverged from its log{place}: the log holds {recorded}; "
        f"the agent now asks for {kind} {name}, arguments {digest}",
        hint="Code between operations must do the same each time: put what varies (time, "
        "randomness, the network) into a step, and start equal steps in a settled order.",
    )
