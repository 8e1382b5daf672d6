# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# disk = "128M"
# freeze_on_model_wait = "0.2s"
# ///
"""An agent whose client is less patient than its model is quick."""

import json
import os
import urllib.request

import torpor

TIMEOUT_S = 8.0


@torpor.agent
def patient(question: str) -> str:
    """The answer's bytes, as text."""
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "m", "messages": [{"role": "user", "content": question}]}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        body: bytes = response.read()
    return body.decode()
