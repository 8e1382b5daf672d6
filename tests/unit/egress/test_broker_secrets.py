"""Secrets in the broker: whom they serve, and that they do not come back."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.egress.admission import Leak
from torpor.egress.secrets import Redactor, Search, Secrets, forms_of

VALUE = "sk-Ab+/3&x==\"'<9zZ~kQw"


def unseal(name: str, sealed: bytes) -> str:
    return sealed.decode()


def entry(value: str = VALUE, **more: Any) -> Mapping[str, Any]:
    return {
        "name": "KEY",
        "hosts": ["api.example.com", "*.acme.example"],
        "agents": None,
        "placement": {"header": "Authorization: Bearer {}"},
        "sealed": base64.b64encode(value.encode()).decode(),
    } | more


def redactor(value: str = VALUE) -> Redactor:
    return Redactor("KEY", Search.of(value))


# As Latin 1 has them, since the tests split bytes.
WIDE = {
    f"UTF-{bits} {order}": VALUE.encode(f"utf-{bits}-{order}").decode("latin-1")
    for bits in (16, 32)
    for order in ("le", "be")
}
SPELLINGS = {
    "raw": VALUE,
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 after one": base64.b64encode(f"a{VALUE}".encode()).decode(),
    "base64 of a header": base64.b64encode(f"Authorization: Bearer {VALUE}\r\n".encode()).decode(),
    "base64 of basic": base64.b64encode(f"ab:{VALUE}".encode()).decode(),
    "urlsafe base64": base64.urlsafe_b64encode(f"ab{VALUE}c".encode()).decode(),
    "URL-encoded": quote(VALUE, safe=""),
    "URL-encoded as a path": quote(VALUE),
    "URL-encoded as a form": quote_plus(VALUE),
    "URL-encoded whole": "".join(f"%{byte:02x}" for byte in VALUE.encode()),
    "hexadecimal": VALUE.encode().hex(),
    "hexadecimal, large": VALUE.encode().hex().upper(),
    "JSON": json.dumps({"headers": VALUE}),
    "JSON with slashes": json.dumps(VALUE).replace("/", "\\/"),
    "JSON in JSON's escapes": "".join(f"\\u{ord(c):04x}" for c in VALUE),
    "HTML": html.escape(VALUE),
    "backwards": VALUE[::-1],
    **WIDE,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_attempt_28_an_echo_is_cut_in_every_spelling_and_split_anywhere(spelling: str) -> None:
    echo = SPELLINGS[spelling].encode()
    with pytest.raises(Leak, match="KEY") as leak:
        redactor().feed(b"before " + echo + b" after")
    assert VALUE not in str(leak.value)
    for at in range(1, len(echo)):
        search, handed_on = redactor(), b""
        with pytest.raises(Leak):
            for piece in (b"x" * at, echo[:at], echo[at:], b"after"):
                handed_on += search.feed(piece)
        assert not any(form in handed_on for form in forms_of(VALUE))
    search = redactor()
    with pytest.raises(Leak):
        for byte in echo:
            search.feed(bytes([byte]))


def test_attempt_28_an_echo_in_a_header_is_cut() -> None:
    for value in (VALUE, f"https://x.example/?t={quote(VALUE, safe='')}"):
        with pytest.raises(Leak):
            redactor().head([("content-type", "text/plain"), ("location", value)])
    with pytest.raises(Leak):  # as the name of one, which is in small letters here
        redactor("ghp_AbCdEfGhIj012").head([("x-ghp_abcdefghij012", "1")])
    plain = [("content-type", "text/plain"), ("content-encoding", "identity")]
    assert redactor().head(plain) == plain


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "GZIP", "x"])
def test_attempt_29_an_answer_that_is_encoded_all_the_same_is_refused(coding: str) -> None:
    with pytest.raises(Leak, match="encoded"):
        redactor().head([("content-encoding", coding)])
    with pytest.raises(Leak, match="encoded"):
        redactor().head([("transfer-encoding", f"{coding}, chunked")])


def test_what_is_no_secret_passes_whole_and_at_once() -> None:
    search = redactor()
    event = b'data: {"delta": "some text"}\n\n'
    assert search.feed(event) == event
    assert search.feed(b"sk-A") == b""  # it may go on
    assert search.feed(b" no") == b"sk-A no"
    assert search.feed(b"sk-Ab+/3") == b"" and search.close() == b"sk-Ab+/3"


def test_a_placeholder_is_not_looked_for() -> None:
    secrets = Secrets(unseal)
    secrets.set([entry("ollama")])
    found = secrets.find("KEY")
    assert found is not None and found.search is None
    assert Redactor("KEY", found.search).feed(b"I am ollama") == b"I am ollama"


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_every_byte_that_is_no_secret_comes_out_in_order(pieces: list[bytes]) -> None:
    search = redactor()
    out = b"".join(map(search.feed, pieces)) + search.close()
    assert out == b"".join(pieces)


ALPHABET = st.characters(min_codepoint=33, max_codepoint=126)


@given(st.text(ALPHABET, min_size=12, max_size=60), st.binary(max_size=9), st.binary(max_size=9))
def test_base64_of_anything_around_a_secret_is_found(
    value: str, before: bytes, after: bytes
) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        with pytest.raises(Leak):
            redactor(value).feed(encode(before + value.encode() + after))


def test_attempt_30_a_secret_serves_its_hosts_and_agents_alone() -> None:
    secrets = Secrets(unseal)
    secrets.set([entry(agents=["writer"])])
    secret = secrets.find("KEY")
    assert secret is not None and secrets.find("OTHER") is None
    assert secret.fault("writer", "api.example.com") == ("", "")
    assert secret.fault("writer", "x.acme.example") == ("", "")
    reason, hint = secret.fault("writer", "evil.example")
    assert "not for evil.example" in reason and "--host evil.example" in hint
    reason, hint = secret.fault("reader", "api.example.com")
    assert "not for the agent reader" in reason and "--agent reader" in hint


def test_attempt_35_a_rotated_or_removed_secret_is_another_from_then_on() -> None:
    secrets = Secrets(unseal)
    secrets.set([entry()])
    before = secrets.find("KEY")
    secrets.set([entry()])
    assert secrets.find("KEY") is before  # what is as before is not opened again
    secrets.set([entry("another-value-of-it")])
    after = secrets.find("KEY")
    assert before is not None and after is not None
    assert (before.value, after.value) == (VALUE, "another-value-of-it")
    secrets.set([])
    assert secrets.find("KEY") is None


def test_attempt_32_a_secret_does_not_show_its_value() -> None:
    secrets = Secrets(unseal)
    secrets.set([entry()])
    secret = secrets.find("KEY")
    assert secret is not None and secret.value == VALUE
    assert VALUE not in repr(secret) and entry()["sealed"] not in repr(secret)
    secrets.set([entry("line\nbreak")])
    broken = secrets.find("KEY")
    assert broken is not None
    with pytest.raises(Invalid) as refusal:
        _ = broken.value
    assert "break" not in str(refusal.value).replace("line break", "")


@pytest.mark.parametrize(
    "change",
    [
        *({"name": 3}, {"hosts": []}, {"hosts": "a"}, {"hosts": ["*.com"]}, {"agents": "a"}),
        *({"placement": None}, {"sealed": None}, {"sealed": "ä"}, {"hosts": ["127.0.0.1"]}),
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_and_the_others_are_not(change: Any) -> None:
    secrets = Secrets(unseal)
    with pytest.raises(Invalid):
        secrets.set([entry(**change), entry(name="OTHER")])
    assert secrets.find("KEY") is None and secrets.find("OTHER") is not None
