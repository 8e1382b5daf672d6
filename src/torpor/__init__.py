"""torpor: durable AI agents that sleep for free.

On the host this package is the server, the engines and the command line. Inside a machine the
same name offers what agents import (`torpor.agent`, `torpor.step`, ...): those names live in
`torpor.sdk` and are reached through here, so that an agent is an ordinary program that says
`import torpor`. `torpor.testing` runs agents in tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see: the names of `torpor.sdk.__all__`
    from torpor import sdk
    from torpor.sdk import *  # noqa: F403

    __all__: list[str] = []
    __all__ += sdk.__all__
else:  # the same names, late: host processes do not load the SDK, nor agents anything else

    def __getattr__(name: str) -> Any:
        # `from torpor import sdk` would ask this very function for `sdk`; so would any module's.
        if not name.startswith("_") or name == "__all__":
            import torpor.sdk as sdk

            if name == "__all__" or name in sdk.__all__:
                return getattr(sdk, name)
        raise AttributeError(f"module 'torpor' has no attribute {name!r}")

    def __dir__() -> list[str]:
        import torpor.sdk as sdk

        return sorted({*globals(), *sdk.__all__})
