"""Files of runs: contents that clients have uploaded, and which runs have them where.

    files       digest ─► size, the name of its file, its key as the host's wraps it
    run_files   run, path ─► digest

A content is stored once, whoever gives it: so its key is its own and not a run's. It is there
before any run names it, is spared for a while until one does (`UNTAKEN_S`), and goes with the last
run that has it, its key with it. A fork has the files of its origin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, or_, select, update

from torpor.contextlog import schema
from torpor.core.errors import NotFound
from torpor.core.ids import RunId
from torpor.core.runfiles import UNTAKEN_S, RunFile

_files, _of = schema.files, schema.run_files
_MANY = 500  # in one statement


class FileRow(NamedTuple):
    digest: str
    name: str
    wrapped: bytes | None
    bytes: int


def find_file(c: Connection, digest: str) -> FileRow | None:
    return next(iter(_rows(c, _files.c.digest == digest)), None)


def get_file(c: Connection, digest: str) -> FileRow:
    """Raises NotFound."""
    row = find_file(c, digest)
    if row is None:
        raise NotFound(f"there is no file {digest[:100]!a} here")
    return row


def spare(c: Connection, digest: str, now: float) -> None:
    """A run is about to name it: until then it stays."""
    known = update(_files).where(_files.c.digest == digest)
    c.execute(known.values(spared_until=now + UNTAKEN_S))


def put_file(c: Connection, row: FileRow, now: float) -> FileRow:
    """Record a content that is durable, unless it is known; what is recorded. To be spared."""
    known = find_file(c, row.digest)
    if known is None:
        c.execute(insert(_files), [row._asdict()])
    spare(c, row.digest, now)
    return known or row


def replace_file(c: Connection, row: FileRow) -> None:
    """The bytes that were stored are lost; here they are again."""
    c.execute(update(_files).where(_files.c.digest == row.digest).values(row._asdict()))


def sizes(c: Connection, digests: Collection[str]) -> dict[str, int]:
    """Those of the contents that there are."""
    found: dict[str, int] = {}
    wanted = sorted(set(digests))
    for at in range(0, len(wanted), _MANY):
        among = _files.c.digest.in_(wanted[at : at + _MANY])
        found |= {row.digest: row.bytes for row in _rows(c, among)}
    return found


def require(wanted: Mapping[str, str], known: Mapping[str, int]) -> None:
    """That all of `wanted`, path → digest, are among the contents `known`. Raises NotFound."""
    for path, digest in wanted.items():
        if digest not in known:
            raise NotFound(
                f"no file {digest[:100]!a} has been uploaded, for {path}",
                hint="Upload it first: POST /v1/files returns its digest.",
            )


def take(c: Connection, run: RunId, files: Mapping[str, str]) -> None:
    """The run has them from now on: path → digest. Raises NotFound."""
    if not files:
        return
    known = sizes(c, files.values())
    require(files, known)
    rows = [{"run": run, "path": path, "digest": digest} for path, digest in files.items()]
    c.execute(insert(_of), rows)
    wanted = sorted(known)
    for at in range(0, len(wanted), _MANY):
        taken = update(_files).where(_files.c.digest.in_(wanted[at : at + _MANY]))
        c.execute(taken.values(spared_until=None))


def share(c: Connection, origin: RunId, fork: RunId) -> None:
    """The fork has what its origin has."""
    mine = select(_of.c.path, _of.c.digest).where(_of.c.run == origin)
    rows = [{"run": fork, **row._mapping} for row in c.execute(mine)]
    if rows:
        c.execute(insert(_of), rows)


def files_of(c: Connection, run: RunId) -> list[RunFile]:
    """By path."""
    query = (
        select(_of.c.path, _files.c.digest, _files.c.bytes)
        .join(_files, _files.c.digest == _of.c.digest)
        .where(_of.c.run == run)
        .order_by(_of.c.path)
    )
    return [RunFile(*row) for row in c.execute(query)]


def drop_unneeded(c: Connection, now: float, among: Collection[str] | None = None) -> list[FileRow]:
    """Forget contents that no run has and that are not spared (any more), only `among` these if
    given: after this commits nobody can open those that are sealed."""
    gone: list[FileRow] = []
    groups: Sequence[Sequence[str] | None] = [None]
    if among is not None:
        wanted = sorted(set(among))
        groups = [wanted[at : at + _MANY] for at in range(0, len(wanted), _MANY)]
    for some in groups:
        unneeded = _unneeded(now)
        gone += _rows(c, unneeded if some is None else unneeded & _files.c.digest.in_(some))
    for row in gone:
        c.execute(delete(_files).where(_files.c.digest == row.digest))
    return gone


def forget_run(c: Connection, run: RunId) -> list[FileRow]:
    """The run is being deleted: the contents that went with it. Those that were uploaded again
    meanwhile are spared."""
    mine = set(c.scalars(select(_of.c.digest).where(_of.c.run == run)))
    c.execute(delete(_of).where(_of.c.run == run))
    return drop_unneeded(c, 0.0, mine)


def file_names(c: Connection, now: float) -> frozenset[str]:
    """Of the stored files of all contents that are to be kept."""
    return frozenset(c.scalars(select(_files.c.name).where(~_unneeded(now))))


def any_file_key(c: Connection) -> FileRow | None:
    """One that has a key, to try the host's on."""
    return next(iter(_rows(c, _files.c.wrapped.is_not(None), 1)), None)


def _unneeded(now: float) -> ColumnElement[bool]:
    had = select(_of.c.run).where(_of.c.digest == _files.c.digest)
    over = or_(_files.c.spared_until.is_(None), _files.c.spared_until < now)
    return ~had.exists() & over


def _rows(c: Connection, which: ColumnElement[bool], limit: int | None = None) -> list[FileRow]:
    columns = (_files.c.digest, _files.c.name, _files.c.wrapped, _files.c.bytes)
    return [FileRow(*row) for row in c.execute(select(*columns).where(which).limit(limit))]
