"""How a request goes out, or why it does not: everything that decides, put together.

    the run's rules      as its worker gives them (`set_policy`), under the host's (`hostfile`)
    a person's answer    where either asks
    budgets, limits      `budgets`
    the address          `resolve`: checked, and then used
    the secret           `secrets`: whom it serves; in it goes, and the client's own credentials go

A policy is {agent, egress, budget, key?, used?}: the name of the agent; its entries and its budget
as its file has them; the id of the API key that its limits are counted under; and what the log
knows to be used, {run, agent, key} of {cost, tokens, requests, bytes_out, bytes_in}, the last two
today, which counts where this host knows of less.

The deployment's own model has the host `model.torpor` and needs no rule, nor a policy: it is
admitted without an address, and its calls count like others.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from torpor.core import presets
from torpor.core.egress import (
    ALLOW,
    ASK,
    DENY,
    HTTPS,
    MODEL,
    MODEL_HOST,
    TCP,
    Request,
    Rule,
    Verdict,
    deny,
    judge,
    parse_budget,
    parse_egress,
)
from torpor.core.errors import Invalid, TorporError
from torpor.core.home import Home
from torpor.core.hostnames import normalize_host
from torpor.core.prices import Prices
from torpor.core.targets import path_of
from torpor.egress.admission import Admission, Outgoing, Refusal
from torpor.egress.budgets import DAY, KEY, RUN, Account, Budgets, Hold, Limit, limits_of
from torpor.egress.exchange import end_to_end, trust
from torpor.egress.hostfile import HostFile, HostRules, Named
from torpor.egress.protocol import NEEDS_PERMISSION
from torpor.egress.resolve import NoAddress, Resolver
from torpor.egress.secrets import Redactor, Secret, Secrets, Unseal

# At models' APIs, what is posted and costs nothing.
_FREE = re.compile(
    r"(/count_tokens|/input_tokens|:countTokens|/tokenize|/cancel|/files|/uploads(/.*)?"
    r"|/moderations)/?$"
)
# What an answer, or a WebSocket's messages, may be compressed for.
_ENCODING = frozenset({"accept-encoding", "sec-websocket-extensions"})
_STATUS = {"over_budget": 402, "unresolved": 502}
_COUNTED = frozenset({"cost", "tokens"})
_ENDLESS = (
    "what a WebSocket takes at a model's API cannot be counted, and there is a limit of cost or "
    "tokens"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Policy:
    run: str
    agent: str = ""
    rules: tuple[Rule, ...] = ()
    limits: tuple[Limit, ...] = ()
    key: str = ""
    problem: str = ""  # why it cannot be read, and all is denied


class PolicyJudge:
    """`admission.Judge`. Use it within one event loop."""

    def __init__(
        self,
        host: HostFile,
        secrets: Secrets,
        resolver: Resolver,
        budgets: Budgets,
        *,
        own_ports: Callable[[], Collection[int]] = tuple,
        now: Callable[[], float] = time.time,
        trusting: Callable[[], ssl.SSLContext] = trust,
    ) -> None:
        self.budgets = budgets
        self._host, self._secrets, self._resolver = host, secrets, resolver
        self._own_ports, self._now = own_ports, now
        self._policies: dict[str, _Policy] = {}
        self._trusting = lru_cache(maxsize=64)(lambda authority: _trusting(trusting(), authority))

    @classmethod
    def of(cls, home: Home, unseal: Unseal) -> PolicyJudge:
        """Of the broker that serves `home`."""
        prices = _PriceFile(home)
        return cls(
            HostFile(home.egress),
            Secrets(unseal),
            Resolver(),
            Budgets(prices.current, home.egress_usage),
            own_ports=lambda: _ports_of(home),
        )

    def set_policy(self, run: str, policy: Mapping[str, Any] | None) -> None:
        """Raises Invalid; what cannot be read denies."""
        if policy is None:
            self._policies.pop(run, None)
            return
        try:
            read = _read_policy(run, policy)
        except Invalid as error:
            self._policies[run] = _Policy(run, problem=error.message)
            raise
        self._policies[run] = read
        used = policy.get("used")
        for name, scope in zip(("run", "agent", "key"), self._scopes(read), strict=True):
            amounts = used.get(name) if isinstance(used, Mapping) else None
            if isinstance(amounts, Mapping):
                self.budgets.raise_to(scope, amounts)

    def set_secrets(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Raises Invalid; the others of them are set all the same."""
        self._secrets.set(entries)

    def forget(self, run: str) -> None:
        """The run has ended."""
        self._policies.pop(run, None)
        self.budgets.forget(run)

    async def admit(self, outgoing: Outgoing) -> Admission | Refusal:
        policy, host = self._policies.get(outgoing.run), self._host.current()
        if policy is None and outgoing.request.host == MODEL_HOST:
            policy = _Policy(outgoing.run)  # of an agent that has no rules
        if policy is None:
            return _refusal(deny("no_policy", "the broker does not know the run's rules"))
        if problem := policy.problem or host.problem:
            what = "the host's rules cannot be read" if host.problem else "the rules cannot be read"
            return _refusal(
                deny("unreadable_rules", f"{what}, so that nothing may go out: {problem}")
            )
        request = replace(outgoing.request, headers=outgoing.headers)
        verdict = _judged(policy, host, request)
        if verdict.decision == DENY:
            return _refusal(verdict)
        request = replace(request, host=normalize_host(request.host, "the host"))
        hold = self._hold(policy, host, request, verdict, outgoing)
        if outgoing.upgrade and hold.priced and hold.account.has(_COUNTED):
            return _refusal(replace(verdict, decision=DENY, code="not_counted", reason=_ENDLESS))
        verdict = self._budgeted(verdict, hold, outgoing)
        if waiting := _to_be_operation(verdict, outgoing):
            return waiting
        named = host.hosts.get(request.host)
        try:
            addresses = await self._addresses(request, named, policy.run)
            # Others went out meanwhile. From here on nothing waits.
            if waiting := _to_be_operation(self._budgeted(verdict, hold, outgoing), outgoing):
                return waiting
            return self._admission(request, outgoing, verdict, policy, (addresses, named, hold))
        except NoAddress as error:
            return _refusal(replace(verdict, decision=DENY, code=error.code, reason=error.message))
        except _Denied as denied:
            return _refusal(denied.verdict)

    def explain(self, policy: Mapping[str, Any], request: Request) -> Verdict:
        """What `admit` would decide about a request of a run with this policy, as far as it can be
        said without looking up an address and without counting anything. Raises Invalid."""
        read, host = _read_policy("", policy), self._host.current()
        if host.problem:
            what = f"the host's rules cannot be read, so that nothing may go out: {host.problem}"
            return deny("unreadable_rules", what)
        verdict = _judged(read, host, request)
        if verdict.decision == DENY:
            return verdict
        name = normalize_host(request.host, "the host")
        named = host.hosts.get(name)
        if named and named.addresses and (problem := self._port_fault(named, request.port)):
            return deny("port", problem, rule=verdict.rule)
        try:
            if verdict.secret:
                self._checked_secret(verdict, replace(request, host=name), read)
        except _Denied as denied:
            return denied.verdict
        return verdict

    def _scopes(self, policy: _Policy) -> list[tuple[str, str]]:
        day = datetime.fromtimestamp(self._now(), UTC).date().isoformat()
        return [(RUN, policy.run), (DAY, f"{policy.agent} {day}"), (KEY, f"{policy.key} {day}")]

    def _hold(
        self,
        policy: _Policy,
        host: HostRules,
        request: Request,
        verdict: Verdict,
        outgoing: Outgoing,
    ) -> Hold:
        limits = (*policy.limits, *host.limits)
        account = Account(self._scopes(policy), limits, host.price_unknown)
        model = verdict.record == MODEL
        return Hold(
            self.budgets,
            account,
            request.target,
            model=model,
            priced=model or _may_cost(request, verdict, upgrade=bool(outgoing.upgrade)),
            permitted=bool(outgoing.permit),
        )

    def _budgeted(self, verdict: Verdict, hold: Hold, outgoing: Outgoing) -> Verdict:
        wanted = {"bytes_out": float(outgoing.length or 0)}
        if hold.priced:
            wanted |= {"cost": 0.0, "tokens": 0.0}
        over = self.budgets.reached(hold.account, wanted, permitted=hold.permitted)
        if over is None:
            return verdict
        if over.limit.ask:
            return replace(
                verdict, decision=ASK, reason=over.message, record=verdict.record or "http"
            )
        return replace(verdict, decision=DENY, code="over_budget", reason=over.message)

    async def _addresses(self, request: Request, named: Named | None, run: str) -> Sequence[str]:
        """Raises NoAddress."""
        if request.host == MODEL_HOST:
            return ()
        if named is None or not named.addresses:
            return await self._resolver.resolve(request.host, run)
        if problem := self._port_fault(named, request.port):
            raise NoAddress("port", problem)
        return named.addresses

    def _port_fault(self, named: Named, port: int) -> str:
        if named.ports and port not in named.ports:
            listed = " and ".join(map(str, named.ports))
            return f"egress.toml allows {named.name} on port {listed} only, not {port}"
        return f"port {port} of {named.name} is torpor's own" if port in self._own_ports() else ""

    def _admission(
        self,
        request: Request,
        outgoing: Outgoing,
        verdict: Verdict,
        policy: _Policy,
        way: tuple[Sequence[str], Named | None, Hold],
    ) -> Admission:
        """Raises _Denied."""
        addresses, named, hold = way
        # Also those that the client's connection names, which would take out ours.
        headers, target = list(end_to_end(outgoing.headers)), request.target
        redaction = None
        if verdict.secret:
            secret, value = self._secret(verdict, request, policy)
            headers, target = secret.placement.place(value, headers, target)
            redaction = Redactor(secret.name, secret.search)
        if redaction is not None or hold.model:
            # So that it can be seen whether the secret is in the answer, and what it took.
            headers = [header for header in headers if header[0] not in _ENCODING]
            headers.append(("accept-encoding", "identity"))
        hold.begin()
        allowed = replace(verdict, decision=ALLOW)  # also what a person had to allow
        return Admission(
            verdict=_fields(allowed) | ({"address": addresses[0]} if addresses else {}),
            addresses=addresses,
            headers=headers,
            target=target,
            tls=self._tls(request, named),
            redaction=redaction,
            charge=hold,
        )

    def _secret(self, verdict: Verdict, request: Request, policy: _Policy) -> tuple[Secret, str]:
        """Raises _Denied."""
        secret = self._checked_secret(verdict, request, policy)
        try:
            return secret, secret.value
        except TorporError as error:
            raise _Denied(deny("no_secret", error.message, error.hint, verdict.rule)) from error

    def _checked_secret(self, verdict: Verdict, request: Request, policy: _Policy) -> Secret:
        """The one that goes along, which is not opened. Raises _Denied."""
        name = verdict.secret
        secret = self._secrets.find(name)
        if secret is None:
            hint = (
                f"Whoever runs the host can set it: torpor secrets set {name} --host {request.host}"
            )
            reason = f"the secret {name} is not set on this host"
            raise _Denied(deny("no_secret", reason, hint, verdict.rule))
        reason, hint = secret.fault(policy.agent, request.host)
        if reason:
            raise _Denied(deny("secret_not_bound", reason, hint, verdict.rule))
        if request.scheme != HTTPS:
            reason = f"the secret {name} is sent over https only"
            raise _Denied(deny("secret_in_clear", reason, "", verdict.rule))
        return secret

    def _tls(self, request: Request, named: Named | None) -> ssl.SSLContext | None:
        if named is None or not named.authority or request.scheme != HTTPS:
            return None
        return self._trusting(named.authority)


