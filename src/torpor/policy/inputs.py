"""Whether an input is what its agent takes: by name, and by the schema of its annotations.

An agent without a schema, of an older version or without annotations, takes what it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torpor.core import inputs
from torpor.core.errors import Invalid
from torpor.policy import answers

log = logging.getLogger(__name__)

Object = dict[str, Any]

# It is made when an agent is loaded, which takes seconds, and must not fail on a busy host.
_DEPLOYED_PROBE_S = 5.0


def check_input(agent: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises Invalid, saying what is wrong and what fits."""
    inputs.check_input(agent, given)
    schema = agent.get("schema")
    if schema is not None and (found := answers.problems(schema, dict(given), what="the input")):
        raise inputs.misfit(agent, found)


def usable(agent: Object) -> Object:
    """The agent as it described itself, its schema without what cannot be checked here: that is
    left to the agent."""
    schema = agent.get("schema")
    if schema is None or _problem(schema) is None:
        return agent
    properties = dict(schema.get("properties") or {})
    for name, each in properties.items():
        if (problem := _problem({"$defs": schema.get("$defs", {}), "allOf": [each]})) is not None:
            log.info("the parameter %s of %s is not checked: %s", name, agent["name"], problem)
            properties[name] = {}
    bare = {key: value for key, value in schema.items() if key != "$defs"}
    for tried in ({**schema, "properties": properties}, {**bare, "properties": properties}):
        if _problem(tried) is None:
            return {**agent, "schema": tried}
    return {key: value for key, value in agent.items() if key != "schema"}


def _problem(schema: Any) -> str | None:
    try:
        answers.check_schema(schema, probe_s=_DEPLOYED_PROBE_S)
    except Invalid as error:
        return error.message
    return None
