"""What an agent's file says is to happen when the agent does not do what its run's log says:
`on_divergence = "stop" | "fork" | "latest"`."""

from __future__ import annotations

from torpor.core.errors import Invalid

STOP, FORK, LATEST = "stop", "fork", "latest"
ON_DIVERGENCE = (STOP, FORK, LATEST)
# More records than this are not superseded by a run that goes on: it stops.
SUPERSEDED_MAX = 20_000


def check_on_divergence(text: object, what: str) -> str:
    """`text` if it is one of the words. `what` begins the message of the Invalid it raises."""
    if isinstance(text, str) and text in ON_DIVERGENCE:
        return text
    raise Invalid(
        f"{what}: {text!r} is not a way to handle a divergence",
        hint=f"Use one of {', '.join(ON_DIVERGENCE)}.",
    )
