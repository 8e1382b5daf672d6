"""For all tests: how long an example takes says how busy the machine is, and fails nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("torpor", deadline=None)
settings.load_profile("torpor")
