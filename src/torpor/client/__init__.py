"""How programs speak to torpor's server: `Client`.

api     Client, and what it gives and raises
launch  ensure_server, stop_server: the server's process on this host
"""

from torpor.client.api import (
    Appended,
    Back,
    Client,
    Ended,
    Followed,
    Lost,
    Object,
    OnProgress,
    parse_events,
)
from torpor.client.launch import ensure_server, require_linux, running, server_command, stop_server
from torpor.client.problems import Unreachable, from_problem
from torpor.client.remote import KEY, URL, Remote, refuse_remote

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
    "Remote",
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
