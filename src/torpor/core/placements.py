"""Where a secret goes in a request, and which credentials of the client's own go. Pure.

A placement is as `torpor secrets set` takes it, and as it is stored with the secret:

    {"header": "Authorization: Bearer {}"}    {} is the value
    {"query": "key"}                          a parameter of the target
    {"basic": "x-access-token"}               basic authentication as this user

For a host with a secret, all that clients authenticate themselves with is taken out: an agent that
brings a key of its own, or somebody else's, sends with ours or not at all. Bodies stay as they are.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_plus

from torpor.core.errors import Invalid

HEADER, QUERY, BASIC = "header", "query", "basic"
KINDS = (HEADER, QUERY, BASIC)
VALUE_CHARS_MAX = 16 * 1024
# Shorter "secrets" are placeholders such as EMPTY or ollama, which are words of ordinary answers.
SECRET_CHARS_MIN = 12

Headers = list[tuple[str, str]]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)
_USER = re.compile(r"[!-9;-~]{1,128}", re.ASCII)  # without a colon
# What HTTP needs for itself.
_NOT_PLACES = frozenset(
    """host content-length transfer-encoding connection upgrade te trailer expect keep-alive
    proxy-connection proxy-authorization proxy-authenticate http2-settings accept-encoding
    range""".split()  # noqa: SIM905
)
CREDENTIALS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "cookie2", "x-authorization"),
        *(
            "api-key",
            "apikey",
            "x-api-key",
            "x-apikey",
            "x-goog-api-key",
            "x-goog-iam-authorization",
        ),
        *("x-auth-token", "x-access-token", "x-auth-key", "x-api-token", "x-token", "auth-token"),
        *("private-token", "job-token", "deploy-token", "x-github-token", "x-gitlab-token"),
        *("x-amz-security-token", "x-serverless-authorization", "x-amz-access-token"),
        *("x-functions-key", "ocp-apim-subscription-key", "dd-api-key", "x-figma-token"),
        *("x-shopify-access-token", "x-vault-token", "x-session-token"),
    }
)
PARAMETERS = frozenset(
    {
        *("access_token", "api_key", "apikey", "api-key", "private_token", "job_token"),
        *("oauth_token", "auth_token", "bearer_token", "subscription-key", "x-api-key"),
    }
)


@dataclass(frozen=True)
class Placement:
    kind: str  # header | query | basic
    name: str  # of the header, in lower case, of the parameter, or of the user
    template: str = "{}"  # of the header's value

    def to_json(self) -> dict[str, str]:
        """As it is stored."""
        text = f"{self.name}: {self.template}" if self.kind == HEADER else self.name
        return {self.kind: text}

    def place(self, value: str, headers: Headers, target: str) -> tuple[Headers, str]:
        """Headers and target with the secret in them, and none of the client's credentials."""
        headers, target = strip(headers, target, self)
        if self.kind == QUERY:
            mark = "" if target.endswith("?") else "&" if "?" in target else "?"
            return headers, f"{target}{mark}{self.name}={quote(value, safe='')}"
        if self.kind == BASIC:
            pair = base64.b64encode(f"{self.name}:{value}".encode()).decode()
            return [*headers, ("authorization", f"Basic {pair}")], target
        return [*headers, (self.name, self.template.replace("{}", value))], target


def strip(
    headers: Iterable[tuple[str, str]], target: str, placement: Placement | None = None
) -> tuple[Headers, str]:
    """Without what a client authenticates itself with: anywhere that is usual, and in `placement`,
    where that is known."""
    names, parameters = CREDENTIALS, PARAMETERS
    if placement is None:
        pass
    elif placement.kind == HEADER:
        names = names | {placement.name}
        # What Google takes as a header it also takes as a parameter.
        parameters = parameters | ({"key"} if placement.name == "x-goog-api-key" else set())
    elif placement.kind == QUERY:
        parameters = parameters | {placement.name.lower()}
    kept = [(name, value) for name, value in headers if name.lower() not in names]
    path, mark, query = target.partition("?")
    if not mark:
        return kept, target
    given = re.split("[&;]", query)
    pairs = [pair for pair in given if _parameter(pair) not in parameters]
    if len(pairs) == len(given):
        return kept, target
    return kept, f"{path}?{'&'.join(pairs)}" if pairs else path


def _parameter(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0]).strip().lower()


def parse_placement(given: Any, what: str) -> Placement:
    """Raises Invalid, whose message begins with `what`."""
    if not isinstance(given, Mapping) or len(given) != 1 or not given.keys() <= set(KINDS):
        raise Invalid(f"{what}: a secret is placed by one of {', '.join(KINDS)}")
    ((kind, text),) = given.items()
    if not isinstance(text, str):
        raise Invalid(f"{what}: {kind} must be a text")
    return _PARSERS[kind](text, what)


def _header(text: str, what: str) -> Placement:
    name, colon, template = text.partition(":")
    name, template = name.strip().lower(), template.strip() if colon else "{}"
    if not _HEADER_NAME.fullmatch(name) or name in _NOT_PLACES:
        raise Invalid(f"{what}: {name[:40]!a} is not a header that a secret can be in")
    if template.count("{}") != 1 or not all(" " <= c <= "~" for c in template):
        raise Invalid(
            f"{what}: {text[:80]!a} does not say where the secret stands",
            hint="Write {} once in its place: 'Authorization: Bearer {}'",
        )
    return Placement(HEADER, name, template)


def _query(text: str, what: str) -> Placement:
    if not _PARAMETER.fullmatch(text):
        raise Invalid(f"{what}: {text[:40]!a} is not the name of a parameter")
    return Placement(QUERY, text)


def _basic(text: str, what: str) -> Placement:
    if not _USER.fullmatch(text):
        raise Invalid(f"{what}: {text[:40]!a} is not a user for basic authentication")
    return Placement(BASIC, text)


_PARSERS = {HEADER: _header, QUERY: _query, BASIC: _basic}


def check_value(value: Any, what: str) -> str:
    """A secret's value, as it may stand in a header. Raises Invalid, which does not show it."""
    good = isinstance(value, str) and 0 < len(value) <= VALUE_CHARS_MAX
    if not good or not all("!" <= c <= "~" or c == " " for c in value) or value != value.strip():
        raise Invalid(
            f"{what} holds characters that cannot stand in a header, or is empty or too long",
            hint="Set it again. Perhaps a line break or a quotation mark was copied with it.",
        )
    return str(value)
