#!/usr/bin/env python3
"""Fuzz what reads bytes of a guest's, by coverage, for as long as you like:

    .venv/bin/uv run --with atheris scripts/fuzz.py                     # lists the targets
    .venv/bin/uv run --with atheris scripts/fuzz.py http -max_total_time=300

What stands after the target goes to libFuzzer (https://llvm.org/docs/LibFuzzer.html): a directory
keeps what it finds worth keeping, -seed=N repeats a session. A target raises nothing but what its
parser says that it raises; whatever else comes of any bytes is a finding, and stops it. The same
parsers have tests with hypothesis, which `make test` runs; this looks longer.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import atheris

# What is imported here is what is watched.
with atheris.instrument_imports(include=["torpor"]):
    from torpor.core import hostnames, targets
    from torpor.core.charges import read_request
    from torpor.core.egress import Request, judge, parse_egress, parse_request
    from torpor.core.errors import Invalid
    from torpor.core.permissions import digest
    from torpor.core.placements import Placement
    from torpor.core.replies import TextDeltas, read_reply
    from torpor.egress import protocol
    from torpor.egress.admission import Leak
    from torpor.egress.secrets import Redactor, Search, forms_of
    from torpor.guest import dns, http1
    from torpor.policy.permissions import shown
    from torpor.wire import messages, streams
    from torpor.wire.link import Link, LinkError

SECRET = "sk-Ab+/3&x==9zZ~kQw"
RULES = parse_egress(
    [
        {"host": "api.example.com", "paths": ["/v1/*/x", "/v2/**"], "methods": ["GET", "POST"]},
        {"host": "api.example.com", "paths": ["/v2/admin/**"], "deny": True},
        {"host": "**.example.org", "ask": True},
    ],
    "rules",
)


def link(data: bytes) -> None:
    """The byte stream between host and machine."""
    end = Link(max_frame=64)
    end.sync()
    end.data_to_send()
    with contextlib.suppress(LinkError):
        for at in range(0, len(data), 7):
            end.receive(data[at : at + 7])
            end.data_to_send()


def message(data: bytes) -> None:
    """Messages of a machine, of an agent, and of a host."""
    for side in (messages.FROM_GUEST, messages.FROM_AGENT, messages.FROM_HOST):
        with contextlib.suppress(Invalid):
            taken = messages.decode(data, side)
            again = messages.encode(taken.pop("t"), **taken)
            assert messages.decode(again, side).items() >= taken.items()


def frame(data: bytes) -> None:
    """Frames of streams, and those of worker and broker."""
    sides = ((streams.FROM_GUEST, streams.decode), (streams.TO_GUEST, streams.decode))
    also = ((protocol.TO_BROKER, protocol.decode), (protocol.TO_WORKER, protocol.decode))
    for allowed, decode in (*sides, *also):
        with contextlib.suppress(Invalid):
            taken = decode(data, allowed)
            assert taken.kind in allowed
    with contextlib.suppress(Invalid):
        streams.of_line(data)
    reader = protocol.Reader()
    with contextlib.suppress(Invalid):
        for at in range(0, len(data), 5):
            reader.feed(data[at : at + 5])


def http(data: bytes) -> None:
    """Requests, as the gateway reads them. However they are cut, they are the same."""

    def read(size: int) -> list[Any]:
        parser, found, body = http1.Parser(), list[Any](), b""
        try:
            for at in range(0, len(data), size):
                parser.feed(data[at : at + size])
                while (event := parser.next()) is not None:
                    if isinstance(event, bytes):
                        body += event
                    else:
                        found += [body, event]
                        body = b""
        except http1.BadRequest as error:
            assert 400 <= error.status < 600
            found.append("refused")
        return found

    whole = read(len(data) or 1)
    # What came before what is refused may be less where it came at once.
    if "refused" not in whole:
        assert read(3) == whole


def name(data: bytes) -> None:
    """Queries of the stub DNS."""
    found: list[str] = []

    def lookup(asked: str) -> str | None:
        found.append(asked)
        return "198.18.0.1" if asked == "api.example.com" else None

    dns.answer(data, lookup, found.append)
    assert all("\0" not in each and each == each.lower() for each in found)


def host(data: bytes) -> None:
    """Hosts, targets and methods: what is judged, and that it is what is sent."""
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    with contextlib.suppress(Invalid):
        spelled = hostnames.normalize_host(first, "a host")
        assert hostnames.normalize_host(spelled, "a host") == spelled
    with contextlib.suppress(Invalid):
        parse_request(*((first, second) if first else ("GET", second)))
    targets.target_fault(second)
    request = Request("https", "api.example.com", 443, "GET", second)
    verdict = judge(RULES, request)
    if verdict.decision == "allow":
        path = f"{targets.plain_path(second)}/"  # /v2/** is /v2, too
        assert path.startswith(("/v1/", "/v2/")) and ".." not in path.split("/"), second
        assert not path.startswith("/v2/admin/"), second


def credentials(data: bytes) -> None:
    """What a client sends beside the secret, and where that goes."""
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    headers = [("authorization", first), ("x-other", second)]
    for kind, where in (("header", "authorization"), ("query", "key"), ("basic", "me")):
        placed, target = Placement(kind, where).place(SECRET, headers, f"/x?{second}")
        assert ("authorization", first) not in placed or first == SECRET
        assert target.startswith("/x")


def answer(data: bytes) -> None:
    """Answers: what is read of them, and whether the secret is in one."""
    value = {"status": 200, "headers": {}, "body": data.decode(errors="replace")}
    read_reply(value)
    deltas = TextDeltas()
    for at in range(0, len(data), 11):
        deltas.feed(data[at : at + 11])
    deltas.end()
    read_request(data, "/v1/models/x:generateContent")
    search, out = Redactor("KEY", Search.of(SECRET)), b""
    with contextlib.suppress(Leak):
        for at in range(0, len(data), 4):
            out += search.feed(data[at : at + 4])
        out += search.close()
        assert out == data
    assert not any(form in out for form in forms_of(SECRET))


def permission(data: bytes) -> None:
    """What a person is shown of a request."""
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    request = {
        "scheme": "https",
        "host": "api.example.com",
        "port": 443,
        "method": "POST",
        "target": f"/{first}",
        "headers": [["content-type", first]],
        "body": second,
    }
    json.dumps(shown({"request": request}))
    assert digest({"request": request}) != digest({"request": request | {"body": f"{second}x"}})


TARGETS: tuple[Callable[[bytes], None], ...] = (
    *(link, message, frame, http, name, host, credentials, answer, permission),
)


def main() -> None:
    chosen = {each.__name__: each for each in TARGETS}
    if len(sys.argv) < 2 or sys.argv[1] not in chosen:
        out = io.StringIO()
        for word, each in chosen.items():
            out.write(f"{word:12} {(each.__doc__ or '').splitlines()[0]}\n")
        sys.exit(out.getvalue())
    target = chosen[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
