"""What computing costs: the load itself, on this host, and what is made of its times."""

from __future__ import annotations

import pytest

from torpor.bench import mixed
from torpor.bench.computing import HOST, figures


@pytest.mark.parametrize("name", mixed.CHORES)
def test_each_part_of_the_load_runs(name: str) -> None:
    mixed.CHORES[name]()


def test_parts_are_compared_by_their_medians_and_all_of_them_by_the_sum() -> None:
    machine = [{"JSON": each, "SHA-256": 10.0} for each in (300.0, 100.0, 290.0)]
    host = [{"JSON": each, "SHA-256": 5.0} for each in (10.0, 25.0, 90.0)]
    json, sha, all_of_it = figures(machine, host)
    assert (json.value, json.peers, json.distance) == (290.0, {HOST: 25.0}, 11.6)
    assert (sha.key, sha.distance) == ("computing_sha256_ms", 2.0)
    assert (all_of_it.value, all_of_it.distance) == (300.0, 10.0)
