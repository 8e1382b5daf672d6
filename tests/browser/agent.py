# /// script
# requires-python = ">=3.11"
# ///
"""Says whatever could harm a page that shows it, and asks."""

import json
import os
import urllib.request

import torpor

EVIL = "</pre></details><script>alert('agent')</script><img src=x onerror=alert('image')>"


@torpor.step
def search(topic: str) -> list[str]:
    print(f"looking for {topic} {EVIL}", flush=True)
    return [EVIL, "two"]


def ask_model(topic: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": f"About {topic}? {EVIL}"}]}
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


@torpor.agent
def research(topic: str = "owls") -> str:
    """Look a topic up and ask."""
    torpor.log("begun", topic=topic, evil=EVIL)
    notes = search(topic)
    said = ask_model(topic)
    torpor.emit({"progress": 0.5, "evil": EVIL})
    verdict = torpor.approve("Send the report?", data={"said": said, "notes": notes})
    return f"sent: {said}" if verdict.approved else f"not sent: {verdict.note}"
