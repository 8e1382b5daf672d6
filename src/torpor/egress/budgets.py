"""What may be used: budgets of runs (`[tool.torpor.budget]`) and limits of the host (`[limits]`).

Amounts are cost, tokens, requests, bytes_out and bytes_in. A limit is

    per_run    of one run; so is a budget
    per_day    of one agent, all its versions and runs, on one day (UTC)
    per_key    of one of torpor's API keys on one day: that which started the run, and with it the
               runs that its runs spawn; what the host itself started has the key ""

What a model's call will take is not known before it has ended. So as much as it may take is
reserved when it goes out: each byte of the request as a token, and `max_tokens` (or
OUTPUT_TOKENS) of the answer, at the model's price; what is reserved counts as used. When it has
ended, what the answer says takes the place of it. Calls that go out at once cannot pass a limit
together which they keep each. An answer that does not say what it took keeps what was reserved; so
does one that never came whole, since the model may have worked for it. What failed takes nothing.

A price that nobody knows is the host's `price_unknown`, never free. That is also what a request
to a model's API takes of whose cost nothing is known at all, such as for an image.

Where amounts are kept: the log has what was used (`contextlog.spent`), and a run's worker says so
whenever the run has a machine, or there is another broker. Here is what the log does not have yet,
reservations above all, in a file: a line for each exchange, put together when it is opened. What
is more counts, so that neither a broker that died nor a file that was lost gives anything back.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.core import amounts
from torpor.core.charges import most_of
from torpor.core.egress import Budget
from torpor.core.prices import UNKNOWN as PRICE_UNKNOWN
from torpor.core.prices import Prices
from torpor.core.replies import HTTP_ERROR, Reply, read_reply
from torpor.egress.admission import Headers

RUN, DAY, KEY = "per_run", "per_day", "per_key"
PER = (RUN, DAY, KEY)
ANSWER_BYTES_MAX = 32 * 1024 * 1024  # of a model's answer, kept to be read
LEDGER_BYTES_MAX = 4 << 20

_log = logging.getLogger(__name__)

Scope = tuple[str, str]  # (PER, whose)
Amounts = dict[str, float]


@dataclass(frozen=True)
class Limit:
    per: str
    kind: str
    amount: float
    ask: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Over:
    """A limit is passed."""

    limit: Limit
    used: float

    @property
    def message(self) -> str:
        limit = self.limit
        whose = {RUN: "the run", DAY: "the agent today", KEY: "its API key today"}[limit.per]
        most, used = amounts.shown(limit.kind, limit.amount), amounts.shown(limit.kind, self.used)
        return f"{whose} may use {most} ({limit.origin}), and has used or reserved {used}"


@dataclass(frozen=True)
class Account:
    """Whose amounts an exchange is added to, and what limits them."""

    scopes: Sequence[Scope]
    limits: Sequence[Limit] = ()
    price_unknown: float = PRICE_UNKNOWN

    def has(self, kinds: Collection[str]) -> bool:
        """A limit of one of these."""
        return any(limit.kind in kinds for limit in self.limits)

    def binding(self, *, permitted: bool) -> Iterator[tuple[Limit, Scope]]:
        """Its limits, each with whose amounts it limits; not those that ask, where a person has
        `permitted` it."""
        for scope in self.scopes:
            for limit in self.limits:
                if limit.per == scope[0] and not (permitted and limit.ask):
                    yield limit, scope


def limits_of(budget: Budget) -> list[Limit]:
    return [
        Limit(RUN, kind, amount, budget.ask, "[tool.torpor.budget]")
        for kind in amounts.KINDS
        if (amount := getattr(budget, kind)) is not None
    ]


class Budgets:
    """All that is counted on this host. `ledger` is the file."""

    def __init__(self, prices: Callable[[], Prices], ledger: Path | None = None) -> None:
        self.prices = prices
        self._used: dict[Scope, Amounts] = defaultdict(lambda: defaultdict(float))
        self._passed: set[Scope] = set()  # by what would have been, so that the next is asked for
        self._ledger = None if ledger is None else _Ledger(ledger, self._used)

    def used(self, scope: Scope) -> Mapping[str, float]:
        """What is used or reserved."""
        return dict(self._used[scope]) if scope in self._used else {}

    def raise_to(self, scope: Scope, known: Mapping[str, float]) -> None:
        """As much was used at least: as the log knows it."""
        have = self._used[scope]
        more = {k: v - have[k] for k, v in known.items() if k in amounts.KINDS and v > have[k]}
        self._add([scope], more)
        self._write([scope], more)

    def forget(self, run: str) -> None:
        """The run has ended."""
        scope = (RUN, run)
        self._passed.discard(scope)
        if self._used.pop(scope, None) is not None and self._ledger is not None:
            self._ledger.write([scope], None)

    def over(
        self, account: Account, wanted: Mapping[str, float], *, permitted: bool = False
    ) -> Over | None:
        """The limit that `wanted` more would pass. One that denies comes before one that asks,
        which does not count where a person has `permitted` it."""
        return self._first(
            (limit, scope)
            for limit, scope in account.binding(permitted=permitted)
            if (more := wanted.get(limit.kind, 0)) > 0
            and self._used[scope][limit.kind] + more > limit.amount
        )

    def reached(
        self, account: Account, wanted: Mapping[str, float], *, permitted: bool = False
    ) -> Over | None:
        """As `over`, for what has not begun: the limit is also passed if a request like it was held
        back for it before, and if nothing is left of what it is sure to use some of."""
        least = {**wanted, "requests": 1}
        if over := self.over(account, least, permitted=permitted):
            return over
        return self._first(
            (limit, scope)
            for limit, scope in account.binding(permitted=permitted)
            if limit.kind in ("cost", "tokens")
            and limit.kind in wanted
            and (
                self._used[scope][limit.kind] >= limit.amount
                or (limit.ask and scope in self._passed)
            )
        )

    def _first(self, passed: Iterable[tuple[Limit, Scope]]) -> Over | None:
        """One that denies, if there is any."""
        found = min(passed, key=lambda each: each[0].ask, default=None)
        return found and Over(found[0], self._used[found[1]][found[0].kind])

    def note_passed(self, account: Account, over: Over) -> None:
        self._passed |= {scope for scope in account.scopes if scope[0] == over.limit.per}

    def write(self, account: Account, change: Mapping[str, float]) -> None:
        """Keep a change that was added."""
        self._write(account.scopes, change)

    def _write(self, scopes: Sequence[Scope], change: Mapping[str, float]) -> None:
        change = {kind: amount for kind, amount in change.items() if amount}
        if self._ledger is not None and change:
            self._ledger.write(scopes, change)

    def add(self, account: Account, change: Mapping[str, float]) -> None:
        self._add(account.scopes, change)
        if any(amount < 0 for amount in change.values()):
            self._passed -= set(account.scopes)

    def _add(self, scopes: Sequence[Scope], change: Mapping[str, float]) -> None:
        for scope in scopes:
            used = self._used[scope]
            for kind, amount in change.items():
                used[kind] = max(0.0, used[kind] + amount)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()


class _Ledger:
    """Lines of [[[per, whose], …], {kind: change} | null]. Not synced: a host that lost power may
    have lost the last of them."""

    def __init__(self, path: Path, used: dict[Scope, Amounts]) -> None:
        self._path = path
        for line in path.read_bytes().splitlines() if path.exists() else ():
            _replay(line, used)
        _drop_old(used)
        self._rewrite(used)
        self._used = used

    def write(self, scopes: Sequence[Scope], change: Mapping[str, float] | None) -> None:
        line = json.dumps([scopes, change], separators=(",", ":")).encode() + b"\n"
        try:
            self._size += os.write(self._file, line)
            if self._size > max(LEDGER_BYTES_MAX, 2 * self._least):
                before = self._file
                _drop_old(self._used)
                self._rewrite(self._used)
                os.close(before)
        except OSError as error:  # a full disk: what is counted here still limits
            _log.error("what was used cannot be kept in %s: %s", self._path, error)

    def _rewrite(self, used: Mapping[Scope, Amounts]) -> None:
        temporary = self._path.with_suffix(".new")
        lines = [
            json.dumps([[scope], amounts]) + "\n" for scope, amounts in used.items() if amounts
        ]
        temporary.write_text("".join(lines))
        temporary.replace(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = self._least = self._path.stat().st_size

    def close(self) -> None:
        os.close(self._file)


def _drop_old(used: dict[Scope, Amounts]) -> None:
    """Days before the last two."""
    days = sorted({whose.rpartition(" ")[2] for per, whose in used if per != RUN})
    for scope in [each for each in used if each[0] != RUN and each[1][-10:] in days[:-2]]:
        del used[scope]


def _replay(line: bytes, used: dict[Scope, Amounts]) -> None:
    try:
        scopes, change = json.loads(line)
        for per, whose in scopes:
            scope = (str(per), str(whose))
            if change is None:
                used.pop(scope, None)
                continue
            for kind, amount in change.items():
                used[scope][kind] = max(0.0, used[scope][kind] + float(amount))
    except (ValueError, TypeError, AttributeError):
        return  # half a line, of a broker that died in it


@dataclass
class Hold:
    """What is reserved for one exchange (`admission.Charge`). `priced`: it goes to a model's API,
    `model`: what it takes can be read. `permitted`: a person has allowed it, and with it that
    limits are passed that ask."""

    budgets: Budgets
    account: Account
    target: str = ""
    model: bool = False
    priced: bool = False
    permitted: bool = False
    asks: bool = False
    _reserved: Amounts = field(default_factory=dict)
    _estimate: Amounts = field(default_factory=dict)
    _named: str = ""
    _answer: bytearray = field(default_factory=bytearray)
    _unkept: Amounts = field(default_factory=dict)
    _settled: bool = False

    def begin(self) -> None:
        """It is admitted: one request more."""
        self._take({"requests": 1})

    def sent(self, data: bytes) -> str:
        """These bytes of the body go out next; of a recorded call all at once."""
        wanted: Amounts = {"bytes_out": len(data)}
        expected: Amounts = {}
        if self.priced and not self._estimate:
            self._named, expected = self._expect(data)
            wanted |= expected
        over = self.budgets.over(self.account, wanted, permitted=self.permitted)
        if over is not None:
            self.asks = over.limit.ask
            if over.limit.ask:
                self.budgets.note_passed(self.account, over)
            hint = (
                "Asked for again, a person decides" if over.limit.ask else "It can be raised there"
            )
            return f"{over.message}; this could take {self._words(over, wanted)}. {hint}"
        self._take(wanted)
        self._estimate |= expected
        if self.priced:
            self._keep()  # before the model works for it
        return ""

    def _words(self, over: Over, wanted: Mapping[str, float]) -> str:
        return amounts.shown(over.limit.kind, wanted[over.limit.kind])

    def received(self, data: bytes) -> str:
        wanted = {"bytes_in": len(data)}
        over = self.budgets.over(self.account, wanted, permitted=self.permitted)
        self._take({"bytes_in": len(data)})
        if self.model and len(self._answer) < ANSWER_BYTES_MAX:
            self._answer += data
        return "" if over is None else over.message

    def settle(self, status: int | None, headers: Headers) -> Mapping[str, Any]:
        """What was reserved is now what was used. `usage` of DONE."""
        if self._settled:
            return {}
        self._settled = True
        usage = self._settle(status) if self.priced else {}
        self._answer = bytearray()  # read; a recorded call lives on, and has its answer itself
        self._keep()
        return usage

    def _settle(self, status: int | None) -> Mapping[str, Any]:
        if status is None:
            # Nothing of it went out, or nobody knows what became of it.
            return self._estimated()
        if not self.model:
            return self._settle_unread(status)
        found = read_reply({"status": status, "body": self._answer.decode(errors="replace")})
        if not found.measured or (
            found.output_tokens and found.finish is None and not found.failed
        ):
            # It does not say, or was cut off before it said all.
            return self._estimated()
        tokens, cost = self._taken(found)
        self._replace({"tokens": tokens, "cost": cost})
        return {
            "model": found.model or self._named,
            "input": found.input_tokens,
            "output": found.output_tokens,
            "tokens": tokens,
            "cost": cost,
        }

    def _estimated(self) -> Mapping[str, Any]:
        """What was reserved stays."""
        return {**self._estimate, "estimated": True} if self._estimate else {}

    def _settle_unread(self, status: int) -> Mapping[str, Any]:
        if status >= HTTP_ERROR:
            self._replace({})
        return {"cost": self._estimate.get("cost", 0.0) if status < HTTP_ERROR else 0.0}

    def cancel(self) -> None:
        """Nothing of it went out: no connection could be made."""
        self._settled = True
        self._replace({})
        self._keep()

    def _taken(self, reply: Reply) -> tuple[int, float]:
        """Of an answer that failed, nothing."""
        tokens = (reply.input_tokens or 0) + (reply.output_tokens or 0)
        if reply.failed and not tokens:
            return 0, 0.0
        prices = self.budgets.prices()
        counts = (reply.input_tokens or 0, reply.cached_tokens, reply.output_tokens or 0)
        known = (prices.cost(name, *counts) for name in (reply.model, self._named) if name)
        cost = next((cost for cost in known if cost is not None), None)
        return tokens, self.account.price_unknown if cost is None and tokens else cost or 0.0

    def _expect(self, body: bytes) -> tuple[str, Amounts]:
        """The model, and what the call can take at most."""
        if not self.model:
            return "", {"cost": self.account.price_unknown}
        most = most_of(body, self.target, self.budgets.prices(), self.account.price_unknown)
        return most.model, {"tokens": most.tokens, "cost": most.cost}

    def _take(self, more: Mapping[str, float]) -> None:
        self.budgets.add(self.account, more)
        for kept in (self._reserved, self._unkept):
            for kind, amount in more.items():
                kept[kind] = kept.get(kind, 0) + amount

    def _keep(self) -> None:
        self.budgets.write(self.account, self._unkept)
        self._unkept = {}

    def _replace(self, used: Mapping[str, float]) -> None:
        """Of tokens and cost, what was reserved by what was used."""
        self._take({k: used.get(k, 0) - self._reserved.get(k, 0) for k in ("tokens", "cost")})
