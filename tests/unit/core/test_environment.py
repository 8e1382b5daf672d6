from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torpor.core.environment import CHARS_MAX, COUNT_MAX, check_env, perhaps_secret
from torpor.core.errors import Invalid
from torpor.core.starting import AT_ONCE, Start
from torpor.project.reading import read_agent


def test_what_may_be_set() -> None:
    env = {"LANG": "de_DE.UTF-8", "_x1": "", "MODE": "a=b\n ü", "PYTHONHASHSEED": "0"}
    assert check_env(env, "env") == env


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["A"], "a table"),
        ({f"A{n}": "" for n in range(COUNT_MAX + 1)}, "at most 256"),
        ({"": "x"}, "no name"),
        ({"1A": "x"}, "no name"),
        ({"A-B": "x"}, "no name"),
        ({"Ä": "x"}, "no name"),
        ({"A=B": "x"}, "no name"),
        ({1: "x"}, "no name"),
        ({"A": 1}, "A must be a text"),
        ({"A": None}, "A must be a text"),
        ({"A": "x\0y"}, "without a NUL"),
        ({"A": "\ud800"}, "must be text"),
        ({"A": "x" * 33_000}, "at most 32,768 characters"),
        (dict.fromkeys("ABC", "x" * 32_000), f"the limit is {CHARS_MAX:,}"),
        ({"PATH": "/bin"}, "programs of the agent's dependencies"),
        ({"PYTHONPATH": "."}, "leads to torpor"),
        ({"OPENAI_API_KEY": "sk"}, "torpor, which has the key"),
        ({"LD_PRELOAD": "x.so"}, "loads into each program"),
    ],
)
def test_what_is_refused(given: Any, says: str) -> None:
    with pytest.raises(Invalid, match=r"^here") as refused:
        check_env(given, "here")
    assert says in refused.value.message


def test_a_command_of_a_person_may_have_anything() -> None:
    assert check_env({"PATH": "/x"}, "env", anything=True) == {"PATH": "/x"}
    with pytest.raises(Invalid, match="no name"):
        check_env({"A B": ""}, "env", anything=True)


def test_names_that_sound_like_secrets() -> None:
    secret = ["STRIPE_KEY", "key", "GITHUB_TOKEN", "MY_SECRET_ID", "PGPASSWORD", "DB_PWD", "TOKENS"]
    plain = ["MONKEY", "TOKENIZER", "KEYBOARD", "LANG", "SECRETARY", "TURKEY"]
    assert perhaps_secret([*secret, *plain]) == secret


def test_a_start_has_them() -> None:
    start = Start(env={"A": "1"})
    assert start.check().given() == {"env": {"A": "1"}} and AT_ONCE.given() == {}
    with pytest.raises(Invalid, match="PATH"):
        Start(env={"PATH": "x"}).check()


def test_an_agents_are_part_of_its_version(tmp_path: Path) -> None:
    path = tmp_path / "agent.py"

    def read(*lines: str) -> Any:
        block = ["# /// script", *(f"# {line}" for line in lines), "# ///", "import torpor"]
        path.write_text("\n".join(block))
        return read_agent(path)

    source = read("[tool.torpor]", 'env = { MODE = "dry" }')
    assert source.env == {"MODE": "dry"}
    path.write_text("import torpor")
    # The same file otherwise: what is compared is the version of equal files.
    plain = read_agent(path)
    versions = {
        each.version("image")
        for each in (
            plain,
            *(type(plain)(plain.entry, plain.files, env=e) for e in ({}, {"A": ""})),
        )
    }
    assert len(versions) == 2
    with pytest.raises(Invalid, match=r"agent.py: env: MODE must be a text, not 1"):
        read("[tool.torpor.env]", "MODE = 1")


def test_a_key_of_a_known_kind_is_refused_and_not_shown() -> None:
    key = "ghp_" + "a1B2c3D4" * 5
    with pytest.raises(Invalid, match="GH looks like a GitHub token") as refused:
        check_env({"GH": key}, "env")
    assert "torpor secrets set GH --host HOST" in refused.value.hint
    assert key[:8] not in f"{refused.value.message}{refused.value.hint}"
    with pytest.raises(Invalid, match="looks like"):
        check_env({"GH": f"Bearer {key}"}, "env", anything=True)
    with pytest.raises(Invalid, match="looks like"):
        Start(env={"GH": key}).check()
    assert check_env({"GH": key}, "an older run's env", kept=True) == {"GH": key}
