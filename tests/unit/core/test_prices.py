"""What models cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from torpor.core.errors import Invalid
from torpor.core.prices import DEFAULT, Prices

TABLE = Prices(
    {
        "gpt-4.1": {"input": 2.0, "cached": 0.5, "output": 8.0},
        "gpt-4.1-mini": {"input": 0.4, "output": 1.6},
        "local": {"input": 0.0, "output": 0.0},
    }
)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "tokens", "dollars"),
    [
        ("gpt-4.1", (MILLION, None, MILLION), 10.0),
        ("gpt-4.1", (MILLION, MILLION, 0), 0.5),
        ("gpt-4.1", (MILLION, 2 * MILLION, 0), 0.5),  # an answer that makes no sense
        ("gpt-4.1-2025-04-14", (MILLION, 0, 0), 2.0),
        ("openai/gpt-4.1", (MILLION, 0, 0), 2.0),
        ("gpt-4.1-mini-2025-04-14", (MILLION, MILLION, 0), 0.4),
        ("gpt-4.1-nano", (MILLION, 0, 0), None),
        ("gpt-4", (MILLION, 0, 0), None),
        ("local", (MILLION, 0, MILLION), 0.0),
        ("gpt-4.1", (None, None, None), None),
        (None, (1, 1, 1), None),
    ],
)
def test_a_cost(model: str | None, tokens: tuple[int | None, ...], dollars: float | None) -> None:
    assert TABLE.cost(model, *tokens) == dollars


def test_ones_own_table_is_laid_over_the_one_that_comes_along(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    shipped = Prices.load(own)
    assert shipped.table["gpt-4.1"]["input"] > 0
    own.write_text('[models."gpt-4.1"]\ninput = 99\noutput = 1\n[models.mine]\ninput=1\noutput=2\n')
    both = Prices.load(own)
    assert both.cost("gpt-4.1", MILLION, 0, 0) == 99 and both.cost("mine", 0, 0, MILLION) == 2
    assert set(both.table) == set(shipped.table) | {"mine"}
    assert DEFAULT.exists()


@pytest.mark.parametrize(
    "text",
    [
        "models = 3",
        "[other]",
        "[models.m]\ninput = 1",
        "[models.m]\ninput = 1\noutput = -1",
        "[models.m]\ninput = nan\noutput = 1",
        "[models.m]\ninput = true\noutput = 1",
        "[models.m]\ninput = 1\noutput = 1\nimage = 3",
        "[models",
        "\x00",
    ],
)
def test_a_table_that_is_none_is_told_by_its_path(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(Invalid, match=r"prices\.toml"):
        Prices.load(path)
    assert Prices.load_whole(path).table == Prices.load(tmp_path / "none").table
