# /// script
# requires-python = ">=3.11"
# ///
"""What `torpor bench sleep` puts to sleep: examples/inbox.py without its model and its cooling-off.

It holds a letter and all drafts of an answer in memory and in files, and asks for approval of each
draft. An approval asks for the next draft; a denial ends it.
"""

import hashlib
import re
from dataclasses import dataclass
from email import message_from_string, policy
from email.utils import parseaddr
from pathlib import Path

import torpor

LETTER = """
From: Mina Okafor <mina@example.org>
To: Jonas Weber <jonas@example.org>
Subject: Rooms for the spring meeting

Dear Jonas, could we have the large room on Thursday 12 March 2026 from 09:30, for 40 people?
The quote INV-2041 of €1,250 was without lunch. Please tell me by 20 February. Best, Mina
"""

FACTS = re.compile(r"\d{1,2} (?:January|February|March|April)(?: \d{4})?|€[\d,]+|\b[A-Z]{2,}-\d+\b")


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
    return Letter(sender, address, recipient, mail.get("Subject", ""), body, facts)


def write(letter: Letter, number: int) -> str:
    parts = [
        f"Dear {letter.sender},",
        f"Thank you for your letter about “{letter.subject}”. This is draft {number}.",
        f"I have noted: {'; '.join(letter.facts)}.",
        f"Kind regards,\n{letter.recipient}",
    ]
    return "\n\n".join(parts)


@torpor.step
def file_away(number: int, draft: str) -> dict[str, str]:
    """Keep a draft as a file."""
    path = Path(f"draft-{number}.txt")
    path.write_text(draft)
    return {"file": str(path), "digest": hashlib.sha256(draft.encode()).hexdigest()[:12]}


@torpor.agent
def asleep() -> dict[str, object]:
    """Write drafts until one is denied."""
    mail = read(LETTER)
    drafts: list[str] = []
    journal = Path("journal.md")
    while True:
        drafts.append(write(mail, len(drafts) + 1))
        kept = file_away(len(drafts), drafts[-1])
        with journal.open("a") as file:
            file.write(f"- {kept['file']} {kept['digest']}: waiting for approval\n")
        reply = {"to": mail.address, "subject": f"Re: {mail.subject}", "draft": drafts[-1]}
        if not torpor.approve(f"Send this reply to “{mail.subject}”?", data=reply).approved:
            break
    files = [Path(f"draft-{number}.txt") for number in range(1, len(drafts) + 1)]
    return {
        "drafts": len(drafts),
        "intact": [path.read_text() for path in files] == drafts
        and len(journal.read_text().splitlines()) == len(drafts),
    }
