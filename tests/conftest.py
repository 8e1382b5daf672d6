"""For all tests: how long an example takes says how busy the machine is, and fails nothing. What
fails here fails everywhere: examples are the same each time, but where TORPOR_TEST_EXAMPLES is set.
"""

from __future__ import annotations

import os

from hypothesis import settings

from torpor.service import shapes

# Here, and in the servers that tests start.
os.environ[shapes.STRICT] = "1"
settings.register_profile(
    "torpor", deadline=None, derandomize="TORPOR_TEST_EXAMPLES" not in os.environ
)
settings.load_profile("torpor")
