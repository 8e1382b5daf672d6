"""What a model's call takes at most, from its request. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.core.prices import UNKNOWN, Prices

OUTPUT_TOKENS = 16_384  # of an answer whose request bounds it nowhere
IMAGE_TOKENS = 20_000  # more than any model takes for an image

_IMAGE = re.compile(rb"data:image/[a-z0-9.+-]{1,20};base64,[A-Za-z0-9+/=]+")
_IN_PATH = re.compile(r"/(?:models|deployments)/([^/:?]+)")
# Where a request has its settings, and what these are called there.
_TABLES = ("generationConfig", "generation_config", "options")
_OUTPUT = (
    *("max_completion_tokens", "max_output_tokens", "max_tokens", "num_predict"),
    "maxOutputTokens",
)
_CHOICES = ("n", "candidateCount", "candidate_count")


@dataclass(frozen=True)
class Most:
    model: str  # "" if the request names none
    tokens: int
    cost: float


def most_of(body: bytes, target: str, prices: Prices, unknown: float = UNKNOWN) -> Most:
    """`unknown` dollars where the model's price is not known."""
    named, output = read_request(body, target)
    # The smallest tokens are bytes; pictures in it are not read as text.
    without, images = _IMAGE.subn(b"", body)
    input = len(without) + images * IMAGE_TOKENS
    cost = prices.cost(named or None, input, None, output)
    return Most(named, input + output, unknown if cost is None else cost)


def read_request(body: bytes, target: str) -> tuple[str, int]:
    """The model that a call names, and how many tokens its answer may have: of all its choices."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    fields = document if isinstance(document, dict) else {}
    model = fields.get("model")
    if not isinstance(model, str):
        match = _IN_PATH.search(target)
        model = match[1] if match else ""
    return model[:500], _most(fields, _OUTPUT, OUTPUT_TOKENS) * _most(fields, _CHOICES, 1)


def _most(fields: Mapping[str, Any], keys: Iterable[str], default: int) -> int:
    """The greatest count that is called so, wherever the request has it."""
    tables = [fields, *(fields.get(name) for name in _TABLES)]
    given = [table.get(key) for table in tables if isinstance(table, dict) for key in keys]
    counts = (value for value in given if type(value) is int and 0 < value < 2**40)
    return max(counts, default=default)
