"""Keys of known kinds, told by their form. Pure.

Only forms that nothing else has: a prefix of an issuer's own, and as much by chance after it. So a
value that is refused for its form is a key, and many keys have no form at all.
"""

from __future__ import annotations

import re
from functools import cache

# What is by chance after the prefix: letters and digits, without a pause.
_FORMS = {
    "an OpenAI key": r"sk-(proj|svcacct|admin)-[\w-]{16,}"
    r"|sk-[A-Za-z0-9]{20,}|sk-(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{16,}",
    "an Anthropic key": r"sk-ant-[\w-]{16,}",
    "an OpenRouter key": r"sk-or-[\w-]{16,}",
    "a Groq key": r"gsk_[A-Za-z0-9]{20,}",
    "an xAI key": r"xai-[A-Za-z0-9]{20,}",
    "a Perplexity key": r"pplx-[A-Za-z0-9]{20,}",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "a GitLab token": r"gl(pat|dt|rt|ptt|soat|cbt|imt|oas)-[\w-]{16,}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}",
    "an AWS access key": r"(AKIA|ASIA)[A-Z0-9]{16}",
    "a Google API key": r"AIza[\w-]{30,}",
    "a Google secret": r"GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}",
    "a Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
    "a SendGrid key": r"SG\.[\w-]{16,}\.[\w-]{16,}",
    "a Stripe key": r"[rs]k_live_[A-Za-z0-9]{10,}",
    "a webhook's secret": r"whsec_[A-Za-z0-9+/=]{20,}",
    "an npm token": r"npm_[A-Za-z0-9]{30,}",
    "a PyPI token": r"pypi-Ag[\w-]{14,}|pypi-[\w-]{50,}",
    "a Replicate token": r"r8_[A-Za-z0-9]{30,}",
    "a DigitalOcean token": r"do[opr]_v1_[a-f0-9]{64}",
    "a Shopify token": r"shp(at|ca|pa|ss)_[a-fA-F0-9]{32}",
    "a Vault token": r"hv[sbr]\.[\w-]{20,}",
    "a key of torpor": r"torpor_[a-z0-9]+_[\w-]{40,}",
    "a private key": r"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----|AGE-SECRET-KEY-1[A-Z0-9]+",
}


@cache
def _pattern() -> re.Pattern[str]:
    forms = "|".join(f"(?P<f{n}>{form})" for n, form in enumerate(_FORMS.values()))
    return re.compile(rf"(?<![A-Za-z0-9_-])(?:{forms})(?![A-Za-z0-9])", re.ASCII)


def key_in(text: str) -> str:
    """What a key that stands in `text` is, in words; "" if there is none of a known form."""
    found = _pattern().search(text)
    return "" if found is None else list(_FORMS)[int(str(found.lastgroup)[1:])]
