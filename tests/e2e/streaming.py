# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==3.57.0"]
# [tool.torpor]
# memory = "512M"
# disk = "256M"
# freeze_on_model_wait = "0.2s"
# [[tool.torpor.egress]]
# preset = "openai-compatible"
# host = "llm.central.example"
# port = 18446
# secret = "CENTRAL_KEY"
# ///
"""An agent whose client is OpenAI's, as it comes, and whose answers stream."""

import hashlib
from typing import Any

import openai

import torpor

URL = "https://llm.central.example:18446/v1"


def stream(client: openai.OpenAI, question: str) -> str:
    """The digest of the answer's bytes."""
    messages: Any = [{"role": "user", "content": question}]
    with client.chat.completions.with_streaming_response.create(
        model="m", messages=messages, stream=True
    ) as response:
        return hashlib.sha256(b"".join(response.iter_bytes())).hexdigest()


def read(client: openai.OpenAI, question: str) -> str:
    """The answer's text."""
    messages: Any = [{"role": "user", "content": question}]
    chunks: Any = client.chat.completions.create(model="m", messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@torpor.agent
def streaming(questions: list[str]) -> list[list[str]]:
    """Of each question: its answer's digest, its text, and what went wrong meanwhile."""
    client = openai.OpenAI(base_url=URL, api_key="torpor")
    found = []
    for question in questions:
        answer = [retried(stream, client, question), retried(read, client, f"{question}, in words")]
        found.append([each for pair in answer for each in pair])
    return found


def retried(ask: Any, client: openai.OpenAI, question: str) -> list[str]:
    failed: list[str] = []
    while len(failed) < 3:
        try:
            return [ask(client, question), " ".join(failed)]
        except Exception as error:  # in the middle of a stream, the transport's own
            failed.append(type(error).__name__)
    return ["", " ".join(failed)]
