"""Garbage collection: what goes, what stays, and that nothing that runs beside it is lost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.snapshot.gc_world import Crash, age, freeze, names, open_store, reach, root_of

from torpor.blobs.local import LocalBlobs
from torpor.blobs.protocol import Present
from torpor.snapshot import gc
from torpor.snapshot.store import LAYERS, MANIFESTS, SnapshotStore

GRACE_S, LONG_S = 600.0, 3600.0


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return open_store(tmp_path)


def collect(store: SnapshotStore, *roots: str, dry_run: bool = False) -> gc.Swept:
    return gc.collect(store, set(roots), before=time.time() - GRACE_S, dry_run=dry_run)


def test_what_is_not_reached_goes_and_layers_in_common_stay(store: SnapshotStore) -> None:
    first = freeze(store, None, 1).manifest_digest
    second = freeze(store, first, 2).manifest_digest
    other = freeze(store, None, 3).manifest_digest
    age(store, LONG_S)
    needed = reach(store, {second})
    before = {path.name: path.stat().st_size for path in root_of(store).rglob("*/*/*")}
    wanted = collect(store, second, dry_run=True)
    assert set(before) == names(store), "a dry run removes nothing"
    swept = collect(store, second)
    assert swept == wanted
    assert names(store) == needed
    assert set(swept.manifests) == {first, other}
    gone = set(before) - needed
    assert {*swept.manifests, *swept.layers} == gone
    assert swept.bytes == sum(before[name] for name in gone)
    assert swept.kept_bytes == sum(before[name] for name in needed)
    assert (swept.young_bytes, swept.problems) == (0, ())
    assert store.verify(second) == []


def test_what_is_young_or_held_stays_with_all_it_reaches(store: SnapshotStore) -> None:
    first = freeze(store, None, 1).manifest_digest
    age(store, LONG_S)
    second = freeze(store, first, 2).manifest_digest
    swept = collect(store)
    assert swept.manifests == (first,)
    assert store.verify(second) == []
    assert swept.young_bytes > 0
    age(store, LONG_S)
    with store.held(second), store.held(second):
        assert collect(store).manifests == ()
        assert store.verify(second) == []
    collect(store)
    assert names(store) == set()


def test_what_is_put_again_is_young_again(store: SnapshotStore) -> None:
    put = freeze(store, None, 1)
    age(store, LONG_S)
    assert freeze(store, None, 1) == put
    assert collect(store).bytes == 0
    assert store.verify(put.manifest_digest) == []


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"x")])
def test_a_live_manifest_that_cannot_be_read_keeps_every_layer(
    store: SnapshotStore, harm: Callable[[Path], object]
) -> None:
    """It might be put back from a copy, and nobody knows which layers it needs then."""
    live = freeze(store, None, 1).manifest_digest
    dead = freeze(store, None, 3).manifest_digest
    age(store, LONG_S)
    layers = {blob.name for blob in store.blobs.present(LAYERS)}
    harm(store.blobs.materialize(MANIFESTS, live))
    swept = collect(store, live)
    assert (swept.manifests, swept.layers) == ((dead,), ())
    assert live in swept.problems[0]
    assert {blob.name for blob in store.blobs.present(LAYERS)} == layers
    age(store, LONG_S)
    assert collect(store).layers, "once nothing needs it, all goes"


def test_half_of_a_long_chain(store: SnapshotStore) -> None:
    chain: list[str] = []
    for seed in range(60):
        chain.append(freeze(store, chain[-1] if chain else None, seed).manifest_digest)
    age(store, LONG_S)
    keep = set(chain[::2])
    needed = reach(store, keep)
    collect(store, *keep)
    assert names(store) == needed


class Interrupted(LocalBlobs):
    """Blobs whose collector is interrupted: before each step it takes, `meanwhile` is done."""

    meanwhile: Callable[[], None] | None = None

    def _interrupt(self) -> None:
        if self.meanwhile is not None:
            self.meanwhile()

    def present(self, kind: str) -> list[Present]:
        self._interrupt()
        return super().present(kind)

    def delete_unused(self, kind: str, name: str, *, before: float) -> bool:
        self._interrupt()
        return super().delete_unused(kind, name, before=before)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_machine_freezes_and_dies_while_its_parent_is_collected(
    tmp_path: Path, step: int
) -> None:
    """The parent was reclaimed and is held by the machine alone; the child inherits its layers."""
    store = open_store(tmp_path)
    blobs = store.blobs = Interrupted(tmp_path)
    parent = freeze(store, None, 1).manifest_digest
    age(store, LONG_S)
    left = [step]
    child: list[str] = []
    with ExitStack() as machine:
        machine.enter_context(store.held(parent))

        def freeze_and_die() -> None:
            left[0] -= 1
            if left[0] == 0:
                child.append(freeze(store, parent, 2).manifest_digest)
                machine.close()

        blobs.meanwhile = freeze_and_die
        collect(store)
        blobs.meanwhile = None
    assert all(store.verify(each) == [] for each in child)


@dataclass
class Machine:
    """One that runs: it reads its memory from `base`, and its next snapshot is `newest`'s child."""

    base: str | None
    newest: str | None
    stored: str | None = None  # not recorded yet


