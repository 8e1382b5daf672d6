"""How many machines a host may run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torpor.policy.admission import (
    MACHINES_PER_CORE,
    MEMORY_RESERVE_MIB,
    OVERHEAD_MIB,
    machines_max,
)

CORES, HOST_MIB, MACHINE_MIB = st.integers(1, 256), st.integers(0, 1 << 22), st.integers(192, 16384)


@given(CORES, HOST_MIB, MACHINE_MIB)
def test_as_many_as_fit_and_one_more_does_not(cores: int, host: int, machine: int) -> None:
    count = machines_max(cores, host, machine)

    def fits(machines: int) -> bool:
        memory = machines * (machine + OVERHEAD_MIB) + MEMORY_RESERVE_MIB
        return machines <= cores * MACHINES_PER_CORE and memory <= host

    assert count >= 1
    assert fits(count) or count == 1
    assert not fits(count + 1)


@given(CORES, HOST_MIB, MACHINE_MIB, st.integers(0, 1000))
def test_more_of_anything_never_makes_it_fewer(
    cores: int, host: int, machine: int, more: int
) -> None:
    count = machines_max(cores, host, machine)
    assert machines_max(cores + more, host, machine) >= count
    assert machines_max(cores, host + more, machine) >= count
    assert machines_max(cores, host, machine + more) <= count
