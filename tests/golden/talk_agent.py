"""The agent whose log is in log-talk-1.jsonl: what a log of format 1 can hold beside what is in
log-1.jsonl, which is older."""

from __future__ import annotations

from typing import Any

import torpor


@torpor.step
def carry(what: str) -> str:
    torpor.log("carrying", what=what)
    return f"carried {what}"


@torpor.agent
def talk(turns: int, depth: int = 1) -> list[Any]:
    if depth == 0:
        if turns == 0:
            raise ValueError("nothing to say")
        return [turns]
    torpor.context.append("system", "Be brief.", pinned=True)
    said: list[Any] = []
    for turn in range(turns):
        heard = torpor.event("say", timeout="7d").result().data
        torpor.context.append("user", heard)
        torpor.emit({"turn": turn})
        torpor.context.append("assistant", carry(heard))
        said.append([message["content"] for message in torpor.context.window(40, last=3)])
    torpor.context.compact("They talked.", keep=1)
    said.append(len(torpor.context.window(100)))
    said += [torpor.context.expand(), torpor.context.tokens]
    said.append(torpor.spawn(talk, turns=2, depth=0, priority=1).result())
    children = torpor.spawn_many(talk, [{"turns": n, "depth": 0} for n in range(1, 4)])
    said.append(children.results())
    try:
        torpor.spawn(talk, turns=0, depth=0).result()
    except torpor.ChildFailed as error:
        said.append(str(error))
    said.append(torpor.wait_any(torpor.waitpoint("slow"), torpor.event("never", "2s")).name)
    return said
