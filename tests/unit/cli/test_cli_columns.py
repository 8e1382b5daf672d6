"""Tables: whole where programs read, cut at the terminal's edge."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group

from torpor.terminal.columns import Cell, Columns
from torpor.terminal.screen import facts, show

ROWS: list[tuple[Cell, ...]] = [
    ("run_1", ("failed", "red"), "a long reason " * 30),
    ("日本", ("completed", "green"), ""),
]
DRAWN = Columns(("RUN", "STATE", ""), ROWS)


def test_where_no_terminal_is_nothing_is_cut_or_filled_up() -> None:
    lines = DRAWN.draw(None, styled=False).splitlines()
    assert lines == [
        "RUN    STATE",
        f"run_1  failed     {'a long reason ' * 30}".rstrip(),
        "日本   completed",
    ]


@pytest.mark.parametrize("width", range(4, 60))
def test_in_a_terminal_no_line_is_longer(width: int) -> None:
    lines = DRAWN.draw(width, styled=False).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert lines[1].endswith("…")


def test_styles_are_those_of_a_terminal() -> None:
    lines = DRAWN.draw(20, styled=True).splitlines()
    assert lines[0] == "\x1b[1mRUN\x1b[0m    \x1b[1mSTATE\x1b[0m"
    assert lines[1] == "run_1  \x1b[31mfailed\x1b[0m     a…"


def test_the_last_column_may_go_on_below() -> None:
    drawn = Columns(("A", "B"), [("x", "one two three four five six seven")], fold=True)
    assert drawn.draw(25, styled=False).splitlines() == [
        "A  B",
        "x  one two three four",
        "   five six seven",
    ]
    assert len(drawn.draw(None, styled=False).splitlines()) == 2


def test_among_what_rich_draws_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # of a dumb terminal it does not believe the width
    out = io.StringIO()
    Console(file=out, width=30, force_terminal=True, no_color=True).print(Group("above", DRAWN))
    plain = "".join(each for each in out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", ""))
    assert plain.splitlines() == ["above", *DRAWN.draw(30, styled=False).splitlines()]


def test_what_rich_draws_is_not_filled_up_either(capsys: pytest.CaptureFixture[str]) -> None:
    show(Group(facts([("name", "x"), ("a longer name", "y" * 300)]), DRAWN))
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["name           x", f"a longer name  {'y' * 300}"]
    assert out.endswith(DRAWN.draw(None, styled=False))
