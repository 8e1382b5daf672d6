# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==3.57.0"]
# ///
"""OpenAI's SDK: one chat completion."""

import timing
from openai import OpenAI


@timing.measured
def call(prompt: str) -> object:
    messages = [{"role": "user", "content": prompt}]
    completion = OpenAI().chat.completions.create(model=timing.MODEL, messages=messages)
    return completion.choices[0].message.content
