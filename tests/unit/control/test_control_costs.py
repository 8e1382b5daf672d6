"""What models took and cost, as a run shows it and as Prometheus reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.contextlog.conftest import Commit
from tests.unit.query.conftest import Log, fill, fork

from torpor.contextlog import calls
from torpor.contextlog.calls import Used
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.runs import get_run
from torpor.contextlog.totals import Totals
from torpor.core.ids import OpId, RunId
from torpor.core.prices import Prices
from torpor.core.replies import Reply
from torpor.web import words
from torpor.worker.metrics import Metrics, Moment

PRICES = Prices({"gpt": {"input": 2.0, "cached": 1.0, "output": 10.0}})
NOTHING = Moment(
    Totals({}, 0, 0, 0, 0), 0, 0, 0, {}, [], dict.fromkeys(("memory_mib", "memory_taken_mib"))
)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("torpor_"), *sample.labels.values()): sample.value
        for family in metrics.at(NOTHING, PRICES).collect()
        for sample in family.samples
        if sample.name.startswith("torpor_model_") and not sample.name.endswith("_created")
    }


def test_tokens_and_costs_are_counted_by_model() -> None:
    metrics = Metrics()
    assert not samples(metrics)
    for reply in (
        Reply(200, "gpt-2025-01-01", 1000, 400, 10),
        Reply(200, "gpt-2025-01-01", 1000, None, 10),
        Reply(200, "unpriced", 5, None, 6),
        Reply(429),
        Reply(200, "silent"),
    ):
        metrics.model_called(reply)
    found = samples(metrics)
    assert found["model_calls_total", "200"] == 4 and found["model_calls_total", "429"] == 1
    assert found["model_tokens_total", "gpt-2025-01-01", "input"] == 2000
    assert found["model_tokens_total", "gpt-2025-01-01", "cached"] == 400
    assert found["model_tokens_total", "unpriced", "output"] == 6
    unmeasured = {model: n for (name, model, *_), n in found.items() if "unmeasured" in name}
    assert unmeasured == {"silent": 1}
    costs = {model: value for (name, model, *_), value in found.items() if "cost" in name}
    assert costs == {"gpt-2025-01-01": pytest.approx(1600 * 2e-6 + 400 * 1e-6 + 20 * 10e-6)}


def test_calls_that_do_not_say_what_they_took_are_unknown_and_not_nothing(tmp_path: Path) -> None:
    """A stream that was not asked for its usage."""
    commit = Commit(tmp_path / "torpor.db")

    def stream(c: Connection, run: RunId, n: int, model: str) -> None:
        piece = {"model": model, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
        log = Log(c, run, get_run(c, run).epoch)
        log.call(n, [{"n": n}], f"data: {json.dumps(piece)}\n\n")

    run = commit(fill)
    commit(lambda c: stream(c, run, 4, "gpt-2025-01-01"))
    commit(lambda c: stream(c, run, 5, "silent"))
    again = NewEntry("op.again", OpId("model:/v1/chat/completions@05#1"), {"reason": "it died"})
    commit(lambda c: append(c, run, None, [again], 1.0))
    _, known, silent = commit(lambda c: calls.used(c, run))
    assert known == Used("gpt-2025-01-01", 3, 2000, 500, 200, 1, 0)
    assert silent == Used("silent", 1, None, None, None, 1, 1)
    priced = {"cost_usd": 0.0055}
    text = (
        "gpt-2025-01-01: 3 calls, 2,000 tokens in, 200 out, $0.0055, "
        "and 1 call without token counts"
    )
    assert words.used(known._asdict() | priced) == text
    unpriced = {"cost_usd": PRICES.cost("silent", *silent[2:5])}
    assert (
        words.used(silent._asdict() | unpriced)
        == "silent: 1 call, tokens unknown, in doubt and repeated 1 time"
    )
    commit.close()


def test_a_run_knows_what_its_calls_took_and_a_fork_what_it_shares(tmp_path: Path) -> None:
    commit = Commit(tmp_path / "torpor.db")
    run = commit(fill)
    forked = commit(lambda c: fork(c, run))
    took = [Used(None, 1, None, None, None, 0, 0), Used("gpt-2025-01-01", 2, 2000, 500, 200, 0, 0)]
    assert commit(lambda c: calls.used(c, run)) == took
    assert commit(lambda c: calls.used(c, forked)) == took
    commit.close()
