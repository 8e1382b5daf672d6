# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# disk = "128M"
# ///
"""What `torpor bench journal` runs: agents that do next to nothing, durably."""

import asyncio
import os
import time

import torpor


@torpor.step
def add(number: int) -> int:
    return number + 1


@torpor.step
def spend(ledger: str, what: str) -> str:
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what}\n".encode())
    os.close(fd)
    return what


@torpor.step
def hold() -> None:
    """What is cut off by each kill."""
    time.sleep(3600)


@torpor.agent
def count(steps: int, checkpoint_at: int = 0) -> None:
    """One step after the other, and then one that does not end."""
    number = 0
    for _ in range(steps):
        if checkpoint_at and number == checkpoint_at:
            torpor.checkpoint()
        number = add(number)
    hold()


@torpor.agent
def wake(times: int) -> None:
    for turn in range(times):
        torpor.waitpoint(f"turn {turn}").result()
        add(turn)


@torpor.agent
def doze(times: int, duration_s: float) -> None:
    for turn in range(times):
        torpor.sleep(duration_s)
        add(turn)


@torpor.agent
def tell(messages: int, size: int) -> None:
    for turn in range(messages):
        torpor.context.append("user", f"{turn:08}".ljust(size, "x"))


@torpor.agent
async def shop(ledger: str, rounds: int, beside: int) -> int:
    """Rounds of steps side by side, each written down where no crash takes it back."""
    for turn in range(rounds):
        works = [asyncio.to_thread(spend, ledger, f"{turn}.{place}") for place in range(beside)]
        await asyncio.gather(*works)
    return rounds * beside
