"""Where an agent comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from torpor.core.origins import origin_of


def config(url: str) -> str:
    return f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n\tfetch = +refs/heads/*\n'


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/acme/agents.git",
        "https://ana:ghp_secret@GitHub.com/acme/agents",
        "git@github.com:acme/agents.git",
        "ssh://git@github.com:22/acme/agents.git/",
    ],
)
def test_a_checkout_is_known_by_its_remote(tmp_path: Path, url: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text(config(url))
    (tmp_path / "mail").mkdir()
    assert origin_of(tmp_path / "mail/agent.py") == "github.com/acme/agents/mail/agent.py"
    assert origin_of(tmp_path) == "github.com/acme/agents"


def test_a_worktree_is_of_its_repository(tmp_path: Path) -> None:
    inside = tmp_path / "main/.git/worktrees/w"
    inside.mkdir(parents=True)
    (inside / "commondir").write_text("../..\n")
    (tmp_path / "main/.git/config").write_text(config("https://h/a"))
    (tmp_path / "w").mkdir()
    (tmp_path / "w/.git").write_text(f"gitdir: {inside}\n")
    assert origin_of(tmp_path / "w/agent.py") == "h/a/agent.py"


@pytest.mark.parametrize("text", ["", "[core]\n", "no config", config("/srv/agents.git")])
def test_else_it_is_the_path(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text(text)
    assert origin_of(tmp_path / "agent.py") == str(tmp_path / "agent.py")


def test_a_relative_path_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert origin_of(Path("agent.py")) == str(tmp_path / "agent.py")
