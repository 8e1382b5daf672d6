"""The engines there are, and which is meant when nobody says."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any

from torpor.core.errors import Invalid


class Engine(StrEnum):
    QEMU = "qemu"
    PROCESS = "process"


QEMU, PROCESS = Engine.QEMU.value, Engine.PROCESS.value
ENGINES = tuple(engine.value for engine in Engine)
SETTING = "TORPOR_ENGINE"
EMULATION = "tcg"  # QEMU's name for how machines run without KVM
# Measured: `torpor bench computing`.
EMULATED = "computing takes some 15 times as long as on this host"
NOT_ISOLATED = "agents are plain processes: isolated from nothing, as free as you are"


def told_engine() -> str | None:
    """What `$TORPOR_ENGINE` says; None if it says nothing. Raises Invalid."""
    told = os.environ.get(SETTING) or None
    return told and check_engine(told, SETTING)


def check_engine(value: Any, what: str) -> str:
    if value not in ENGINES:
        raise Invalid(
            f"{what}={value}: there is no such engine", hint=f"There is: {', '.join(ENGINES)}."
        )
    return str(value)