class Collecting(RuleBasedStateMachine):
    """Runs freeze, record, resume, end; the collector comes at any time, and between any two of
    its steps any of that happens. What is recorded and not reclaimed verifies always (rule 12)."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.live: set[str] = set()
        self.machines: list[Machine] = []
        self._open()

    def teardown(self) -> None:
        self.directory.cleanup()

    def _open(self) -> None:
        self.store = open_store(Path(self.directory.name))
        self.blobs = self.store.blobs = Interrupted(Path(self.directory.name))
        self.holds: dict[int, list[object]] = {}

    def _hold(self, machine: Machine, manifest: str) -> None:
        hold = self.store.held(manifest)
        hold.__enter__()
        self.holds.setdefault(id(machine), []).append(hold)

    def _discard(self, machine: Machine) -> None:
        self.machines.remove(machine)
        for hold in self.holds.pop(id(machine), []):
            hold.__exit__(None, None, None)  # type: ignore[attr-defined]

    @rule()
    def boot(self) -> None:
        self.machines.append(Machine(None, None))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self._resume(data.draw(st.sampled_from(sorted(self.live))))

    def _resume(self, manifest: str) -> None:
        machine = Machine(manifest, manifest)
        self._hold(machine, manifest)
        self.store.load(manifest)
        self.machines.append(machine)

    @precondition(lambda self: self.machines)
    @rule(seed=st.integers(0, 3), data=st.data())
    def put(self, seed: int, data: st.DataObject) -> None:
        self._put(data.draw(st.sampled_from(range(len(self.machines)))), seed)

    def _put(self, at: int, seed: int) -> None:
        machine = self.machines[at]
        stored = freeze(self.store, machine.newest, seed).manifest_digest
        machine.newest = machine.stored = stored
        self._hold(machine, stored)

    @precondition(lambda self: any(machine.stored for machine in self.machines))
    @rule(dies=st.booleans())
    def record(self, dies: bool) -> None:
        machine = next(machine for machine in self.machines if machine.stored)
        assert machine.stored is not None
        self.live.add(machine.stored)
        machine.stored = None
        if dies:
            self._discard(machine)

    @precondition(lambda self: self.machines)
    @rule()
    def lose(self) -> None:
        self._discard(self.machines[0])

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        self.live.discard(data.draw(st.sampled_from(sorted(self.live))))

    @rule(seconds=st.sampled_from([GRACE_S / 2, LONG_S]))
    def wait(self, seconds: float) -> None:
        age(self.store, seconds)

    @rule()
    def crash(self) -> None:
        self.machines.clear()
        self._open()

    @rule(
        at=st.integers(0, 12),
        seed=st.integers(0, 3),
        what=st.sampled_from(["nothing", "freeze", "resume", "checkpoint", "boot", "crash"]),
    )
    def collect(self, at: int, seed: int, what: str) -> None:
        step = 0

        def meanwhile() -> None:
            nonlocal step
            step += 1
            if step == at:
                self.blobs.meanwhile = None
                self._do(what, seed)

        self.blobs.meanwhile = meanwhile
        try:
            collect(self.store, *self.live)
        except Crash:
            self.crash()
        finally:
            self.blobs.meanwhile = None

    def _do(self, what: str, seed: int) -> None:
        match what:
            case "crash":
                raise Crash
            case "boot":
                self.machines.append(Machine(None, None))
                self._put(len(self.machines) - 1, seed)
                self.record(dies=True)
            case "resume" if self.live:
                self._resume(min(self.live))
                self._put(len(self.machines) - 1, seed)
            case "freeze" | "checkpoint" if self.machines:
                self._put(seed % len(self.machines), seed)
                self.record(dies=what == "freeze")

    @rule()
    def collect_all(self) -> None:
        """With nothing young and nothing running, exactly what is live stays."""
        for machine in list(self.machines):
            self._discard(machine)
        age(self.store, LONG_S)
        needed = reach(self.store, self.live)
        collect(self.store, *self.live)
        assert names(self.store) == needed

    @invariant()
    def all_that_is_live_verifies(self) -> None:
        wanted = set(self.live)
        for machine in self.machines:
            wanted |= {each for each in (machine.base, machine.newest) if each is not None}
        for manifest in wanted:
            assert self.store.verify(manifest) == []


Collecting.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestCollecting = Collecting.TestCase
