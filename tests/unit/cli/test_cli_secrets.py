"""`torpor secrets`: the value comes in by standard input or a file, and never out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Torpor

from torpor.cli import complete
from torpor.client import Client

LIMIT_S = 20
VALUE = "cli-8d0f3a-value"


def test_a_secret_is_set_listed_rotated_and_removed(
    torpor: Torpor, client: Client, tmp_path: Path
) -> None:
    made = torpor(
        *("secrets", "set", "CLI_TOKEN", "--host", "api.example.com", "--agent", "someday"),
        input=f"{VALUE}\n",
    )
    assert made.exit_code == 0, made.stderr
    assert "CLI_TOKEN: sent to api.example.com in Authorization: Bearer {}" in made.stderr
    assert "no agent someday is deployed yet" in made.stderr
    (tmp_path / "value").write_text("cli-another-value\n")
    rotated = torpor("secrets", "rotate", "CLI_TOKEN", "--file", str(tmp_path / "value"))
    assert rotated.exit_code == 0, rotated.stderr
    listed = torpor("secrets", "list")
    assert "CLI_TOKEN" in listed.stdout and "by the local socket" in listed.stdout
    assert [each for each, _ in complete.secrets("CLI")] == ["CLI_TOKEN"]
    removed = torpor("secrets", "rm", "CLI_TOKEN", "--json")
    assert json.loads(removed.stdout)["placement"] == {"header": "Authorization: Bearer {}"}
    changes = torpor("secrets", "list", "--changes")
    assert [word in changes.stdout for word in ("set", "rotated", "removed")] == [True] * 3
    assert torpor("secrets", "rm", "CLI_TOKEN").exit_code == 2
    everything = "".join(each.output for each in (made, rotated, listed, removed, changes))
    assert VALUE not in everything and "another" not in everything


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("--header", "X-Key: {}"), {"header": "X-Key: {}"}),
        (("--query", "key"), {"query": "key"}),
        (("--basic", "me"), {"basic": "me"}),
        ((), {"header": "Authorization: Bearer {}"}),
    ],
)
def test_it_stands_where_it_is_told(
    torpor: Torpor, options: tuple[str, ...], place: dict[str, str]
) -> None:
    asked = ("secrets", "set", "PLACED", "--host", "*.example.com", *options, "--json")
    made = torpor(*asked, input=VALUE)
    assert json.loads(made.stdout)["placement"] == place
    assert torpor("secrets", "rm", "PLACED").exit_code == 0


@pytest.mark.parametrize(
    ("asked", "given", "said"),
    [
        (("set", "X"), VALUE, "needs at least one host"),
        (("set", "X", "--host", "*.github.io"), VALUE, "anybody can have"),
        (
            ("set", "X", "--host", "a.example", "--header", "X: y"),
            VALUE,
            "does not say where",
        ),
        (("set", "X", "--host", "a.example", "--query", "a", "--basic", "b"), VALUE, "give one of"),
        (("set", "1X", "--host", "a.example"), VALUE, "no name of a secret"),
        (("set", "X", "--host", "a.example"), "", "is empty"),
        (("set", "X", "--host", "a.example"), f"{VALUE}\n{VALUE}", "several lines"),
        (("set", "X", "--host", "a.example"), b"\xff\xfe-no-text", "not text"),
        (("set", "X", "--host", "a.example", "--file", "/nowhere"), VALUE, "cannot read /nowhere"),
        (("rotate", "NOBODY"), VALUE, "no secret 'NOBODY'"),
    ],
)
def test_what_is_wrong_is_said_without_the_value(
    torpor: Torpor, asked: tuple[str, ...], given: str | bytes, said: str
) -> None:
    answer = torpor("secrets", *asked, input=given)
    assert answer.exit_code == 2 and said in " ".join(answer.stderr.split())
    assert VALUE not in answer.output


def test_a_value_cannot_be_an_argument(torpor: Torpor) -> None:
    answer = torpor("secrets", "set", "X", VALUE, "--host", "a.example", input=VALUE)
    assert answer.exit_code == 2


def test_in_a_terminal_it_is_typed_unseen(
    torpor: Torpor, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return VALUE

    monkeypatch.setattr("getpass.getpass", typed)
    monkeypatch.setattr("torpor.cli.secrets._at_terminal", lambda: True)
    assert torpor("secrets", "set", "TYPED", "--host", "a.example").exit_code == 0
    assert asked == ["TYPED: "]
    client.remove_secret("TYPED")


@pytest.mark.parametrize(
    "words",
    [
        ("set", "CLI_TOKEN", VALUE),
        ("set", "CLI_TOKEN", "Bearer", VALUE),
        ("set", f"CLI_TOKEN={VALUE}"),
        ("rotate", "X", VALUE),
    ],
)
def test_a_value_on_the_command_line_is_refused_and_not_repeated(
    torpor: Torpor, words: tuple[str, ...]
) -> None:
    refused = torpor("secrets", *words, input="")
    assert refused.exit_code == 2 and VALUE not in refused.output
    assert "standard input" in refused.stderr
