# /// script
# requires-python = ">=3.11"
# ///
"""Answers a letter for you: notes its facts, drafts a reply, asks you, and sends what you approve.

What it knows is kept in ordinary variables and files; both are still there when you answer, a
minute or a week later. An approval with a note asks for another draft; one with the data
`{"draft": "…"}` sends your words instead; a denial sends nothing.
"""

import hashlib
import json
import os
import re
import urllib.request
from dataclasses import dataclass
from email import message_from_string, policy
from email.utils import parseaddr
from pathlib import Path

import torpor

ROUNDS_MAX = 3
SENTENCES_MAX = 4

FACTS = re.compile(
    r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day )?\d{1,2} (?:January|February|March|April|May"
    r"|June|July|August|September|October|November|December)(?: \d{4})?"  # dates
    r"|[£$€]\d+(?:[.,]\d+)*|\b\d{1,2}:\d{2}\b|\b[A-Z]{2,}-\d+\b"  # amounts, times, references
)


@dataclass(frozen=True)
class Letter:
    sender: str
    address: str
    recipient: str
    subject: str
    body: str
    facts: list[str]


def read(text: str) -> Letter:
    mail = message_from_string(text.strip(), policy=policy.default)
    sender, address = parseaddr(mail.get("From", ""))
    recipient, _ = parseaddr(mail.get("To", ""))
    body = " ".join(str(mail.get_payload()).split())
    facts = list(dict.fromkeys(FACTS.findall(body)))
    return Letter(sender, address, recipient, mail.get("Subject", "your letter"), body, facts)


def ask_model(model: str, prompt: str) -> str:
    """One turn with the language model, over OpenAI's protocol."""
    asked = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You write short, polite replies to letters."},
            {"role": "user", "content": prompt},
        ],
        "max_tokens": 160,
        "temperature": 0.2,
    }
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        data=json.dumps(asked).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def sentences(text: str) -> str:
    """The first few whole sentences: small models add greetings, blanks to fill in, loose ends."""
    text = re.sub(
        r"(?mi)^(subject:|dear |hi |(kind|best|warm) regards|sincerely|yours ).*$", "", text
    )
    found = re.findall(r"[^.!?]+[.!?]+(?=\s|$)", " ".join(text.split()))
    kept = [sentence.strip() for sentence in found if "[" not in sentence]
    return " ".join(kept[:SENTENCES_MAX])


def write(letter: Letter, wishes: list[str], model: str) -> str:
    """A draft: the model's sentences between parts that need no model."""
    prompt = f"Letter from {letter.sender}:\n{letter.body}\n\n"
    prompt += "".join(f"What I want to say: {wish}\n" for wish in wishes)
    prompt += f"Write my reply to {letter.sender} in three sentences."
    said = sentences(ask_model(model, prompt))
    if not said:
        torpor.log("the model gave no usable sentence: a stock one stands in its place")
    parts = [
        f"Dear {letter.sender or 'Sir or Madam'},",
        f"Thank you for your letter about “{letter.subject}”.",
        said or "I will come back to you about it.",
        f"I have noted: {'; '.join(letter.facts)}." if letter.facts else "",
        f"Kind regards,\n{letter.recipient}",
    ]
    return "\n\n".join(part for part in parts if part)


@torpor.step
def send(to: str, subject: str, draft: str) -> dict[str, str]:
    """Put the reply into the outbox. Named by its content, so that sending it again is harmless."""
    text = f"To: {to}\nSubject: {subject}\n\n{draft}\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = Path("outbox", f"{digest}.txt")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return {"receipt": digest, "file": str(path)}


@torpor.agent
def inbox(
    letter: str, notes: str = "", cooling_off: str = "5s", model: str = "gpt-4o-mini"
) -> dict[str, object]:
    """Draft a reply to `letter`, ask, and send it after `cooling_off`."""
    mail = read(letter)
    wishes = [notes] if notes else []
    drafts: list[str] = []
    journal = Path("journal.md")
    journal.write_text(f"# {mail.subject}\n\n- facts: {'; '.join(mail.facts)}\n")

    def note(line: str) -> None:
        torpor.log(line)
        with journal.open("a") as file:
            file.write(f"- {line}\n")

    for number in range(1, ROUNDS_MAX + 1):
        drafts.append(write(mail, wishes, model))
        Path(f"draft-{number}.txt").write_text(drafts[-1])
        note(f"draft {number} of {len(drafts[-1])} characters; waiting for approval")

        reply = {"to": mail.address, "subject": f"Re: {mail.subject}", "draft": drafts[-1]}
        verdict = torpor.approve(f"Send this reply to {mail.sender}?", data=reply, timeout="7d")
        if not verdict.approved:
            note(f"not sent: {verdict.note or verdict.status}")
            return {"sent": False, "reason": verdict.note or verdict.status, "drafts": len(drafts)}
        edited = verdict.data.get("draft") if isinstance(verdict.data, dict) else None
        if edited:
            reply["draft"] = str(edited)
        elif verdict.note:
            note(f"draft {number} is to be changed: {verdict.note}")
            wishes.append(verdict.note)
            continue

        note(f"approved; sending in {cooling_off}")
        torpor.sleep(cooling_off)
        receipt = send(**reply)
        note(f"sent: {receipt['file']}")
        return {"sent": True, **receipt, "drafts": len(drafts), "edited": bool(edited)}

    note(f"not sent: still to be changed after {ROUNDS_MAX} drafts")
    return {"sent": False, "reason": f"{ROUNDS_MAX} drafts were not enough", "drafts": len(drafts)}
