"""What runs, agents and keys may use."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor.core.charges import OUTPUT_TOKENS, read_request
from torpor.core.egress import Budget
from torpor.core.prices import Prices
from torpor.egress.budgets import (
    DAY,
    KEY,
    RUN,
    Account,
    Budgets,
    Hold,
    Limit,
    limits_of,
)

PRICES = Prices({"gpt": {"input": 1.0, "output": 10.0}, "dear": {"input": 9.0, "output": 9.0}})
SCOPES = ((RUN, "r"), (DAY, "a 2026-11-28"), (KEY, "k 2026-11-28"))


def budgets(ledger: Path | None = None) -> Budgets:
    return Budgets(lambda: PRICES, ledger)


def call(of: Budgets, *limits: Limit, **more: Any) -> Hold:
    hold = Hold(of, Account(SCOPES, limits, 0.5), **({"model": True, "priced": True} | more))
    hold.begin()
    return hold


def body(model: str = "gpt", **more: Any) -> bytes:
    return json.dumps({"model": model, "max_tokens": 1000, "messages": []} | more).encode()


def answer(input: int = 10, output: int = 20, model: str = "gpt") -> bytes:
    usage = {"prompt_tokens": input, "completion_tokens": output}
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    return json.dumps({"model": model, "usage": usage, "choices": [choice]}).encode()


def used(of: Budgets, scope: tuple[str, str] = SCOPES[0]) -> dict[str, float]:
    return {kind: round(amount, 9) for kind, amount in of.used(scope).items() if amount}


def test_what_a_call_may_take_is_reserved_and_then_what_it_took_is_used() -> None:
    of, sent = budgets(), body()
    hold = call(of)
    assert hold.sent(sent) == ""
    most = (len(sent) * 1.0 + 1000 * 10.0) / 1e6
    reserved = {"requests": 1, "bytes_out": len(sent), "tokens": len(sent) + 1000, "cost": most}
    assert used(of) == pytest.approx(reserved)
    got = answer()
    assert hold.received(got[:20]) == hold.received(got[20:]) == ""
    usage = hold.settle(200, [])
    took = {"input": 10, "output": 20, "tokens": 30, "cost": pytest.approx(0.00021)}
    assert usage == {"model": "gpt", **took}
    for scope in SCOPES:
        assert used(of, scope) == pytest.approx(
            {"requests": 1, "bytes_out": len(sent), "bytes_in": len(got), "tokens": 30}
            | {"cost": 0.00021}
        )
    assert hold.settle(200, []) == {}  # once


def test_attempt_40_a_hundred_calls_at_once_do_not_pass_a_budget_together() -> None:
    of, each = budgets(), (len(body()) + 10_000) / 1e6
    limit = Limit(RUN, "cost", 10.5 * each, origin="[tool.torpor.budget]")
    holds = [call(of, limit) for _ in range(100)]
    refusals = [hold.sent(body()) for hold in holds]
    assert [bool(refusal) for refusal in refusals] == [False] * 10 + [True] * 90
    assert used(of)["cost"] <= limit.amount
    assert refusals[-1].startswith("the run may use 0.1")
    assert "[tool.torpor.budget]" in refusals[-1]
    # What the ten did not take is there for others.
    for hold in holds[:10]:
        hold.received(answer())
        hold.settle(200, [])
    assert used(of)["cost"] == pytest.approx(10 * 0.00021)
    assert call(of, limit).sent(body()) == ""


def test_attempt_40_requests_at_once_do_not_pass_a_number_of_requests() -> None:
    of = budgets()
    limit = Limit(DAY, "requests", 10)
    account = Account(SCOPES, [limit])
    admitted = 0
    for _ in range(100):
        if of.reached(account, {}) is None:
            call(of, limit)
            admitted += 1
    assert admitted == 10 and used(of)["requests"] == 10


@pytest.mark.parametrize("kind", ["bytes_out", "bytes_in"])
def test_attempt_37_bytes_are_counted_as_they_go(kind: str) -> None:
    """What an allowed host is sent cannot be seen; how much of it there is can be limited."""
    of, limit = budgets(), Limit(RUN, kind, 1000)
    hold = call(of, limit, model=False, priced=False)
    feed = hold.sent if kind == "bytes_out" else hold.received
    assert [bool(feed(b"x" * 300)) for _ in range(4)] == [False, False, False, True]
    assert "1,000 bytes" in feed(b"x" * 300)


def test_a_price_that_nobody_knows_is_the_hosts_ceiling_and_never_free() -> None:
    of = budgets()
    hold = call(of)
    hold.sent(body("unheard-of"))
    assert used(of)["cost"] == 0.5
    hold.received(answer(model="unheard-of"))
    assert hold.settle(200, [])["cost"] == 0.5 and used(of)["cost"] == 0.5
    # A request to a model's API of which nothing is known: an image, perhaps.
    image = call(of, model=False)
    image.sent(b"{}")
    assert used(of)["cost"] == 1.0
    assert image.settle(200, []) == {"cost": 0.5} and used(of)["cost"] == 1.0
    failed = call(of, model=False)
    failed.sent(b"{}")
    failed.settle(400, [])
    assert used(of)["cost"] == 1.0


def test_an_answer_of_another_model_has_that_models_price() -> None:
    of = budgets()
    hold = call(of)
    hold.sent(body())
    hold.received(answer(model="dear"))
    assert hold.settle(200, [])["cost"] == pytest.approx(30 * 9 / 1e6)


@pytest.mark.parametrize(
    ("status", "got", "cost"),
    [
        (None, b"", True),  # sent, and nobody knows what became of it
        (200, b"", True),
        (200, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n', True),
        (
            200,
            b'data: {"type":"message_start","message":{"model":"gpt","usage":'
            b'{"input_tokens":5,"output_tokens":1}}}\n\n',
            True,  # cut off
        ),
        (429, b'{"error": {"message": "slow down"}}', False),
        (500, b"", False),
    ],
)
def test_what_does_not_say_what_it_took_keeps_its_reservation_and_what_failed_does_not(
    status: int | None, got: bytes, *, cost: bool
) -> None:
    of = budgets()
    hold = call(of)
    hold.sent(body())
    reserved = used(of)["cost"]
    hold.received(got)
    usage = hold.settle(status, [])
    assert usage["cost"] == pytest.approx(reserved if cost else 0)
    assert used(of).get("cost", 0) == pytest.approx(reserved if cost else 0)


def test_what_was_never_sent_takes_nothing() -> None:
    of = budgets()
    hold = call(of)
    hold.sent(body())
    hold.cancel()
    assert set(used(of)) == {"requests", "bytes_out"}
    assert hold.settle(None, []) == {}


def test_a_limit_that_asks_asks_for_what_it_has_held_back() -> None:
    of = budgets()
    limit = Limit(RUN, "cost", 0.001, ask=True, origin="[tool.torpor.budget]")
    account = Account(SCOPES, [limit])
    assert of.reached(account, {"cost": 0}) is None
    assert "a person decides" in call(of, limit).sent(body())
    over = of.reached(account, {"cost": 0})
    assert over is not None and over.limit is limit
    assert of.reached(account, {"bytes_out": 5}) is None  # what costs nothing goes on
    assert call(of, limit, permitted=True).sent(body()) == ""
    # Of one that denies, a smaller call may still go out.
    denying = Limit(KEY, "cost", 0.001)
    assert call(of, denying).sent(body())
    assert of.over(Account([(KEY, "other")], [denying]), {"cost": 0.0001}) is None


def test_a_limit_that_denies_comes_before_one_that_asks() -> None:
    of = budgets()
    limits = [Limit(RUN, "requests", 0, ask=True), Limit(DAY, "requests", 0)]
    over = of.reached(Account(SCOPES, limits), {})
    assert over is not None and over.message.startswith("the agent today")
    # So it is where nothing is left.
    limits = [Limit(RUN, "cost", 0, ask=True), Limit(DAY, "cost", 0)]
    over = of.reached(Account(SCOPES, limits), {"cost": 0})
    assert over is not None and over.message.startswith("the agent today")


def test_scopes_are_counted_apart() -> None:
    of = budgets()
    call(of)
    other = Account([(RUN, "other"), SCOPES[1], SCOPES[2]], [Limit(RUN, "requests", 1)])
    assert of.reached(other, {}) is None
    assert of.reached(Account(SCOPES, other.limits), {}) is not None
    of.forget("r")
    assert of.used(SCOPES[0]) == {} and used(of, SCOPES[1]) == {"requests": 1}


def test_a_broker_that_died_has_lost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    of = budgets(path)
    done, lost, gone = call(of), call(of), call(of)
    done.sent(body())
    done.received(answer())
    done.settle(200, [])
    lost.sent(body())  # the model works for it
    before = used(of)
    del gone
    with path.open("ab") as file:
        file.write(b'[[["per_run","r"]],{"requests":')  # died within a line
    after = budgets(path)
    assert {k: v for k, v in used(after).items() if k != "requests"} == {
        k: v for k, v in before.items() if k != "requests"
    }
    assert used(after)["requests"] == 2  # the third had not gone out
    after.forget("r")
    again = budgets(path)
    assert again.used(SCOPES[0]) == {} and used(again, SCOPES[1])["requests"] == 2


def test_its_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torpor.egress.budgets.LEDGER_BYTES_MAX", 2000)
    path = tmp_path / "usage.jsonl"
    of = budgets(path)
    for _ in range(200):
        call(of, model=False, priced=False).settle(200, [])
    assert path.stat().st_size < 4000
    assert used(budgets(path)) == {"requests": 200}


def test_a_full_disk_stops_no_exchange_and_lifts_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    of = budgets(tmp_path / "usage.jsonl")
    monkeypatch.setattr("torpor.egress.budgets.os.write", full)
    call(of, model=False, priced=False).settle(200, [])
    assert used(of) == {"requests": 1}


def test_days_that_are_over_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    of = budgets(path)
    for day in ("2026-11-26", "2026-11-27", "2026-11-28"):
        hold = Hold(of, Account([(RUN, "r"), (DAY, f"a {day}"), (KEY, f"k {day}")]))
        hold.begin()
        hold.settle(200, [])
    again = budgets(path)
    assert used(again) == {"requests": 3}
    found = [day for day in (26, 27, 28) if again.used((DAY, f"a 2026-11-{day}"))]
    assert found == [27, 28]


def test_the_log_may_know_of_more() -> None:
    of = budgets()
    call(of)
    of.raise_to(SCOPES[0], {"requests": 5, "cost": 1.5, "nonsense": 3})
    assert used(of) == {"requests": 5, "cost": 1.5}
    of.raise_to(SCOPES[0], {"requests": 2})
    assert used(of)["requests"] == 5


def test_a_budget_is_limits_of_a_run() -> None:
    limits = limits_of(Budget(cost=2.0, requests=10, ask=True))
    assert [(limit.per, limit.kind, limit.amount, limit.ask) for limit in limits] == [
        (RUN, "cost", 2.0, True),
        (RUN, "requests", 10, True),
    ]


@pytest.mark.parametrize(
    ("sent", "target", "expected"),
    [
        (b'{"model": "gpt", "max_tokens": 5}', "/", ("gpt", 5)),
        (
            b'{"model": "gpt", "max_completion_tokens": 5, "max_tokens": 3, "n": 4}',
            "/",
            ("gpt", 20),
        ),
        (b'{"max_output_tokens": 7}', "/openai/deployments/mine/responses", ("mine", 7)),
        (
            b'{"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}}',
            "/v1beta/models/gemini-x:generateContent?a=b",
            ("gemini-x", 18),
        ),
        (b"not JSON", "/", ("", OUTPUT_TOKENS)),
        (b'{"model": 3, "max_tokens": -5, "n": true}', "/", ("", OUTPUT_TOKENS)),
        (b"[" * 100_000, "/", ("", OUTPUT_TOKENS)),
    ],
)
def test_what_a_call_asks_for(sent: bytes, target: str, expected: tuple[str, int]) -> None:
    assert read_request(sent, target) == expected


def test_a_picture_is_not_counted_as_text() -> None:
    of = budgets()
    picture = "data:image/png;base64," + "A" * 1_000_000
    call(of).sent(body(messages=[picture]))
    assert 20_000 < used(of)["tokens"] < 30_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=80)), max_size=12))
def test_no_limit_is_passed_whatever_comes(steps: list[tuple[int, bytes]]) -> None:
    of = budgets()
    limits = [Limit(RUN, "cost", 0.02), Limit(DAY, "tokens", 2500), Limit(KEY, "bytes_out", 150)]
    holds = [call(of, *limits) for _ in range(4)]
    for which, data in steps:
        hold = holds[which]
        if len(data) % 3 == 0:
            hold.settle(200 if data else None, [])
            holds[which] = call(of, *limits)
        elif len(data) % 3 == 1:
            hold.sent(data)
        else:
            hold.received(data)
        assert used(of)["requests"] >= 4
        assert used(of).get("cost", 0) <= 0.02
        assert used(of, SCOPES[1]).get("tokens", 0) <= 2500
        assert used(of, SCOPES[2]).get("bytes_out", 0) <= 150
