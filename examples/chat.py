# /// script
# requires-python = ">=3.11"
# ///
"""A conversation that may take months: each event `say` is a turn, and between turns it sleeps.

    torpor run examples/chat.py --detach
    torpor send RUN say --data '"What do sloths eat?"'
    torpor show RUN

It ends after a month without a word, or when somebody says "bye".
"""

import json
import os
import urllib.request

import torpor

BRIEF = "You are a friendly companion. Answer in one or two short sentences."


def ask_model(model: str, messages: list[dict[str, object]]) -> str:
    """One turn with the language model, over OpenAI's protocol."""
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        data=json.dumps({"model": model, "messages": messages, "max_tokens": 100}).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"]).strip()


@torpor.agent
def chat(model: str = "gpt-4o-mini", budget: int = 600, patience: str = "30d") -> str:
    """Answer each event `say`, sending `budget` tokens at most, until none comes for `patience`."""
    talk = torpor.context

    def summarise(older: list[dict[str, object]]) -> str:
        said = "\n".join(f"{message['role']}: {message['content']}" for message in older)
        wish = f"Summarise this conversation in three sentences:\n{said}"
        return ask_model(model, [{"role": "user", "content": wish}])

    talk.append("system", BRIEF, pinned=True)
    while True:
        said = torpor.event("say", timeout=patience).result()
        if said.status != "completed" or said.data == "bye":
            return f"{len(talk.messages)} messages, {talk.tokens} tokens"
        talk.append("user", str(said.data))
        answer = ask_model(model, talk.window(budget, summarise=summarise))
        talk.append("assistant", answer)
        torpor.emit({"assistant": answer})  # for who follows the run
