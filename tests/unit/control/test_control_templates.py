"""Templates are made upon bases: what is done again for a changed agent, and what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from torpor.contextlog import agents, bases, snapshots
from torpor.contextlog.bases import BaseRow
from torpor.core.agentfile import AgentSource
from torpor.core.ids import AgentVersion
from torpor.core.imports import Import
from torpor.core.limits import ServerLimits
from torpor.snapshot.gather import TEMPLATE_LAYERS, _movable
from torpor.testing.fakes.world import VERSION, World
from torpor.worker.bases import booted_key, imported_key
from torpor.worker.loading import logged
from torpor.worker.templates import Template, Templates

pytestmark = pytest.mark.anyio

DEFINED = "\n@torpor.agent\ndef main(): ..."


@pytest.fixture
async def made(world: World) -> Made:
    """Booting is for real machines: a base has booted. Any import is worth another."""
    made = Made(world)
    await made.has_booted()
    return made


class Made:
    def __init__(self, world: World) -> None:
        self.world = world
        self.shape = world.machines.shape(memory_mib=1, disk_mib=1, deps="")
        self.templates = self._templates(worth_s=0.0)

    def _templates(self, worth_s: float) -> Templates:
        limits = ServerLimits(base_worth_s=worth_s)
        return Templates(
            self.world.machines, self.world.store, self.world.authorities, limits=limits
        )

    def think_little_of_bases(self) -> None:
        self.templates = self._templates(worth_s=1e9)

    async def has_booted(self) -> None:
        """With the template of the world's agent, which has done nothing yet, as a base."""
        trusted = (await self.world.authorities.current()).fingerprint
        key = self.booted = booted_key(self.shape, AgentSource("agent.py", {}), trusted)

        def write(c: Connection) -> None:
            row = snapshots.get_snapshot(c, str(agents.get_agent(c, VERSION).template))
            kept: dict[str, Any] = {"link": row.link, "bytes": row.bytes, "now": 1.0}
            bases.put_base(c, key, manifest=row.manifest, **kept)

        await self.world.store.write(write)

    async def make(self, text: str) -> Template:
        body = (text + DEFINED).encode()
        source = AgentSource("agent.py", {"agent.py": body}, memory_mib=1, disk_mib=1)
        return await self.templates.make(source, AgentVersion("0" * 32), logged)

    async def bases(self) -> list[BaseRow]:
        """But for the one that has booted."""
        rows = await self.world.store.read(bases.list_bases)
        return [row for row in rows if row.key != self.booted]

    def imports(self, module: str) -> int:
        return self.world.effects[module]


async def test_what_was_imported_for_one_version_is_not_for_the_next(made: Made) -> None:
    first = await made.make("import slow, torpor\n# one")
    assert (made.imports("slow"), len(await made.bases())) == (1, 1)
    second = await made.make("import slow, torpor\n# two")
    assert (made.imports("slow"), len(await made.bases())) == (1, 1)
    # Each has its own file, and only that: what travels ahead is empty.
    assert [each.loaded.agents[0]["name"] for each in (first, second)] == [
        "import slow, torpor\n# one" + DEFINED,
        "import slow, torpor\n# two" + DEFINED,
    ]
    assert first.captured.manifest != second.captured.manifest
    assert (first.boot_ms, second.boot_ms) == (None, None)
    store = made.world.machines.store
    below = set(store.layers((await made.bases())[0].manifest))
    assert below <= set(store.layers(second.captured.manifest))
    # No snapshot of a run stores again what is the template's, in however many layers.
    for template in (first, second):
        manifest = store.load(template.captured.manifest)
        compressed = [layer for layer in manifest.layers if layer.kind != "raw"]
        assert manifest.facts[TEMPLATE_LAYERS] == len(compressed) > 1
        assert not len(_movable(manifest, manifest.regions["memory"].refs))
    assert second.bytes == store.size(second.captured.manifest) > second.captured.bytes


async def test_other_imports_make_another_base_from_what_has_booted(made: Made) -> None:
    await made.make("import slow, torpor")
    await made.make("import slow, other, torpor")
    assert (made.imports("slow"), made.imports("other")) == (2, 1)
    assert len(await made.bases()) == 2


async def test_what_is_not_imported_first_is_left_to_the_agent(made: Made) -> None:
    await made.make("import early, torpor\nprint()\nimport late")
    assert (made.imports("early"), made.imports("late")) == (1, 0)
    await made.make("print()\nimport torpor")
    assert len(await made.bases()) == 1


async def test_what_is_soon_imported_makes_no_base(made: Made) -> None:
    made.think_little_of_bases()
    await made.make("import slow, torpor")
    assert await made.bases() == []


@pytest.mark.parametrize("module", ["lingers", "prints"])
async def test_what_would_show_makes_no_base_and_the_agent_goes_on_with_it(
    made: Made, module: str
) -> None:
    template = await made.make(f"import {module}, torpor")
    assert (made.imports(module), await made.bases()) == (1, [])
    assert template.loaded.agents


@pytest.mark.parametrize("module", ["fails", "ends"])
async def test_what_fails_is_begun_again_and_left_to_the_agent_from_then_on(
    made: Made, module: str
) -> None:
    template = await made.make(f"import {module}, torpor")
    assert template.loaded.agents
    await made.make(f"import {module}, torpor\n# again")
    assert (made.imports(module), await made.bases()) == (1, [])


@pytest.mark.parametrize("lost", [True, False])
async def test_a_base_whose_files_are_not_whole_is_made_again(made: Made, lost: bool) -> None:
    booted = (await made.world.store.read(bases.list_bases))[0]
    await made.make("import slow, torpor")
    (before,) = await made.bases()
    store = made.world.machines.store
    if lost:
        store.delete_manifest(before.manifest)
    else:
        own = set(store.layers(before.manifest)) - set(store.layers(booted.manifest))
        path = store.layer_path(next(each for each in own if each.kind != "raw"))
        path.chmod(0o600)
        path.write_bytes(b"?" + path.read_bytes()[1:])
    await made.make("import slow, torpor\n# two")
    assert (made.imports("slow"), len(await made.bases())) == (2, 1)


def test_keys_tell_apart_what_a_base_depends_on(made: Made) -> None:
    files = {"agent.py": b"1", "data.txt": b"1"}
    source, modules = AgentSource("agent.py", files), [Import("a"), Import("b", ("c",))]
    key = imported_key(made.shape, source, "A", modules)
    assert key != booted_key(made.shape, source, "A")
    changed = AgentSource("agent.py", {**files, "agent.py": b"2"})
    assert imported_key(made.shape, changed, "A", modules) == key
    others = [
        imported_key(
            made.world.machines.shape(memory_mib=2, disk_mib=1, deps=""), source, "A", modules
        ),
        imported_key(made.shape, AgentSource("data.txt", files), "A", modules),
        imported_key(made.shape, AgentSource("agent.py", {**files, "more": b""}), "A", modules),
        imported_key(made.shape, source, "B", modules),
        imported_key(made.shape, replace(source, env={"A": "1"}), "A", modules),
        imported_key(made.shape, source, "A", modules[::-1]),
        imported_key(made.shape, source, "A", [Import("a"), Import("b")]),
    ]
    assert len({key, *others}) == 8
