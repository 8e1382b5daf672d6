"""Environment variables of an agent (`[tool.torpor] env`) and of a run (`torpor run -e`). Pure.

An agent's are there before it is imported, and part of its version; a run's are set before its
agent's function begins, over the agent's, and stay the run's: a retry and a fork have them, too.
What torpor sets itself, and what would keep Python from starting as it does, is refused.

They are no place for secrets: a run's are in the database and in the snapshots of its memory. A
value that has the form of a known kind of key is refused (`torpor.core.keyformats`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torpor.core.errors import Invalid

COUNT_MAX = 256
VALUE_CHARS_MAX = 32 * 1024  # one beyond 128 KiB cannot be given to any program
CHARS_MAX = 64 * 1024
NAME_CHARS_MAX = 256

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{NAME_CHARS_MAX - 1}}}", re.ASCII)
# Each is what it is for a reason that the agent does not know.
_MODEL = "it leads to the model by way of torpor, which has the key"
_OURS = {
    "HOME": "it is the run's own directory",
    "OPENAI_API_KEY": _MODEL,
    "OPENAI_BASE_URL": _MODEL,
    "PATH": "it leads to the programs of the agent's dependencies",
    "PYTHONHOME": "Python would not find its library",
    "PYTHONPATH": "it leads to torpor and to the agent's dependencies",
    "USER": "it is who the agent runs as",
}
_LOADER = ("LD_", "DYLD_")
_SECRET = re.compile(
    r"(^|_)(KEYS?|TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PWD|CREDENTIALS?)(_|$)|PASSWORD$"
)


def check_env(
    given: Any, what: str, *, anything: bool = False, kept: bool = False
) -> dict[str, str]:
    """`given` if it is a table of variables that may be set; `anything` may be, where it is not for
    an agent; what was `kept` somewhere may be of before keys were refused. Raises Invalid, which
    begins with `what`, and shows no value that may be a secret."""
    if not isinstance(given, Mapping) or len(given) > COUNT_MAX:
        raise Invalid(f"{what} must be a table of at most {COUNT_MAX} names and texts")
    for name, value in given.items():
        check_name(name, what, anything=anything)
        if not isinstance(value, str):
            raise Invalid(
                f"{what}: {name} must be a text, not {value!r}"[:300],
                hint=f'Put it in quotes: {name} = "…"',
            )
        if "\0" in value or len(value) > VALUE_CHARS_MAX or not _is_text(value):
            raise Invalid(
                f"{what}: the value of {name} must be text without a NUL, of at most "
                f"{VALUE_CHARS_MAX:,} characters"
            )
        if not kept and (kind := _key_in(value)):
            raise Invalid(
                f"{what}: the value of {name} looks like {kind}; no key belongs into an agent",
                hint="Keep it on the host, which sends it for the agent: "
                f"torpor secrets set {name} --host HOST",
            )
    if (chars := sum(len(name) + len(value) for name, value in given.items())) > CHARS_MAX:
        raise Invalid(f"{what} has {chars:,} characters; the limit is {CHARS_MAX:,}")
    return dict(given)


def check_name(name: Any, what: str, *, anything: bool = False) -> str:
    """Raises Invalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{what}: {name!a} is no name of an environment variable"[:300],
            hint="A name has letters, digits and _, and does not begin with a digit.",
        )
    if anything:
        return name
    why = _OURS.get(name)
    if why is None and name.startswith(_LOADER):
        why = "it says what the system loads into each program"
    if why is not None:
        raise Invalid(f"{what}: {name} cannot be set: {why}")
    return name


def perhaps_secret(names: Iterable[str]) -> list[str]:
    """Those that sound as if their value should be seen by nobody."""
    return [name for name in names if _SECRET.search(name.upper())]


def _key_in(value: str) -> str:
    from torpor.core.keyformats import key_in  # the guest, which has this module, needs none

    return key_in(value)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
