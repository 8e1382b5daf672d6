"""This terminal, key by key: as Unix has it. Where there is none of that, on Windows, questions are
answered by commands, and a shell is not to be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import termios
    import tty
except ImportError:
    HERE = False
else:
    HERE = True


def interactive() -> bool:
    """Whether a person can be asked, and answer with a key."""
    return HERE and sys.stdin.isatty() and sys.stderr.isatty()


def read_keys() -> list[Any]:
    """Have keys read one by one; what was typed until now is dropped. What gives it back."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSAFLUSH)
    return before


def give_back(before: list[Any]) -> None:
    termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """What is typed goes on as it is, Ctrl-C too."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