class _Denied(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.code)
        self.verdict = verdict


def _ports_of(home: Home) -> list[int]:
    """On which the server listens, as it wrote down (`torpor.api.server`)."""
    try:
        facts = json.loads((home.run / "server.json").read_bytes())
        return [int(port) for port in facts.get("ports", ())]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


class _PriceFile:
    """The table of prices, read again when it has changed."""

    def __init__(self, home: Home) -> None:
        self._path = home.prices
        self._read: tuple[float, Prices] | None = None

    def current(self) -> Prices:
        try:
            changed = self._path.stat().st_mtime
        except OSError:
            changed = 0.0
        if self._read is None or self._read[0] != changed:
            self._read = (changed, Prices.load_whole(self._path))
        return self._read[1]


def _read_policy(run: str, policy: Mapping[str, Any]) -> _Policy:
    agent, key = policy.get("agent"), policy.get("key") or ""
    if not isinstance(agent, str) or not agent or not isinstance(key, str):
        raise Invalid("a policy has the name of an agent")
    return _Policy(
        run=run,
        agent=agent,
        rules=parse_egress(policy.get("egress") or [], "egress"),
        limits=tuple(limits_of(parse_budget(policy.get("budget") or {}, "budget"))),
        key=key,
    )


def _judged(policy: _Policy, host: HostRules, request: Request) -> Verdict:
    if request.host == MODEL_HOST and request.scheme != TCP:
        return Verdict(ALLOW, rule="the deployment's own model", record=MODEL)
    return presets.hinted(judge(policy.rules, request, host.ceilings), request)


