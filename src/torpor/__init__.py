"""torpor: durable AI agents that sleep for free.

On the host this package is the server, the engines and the command line. Inside a machine the
same name offers what agents import (`torpor.agent`, `torpor.step`, ...): those names live in
`torpor.sdk` and are reached through here, so that an agent is an ordinary program that says
`import torpor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from torpor.sdk import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Late, so that host processes do not load the SDK and the guest loads nothing else.
    # (`from torpor import sdk` would ask this very function for `sdk`.)
    import torpor.sdk as sdk

    if name in sdk.__all__:
        return getattr(sdk, name)
    raise AttributeError(f"module 'torpor' has no attribute {name!r}")
