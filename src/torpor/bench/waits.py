"""`torpor bench waits`: whether who was answered acts on it, though others still wait.

`manywaits.py` is run with many lines that wait at once. While it is suspended one of them is
answered, chosen by chance, and it wakes. A hearing is *late* when the run is suspended again before
that line has begun its step: it then acts only when something else wakes the run. All times are of
the run's own log.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from torpor.bench.bars import Figure
from torpor.bench.stage import Sleeper, Stage, figure_table, perform
from torpor.bench.stats import percentile
from torpor.contextlog import entries
from torpor.contextlog.entries import BEGIN, EntryRow
from torpor.engine import qemu
from torpor.project.reading import read_agent
from torpor.service.waits import WaitFilter
from torpor.terminal.screen import show, show_json

AGENT = Path(__file__).with_name("manywaits.py")
LINES = 25  # of one run
RECEIVED_MS = 500.0  # under emulation


def main(answers: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    figures = perform(lambda stage: _measure(stage, answers))
    if as_json:
        show_json({figure.key: figure.to_json() for figure in figures})
    else:
        show(figure_table(figures))
    return 0


async def _measure(stage: Stage, answers: int) -> list[Figure]:
    source = read_agent(AGENT)
    tell = stage.tell

    def report(stage: str, message: str, fraction: float | None) -> None:
        tell(message)

    deployed = await stage.service.agents.deploy(source, report, qemu.NAME)
    took_ms: list[float] = []
    late = 0
    draw = random.Random(1)
    while len(took_ms) + late < answers:
        lines = min(LINES, answers - len(took_ms) - late)
        log = await _answer_all(stage, deployed["version"], lines, draw, len(took_ms) + late)
        found = list(hearings(log))
        took_ms += [ms for ms in found if ms is not None]
        late += sum(ms is None for ms in found)
    return [
        Figure(
            "late", "answers heard late", "count", late, "none may be", len(took_ms) + late, bar=0
        ),
        *(
            Figure(
                f"heard_p{share * 100:.0f}_ms",
                f"answer to the agent's next step: p{share * 100:.0f}",
                "ms",
                percentile(took_ms, share),
                "a resume, and the guest's first steps",
                len(took_ms),
                bar=RECEIVED_MS if share == 0.99 else None,
            )
            for share in (0.5, 0.99, 1)
        ),
    ]


async def _answer_all(
    stage: Stage, version: str, lines: int, draw: random.Random, done: int
) -> list[EntryRow]:
    """A run whose lines are answered one by one, each while it is asleep; its log."""
    service, store = stage.service, stage.store
    run = await stage.start(version, lines=lines + 1)
    sleeper = Sleeper(stage, run)
    await sleeper.fall_asleep()
    for number in range(lines):
        stage.tell(f"answer {done + number + 1}")
        await service.machines.settled()
        wait = draw.choice(await service.waits.list(WaitFilter(run)))
        await stage.answer(wait["id"])
        await sleeper.fall_asleep()
    await sleeper.end()
    return await store.read(lambda c: entries.read_entries(c, run, 0, None, 1_000_000))


def hearings(log: Sequence[EntryRow]) -> Iterator[float | None]:
    """For each answer how long it took, in ms, until a step began; None where the run was suspended
    before."""
    answered: float | None = None
    for entry in log:
        if entry.kind == "wait.completed":
            answered = entry.at
        elif answered is not None and entry.kind == "run.suspended":
            yield None
            answered = None
        elif answered is not None and entry.kind == BEGIN and str(entry.op).startswith("step:"):
            yield (entry.at - answered) * 1000
            answered = None
