"""Which addresses a name leads to, and whether these may be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.egress.resolve import (
    FAILED_TTL_S,
    LOOKUPS_MAX,
    TTL_S,
    Address,
    NoAddress,
    Resolver,
    fault,
    is_local,
    look_up,
)

PUBLIC = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946")


def nowhere(address: Address) -> bool:
    return False


def running(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Names:
    """A lookup that answers what the test says next, and counts."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.count = 0
        self.now = 1000.0

    async def __call__(self, host: str) -> Sequence[str]:
        self.count += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def resolver(self) -> Resolver:
        return Resolver(self, now=lambda: self.now, is_ours=nowhere)


async def refused(resolver: Resolver) -> NoAddress:
    with pytest.raises(NoAddress) as error:
        await resolver.resolve("a.example")
    return error.value


def refusal(*answers: Sequence[str] | OSError) -> NoAddress:
    return asyncio.run(refused(Names(*answers).resolver()))


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "168.63.129.16"])
def test_attempt_19_a_clouds_metadata_is_not_reached(address: str) -> None:
    found = refusal([address])
    assert found.code == "private_address" and "metadata" in found.message


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "fc00::1"),
        *("169.254.1.1", "fe80::1", "100.64.0.1", "100.127.255.255", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "fec0::1"),
        *("0.0.0.0", "::", "0.1.2.3", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255"),
        *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "192.88.99.1"),
        *("100::1", "192.0.0.192", "5f00::1"),
    ],
)
def test_attempt_20_a_name_that_leads_inside_is_refused(address: str) -> None:
    found = refusal([address])
    assert found.code == "private_address" and address in found.message
    assert "egress.toml" in found.message
    # One of several spoils the name, wherever it stands.
    assert refusal([PUBLIC[0], address]).code == "private_address"


@pytest.mark.parametrize(
    "address",
    [
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:7f00:1", "::ffff:93.184.216.34"),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "0:0:0:0:0:ffff:a9fe:a9fe"),
    ],
)
def test_attempt_22_an_ipv4_address_in_an_ipv6_one_is_none_to_reach(address: str) -> None:
    assert fault(address, is_ours=nowhere)


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "[::1]", "", "a.example"])
def test_attempt_18_another_spelling_of_an_address_is_none(text: str) -> None:
    assert fault(text, is_ours=nowhere) == "no address"


def test_attempt_25_the_hosts_own_addresses_are_not_reached() -> None:
    assert fault(PUBLIC[0], is_ours=nowhere) == ""
    assert fault(PUBLIC[0], is_ours=lambda address: True) == "the host itself"
    assert is_local(ip_address("127.0.0.1")) and not is_local(ip_address("192.0.2.1"))


@running
async def test_attempt_21_what_was_checked_is_what_is_connected_to() -> None:
    names = Names(PUBLIC, ["127.0.0.1"])
    resolver = names.resolver()
    assert await resolver.resolve("a.example") == PUBLIC
    # The name leads elsewhere now; what was checked is used, until it is checked again.
    assert await resolver.resolve("a.example") == PUBLIC and names.count == 1
    names.now += TTL_S
    assert (await refused(resolver)).code == "private_address"


@running
async def test_a_name_without_an_address_is_tried_again_soon() -> None:
    names = Names(OSError(-2, "Name or service not known"), PUBLIC)
    resolver = names.resolver()
    found = await refused(resolver)
    assert (found.code, found.message) == (
        "unresolved",
        "a.example has no address: Name or service not known",
    )
    assert (await refused(resolver)).code == "unresolved" and names.count == 1
    names.now += FAILED_TTL_S
    assert await resolver.resolve("a.example") == PUBLIC
    assert (await refused(Names([]).resolver())).code == "unresolved"


@running
async def test_a_lookup_that_takes_too_long_ends() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    resolver = Resolver(never, is_ours=nowhere, timeout_s=0)
    assert "too long" in (await refused(resolver)).message


@running
async def test_those_who_wait_for_one_name_wait_for_one_lookup() -> None:
    names = Names(PUBLIC)
    resolver = names.resolver()
    gone = asyncio.create_task(resolver.resolve("a.example"))
    others = [asyncio.create_task(resolver.resolve("a.example")) for _ in range(50)]
    await asyncio.sleep(0)
    gone.cancel()
    assert await asyncio.gather(*others) == [PUBLIC] * 50
    assert names.count == 1


@running
async def test_attempt_41_a_run_whose_names_are_never_answered_waits_alone() -> None:
    asked: list[str] = []

    async def lookup(host: str) -> Sequence[str]:
        asked.append(host)
        if host.endswith("attacker.example"):
            await asyncio.Event().wait()
        return PUBLIC

    resolver = Resolver(lookup, is_ours=nowhere)
    hung = [
        asyncio.create_task(resolver.resolve(f"{n}.attacker.example", "run_1")) for n in range(100)
    ]
    assert await resolver.resolve("a.example", "run_2") == PUBLIC
    assert len(asked) == LOOKUPS_MAX + 1
    for each in hung:
        each.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    assert await resolver.resolve("b.example", "run_1") == PUBLIC


@running
async def test_the_systems_own_lookup() -> None:
    assert set(await look_up("localhost")) & {"127.0.0.1", "::1"}


@given(st.integers(0, 2**32 - 1) | st.integers(0, 2**128 - 1))
def test_no_address_that_is_not_global_may_be_reached(number: int) -> None:
    address = ip_address(number)
    if not fault(str(address), is_ours=nowhere):
        assert address.is_global and not address.is_multicast and not address.is_loopback
        assert getattr(address, "ipv4_mapped", None) is None
