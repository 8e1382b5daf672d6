"""Permissions: what a person may allow an agent, bound to the exact action. Pure, standard library
only: guest, host and tests compute the same.

An action is data, in one of two forms:

    {"request": {scheme, host, port, method, target, headers, body | body_b64}}
    {"action": {name, arguments}}               a tool's call, or what `ask_permission` names

A person decides "once", "run" or "deny". "Once" is for the very action, by its `digest`, and for
one use. "Run" is for all that has the same `scope` in this run: of requests the same method,
scheme, host, port and path, whatever query, headers and body; of actions the same name. A fork, a
copy that was imported and every other run ask anew (`torpor.contextlog.permissions`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torpor.core.errors import Invalid
from torpor.core.limits import NAME_MAX
from torpor.core.targets import METHOD_OVERRIDES, PATH_OVERRIDES, path_of

KIND = "permission"
ONCE, RUN, DENY = "once", "run", "deny"
DECISIONS = (ONCE, RUN, DENY)
REASON_MAX = 10_000
PROMPT_CHARS = 500
CHOICES = '{"decision": "once" | "run" | "deny", "reason": "…"}; the reason may be left out'

Action = Mapping[str, Any]
_PORTS = {"https": 443, "http": 80}

# Of the connection, and no part of what is asked for.
_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer"),
        *("content-length", "host", "expect"),
    }
)
_OF_REQUEST = re.compile(r"\S+ \S+@[0-9a-f]{8}")
_UNPRINTABLE = re.compile(r"[^!-~]")


@dataclass(frozen=True)
class Decision:
    """What became of a permission. `decision` is "deny" too where nobody decided."""

    decision: str
    reason: str = ""
    by: str | None = None

    @property
    def allowed(self) -> bool:
        return self.decision in (ONCE, RUN)


def check_action(action: Any) -> Action:
    """`action`, which others wrote, if it is one. Raises Invalid."""
    match action:
        case {"request": Mapping() as request} if "action" not in action:
            fits = _fits(request)
        case {"action": {"name": str(), "arguments": _}} if "request" not in action:
            fits = True
        case _:
            fits = False
    if not fits:
        raise Invalid("what is to be permitted is neither a request nor an action")
    if "request" in action:
        body_of(action["request"])
    return dict(action)


def _fits(request: Mapping[str, Any]) -> bool:
    try:
        headers = _pairs(request.get("headers"))
    except (TypeError, ValueError):
        return False
    texts = [request.get(key) for key in ("scheme", "host", "method", "target")]
    texts += [request[key] for key in ("body", "body_b64") if key in request]
    texts += [text for pair in headers for text in pair]
    whole = all(isinstance(each, str) for each in texts)
    return whole and request["scheme"] in _PORTS and type(request.get("port")) is int


def digest(action: Action) -> str:
    """Of the exact action: 64 hexadecimal digits. The operation's own digest is the first 32.
    Raises Invalid."""
    if "request" not in check_action(action):
        called = action["action"]
        return _sha256(["action", called["name"], called["arguments"]])
    request = action["request"]
    body = hashlib.sha256(body_of(request)).hexdigest()
    return _sha256(["request", *_place(request), request["target"], _headers(request), body])


def scope(action: Action) -> str:
    """Of what "for this run" covers. Raises Invalid."""
    if "request" not in check_action(action):
        return _sha256(["actions", action["action"]["name"]])
    request = action["request"]
    # By these some servers take another method or path.
    overrides = METHOD_OVERRIDES | PATH_OVERRIDES
    given = [pair for pair in _headers(request) if pair[0] in overrides]
    return _sha256(["requests", *_place(request), path_of(request["target"]), given])


def op_name(action: Action) -> str:
    """What its operation is called: `POST api.example.com/path@1a2b3c4d`, or the action's name."""
    if "request" not in action:
        return str(action["action"]["name"])
    request, ending = action["request"], f"@{digest(action)[:8]}"
    path = _UNPRINTABLE.sub("?", f"{request['host']}{path_of(request['target'])}")
    return f"{request['method']} {path}"[: NAME_MAX - len(ending)] + ending


def is_request(name: str) -> bool:
    """Whether an operation of this name asks for a request, and not for an action. It is what tells
    the supervisor's from the agent's."""
    return _OF_REQUEST.fullmatch(name) is not None


