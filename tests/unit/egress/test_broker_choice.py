from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from torpor.egress import choice
from torpor.egress.choice import choose
from torpor.egress.upstream import Upstream


def described(environ: dict[str, str]) -> str:
    async def main() -> str:
        upstream: Upstream = choose(environ, Path("/run"))
        await upstream.close()
        return upstream.description

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("environ", "weights", "expected"),
    [
        ({"OPENAI_API_KEY": "k"}, True, "openai-compatible at https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://x/v1"}, True, "openai-compatible at http://x/v1"),
        (
            {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://x/v1"},
            False,
            "openai-compatible at http://x/v1",
        ),
        ({"OPENAI_API_KEY": " ", "OPENAI_BASE_URL": ""}, False, "scripted stand-in"),
        ({}, True, "local model SmolLM2-135M (llama.cpp)"),
        ({}, False, "scripted stand-in"),
    ],
)
def test_the_table(
    environ: dict[str, str], weights: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Path("/weights.gguf") if weights else None
    monkeypatch.setattr(choice, "find_weights", lambda: found)
    assert described(environ) == expected
