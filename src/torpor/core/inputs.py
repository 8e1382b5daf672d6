"""Whether an input fits an agent, as the agent describes itself once it is loaded.

Checked on the host before there is a run, so that a slip costs nothing, and again in the guest,
where the function itself stands. Names and what no value may be are checked here; types by the
agent's schema (`torpor.policy.inputs`), and in the guest by the types themselves
(`torpor.sdk.parameters`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torpor.core import jsonvalues, schemas
from torpor.core.errors import Invalid, Part

Check = Callable[[Mapping[str, Any], Mapping[str, Any]], None]  # as `check_input`


def check_input(agent: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """`agent`: name, params [{name, required}], open (it takes any other name too). Raises Invalid
    naming what is missing or unknown, or no value that can be taken."""
    params = agent["params"]
    names = [param["name"] for param in params]
    missing = [p["name"] for p in params if p["required"] and p["name"] not in given]
    unknown = [] if agent["open"] else [name for name in given if name not in names]
    problems = [f"missing: {', '.join(missing)}"] * bool(missing)
    problems += [f"unknown: {', '.join(unknown)}"] * bool(unknown)
    parts = [Part((name,), "is required") for name in missing]
    parts += [Part((name,), "is unknown") for name in unknown]
    if (wrong := jsonvalues.fault(dict(given))) is not None:
        inner = jsonvalues.DEPTH_MAX - 1
        at = (name for name, value in given.items() if jsonvalues.fault(value, inner) is not None)
        problems.append(f"{next(at, 'a name')} {wrong}")
    if problems:
        raise _unfit(agent, "; ".join(problems), parts)


def misfit(agent: Mapping[str, Any], parts: Sequence[Part]) -> Invalid:
    """That these parts of an input are not of their types."""
    return _unfit(agent, "; ".join(map(str, parts)), parts)


def _unfit(agent: Mapping[str, Any], problems: str, parts: Sequence[Part]) -> Invalid:
    return Invalid(
        f"the input does not fit agent {agent['name']}: {problems}",
        hint=f"{agent['name']} takes {takes(agent)}.",
        parts=parts,
    )


def takes(agent: Mapping[str, Any]) -> str:
    """What the agent takes, in words: `n (an integer), note? (text)`."""
    described = []
    for param in agent["params"]:
        words = schemas.words(schema_of(agent, param["name"]), agent.get("schema"))
        optional = "" if param["required"] else "?"
        described.append(param["name"] + optional + (f" ({words})" if words else ""))
    return ", ".join(described) or "nothing"


def schema_of(agent: Mapping[str, Any], name: str) -> Any:
    """Of one parameter; None: anything."""
    schema = agent.get("schema") or {}
    rest = schema.get("additionalProperties")
    return schema.get("properties", {}).get(name, rest if isinstance(rest, dict) else None)