def url(request: Mapping[str, Any]) -> str:
    """As it is called; the port only where it is not the scheme's own."""
    usual = _PORTS[request["scheme"]] == request["port"]
    host = f"[{request['host']}]" if ":" in request["host"] else request["host"]
    port = "" if usual else f":{request['port']}"
    return f"{request['scheme']}://{host}{port}{request['target']}"


def prompt(action: Action) -> str:
    """What it is about, on one line that nothing in it can break out of: `POST https://…`, or
    `refund {"order": 7}`."""
    if "request" in action:
        request = action["request"]
        return harmless(f"{request['method']} {url(request)}", PROMPT_CHARS)
    called = action["action"]
    arguments = json.dumps(called["arguments"], ensure_ascii=False)
    return harmless(f"{called['name']} {arguments}", PROMPT_CHARS)


def harmless(text: str, most: int) -> str:
    """`text` on one line, at most so long, without what steers terminals or turns text around."""
    plain = "".join(each if each.isprintable() else escaped(each) for each in text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def escaped(character: str) -> str:
    """As Python writes it in a string."""
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def header_pairs(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those that count, by name in lower case."""
    named = [(name.lower(), value) for name, value in _pairs(request["headers"])]
    return sorted(pair for pair in named if pair[0] not in _HOP)


def body_of(request: Mapping[str, Any]) -> bytes:
    """Raises Invalid."""
    if "body_b64" not in request:
        return str(request.get("body", "")).encode(errors="surrogatepass")
    try:
        return base64.b64decode(request["body_b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"the body of a request is not base64: {error}") from error


def decided(answer: Any) -> dict[str, Any]:
    """`answer` as it is kept: {decision, reason?}. Raises Invalid for all else."""
    match answer:
        case {"decision": str(decision), **rest} if decision in DECISIONS and rest.keys() <= {
            "reason"
        }:
            reason = rest.get("reason")
            if reason is None or reason == "":
                return {"decision": decision}
            if isinstance(reason, str) and len(reason) <= REASON_MAX:
                return {"decision": decision, "reason": reason}
            raise Invalid(f"the reason must be text of at most {REASON_MAX:,} characters")
    raise Invalid("this does not decide about a permission", hint=f"Give {CHOICES}.")


def settled(data: Any, approved: bool | None, note: str | None) -> dict[str, Any]:
    """What was answered as the wait keeps it: {data, approved, note}. It is `data`, or `approved`,
    for once, with the reason as its note. Raises Invalid."""
    if data is None and approved is None:
        raise Invalid(
            "this asks for permission: decide about it",
            hint="Use torpor approve, torpor approve --for-run or torpor deny.",
        )
    if data is None:
        data = {"decision": ONCE if approved else DENY}
    kept = decided(data)
    if note and kept.setdefault("reason", note) != note:
        raise Invalid("the note and the reason say different things")
    allowed = kept["decision"] != DENY
    if approved not in (None, allowed):
        raise Invalid(f"approved is {approved}, but the decision is {kept['decision']}")
    return {"data": decided(kept), "approved": allowed, "note": kept.get("reason")}


def decision_of(value: Any) -> Decision:
    """What the value of a permission's operation says, whichever way it ended. What cannot be read
    is denied."""
    if not isinstance(value, Mapping):
        return Decision(DENY, "its decision cannot be read")
    match value.get("status"):
        case "completed":
            try:
                data = decided(value.get("data"))
            except Invalid as error:
                return Decision(DENY, error.message)
            return Decision(data["decision"], data.get("reason", ""), value.get("by"))
        case "timeout":
            return Decision(DENY, "nobody decided about it in time")
        case "cancelled":
            return Decision(DENY, "the run is being cancelled")
    return Decision(DENY, "its decision cannot be read")


def denial(decision: Decision, what: str) -> str:
    """In words, for the agent: `POST https://… was denied by ana: not on a Friday`."""
    by = f" by {decision.by}" if decision.by else ""
    return f"{what} was denied{by}" + (f": {decision.reason}" if decision.reason else "")


def _place(request: Mapping[str, Any]) -> tuple[Any, ...]:
    host = request["host"].lower().rstrip(".")
    return request["method"], request["scheme"], host, request["port"]


def _headers(request: Mapping[str, Any]) -> list[list[str]]:
    return [[name, value] for name, value in header_pairs(request)]


def _pairs(headers: Any) -> list[tuple[str, str]]:
    """They are an object, or a list of pairs."""
    return [(name, value) for name, value in getattr(headers, "items", lambda: headers)()]


def _sha256(parts: list[Any]) -> str:
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"what is to be permitted is no JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()
