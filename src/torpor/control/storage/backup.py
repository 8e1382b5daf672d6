"""A copy of a data directory that is in use, and a data directory made of such a copy.

    DIR/backup.json        what it holds: format, when, whether with the key, [path, bytes, BLAKE3]…
    DIR/torpor.db          the database at one moment (SQLite's online backup)
    DIR/blobs/…            manifests and layers of all its live snapshots; all other blobs
    DIR/images/…  deps/…   what the machines in them stand on
    DIR/cache/roots/…      what images are made of, so that a restore needs no network
    DIR/host.key           only if asked for: who has it can read all the rest

The database comes first: what it names was durable before (rule 5). Nothing that it reaches goes
meanwhile: the caller keeps garbage collection away (rule 12). Blobs, images and dependency layers
are immutable, so on the same file system they are linked, and cost nothing; elsewhere copied. All
is read once; snapshots are compared with their names. `backup.json` is written last, then
the directory gets its name: one that has it is whole.

A backup is a copy, not a move: what goes on in both happens twice. A key that is destroyed
later is still in it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from blake3 import blake3

import torpor
from torpor.core.errors import Conflict, Damaged, Exhausted, HostError, Invalid, TorporError
from torpor.core.home import Home
from torpor.image.deps import layer_digest
from torpor.logstore.backup import Contents, contents
from torpor.snapshot.store import LAYERS, MANIFESTS, SnapshotStore

FORMAT, VERSION = "torpor-backup", 1
FACTS = "backup.json"
DATABASE, KEY = "torpor.db", "host.key"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# A link is refused: another file system, one without links, too many of them.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})
_CHUNK = 1 << 20

Object = dict[str, Any]


def back_up(
    home: Home,
    blobs: SnapshotStore,
    copy_database: Callable[[Path], None],
    directory: Path,
    *,
    with_key: bool,
    now: float,
) -> Object:
    """Write a backup of `home` to `directory`; what it holds. Blocks; no garbage may be collected
    meanwhile. Raises Invalid, Conflict, HostError; nothing is left then."""
    _check_target(home, directory)
    with _trouble(f"cannot write {directory}"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            copy_database(part / DATABASE)
            reached = contents(part / DATABASE)
            problems = _take(home, blobs, reached, part, with_key=with_key)
            facts = _facts(part, reached, problems, with_key=with_key) | {"made_at": now}
            _write(part / FACTS, json.dumps(facts, indent=1).encode())
            _sync_tree(part)
            part.rename(directory)
            _sync(directory.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    shown = {key: value for key, value in facts.items() if key != "files"}
    files = facts["files"]
    return shown | {
        "directory": str(directory),
        "files": len(files),
        "bytes": sum(size for _, size, _ in files),
    }


def restore(home: Home, directory: Path) -> Object:
    """Make `home`, which has no database, of a backup; what it holds. Blocks. Raises Invalid,
    Conflict, Damaged (naming every file that is not as it was), HostError."""
    facts = read_facts(directory)
    if home.database.exists():
        raise Conflict(
            f"{home.root} is in use: it has a database",
            hint="Set TORPOR_HOME to another directory, or move this one away.",
        )
    bad = [
        path for path, size, digest in facts["files"] if not _whole(directory / path, size, digest)
    ]
    if bad:
        raise Damaged(
            f"{len(bad)} files of the backup are missing or damaged: {', '.join(bad[:5])}",
            hint="Nothing was restored. Use another backup.",
        )
    home.create()
    with _trouble(f"cannot write {home.root}"):
        for path, _, _ in facts["files"]:
            if path != DATABASE:
                _link(directory / path, home.root / path, copied=path == KEY)
        # Last, and whole at once: a data directory that has it has all.
        part = home.root / f".{DATABASE}.part"
        _copy(directory / DATABASE, part)
        _sync_tree(home.root / "blobs")
        part.rename(home.database)
        _sync(home.root)
    shown = {key: value for key, value in facts.items() if key != "files"}
    return shown | {"home": str(home.root), "key_there": home.host_key.exists()}


def read_facts(directory: Path) -> Object:
    """What a backup says of itself. Raises Invalid."""
    try:
        facts = json.loads((directory / FACTS).read_bytes())
        listed = [(str(path), int(size), str(digest)) for path, size, digest in facts["files"]]
        found = facts["format"], facts["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid(
            f"{directory} is not a backup of torpor: {FACTS} cannot be read ({error})",
            hint="Give a directory that torpor backup made.",
        ) from error
    if found != (FORMAT, VERSION):
        raise Invalid(
            f"{directory} is a backup of format {found}; this torpor reads {(FORMAT, VERSION)}",
            hint="Restore it with the version of torpor that made it.",
        )
    for path, _, _ in listed:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path:
            raise Invalid(f"{directory}: {FACTS} lists {path!r}, which is not a path in it")
    return {**facts, "files": listed}


def _check_target(home: Home, directory: Path) -> None:
    if not directory.is_absolute() or "\0" in str(directory):
        raise Invalid(f"{str(directory)!r} is not an absolute path")
    if directory.is_relative_to(home.root):
        raise Invalid(f"{directory} is inside the data directory", hint="Write it elsewhere.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Conflict(f"{directory} exists already", hint="Each backup needs a new directory.")


def _take(
    home: Home, blobs: SnapshotStore, reached: Contents, part: Path, *, with_key: bool
) -> list[str]:
    """Bring all that is reached into the backup; what of it is not there, or not whole."""
    problems = []
    wanted: set[tuple[str, str]] = {(MANIFESTS, name) for name in reached.manifests}
    for name in sorted(reached.manifests):
        try:
            layers = blobs.layers(name)
        except TorporError as error:
            problems.append(error.message)
            continue
        wanted |= {(LAYERS, layer.digest) for layer in layers if layer.kind != "raw"}
    for kind, name in sorted(wanted):
        if not blobs.blobs.exists(kind, name):
            problems.append(f"{kind[:-1]} {name} is missing")
        elif _digest(path := blobs.blobs.materialize(kind, name)) != name:
            problems.append(f"{kind[:-1]} {name} is damaged")
        else:
            _link(path, part / path.relative_to(home.root))
    for kind in blobs.blobs.kinds():
        if kind not in (LAYERS, MANIFESTS):
            for each in sorted(blobs.blobs.present(kind), key=lambda each: each.name):
                path = blobs.blobs.materialize(kind, each.name)
                _link(path, part / path.relative_to(home.root))
    images = {spec["image"] for spec in reached.specs if "image" in spec}
    trees = [home.images / name for name in sorted(images)]
    dependencies = [spec["dependencies"] for spec in reached.specs if spec.get("dependencies")]
    trees += [home.deps / name for name in sorted(set(map(layer_digest, dependencies)))]
    trees += [home.roots / name for name in _names(home.roots) if not name.startswith(".")]
    for tree in trees:
        if not tree.exists():
            problems.append(f"{tree} is missing")
        for path in _files(tree):
            _link(path, part / path.relative_to(home.root))
    if with_key and home.host_key.exists():
        _link(home.host_key, part / KEY, copied=True)
    return problems


def _facts(part: Path, reached: Contents, problems: list[str], *, with_key: bool) -> Object:
    # Snapshots are named by their digests, which were compared just now.
    files = [
        (
            str(path.relative_to(part)),
            path.stat().st_size,
            path.name if path.parent.parent.name in (LAYERS, MANIFESTS) else _digest(path),
        )
        for path in _files(part)
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "torpor": torpor.__version__,
        "runs": reached.runs,
        "unfinished": reached.unfinished,
        "snapshots": len(reached.manifests),
        "key": with_key and (part / KEY).exists(),
        "problems": problems,
        "files": files,
    }


def _whole(path: Path, size: int, digest: str) -> bool:
    return path.is_file() and path.stat().st_size == size and _digest(path) == digest


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _link(source: Path, target: Path, *, copied: bool = False) -> None:
    """The immutable file `source` under another name, too."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if target.exists():
        return
    if not copied:
        try:
            target.hardlink_to(source)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        target.chmod(0o600)
        shutil.copyfileobj(read, write, _CHUNK)
        write.flush()
        os.fsync(write.fileno())


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            _sync(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _trouble(doing: str) -> Iterator[None]:
    """Errors of the disk as those of its host."""
    try:
        yield
    except OSError as error:
        cls = Exhausted if error.errno in _FULL else HostError
        raise cls(
            f"{doing}: {error.strerror or error}",
            hint="Nothing was changed. Check that disk and its permissions.",
        ) from error
