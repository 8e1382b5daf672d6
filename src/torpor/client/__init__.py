"""How programs speak to torpor's server: `Client`.

api       Client
events    what following a run brings
outcomes  how a run ended: Outcome, RunFailed
problems  what is raised, beside torpor.core.errors
remote    which server is meant
launch    ensure_server, stop_server: the server's process on this host
"""

from typing import TYPE_CHECKING, Any

from torpor.client.api import Client, Object, OnProgress
from torpor.client.events import Appended, Back, Ended, Followed, Lost, parse_events
from torpor.client.launch import ensure_server, require_linux, running, server_command, stop_server
from torpor.client.problems import Unreachable, from_problem
from torpor.client.remote import KEY, URL, Remote, refuse_remote

if TYPE_CHECKING:
    from torpor.client.outcomes import Outcome, RunFailed

_LATER = ("Outcome", "RunFailed")  # most commands need neither


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from torpor.client import outcomes

        return getattr(outcomes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "KEY",
    "URL",
    "Appended",
    "Back",
    "Client",
    "Ended",
    "Followed",
    "Lost",
    "Object",
    "OnProgress",
    "Outcome",
    "Remote",
    "RunFailed",
    "Unreachable",
    "ensure_server",
    "from_problem",
    "parse_events",
    "refuse_remote",
    "require_linux",
    "running",
    "server_command",
    "stop_server",
]
