"""Whether an input fits an agent, as the agent describes itself once it is loaded.

Checked on the host before there is a run, so that a slip costs nothing, and again in the guest,
where the function itself stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torpor.model import jsonvalues
from torpor.model.errors import Invalid


def check_input(agent: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """`agent`: name, params [{name, required}], open (it takes any other name too). Raises Invalid
    naming what is missing or unknown, or no value that can be taken."""
    params = agent["params"]
    names = [param["name"] for param in params]
    missing = [p["name"] for p in params if p["required"] and p["name"] not in given]
    unknown = [] if agent["open"] else [name for name in given if name not in names]
    problems = [f"missing: {', '.join(missing)}"] * bool(missing)
    problems += [f"unknown: {', '.join(unknown)}"] * bool(unknown)
    if (wrong := jsonvalues.fault(dict(given))) is not None:
        inner = jsonvalues.DEPTH_MAX - 1
        at = (name for name, value in given.items() if jsonvalues.fault(value, inner) is not None)
        problems.append(f"{next(at, 'a name')} {wrong}")
    if problems:
        takes = ", ".join(p["name"] + "?" * (not p["required"]) for p in params) or "nothing"
        raise Invalid(
            f"the input does not fit agent {agent['name']}: {'; '.join(problems)}",
            hint=f"{agent['name']} takes {takes}.",
        )
