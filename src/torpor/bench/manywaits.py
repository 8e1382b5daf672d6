# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# ///
"""What `torpor bench waits` answers: lines that wait at once, of which each takes a step when it
was answered."""

import asyncio

import torpor


@torpor.step
def answered(line: int) -> int:
    return line


@torpor.agent
async def manywaits(lines: int) -> list[int]:
    async def line(number: int) -> int:
        await torpor.waitpoint(f"line {number}")
        return answered(number)

    return await asyncio.gather(*(line(number) for number in range(lines)))
