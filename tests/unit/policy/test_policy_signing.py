"""Messages signed as Standard Webhooks has it, against the specification's own example."""

from __future__ import annotations

import base64

import pytest

from torpor.core.webhooks import Unsigned
from torpor.policy.signing import TOLERANCE_S, secret, sign, verify

# https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries, the test vector of all
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET)
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}


def test_what_is_signed_is_what_others_verify() -> None:
    assert sign(KEY, ID, AT + 0.9, BODY) == HEADERS
    assert secret(KEY) == f"whsec_{SECRET}"


@pytest.mark.parametrize("late_s", [0, TOLERANCE_S, -TOLERANCE_S])
def test_what_is_signed_just_now_is_taken(late_s: int) -> None:
    assert verify(KEY, HEADERS, BODY, AT + late_s) == ID
    several = {"webhook-signature": f"v1a,x v1,AAAA {SIGNATURE} v2,y"}
    assert verify(KEY, HEADERS | several, BODY, AT) == ID


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"webhook-id": ""}, "webhook-id"),
        ({"webhook-id": "x" * 300}, "webhook-id"),
        ({"webhook-id": "a b"}, "webhook-id"),
        ({"webhook-id": ID + "x"}, "is wrong"),
        ({"webhook-timestamp": ""}, "unix seconds"),
        ({"webhook-timestamp": "²"}, "unix seconds"),
        ({"webhook-timestamp": "9" * 20}, "unix seconds"),
        ({"webhook-timestamp": str(AT + 1)}, "is wrong"),
        ({"webhook-signature": ""}, "is wrong"),
        ({"webhook-signature": SIGNATURE[3:]}, "is wrong"),
        ({"webhook-signature": SIGNATURE.replace("v1,", "v2,")}, "is wrong"),
        ({"webhook-signature": "v1,é"}, "is wrong"),
        ({"webhook-signature": SIGNATURE[:-1]}, "is wrong"),
    ],
)
def test_anything_else_is_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(Unsigned, match=said):
        verify(KEY, HEADERS | changed, BODY, AT)


def test_what_is_old_or_another_body_is_refused() -> None:
    for late_s in (TOLERANCE_S + 1, -TOLERANCE_S - 1):
        with pytest.raises(Unsigned, match="more than 300 s"):
            verify(KEY, HEADERS, BODY, AT + late_s)
    with pytest.raises(Unsigned, match="is wrong"):
        verify(KEY, HEADERS, BODY + b" ", AT)
    with pytest.raises(Unsigned, match="is wrong"):
        verify(KEY[1:], HEADERS, BODY, AT)
