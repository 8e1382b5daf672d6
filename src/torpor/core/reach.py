"""What one version of an agent may do on the network beyond another: what people are shown before
they deploy it. Pure.

A rule is compared by its parts, one for each method and path, so that a version that names one path
more shows that path alone. What cannot be compared counts as more: it is shown once too often
rather than not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from torpor.core.egress import UNLIMITED, Budget, Rule
from torpor.core.hostnames import EVERY, matches
from torpor.core.targets import path_matches

_ALL = ("",)


@dataclass(frozen=True)
class Raised:
    """A limit of the budget, by its name there; None is none. Of `ask`, whether it is."""

    limit: str
    before: float | None
    now: float | None


@dataclass(frozen=True)
class Beyond:
    """`rules` as far as they allow what was not allowed before; `dropped` those of before that
    denied, or asked a person, and do not any more; `raised` limits."""

    rules: tuple[Rule, ...] = ()
    dropped: tuple[Rule, ...] = ()
    raised: tuple[Raised, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rules or self.dropped or self.raised)


def beyond(
    rules: Sequence[Rule],
    before: Sequence[Rule],
    budget: Budget = UNLIMITED,
    budget_before: Budget = UNLIMITED,
) -> Beyond:
    allowed = [part for rule in before if not rule.deny for part in _parts(rule)]
    return Beyond(
        rules=tuple(new for rule in rules if not rule.deny for new in _beyond(rule, allowed)),
        dropped=tuple(rule for rule in before if _is_dropped(rule, rules)),
        raised=tuple(_raised(budget, budget_before)),
    )


def _is_dropped(rule: Rule, rules: Sequence[Rule]) -> bool:
    """Whether `rule` denied or asked, and something that `rules` allow does not any more."""
    if not (rule.deny or rule.ask) or not any(_meet(rule, each) for each in rules if not each.deny):
        return False
    strict = (each for each in rules if each.deny or (each.ask and not rule.deny))
    kept = [part for each in strict for part in _parts(each)]
    return not all(any(_covers(known, part) for known in kept) for part in _parts(rule))


def _beyond(rule: Rule, known: Sequence[Rule]) -> Iterator[Rule]:
    """What `rule` allows and no part of `known` does: the rule itself, or less of it."""
    parts = list(_parts(rule))
    new = [part for part in parts if not any(_allows(each, part) for each in known)]
    if len(new) == len(parts):
        yield rule
        return
    by_methods: dict[tuple[str, ...], list[str]] = {}
    for path in rule.paths or _ALL:
        if left := [part.methods for part in new if (part.paths or _ALL) == (path,)]:
            by_methods.setdefault(tuple(each for of in left for each in of), []).append(path)
    for methods, paths in by_methods.items():
        yield replace(rule, methods=methods, paths=tuple(path for path in paths if path))


def _parts(rule: Rule) -> Iterator[Rule]:
    for method in rule.methods or _ALL:
        for path in rule.paths or _ALL:
            yield replace(rule, methods=(method,) if method else (), paths=(path,) if path else ())


def _allows(known: Rule, part: Rule) -> bool:
    """Whether `known` gives at least what `part` asks for: as much, and with the same secret. What
    does not ask any more is stated apart, as `dropped`."""
    return part.secret in ("", known.secret) and _covers(known, part)


def _covers(known: Rule, part: Rule) -> bool:
    return (
        known.protocol in ("", part.protocol)
        and known.port in (0, part.port)
        and _host_covers(known.host, part.host)
        and (not known.methods or known.methods == part.methods)
        and _path_covers(known.paths, part.paths)
    )


def _host_covers(known: str, host: str) -> bool:
    if known in (host, EVERY):
        return True
    star, _, base = host.partition(".")
    if star not in ("*", "**"):
        return matches(known, host)
    return known.startswith("**.") and matches(known, base)


def _path_covers(known: tuple[str, ...], paths: tuple[str, ...]) -> bool:
    if not known or known in (paths, ("/**",)):
        return True
    return bool(paths) and "*" not in paths[0] and path_matches(known[0], paths[0])


def _meet(one: Rule, other: Rule) -> bool:
    """Whether both may be of the same request, as far as hosts and methods tell."""
    return (
        (not one.protocol or one.protocol == other.protocol)
        and (not one.port or one.port == other.port)
        and (not one.methods or not other.methods or not set(one.methods).isdisjoint(other.methods))
        and (_host_covers(one.host, other.host) or _host_covers(other.host, one.host))
    )


def _raised(budget: Budget, before: Budget) -> Iterator[Raised]:
    for each in fields(Budget):
        was, now = getattr(before, each.name), getattr(budget, each.name)
        if each.name == "ask":  # what passes it was denied, and asks now
            raised = now and not was and before != UNLIMITED
        else:
            raised = was is not None and (now is None or now > was)
        if raised:
            yield Raised(each.name, was, now)
