"""Where an agent comes from: what makes two files of the same name two agents.

The origin of a file in a git checkout that has a remote is the remote's address and the file's path
in it (`github.com/acme/agents/mail/agent.py`): the same in every checkout. Else it is the file's
absolute path. A remote's user and password never become part of it.
"""

from __future__ import annotations

import configparser
import platform
import re
from pathlib import Path

# user@host:path, as scp has it; git takes it where no scheme is given.
_SCP = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>(?!//).+)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^@/]*@)?(?P<host>[^/:]+)(?::\d+)?/(?P<path>.+)")


def origin_of(path: Path) -> str:
    """The origin of the agent at `path`, a file or a directory."""
    path = path.absolute()
    for root in (path, *path.parents):
        if (root / ".git").exists():
            remote = _remote(root / ".git")
            if remote is None:
                break
            return "/".join((remote, *path.relative_to(root).parts))
    return str(path)


def seen_from_afar(origin: str) -> str:
    """For a server on another machine, which has no use for a path of this one."""
    return f"{platform.node()}:{origin}" if origin.startswith("/") else origin


def _remote(git: Path) -> str | None:
    """The address of the remote `origin` of the repository at `git`, host and path."""
    config = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        if git.is_file():  # of a worktree: "gitdir: PATH", and there where the rest is
            git = git.parent / git.read_text().removeprefix("gitdir:").strip()
            git = git / (git / "commondir").read_text().strip()
        text = (git / "config").read_text(encoding="utf-8")
        config.read_string("\n".join(map(str.strip, text.splitlines())))
        url = config.get('remote "origin"', "url", fallback=None)
    except (OSError, ValueError, configparser.Error):
        return None
    match = None if url is None else _URL.fullmatch(url) or _SCP.fullmatch(url)
    if match is None:  # none, or a directory
        return None
    return f"{match['host'].lower()}/{match['path'].strip('/').removesuffix('.git')}"
