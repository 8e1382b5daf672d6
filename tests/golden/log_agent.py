"""The agent whose log is in log-1.jsonl: something of everything that a log can hold."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torpor


@torpor.step
def add(one: int, other: int) -> int:
    print("adding", one, other)
    return one + other


@torpor.step
def refuse(why: str) -> None:
    raise ValueError(why)


@torpor.step
def raw() -> dict[str, Any]:
    return {"bytes": b"\x00\xff", "pair": (1, 2), "text": "naïve 🦥"}


@torpor.step(on_doubt="ask")
def pay(pence: int) -> str:
    ask("hold pay")
    return f"paid {pence}"


@torpor.step
async def square(number: int) -> int:
    return number * number


async def squares(most: int) -> list[int]:
    return await asyncio.gather(*(square(number) for number in range(most)))


def ask(question: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


@torpor.agent
def everything(most: int) -> list[Any]:
    torpor.log("begun", most=most)
    # Here stood torpor.context.append("user", "Go on."), which was a note then, no operation.
    said: list[Any] = [add(1, 2), add(1, 2), raw()["text"]]
    try:
        refuse("no")
    except ValueError as error:
        said.append([type(error).__name__, str(error)])
    said.append(asyncio.run(squares(most)))
    with ThreadPoolExecutor(2) as pool:
        said.append(list(pool.map(add, range(most), range(most))))
    said.append(ask("say hello"))
    said += [torpor.now().isoformat(), torpor.random().random(), str(torpor.uuid4())]
    torpor.checkpoint()
    verdict = torpor.approve("Go on?", data={"said": len(said)}, timeout="1d")
    said += [verdict.approved, verdict.note]
    first, second = torpor.waitpoint("first"), torpor.waitpoint("second", timeout="7d")
    said.append([each.data for each in torpor.wait_all(first, second)])
    torpor.sleep(2)
    said.append(pay(1200))
    torpor.emit({"said": len(said)})
    return said
