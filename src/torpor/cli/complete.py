"""What a shell offers for a word that is being typed: `torpor --install-completion` sets it up.

Asked while somebody types: it starts no server, waits for nothing long, and says nothing. Every
command that takes a run imports this, so what it asks with is imported when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torpor.client import Client

Object = dict[str, Any]
Offers = list[tuple[str, str]]  # a value, and a word about it

_MANY = 200
_ABOUT_MAX = 60


def runs(incomplete: str) -> Offers:
    return _offers(incomplete, _runs)


def waits(incomplete: str) -> Offers:
    return _offers(incomplete, _waits)


def agents(incomplete: str) -> Offers:
    return _offers(incomplete, _agents)


def secrets(incomplete: str) -> Offers:
    return _offers(incomplete, _secrets)


def engines(incomplete: str) -> Offers:
    from torpor.engine import registry

    found = ((name, entry.summary) for name, entry in registry.ENGINES.items())
    return [(name, about) for name, about in found if name.startswith(incomplete)]


def _runs(client: Client) -> Iterator[tuple[str, str]]:
    for run in client.runs(limit=_MANY):
        yield run["id"], f"{run['agent'] or ''} {run['state']}".strip()


def _agents(client: Client) -> Iterator[tuple[str, str]]:
    for version in client.agents():
        for current in version["current"]:
            yield current["name"], current["origin"]


def _waits(client: Client) -> Iterator[tuple[str, str]]:
    from torpor.cli.answering import answerable
    from torpor.web import words

    for wait in client.waits():
        if answerable(wait):
            yield wait["id"], words.question(wait, _ABOUT_MAX)


def _secrets(client: Client) -> Iterator[tuple[str, str]]:
    for secret in client.secrets():
        yield secret["name"], ", ".join(secret["hosts"])


def _offers(incomplete: str, find: Callable[[Client], Iterator[tuple[str, str]]]) -> Offers:
    from torpor.client import Client
    from torpor.core.errors import TorporError
    from torpor.core.home import Home

    try:
        found = list(find(Client(Home.find(), timeout_s=2.0)))
    except TorporError:  # nothing to offer is no error to somebody who types
        return []
    # Zsh and fish take a colon for the end of the value.
    return [(id, about.replace(":", " ")) for id, about in found if id.startswith(incomplete)]
