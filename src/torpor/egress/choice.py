"""Which upstream this broker has: decided once, from its environment and what is installed.

| OPENAI_API_KEY | OPENAI_BASE_URL | packages | upstream |
| --- | --- | --- | --- |
| set | any | any | the API at OPENAI_BASE_URL, else OpenAI's |
| unset | set | any | the server at OPENAI_BASE_URL, asked without a key |
| unset | unset | installed | the local model |
| unset | unset | absent | the stand-in |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torpor.egress.local import LocalModel, find_weights
from torpor.egress.standin import StandIn
from torpor.egress.upstream import OpenAIUpstream, Upstream

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def choose(environ: Mapping[str, str], run: Path) -> Upstream:
    """`run` is where the local model's socket may be. Raises Invalid for an unusable URL or key."""
    key = environ.get("OPENAI_API_KEY", "").strip()
    base_url = environ.get("OPENAI_BASE_URL", "").strip()
    if key or base_url:
        return OpenAIUpstream(base_url or DEFAULT_BASE_URL, key)
    weights = find_weights()
    return StandIn() if weights is None else LocalModel(weights, run / "model.sock")
