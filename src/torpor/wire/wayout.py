"""What messages say of the way out: rules and trust for a machine, its certificates, exchanges that
are operations, and permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torpor.core import environment
from torpor.core.limits import NAME_MAX
from torpor.wire.checks import (
    Check,
    anything,
    flag,
    hexadecimal,
    integer,
    list_of,
    number,
    object_of,
    one_of,
    or_null,
)
from torpor.wire.checks import record as _record
from torpor.wire.checks import text as _text
from torpor.wire.streams import HOST_CHARS_MAX, TARGET_CHARS_MAX

MODEL_PORT = 8400  # in a machine, of the deployment's own model, on the loopback
BODY_MAX = 16 * 1024 * 1024
RULES_MAX = 2000  # of an agent, its presets as their rules
PEM_CHARS_MAX = 64 * 1024
LEAVES_MAX = 1000
OP_CHARS_MAX = 1024
SECONDS_MAX = 1e11

_HOST = _text(HOST_CHARS_MAX, 1)
_PORT = integer(1, 65535)
_PEM = _text(PEM_CHARS_MAX, 1)
_WORDS = _text(64 * 1024)


def _one_body(value: Mapping[str, Any]) -> str:
    return "" if ("body" in value) != ("body_b64" in value) else " needs one of body and body_b64"


_REQUEST: dict[str, Check] = {
    "method": _text(16, 1),
    "headers": object_of(_WORDS, 256),
    "body?": _text(BODY_MAX),
    "body_b64?": _text(BODY_MAX),
}
# An HTTP exchange that is an operation, as `begin` has it. Without scheme, host and port it is with
# the deployment's own model. `permission`: the operation that allowed it.
EXCHANGE = _record(
    {
        **_REQUEST,
        "path": _text(TARGET_CHARS_MAX, 1),
        "scheme?": one_of("https", "http"),
        "host?": _HOST,
        "port?": _PORT,
        "permission?": _text(OP_CHARS_MAX, 1),
    },
    _one_body,
)


def _one_action(value: Mapping[str, Any]) -> str:
    return "" if ("request" in value) != ("action" in value) else " needs one of request and action"


# The exact action that a person is to decide about: `torpor.core.permissions`. `reason`: what the
# agent says of it. `step`: a step is to name the permission as the one that it uses.
PERMISSION = _record(
    {
        "request?": _record(
            {
                **_REQUEST,
                "scheme": one_of("https", "http"),
                "host": _HOST,
                "port": _PORT,
                "target": _text(TARGET_CHARS_MAX, 1),
            },
            _one_body,
        ),
        "action?": _record({"name": _text(NAME_MAX, 1), "arguments": anything}),
        "timeout_s": or_null(number(0, SECONDS_MAX)),
        "reason?": _WORDS,
        "step?": flag,
    },
    _one_action,
)

# `core.egress.Rule.to_guest`.
_RULE = _record(
    {
        "host": _HOST,
        "port?": integer(0, 65535),
        "protocol?": one_of("", "https", "http", "tcp"),
        "methods?": list_of(_text(32, 1), 64),
        "paths?": list_of(_text(4096, 1), 1000),
        "secret?": flag,
        "ask?": flag,
        "record?": one_of("", "model", "http"),
        "origin?": _text(1024),
        "deny?": flag,
    }
)
# What the agent may reach, and what is to be there before its first import. `placeholders`:
# variables that clients of its APIs insist on. `authority`: a certificate in PEM, the only one that
# clients in the machine trust.
TRUST: dict[str, Check] = {
    "egress?": list_of(_RULE, RULES_MAX),
    "placeholders?": object_of(_text(environment.VALUE_CHARS_MAX), environment.COUNT_MAX),
    "authority?": _PEM,
}
_LEAF = _record({"names": list_of(_HOST, 1000), "chain": _PEM, "key": _PEM})
LEAVES: dict[str, Check] = {"leaves?": list_of(_LEAF, LEAVES_MAX)}
# The fields of `import` and `load` that are the supervisor's, not the agent's process'.
FIELDS = tuple(key.rstrip("?") for key in (*TRUST, *LEAVES))

# A leaf for a name that none is for. `authority`: which one the machine trusts, as the SHA-256 of
# its certificate in DER.
CERTIFICATE = _record({"name": _HOST, "authority": hexadecimal(64)})


def _one_leaf(value: Mapping[str, Any]) -> str:
    whole = "chain" in value and "key" in value
    return "" if whole != ("problem" in value) else " needs a chain and a key, or a problem"


# The answer to it. `problem`: there is none, and why.
CERTIFIED = _record({"name": _HOST, "chain?": _PEM, "key?": _PEM, "problem?": _WORDS}, _one_leaf)
