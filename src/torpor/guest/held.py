"""The words between the supervisor and a process of the agent that is held (`torpor.sdk.freezing`).

The process says HELD, gets one release, a marshalled dict, and says FRESH when it has taken it.
"""

from __future__ import annotations

HELD, FRESH = b"h", b"t"
RELEASE_BYTES_MAX = 4096
SEED_BYTES = 32
