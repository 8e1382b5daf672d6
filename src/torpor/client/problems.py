"""What a server refuses, as the errors of `torpor.core.errors`; and what is no torpor's answer,
such as a proxy's before it, in words."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from torpor.client.remote import KEY, URL, Remote
from torpor.client.transport import Response
from torpor.core import errors
from torpor.core.errors import HostError, InternalError, Invalid, TorporError, Unauthorized
from torpor.core.home import Home
from torpor.core.release import HEADER, difference

# A proxy's, whose server does not answer.
_GATEWAY = frozenset({502, 503, 504})


class Unreachable(HostError):
    """No server answers."""

    code: ClassVar[str] = "unreachable"


def unreachable(remote: Remote | None, home: Home, why: str) -> Unreachable:
    if remote is not None:
        message = f"no server answers at {remote.url}: {why}"
        return Unreachable(
            message, hint=f"{URL} names it. On its host, torpor up --listen opens the port."
        )
    hint = "Start it with: torpor up"
    if sys.platform != "linux":
        hint = f"A server needs Linux. Name one elsewhere: {URL}=https://… and {KEY}=torpor_…"
    return Unreachable(f"no server answers at {home.socket('server')}: {why}", hint=hint)


def refusal(response: Response, remote: Remote | None) -> TorporError:
    """The error that a response is, whose status is none of success."""
    try:
        error = from_problem(response.json())
    except ValueError:
        error = foreign(response, remote)
    if isinstance(error, Unauthorized) and remote is not None:
        error.hint = (
            f"The server at {remote.url} does not take what {KEY} holds: torpor keys, on its host."
            if remote.key
            else f"Set {KEY} to a key of the server at {remote.url}: torpor keys, on its host."
        )
    release_hint = difference(response.headers.get(HEADER))
    error.hint = " ".join(filter(None, (error.hint, release_hint)))
    return error


def from_problem(details: Any) -> TorporError:
    """The error that the server raised. Raises ValueError if this is none."""
    if not isinstance(details, dict) or "detail" not in details or "code" not in details:
        raise ValueError("the response is not torpor's")
    cls = _BY_CODE.get(str(details["code"]), TorporError)
    return cls(str(details["detail"]), hint=str(details.get("hint") or ""))


def foreign(response: Response, remote: Remote | None) -> TorporError:
    status_line = f"{response.status} {response.reason}".strip()
    if remote is None:
        return InternalError(f"the server answered {status_line}")
    if response.status in _GATEWAY:
        return Unreachable(
            f"no server answers behind {remote.url}: {status_line}",
            hint="The proxy there says so. Is the server running on its host?",
        )
    if 300 <= response.status < 400:
        to = response.headers.get("location", "elsewhere").partition("/v1/")[0]
        return Invalid(
            f"{remote.url} redirects to {to}", hint=f"If that address is yours, set {URL}={to}"
        )
    return Invalid(
        f"{remote.url} is not a torpor server: {status_line}",
        hint=f"Is {URL} right, including the path that a proxy uses?",
    )


# A class without a code of its own is one that only the server tells from its base.
_BY_CODE: dict[str, type[TorporError]] = {
    cls.code: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, TorporError) and "code" in vars(cls)
}
