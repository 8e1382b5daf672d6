"""What models took and cost, as a run shows it and as Prometheus reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.contextlog.conftest import Commit
from tests.unit.query.conftest import fill, fork

from torpor.contextlog import calls
from torpor.contextlog.calls import Used
from torpor.contextlog.totals import Totals
from torpor.control.metrics import Metrics, Moment
from torpor.model.prices import Prices
from torpor.model.replies import Reply

PRICES = Prices({"gpt": {"input": 2.0, "cached": 1.0, "output": 10.0}})
NOTHING = Moment(Totals({}, 0, 0, 0, 0), 0, 0, 0, {}, [])


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
    ):
        metrics.model_called(reply)
    found = samples(metrics)
    assert found["model_calls_total", "200"] == 3 and found["model_calls_total", "429"] == 1
    assert found["model_tokens_total", "gpt-2025-01-01", "input"] == 2000
    assert found["model_tokens_total", "gpt-2025-01-01", "cached"] == 400
    assert found["model_tokens_total", "unpriced", "output"] == 6
    costs = {model: value for (name, model, *_), value in found.items() if "cost" in name}
    assert costs == {"gpt-2025-01-01": pytest.approx(1600 * 2e-6 + 400 * 1e-6 + 20 * 10e-6)}


def test_a_run_knows_what_its_calls_took_and_a_fork_what_it_shares(tmp_path: Path) -> None:
    commit = Commit(tmp_path / "torpor.db")
    run = commit(fill)
    forked = commit(lambda c: fork(c, run))
    took = [Used(None, 1, 0, 0, 0), Used("gpt-2025-01-01", 2, 2000, 500, 200)]
    assert commit(lambda c: calls.used(c, run)) == took
    assert commit(lambda c: calls.used(c, forked)) == took
    commit.close()