def _to_be_operation(verdict: Verdict, outgoing: Outgoing) -> Refusal | None:
    """What it needs first: a person, or to be begun as an operation."""
    if verdict.decision == DENY:
        return _refusal(verdict)
    recorded = {"kind": verdict.record} | ({"secret": True} if verdict.secret else {})
    if verdict.decision == ASK and not outgoing.permit:
        if outgoing.record:
            return replace(
                _refusal(
                    replace(
                        verdict,
                        code=NEEDS_PERMISSION,
                        reason=verdict.reason or "a person is asked first",
                    )
                ),
                fields=recorded | {"ask": True},
            )
        return Refusal(_fields(verdict), status=0, fields=recorded | {"ask": True})
    if verdict.record and not outgoing.record:
        return Refusal(_fields(verdict), status=0, fields=recorded)
    if verdict.record == MODEL != outgoing.record:
        reason = "it is a model's call, and must be begun as one"
        return _refusal(replace(verdict, decision=DENY, code="not_recorded", reason=reason))
    return None


def _refusal(verdict: Verdict) -> Refusal:
    code = verdict.code or "not_allowed"
    _log.info("refused: %s: %s", code, verdict.reason.encode("ascii", "backslashreplace").decode())
    status = _STATUS.get(code, 403)
    return Refusal(_fields(verdict), status, code, verdict.message, retry=status == 502)


def _fields(verdict: Verdict) -> dict[str, Any]:
    """Of the frame VERDICT."""
    given = {"rule": verdict.rule, "secret": verdict.secret, "record": verdict.record}
    given |= {"code": verdict.code, "reason": verdict.message if verdict.reason else ""}
    if verdict.decision == DENY:
        given |= {"secret": "", "record": ""}
    return {"verdict": verdict.decision} | {key: text[:4000] for key, text in given.items() if text}


def _may_cost(request: Request, verdict: Verdict, *, upgrade: bool) -> bool:
    """Whether a model's API may take money for what nothing is known of: images, speech."""
    if not (request.method == "POST" or upgrade) or _FREE.search(path_of(request.target)):
        return False
    preset = presets.presets().get(verdict.rule.removeprefix("preset "))
    serves = preset is not None and any(rule.record == MODEL for rule in preset.rules)
    return serves or request.host in presets.model_hosts()


def _trusting(context: ssl.SSLContext, authority: str) -> ssl.SSLContext:
    context.load_verify_locations(cadata=authority)
    return context
