"""How programs speak to torpor's server: `Client`.

api         `Client`: each call of the API
events      what following a run brings
outcomes    how a run ended: `Outcome`, `RunFailed`
execs       a command beside an agent
files       files and bytes that a run is given, read in pieces
problems    what a server refuses, as errors
remote      which server is meant
transport   HTTP/1.1 to it
launch      the server's process on this host: `ensure_server`, `stop_server`
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
