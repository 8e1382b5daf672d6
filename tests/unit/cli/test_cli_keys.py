"""`torpor keys`, and the command line on a server elsewhere, for which it needs one."""

from __future__ import annotations

import json

import pytest
from tests.unit.cli.conftest import Torpor

LIMIT_S = 20


def test_a_key_is_made_listed_and_revoked(torpor: Torpor) -> None:
    made = torpor("keys", "create", "ci", "-s", "trigger", "-s", "observe", "--agent", "a")
    assert made.exit_code == 0 and made.stdout.startswith("torpor_")
    assert "observe, trigger of agent a" in made.stderr
    listed = torpor("keys", "list").stdout
    assert "ci" in listed and "valid" in listed and made.stdout.strip() not in listed
    brief = torpor("keys", "create", "brief", "-s", "admin", "--expires", "1h", "--json")
    key = json.loads(brief.stdout)
    assert key["expires_at"] - key["created_at"] == 3600
    long = torpor("keys", "create", "long", "-s", "observe", "--expires", "1d 12h", "--json")
    key = json.loads(long.stdout)
    assert key["expires_at"] - key["created_at"] == 36 * 3600
    assert torpor("keys", "revoke", key["id"]).exit_code == 0
    [row] = [
        each
        for each in json.loads(torpor("keys", "list", "--json").stdout)
        if each["id"] == key["id"]
    ]
    assert row["revoked_at"] is not None and "key" not in row


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("create", "x", "-s", "admin", "--agent", "a"), "restricted key cannot have scope admin"),
        (("revoke", "nobody"), "there is no key 'nobody'"),
        (("token", "--run", "run_nothing"), "run_nothing"),
    ],
)
def test_what_is_wrong_is_said(torpor: Torpor, asked: tuple[str, ...], said: str) -> None:
    answer = torpor("keys", *asked)
    assert answer.exit_code == 2 and said in answer.stderr


@pytest.mark.parametrize("command", [("create", "x", "-s", "observe"), ("token", "--run", "run_1")])
def test_a_time_is_a_duration(torpor: Torpor, command: tuple[str, ...]) -> None:
    answer = torpor("keys", *command, "--expires", "soon")
    assert answer.exit_code == 2 and "'soon' is not a duration" in answer.stderr
