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
SENTENCES_MAX = 2

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
        "max_tokens": 100,
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


def usable(said: str, known: str) -> str:
    """The first whole sentences of `said` that name no figure which `known` does not hold.

    Small models invent dates and amounts, and add greetings and blanks to fill in.
    """
    lines = [line for line in said.splitlines() if line.rstrip().endswith((".", "!", "?"))]
    figures = set(re.findall(r"\d+", known))
    kept = [
        sentence
        for sentence in re.split(r"(?<=[a-z]{3}[.!?])\s+", " ".join(lines))
        if len(sentence.split()) > 3
        and "[" not in sentence
        and figures.issuperset(re.findall(r"\d+", sentence))
    ]
    return " ".join(dict.fromkeys(kept[:SENTENCES_MAX]))


def write(letter: Letter, notes: str, wishes: list[str], model: str) -> str:
    """A draft: your notes as you wrote them, and the model's courtesies around them."""
    prompt = f"{letter.sender} wrote to me:\n{letter.body}\n\nMy answer: {notes or 'not yet'}\n"
    prompt += "".join(f"Mind this: {wish}\n" for wish in wishes)
    prompt += f"Write one or two warm sentences to {letter.sender} that can stand before my answer."
    said = usable(ask_model(model, prompt), f"{letter.body} {notes} {wishes}")
    if not said:
        torpor.log("the model gave no usable sentence: the draft does without")
    parts = [
        f"Dear {letter.sender or 'Sir or Madam'},",
        f"Thank you for your letter about “{letter.subject}”. {said}".strip(),
        notes or "I will answer in full soon.",
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
    wishes: list[str] = []
    drafts: list[str] = []
    journal = Path("journal.md")
    journal.write_text(f"# {mail.subject}\n\n- facts: {'; '.join(mail.facts)}\n")

    def note(line: str) -> None:
        torpor.log(line)
        with journal.open("a") as file:
            file.write(f"- {line}\n")

    for number in range(1, ROUNDS_MAX + 1):
        drafts.append(write(mail, notes, wishes, model))
        Path(f"draft-{number}.txt").write_text(drafts[-1])
        note(f"draft {number} of {len(drafts[-1])} characters; waiting for approval")

        reply = {"to": mail.address, "subject": f"Re: {mail.subject}", "draft": drafts[-1]}
        verdict = torpor.approve(f"Send this reply to “{mail.subject}”?", data=reply, timeout="7d")
        if not verdict.approved:
            why = verdict.note or ("nobody answered" if verdict.timed_out else "denied")
            note(f"not sent: {why}")
            return {"sent": False, "reason": why, "drafts": len(drafts)}
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
