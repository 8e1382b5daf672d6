"""What an agent may reach, shown; before it is deployed, what is more than the last version's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torpor.client import Client
from torpor.core.agentfile import AgentSource
from torpor.core.amounts import KINDS, parse_amount, shown
from torpor.core.egress import UNLIMITED, Budget, Rule, parse_budget, parse_egress
from torpor.core.errors import Forbidden, Invalid, NotFound
from torpor.core.reach import Beyond, Raised, beyond
from torpor.terminal.screen import facts, say, show, table
from torpor.web import words

Object = dict[str, Any]


def state_new(client: Client, source: AgentSource) -> bool:
    """Say what `source` asks for beyond what is deployed of it; False if that is nothing."""
    lines = list(new_lines(client, source))
    for line in lines:
        say(line, "yellow")
    return bool(lines)


def new_lines(client: Client, source: AgentSource) -> Iterator[str]:
    last = _last(client, source)
    rules, budget = _read(last)
    found = beyond(
        parse_egress(list(source.egress), source.entry), rules, source.rules.budget, budget
    )
    if not found:
        return
    yield "this version asks for more than the last one:" if last else "this agent asks for:"
    yield from (f"  {line}" for line in _lines(found))
    known = _secrets(client)
    missing = sorted({rule.secret for rule in found.rules} - {""} - (known or set()))
    if missing and known is not None:
        yield f"not set on this host: {', '.join(missing)} (torpor secrets set NAME)"


def _secrets(client: Client) -> set[str] | None:
    """Their names, which only an administrator may see."""
    try:
        return {each["name"] for each in client.secrets()}
    except Forbidden:
        return None


def _last(client: Client, source: AgentSource) -> Object | None:
    try:
        if source.origin:
            return client.reach(source.origin, exact=True)
        return client.reach(source.called)
    except NotFound:
        return None


def _read(last: Object | None) -> tuple[tuple[Rule, ...], Budget]:
    """As this release reads it: what it cannot read counts as nothing, so that all is shown."""
    if last is None:
        return (), UNLIMITED
    try:
        return parse_egress(last["entries"], "egress"), parse_budget(last["budget"], "budget")
    except Invalid:
        return (), UNLIMITED


def _lines(found: Beyond) -> Iterator[str]:
    for rule in found.rules:
        yield f"+ {words.rule(asdict(rule))}"
    for rule in found.dropped:
        allowing = asdict(rule) | {"deny": False, "ask": False, "record": "", "secret": ""}
        was = "denied" if rule.deny else "a person was asked"
        yield f"- {was} until now, and not any more: {words.rule(allowing)}"
    for each in found.raised:
        yield f"+ {_raised(each)}"


def _raised(raised: Raised) -> str:
    if raised.limit == "ask":
        return "budget: what passes it was denied, and asks a person now"
    was = shown(raised.limit, raised.before or 0)  # where there was no limit nothing is raised
    now = f"no limit of {raised.limit}" if raised.now is None else shown(raised.limit, raised.now)
    return f"budget: {now} (was {was})"


def show_rules(found: Object) -> None:
    """Of an answer of `Client.reach`."""
    if found["rules"]:
        show(table(("HOST", "WHAT", "HOW", "FROM"), list(map(_rule, found["rules"]))))
    else:
        say("no rules: it reaches nothing but the deployment's own model")
    if limits := limits_of(found["budget"]):
        show(facts([("each run", limits)]))


def limits_of(budget: Mapping[str, Any]) -> str:
    """A budget as it was deployed, in words."""
    parts = [
        shown(kind, parse_amount(kind, budget[kind], kind)) for kind in KINDS if kind in budget
    ]
    return ", ".join(parts) + ("; what passes that asks a person" if budget.get("ask") else "")


def _rule(rule: Object) -> tuple[str, ...]:
    return words.place(rule), words.allowed(rule), words.manner(rule), rule["origin"]
