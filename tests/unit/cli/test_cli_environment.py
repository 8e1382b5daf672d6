from __future__ import annotations

from pathlib import Path

import pytest
import typer

from torpor.cli.environment import given_env


def test_pairs_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "from here")
    file = tmp_path / ".env"
    file.write_text(
        "\ufeff# of the project\n\nA=1\nexport B = two words # a comment\n"
        "C='# in quotes'\nD=\"x=y\"  # after\nE=\nHERE\nF=#no-comment\n"
    )
    other = tmp_path / "other.env"
    other.write_text("A=2\n")
    assert given_env(["E=e", "G=a=b", "HERE", "Z="], [file, other]) == {
        "A": "2",
        "B": "two words",
        "C": "# in quotes",
        "D": "x=y",
        "E": "e",
        "F": "#no-comment",
        "G": "a=b",
        "HERE": "from here",
        "Z": "",
    }
    assert given_env(None, None) == {}


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set here; write NOT_SET_ANYWHERE=VALUE"),
        ("=x", "no name"),
        ("A B=x", "no name"),
        ("PATH=/x", "PATH cannot be set"),
    ],
)
def test_a_wrong_pair(pair: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        given_env([pair], None)


def test_a_wrong_file_says_the_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    for text, says in (("A=1\nB-C=2\n", "line 2: 'B-C' is no name"), ("X_NOT_SET\n", "line 1")):
        file.write_text(text)
        with pytest.raises(typer.BadParameter, match=says):
            given_env(None, [file])
    with pytest.raises(typer.BadParameter, match="cannot read"):
        given_env(None, [tmp_path / "none"])


def test_what_sounds_like_a_secret_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert given_env(["STRIPE_KEY=sk", "MODE=dry"], None)["STRIPE_KEY"] == "sk"
    said = capsys.readouterr().err
    assert "STRIPE_KEY" in said and "MODE" not in said and "sk" not in said.split()
