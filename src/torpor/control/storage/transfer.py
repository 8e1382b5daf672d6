"""A run leaves as one file, and goes on from it on another torpor.

An export has all that the run needs: its rows, its log, its agent's source, and, unless it has
ended, a snapshot and the template with all their layers, and the dependency layer. It does not
have the image: that is named, and a torpor of the same version builds the same one.

A copy, not a move: the run stays here too, and whoever answers both has it happen twice. A
running run is refused, since nobody could say which of its operations happened where.

What comes in was written by others: every byte is compared with its digest, every row is checked,
and the agent's version must be the digest of the source that comes with it. The record is the
last thing written (rule 5); before that, what was stored is garbage at worst.

An export of sealed snapshots carries the key that opens them, and any export of snapshots the
certificate authority that their machines trust: it is as confidential as what was in the machine.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from sqlalchemy import Connection

import torpor
from torpor.contextlog import agents, keys, runs, schema, snapshots, transfer
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.entries import END
from torpor.contextlog.files import FileRow, files_of, get_file, put_file, take
from torpor.contextlog.transfer import Row, RunRows
from torpor.contextlog.values import ValueRow, find_values, put_value
from torpor.control.storage import trusted
from torpor.control.storage.archive import CHUNK, Member, Source, Unpacker, json_lines, pack
from torpor.core.bodies import stored_body
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.divergence import check_on_divergence
from torpor.core.egress import parse_egress
from torpor.core.environment import check_env
from torpor.core.errors import Conflict, Damaged, Invalid
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, RunId, SnapshotId, op_kind
from torpor.core.keep import parse_keep
from torpor.core.position import Position
from torpor.core.rules import parse_rules
from torpor.core.runfiles import check_paths
from torpor.core.states import FINAL, RunState
from torpor.egress.authority import Authority
from torpor.engine import registry
from torpor.engine.protocol import Shape
from torpor.image.deps import layer_digest
from torpor.image.publish import Workspace, build_once
from torpor.policy import inputs
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.seal import KEY_BYTES, Key
from torpor.snapshot.store import LAYERS, MANIFESTS, SnapshotStore
from torpor.snapshot.values import VALUES, Deposit, Incoming, Kept, name_of, read
from torpor.wire.link import LinkState
from torpor.wire.messages import EXCHANGES
from torpor.worker.loading import source_from
from torpor.worker.sealing import SealingKeys, of_file
from torpor.worker.values import Values

SOURCE, ENTRIES, WAITS = "source.tar", "entries.jsonl", "waits.jsonl"
FILES = "files"
DEPS = ("deps/deps.erofs", "deps/deps.json")
_MANIFEST_BYTES_MAX = 1 << 30
_AGENT_KEYS = ("version", "name", "entry", "spec", "agents", "boot_ms", "template_bytes")


# -- out -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contents:
    """What the log says of the run, at one moment."""

    run: RunId
    rows: RunRows
    agent: AgentRow
    source: bytes
    snapshots: list[Row]  # to be restored from, the template last
    entries: BinaryIO
    entries_count: int
    values: list[ValueRow]
    files: Mapping[str, FileRow]  # of the run, by path


def read_contents(c: Connection, ref: str, snapshot: str | None, spool: BinaryIO) -> _Contents:
    """All that the log has for an export; the entries go to `spool`. Raises NotFound, Conflict."""
    row = runs.get_run(c, ref)
    if row.state is RunState.RUNNING:
        raise Conflict(
            f"run {row.id} is running", hint="Export it while it sleeps, or after it has ended."
        )
    agent = agents.get_agent(c, row.version)
    chosen = _chosen(c, row, snapshot)
    wanted: list[SnapshotId] = [] if chosen is None else [chosen]
    if row.state not in FINAL and agent.template is not None:
        wanted.append(agent.template)
    count = 0
    digests: set[str] = set()
    for entry in transfer.stream_entries(c, row.id):
        digests |= _values_in(entry)
        spool.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        count += 1
    return _Contents(
        run=row.id,
        rows=transfer.read_run(c, row.id),
        agent=agent,
        source=agents.agent_source(c, row.version),
        snapshots=[transfer.read_snapshot(c, each, row.id) for each in wanted],
        entries=spool,
        entries_count=count,
        values=find_values(c, row.id, digests),
        files={each.path: get_file(c, each.digest) for each in files_of(c, row.id)},
    )


async def keys_of(contents: _Contents, values: Values, keys: SealingKeys) -> dict[str, Key | None]:
    """What opens the values and files of an export, by their owners. Raises HostError, Damaged."""
    found: dict[str, Key | None] = {}
    for row in contents.values:
        found[row.run] = await values.key_of(row)
    for file in contents.files.values():
        found[of_file(file.digest)] = await keys.of_known_file(file)
    return found


def _values_in(entry: Row) -> set[str]:
    """The values that an entry names."""
    if entry["kind"] != END:
        return set()
    data, found = entry["data"], set()
    if isinstance(blob := data.get("blob"), dict) and "digest" in blob:
        found.add(blob["digest"])
    if op_kind(entry["op"]) in EXCHANGES and (body := stored_body(data.get("value"))) is not None:
        found.add(body.digest)
    return found


def _chosen(c: Connection, row: runs.RunRow, snapshot: str | None) -> SnapshotId | None:
    """The snapshot that travels: the one that was named, or the newest of an unfinished run."""
    if snapshot is None:
        if row.state in FINAL:
            return None
        newest = snapshots.newest_snapshot(c, row.id) or snapshots.base_of(c, row.id)
        return None if newest is None else newest.id
    named = snapshots.get_snapshot(c, snapshot)
    mine = named.run == row.id or named.id == row.base
    if not mine or named.reclaimed_at is not None:
        why = "has been removed" if mine else f"is not a snapshot of {row.id}"
        raise Conflict(f"{named.id} {why}", hint=f"See: torpor snapshots {row.id}")
    return named.id


def export(
    home: Home,
    blobs: SnapshotStore,
    contents: _Contents,
    key: Key | None,
    keys: Mapping[str, Key | None],
    authorities: Mapping[str, Authority],
    now: float,
) -> Iterator[bytes]:
    """The export's bytes. `key` is the run's; `keys` are as `keys_of`; `authorities`, all that are
    known here, by their fingerprints. This and the iterator block.
    Raises NotFound, Damaged; the iterator raises Damaged if a file is not what was stored."""
    with ExitStack() as holds:
        holds.callback(contents.entries.close)
        for row in contents.snapshots:
            holds.enter_context(blobs.held(row["manifest"]))
        manifests = {
            row["manifest"]: blobs.load(row["manifest"], key) for row in contents.snapshots
        }
        needs = next((each.facts["shape"] for each in manifests.values()), None)
        # A template that was made after an upgrade of this host is of another machine.
        manifests = {n: each for n, each in manifests.items() if each.facts["shape"] == needs}
        paths = [
            (f"{MANIFESTS}/{name}", blobs.blobs.materialize(MANIFESTS, name)) for name in manifests
        ]
        deps = {each.facts["shape"]["deps"] for each in manifests.values()} - {""}
        sources = [_from_file(name, path, path.name) for name, path in paths]
        sources += [
            _from_bytes(SOURCE, contents.source),
            _from_bytes(WAITS, b"".join(_line(wait) for wait in contents.rows.waits)),
            _from_open(ENTRIES, contents.entries),
        ]
        for digest in deps:
            for name in DEPS:
                path = home.deps / digest / Path(name).name
                sources.append(_from_file(name, path, _digest(path)))
        sources += [_from_value(VALUES, blobs, row, keys[row.run]) for row in contents.values]
        for file in {each.digest: each for each in contents.files.values()}.values():
            sources.append(_from_value(FILES, blobs, file, keys[of_file(file.digest)]))
        layers = {layer for each in manifests.values() for layer in each.layers}
        for layer in sorted(layers, key=lambda each: each.digest):
            if layer.kind != "raw":
                path = blobs.layer_path(layer)
                sources.append(_from_file(f"{LAYERS}/{layer.digest}", path, layer.digest))
        facts = {
            "torpor": torpor.__version__,
            "exported_at": now,
            "run": contents.rows.run,
            # In the clear: an export is opened elsewhere, so nothing but its file protects it.
            "key": key.secret.hex() if key is not None and (manifests or contents.values) else None,
            "agent": {key: getattr(contents.agent, key) for key in _AGENT_KEYS},
            "authorities": trusted.packed(authorities, manifests.values()),
            "snapshots": [row for row in contents.snapshots if row["manifest"] in manifests],
            "files": {path: each.digest for path, each in contents.files.items()},
            "needs": needs,
            "entries": contents.entries_count,
        }
        return _holding(holds.pop_all(), pack(facts, sources))


def _holding(holds: ExitStack, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with holds:
        yield from chunks


def _line(row: Row) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _from_bytes(name: str, data: bytes) -> Source:
    return Source(Member(name, len(data), blake3(data).hexdigest()), lambda: iter([data]))


def _from_file(name: str, path: Path, digest: str) -> Source:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error

    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from _chunks(file)

    return Source(Member(name, size, digest), read)


def _from_value(
    kind: str, blobs: SnapshotStore, row: ValueRow | FileRow, key: Key | None
) -> Source:
    """In the clear, as all is that an export does not carry as it lies on the disk."""
    kept = Kept(row.digest, row.bytes, row.name)
    member = Member(f"{kind}/{row.digest}", row.bytes, row.digest)
    return Source(member, lambda: read(blobs.blobs, kept, key))


def _from_open(name: str, file: BinaryIO) -> Source:
    size = file.tell()
    file.seek(0)
    digest = blake3()
    for chunk in _chunks(file):
        digest.update(chunk)

    def read() -> Iterator[bytes]:
        file.seek(0)
        yield from _chunks(file)

    return Source(Member(name, size, digest.hexdigest()), read)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _digest(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


# -- in ------------------------------------------------------------------------------------------


class _Arriving(io.RawIOBase):
    """Bytes that come in an event loop, read in a thread."""

    def __init__(self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._chunks, self._loop = chunks, loop
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)


def arriving(chunks: AsyncIterator[bytes]) -> BinaryIO:
    """`chunks`, which this event loop gives, as a file for another thread."""
    return io.BufferedReader(_Arriving(chunks, asyncio.get_running_loop()), CHUNK)


@dataclass
class Import:
    """An export that is being read: `begin`, then, if all that it needs is here, `store`, then
    `record` in a transaction; `close` whatever happens. The first two block."""

    home: Home
    blobs: SnapshotStore
    clock: Clock = SYSTEM_CLOCK
    run: Row = field(default_factory=dict)
    needs: Shape | None = None
    key: Key | None = None  # of the run; None if its snapshots are in the clear
    authorities: list[Authority] = field(default_factory=list)  # that its snapshots trust
    files: list[tuple[Kept, Key | None]] = field(default_factory=list)  # stored, with their keys
    _holds: ExitStack = field(default_factory=ExitStack)
    _head: dict[str, Any] = field(default_factory=dict)
    _small: dict[str, bytes] = field(default_factory=dict)
    _snapshots: list[Row] = field(default_factory=list)
    _values: list[ValueRow] = field(default_factory=list)
    _seal_files: bool = True

    def begin(self, file: BinaryIO) -> None:
        """Read the header. Raises Invalid."""
        self._unpacker = Unpacker(file)
        self._head = self._unpacker.header()
        self.run = transfer.checked(schema.runs, self._head.get("run"), "the run")
        needs = self._head.get("needs")
        try:
            self.needs = None if needs is None else Shape(**needs)
        except TypeError as error:
            raise Invalid(f"the run's needs are malformed: {error}") from error
        self.key = _key(self._head.get("key"))
        self.authorities = trusted.unpacked(self._head.get("authorities"))

    def store(self, *, seal_files: bool = True) -> None:
        """Read the rest; store its blobs durably. Raises Invalid, Damaged, Conflict, HostError."""
        self._seal_files = seal_files
        names = [tuple(member.name.split("/", 1)) for member in self._unpacker.members]
        for kind in (LAYERS, MANIFESTS):
            mine = [name[1] for name in names if name[0] == kind and len(name) == 2]
            self._holds.enter_context(self.blobs.blobs.held(kind, mine))
        values = [name_of(n[1], self.key) for n in names if n[0] == VALUES and _is_digest(n[-1])]
        self._holds.enter_context(self.blobs.blobs.held(VALUES, values))
        with tempfile.TemporaryDirectory(dir=self.home.run) as scratch:
            for member, chunks in self._unpacker.read():
                self._take(member, chunks, Path(scratch))
            self._check()
            self._keep_deps(Path(scratch))
        self._keep_manifests()

    def record(
        self, c: Connection, wrapped: bytes | None, given_files: Sequence[FileRow] = ()
    ) -> runs.RunRow:
        """Rule 5: the blobs are there; now the rows, and keys, wrapped by this host's: the run's,
        and those of `files` in their rows. Raises Conflict, Invalid."""
        now, given = self.clock.now(), self._head["agent"]
        version = AgentVersion(given["version"])
        transfer.refuse_known(c, self.run)
        known = agents.put_agent(
            c,
            agents.NewAgent(
                version=version,
                engine=self.run["engine"],
                name=given["name"],
                entry=given["entry"],
                source=self._small[SOURCE],
                spec=given["spec"],
                agents=given["agents"],
                deployed=False,
            ),
            now,
        )
        rows = RunRows(self.run, json_lines(self._small[WAITS], "waits"))
        mine = [row for row in self._snapshots if row["run"] is not None]
        entries = json_lines(self._small[ENTRIES], "entries")
        transfer.write_run(c, rows, entries, mine)
        for missing in {d for e in entries for d in _values_in(e)} - {
            v.digest for v in self._values
        }:
            raise Invalid(f"the export lacks the value {missing}")
        for value in self._values:
            put_value(c, value)
        self._record_files(c, given_files, now)
        if wrapped is not None:
            keys.put_key(c, RunId(self.run["id"]), wrapped)
        for row in self._snapshots:
            if row["run"] is None and known.template is None:
                figures = ("manifest", "bytes", "pause_ms", "freeze_ms", "link")
                new = snapshots.NewSnapshot(
                    version=version,
                    created_at=now,
                    position=Position.of_json(row["detail"]),
                    **{each: row[each] for each in figures},
                )
                template = snapshots.record_snapshot(c, new)
                agents.set_template(
                    c,
                    version,
                    template.id,
                    boot_ms=given["boot_ms"],
                    template_bytes=given["template_bytes"],
                )
        return runs.get_run(c, RunId(self.run["id"]))

    def _record_files(self, c: Connection, rows: Sequence[FileRow], now: float) -> None:
        for row in rows:
            put_file(c, row, now)
        named = self._named_files()
        if missing := set(named.values()) - {row.digest for row in rows}:
            raise Invalid(f"the export lacks the file {min(missing)}")
        take(c, RunId(self.run["id"]), named)

    def _named_files(self) -> dict[str, str]:
        """Path → digest, as the header says."""
        named = self._head.get("files", {})
        if not isinstance(named, dict) or not all(
            isinstance(digest, str) and _is_digest(digest) for digest in named.values()
        ):
            raise Invalid("the run's files in the export are malformed")
        check_paths(named)
        return named

    def close(self) -> None:
        self._holds.close()

    def _take(self, member: Member, chunks: Iterator[bytes], scratch: Path) -> None:
        match member.name.split("/"):
            case ["layers", name] if name == member.digest:
                self.blobs.blobs.put_stream(LAYERS, name, member.size, chunks)
            case ["manifests", name] if name == member.digest:
                if member.size > _MANIFEST_BYTES_MAX:
                    raise Invalid(f"{member.name} has {member.size:,} bytes")
                self._small[member.name] = b"".join(chunks)
            case ["values", name] if name == member.digest:
                with closing(Incoming(self.home.run, self.key)) as incoming:
                    for chunk in chunks:
                        incoming.write(chunk)
                    kept = incoming.store(self.blobs.blobs)
                run, sealed = RunId(self.run["id"]), self.key is not None
                self._values.append(ValueRow(run, kept.digest, kept.bytes, sealed, kept.name))
            case ["files", name] if name == member.digest:
                key = Key.new() if self._seal_files else None
                with self.blobs.blobs.draft() as draft:
                    deposit = Deposit(draft, key)
                    for chunk in chunks:
                        deposit.write(chunk)
                    kept = deposit.store(self.blobs.blobs)
                self._holds.enter_context(self.blobs.blobs.held(VALUES, [kept.name]))
                self.files.append((kept, key))
            case ["deps", _] if member.name in DEPS:
                with (scratch / Path(member.name).name).open("wb") as file:
                    file.writelines(chunks)
            case [name] if name in (SOURCE, ENTRIES, WAITS):
                self._small[name] = b"".join(chunks)
            case _:
                raise Invalid(f"the export has an unknown member {member.name!r}")

    def _keep_deps(self, scratch: Path) -> None:
        """The dependency layer, under its name. It is named by the requirements, which may have
        resolved to something else here: a snapshot needs the very bytes it was taken with."""
        installed = [scratch / Path(name).name for name in DEPS]
        if self.needs is None or not self.needs.deps:
            return
        digest = layer_digest(self._head["agent"]["spec"]["dependencies"])
        if not all(path.exists() for path in installed):
            raise Invalid("the export lacks the dependency layer")

        def publish(workspace: Workspace) -> Path:
            layer = workspace.directory / "layer"
            layer.mkdir()
            for path in installed:
                (layer / path.name).write_bytes(path.read_bytes())
            return layer

        here = build_once(self.home.deps / digest, publish)
        if _digest(here / "deps.erofs") != _digest(installed[0]):
            raise Conflict(
                f"the dependency layer {digest} here was resolved to other packages",
                hint=f"Compare {here / 'deps.json'} on both hosts. If no run needs the "
                "layer here, remove its directory and import again.",
            )

    def _check(self) -> None:
        """That all is there, and that it is one whole. Raises Invalid."""
        missing = {SOURCE, ENTRIES, WAITS} - set(self._small)
        if missing:
            raise Invalid(f"the export lacks {', '.join(sorted(missing))}")
        run, needs = self.run, self.needs
        agent = _agent(self._head.get("agent"), self._small[SOURCE], run["version"], run["engine"])
        if needs is not None and (needs.memory_mib, needs.disk_mib, needs.deps) != _wanted(agent):
            raise Invalid("the run's snapshots are of a machine other than its agent asks for")
        listed = self._head.get("snapshots")
        if not isinstance(listed, list):
            raise Invalid("the export does not list its snapshots")
        self._snapshots = [transfer.checked(schema.snapshots, row, "a snapshot") for row in listed]
        for row in self._snapshots:
            if row["reclaimed_at"] is not None or row["version"] != self.run["version"]:
                raise Invalid(f"snapshot {row['id']} is not the run's")
            LinkState.from_json(row["link"] or {})
            self._check_manifest(row["manifest"])

    def _check_manifest(self, name: str) -> None:
        data = self._small.get(f"{MANIFESTS}/{name}")
        if data is None:
            raise Invalid(f"the export lacks manifest {name}")
        manifest = Manifest.decode(data, self.key)
        if self.needs is None or manifest.facts.get("shape") != self.needs.facts():
            raise Invalid(f"manifest {name} needs another host than the export says")
        trusted.check_trusted(name, manifest, self.authorities)
        carried = {member.name for member in self._unpacker.members}
        for layer in manifest.layers:
            if layer.kind == "raw":
                continue
            if f"{LAYERS}/{layer.digest}" not in carried:
                raise Invalid(f"the export lacks layer {layer.digest}")
            if problem := self.blobs.verify_layer(layer, self.key):
                raise Damaged(problem)

    def _keep_manifests(self) -> None:
        for name, data in self._small.items():
            if name.startswith(f"{MANIFESTS}/"):
                self.blobs.blobs.put(MANIFESTS, name.partition("/")[2], [data])


def _wanted(agent: AgentRow) -> tuple[int, int, str]:
    """Memory, disk and dependency layer of a machine for the agent. Its image may be newer than
    the agent: a template that is made again is made of what the host has then."""
    spec = agent.spec
    deps = layer_digest(spec["dependencies"]) if spec["dependencies"] else ""
    return spec["memory_mib"], spec["disk_mib"], deps


def _agent(given: Any, source: bytes, version: str, engine: str) -> AgentRow:
    """Its version is the digest of the source that came with it: no other code gets its name."""
    try:
        row = AgentRow(
            **{key: given[key] for key in _AGENT_KEYS},
            template=None,
            first_at=0.0,
            used_at=0.0,
            deployed_at=None,
            engine=engine,
        )
        what = "the agent's rules"
        registry.checked(parse_rules(row.spec.get("rules", {}), what), what)
        check_env(row.spec.get("env", {}), "the agent's env", kept=True)
        parse_egress(row.spec.get("egress", []), "the agent's egress")
        base = registry.get(row.engine).base_of(row.spec["image"])
        actual = source_from(row, source).version(base)
        parse_keep(row.spec["keep"], "keep")
        check_on_divergence(row.spec["on_divergence"], "on_divergence")
        sound = all(
            isinstance(each["name"], str)
            and isinstance(each["open"], bool)
            and inputs.usable(each) == each
            and all(isinstance(p["name"], str) and isinstance(p["required"], bool) for p in params)
            for each in row.agents
            for params in [each["params"]]
        )
        sound &= isinstance(row.boot_ms, int | float | None)
        sound &= isinstance(row.template_bytes, int | None)
    except (KeyError, TypeError, AttributeError, ValueError, tarfile.TarError) as error:
        raise Invalid(f"the agent in the export is malformed: {error!r}") from error
    if not sound or actual != version or row.version != version:
        raise Invalid(
            f"the agent in the export is not version {version}, but {actual}",
            hint="Its source or its sizes were changed after it was exported.",
        )
    return row


def _is_digest(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", name) is not None


def _key(secret: Any) -> Key | None:
    if secret is None:
        return None
    if not isinstance(secret, str) or not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", secret):
        raise Invalid("the run's key in the export is malformed")
    return Key(bytes.fromhex(secret))
