"""Agents: what is refused before anything is built, installed or booted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torpor.control.service.agents import Agents
from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.image.deps import layer_digest
from torpor.image.intact import digests
from torpor.worker.templates import Templates

pytestmark = pytest.mark.anyio


class _Untouched:
    """Of which nothing may be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


async def test_a_file_that_has_nothing_to_do_with_torpor() -> None:
    deploying = Agents(_Untouched(), _Untouched())  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"hello\.py defines no agent"):
        await deploying.deploy(AgentSource("hello.py", {"hello.py": b"print('hello')"}), print)


@pytest.mark.parametrize("word", [b"true", b"false"])
async def test_a_file_whose_dependencies_might_define_an_agent(tmp_path: Path, word: bytes) -> None:
    class Machines:
        home = Home(tmp_path)

        def shape(self, **_: Any) -> None:
            raise InterruptedError("a machine is booted")

    source = AgentSource("a.py", {"a.py": b"import openai"}, dependencies=("openai",))
    layer = Machines.home.deps / layer_digest(source.dependencies)
    layer.mkdir(parents=True)
    (layer / "deps.erofs").write_bytes(b"EROFS")
    content = str(digests(layer, layer.iterdir())).replace("'", '"').encode()
    (layer / "deps.json").write_bytes(b'{"content": %s, "torpor": %s}' % (content, word))
    expected = InterruptedError if word == b"true" else Invalid
    with pytest.raises(expected, match=r"a machine is booted|defines no agent"):
        templates = Templates(Machines(), None, None)  # type: ignore[arg-type]
        await templates.make(source, AgentVersion("0" * 32), lambda *_: None)
