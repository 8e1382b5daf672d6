"""Keys of known kinds are told by their form, and hardly anything else is taken for one."""

from __future__ import annotations

import random
import string

import pytest

from torpor.core.keyformats import key_in

_CHANCE = random.Random(7)


def chance(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """What has a digit, as nearly all keys do."""
    return "".join(_CHANCE.choices(alphabet, k=length - 1)) + "7"


HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
KEYS = {
    "OpenAI": [
        *("sk-" + chance(48), "sk-proj-" + chance(74) + "T3BlbkFJ" + chance(74)),
        *("sk-svcacct-" + chance(60), "sk-admin-" + chance(40), "sk-" + chance(16)),
        "sk-abcdefghijklmnopqrstuvwxyz",
    ],
    "Anthropic": ["sk-ant-api03-" + chance(93) + "AA", "sk-ant-" + chance(24)],
    "OpenRouter": ["sk-or-v1-" + chance(64, HEX)],
    "Groq": ["gsk_" + chance(52)],
    "GitHub": [f"{p}_{chance(36)}" for p in ("ghp", "gho", "ghu", "ghs", "ghr")]
    + ["github_pat_" + chance(22) + "_" + chance(59)],
    "GitLab": ["glpat-" + chance(20), "gldt-" + chance(20)],
    "Slack": [
        *("xoxb-1234567890123-1234567890123-" + chance(24), "xoxp-" + chance(40)),
        "xapp-1-A0123-" + chance(30),
    ],
    "AWS": ["AKIA" + chance(16, UPPER), "ASIA" + chance(16, UPPER)],
    "Google": ["AIza" + chance(35), "GOCSPX-" + chance(28)],
    "Hugging Face": ["hf_" + chance(34)],
    "SendGrid": ["SG." + chance(22) + "." + chance(43)],
    "Stripe": ["sk_live_" + chance(24), "rk_live_" + chance(24)],
    "npm": ["npm_" + chance(36)],
    "PyPI": ["pypi-AgEIcHlwaS5vcmcC" + chance(120), "pypi-" + chance(60)],
    "Vault": ["hvs." + chance(24)],
    "of torpor": ["torpor_0abc12_" + chance(43)],
    "private key": [
        f"-----BEGIN {kind}PRIVATE KEY-----\nMIIE\n-----END {kind}PRIVATE KEY-----"
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    ],
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_are_told_wherever_they_stand(kind: str) -> None:
    for key in KEYS[kind]:
        for text in (key, f"Bearer {key}", f'{{"key": "{key}"}}', f"https://u:{key}@a.example/"):
            assert kind in key_in(text), text


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "debug", "production", "true", "8080", "https://api.example.com/v1?x=1&y=2"),
        *("postgresql://app:password@db.example.com:5432/app", "/usr/local/bin:/usr/bin"),
        *("sk", "sk-", "sk-test", "sk-learn", "sk-SK", "sk-learn-pipeline-of-2024-with-long-name"),
        *("task-1234567890abcdef", "risk-20240101123456789", "disk-0123456789abcdef0"),
        *("sk_test", "sk_live_", "ghp_short", "ghp_", "hf_transfer"),
        *("hf_hub_enable_hf_transfer_and_more", "AKIA", "AKIAFAKE", "akia" + "a" * 16),
        *(
            "AKIAIOSFODNN7EXAMPLEANDMORE",
            "SG.1",
            "SG.eu-central.prod",
            "xoxb",
            "xoxb-",
            "pypi-mirror",
        ),
        *(
            "pypi-mirror",
            "pypi-proxy.internal.example.com",
            "npm_config_registry",
            "npm_package_json",
        ),
        "glpat-",
        *("-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----", "AIza", "hvs.", "gsk_"),
        *("-----BEGIN PUBLIC KEY-----\nMIIC\n-----END PUBLIC KEY-----", "whsec_", "r8_", "torpor"),
        *("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "TORPOR_HOME"),
        *("550e8400-e29b-41d4-a716-446655440000", "2026-11-28T07:22:14Z", "gpt-5-mini-2026-01-01"),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
        "sha512-" + "ab12" * 22,
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0",
    ],
)
def test_what_is_no_key_is_not_taken_for_one(text: str) -> None:
    assert key_in(text) == ""


def test_chance_alone_makes_no_key() -> None:
    alphabet = string.ascii_letters + string.digits + "-_.:/+= "
    texts = ("".join(_CHANCE.choices(alphabet, k=60)) for _ in range(5000))
    assert [text for text in texts if key_in(text)] == []


def test_a_long_text_is_searched_in_one_go() -> None:
    for text in ("sk-" * 10_000, "a" * 32_000, "SG." * 10_000, "-----BEGIN " * 3000):
        key_in(text)
