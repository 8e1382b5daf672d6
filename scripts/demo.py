"""`make demo`: one agent falls asleep three times, on this machine, and what that costs.

All of it goes through the `torpor` command and the server's API, as it would by hand; the figures
are those of this very run, from its context log. Ends with an error as soon as anything is not as
it is told here. A server that was not there before is not there afterwards.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from torpor.client import Appended, Client, Ended, ensure_server, running, stop_server
from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.project.reading import read_agent
from torpor.web.words import duration, plain, size

ROOT = Path(__file__).parents[1]
AGENT = Path("examples/inbox.py")
LETTER = Path("examples/letters/landlord.txt")
NOTES = "19 November is fine, use your key. I take the new term at £1,175. Please do mend the fan."
WISH = "A little warmer, please."
EDITED = """Dear Ms Oyelaran,

Thursday 19 November at 10:30 suits me; please use your key. I take the new term at £1,175 a month.
It would be kind if your electrician mended the fan on the same visit.

Kind regards,
Tom Reyes"""
COOLING_OFF = "6s"

# The first time the guest's system is built: that takes minutes where the network is slow.
DEPLOY_LIMIT_S = 1200
RUN_LIMIT_S = 300
GONE_LIMIT_S = 10
ARG_SHOWN_MAX = 60

Object = dict[str, Any]
console = Console(highlight=False, width=None if sys.stdout.isatty() else 88)


class Unexpected(Exception):
    """The demonstration did not go as it says it does."""


def expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Unexpected(otherwise)


# Saying.


def head(text: str) -> None:
    console.print()
    console.print(Rule(Text(text, "bold"), align="left", style="dim"))


def tell(text: str, style: str = "") -> None:
    for line in plain(text).splitlines():
        for part in wrap(line, console.width - 4) or [""]:
            console.print(Text(f"  {part}", style))


def figure(name: str, value: str, remark: str = "") -> None:
    line = Text.assemble((f"  {name:<20}", "dim"), (f"{value:<12}", "bold cyan"))
    line.append(f"  {remark}", "dim").rstrip()
    console.print(line, soft_wrap=True)


def paper(text: str, title: str) -> None:
    console.print(Padding(Panel(Text(plain(text)), title=title, border_style="dim"), (0, 2)))


def typed(*args: str) -> None:
    """Show a command as it would be typed."""
    short = [a if len(a) <= ARG_SHOWN_MAX else f"{a[:ARG_SHOWN_MAX]}…" for a in args]
    shown = " ".join(["torpor", *map(shlex.quote, short)])
    console.print(Text.assemble(("  $ ", "dim"), (shown, "green")), soft_wrap=True)


def command(*args: str) -> str:
    """Do it, as it would be typed; what it printed."""
    typed(*args)
    torpor = str(Path(sys.executable).with_name("torpor"))
    done = subprocess.run([torpor, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    said = done.stderr.strip()
    expect(done.returncode == 0, f"torpor {args[0]} ended with {done.returncode}: {said}")
    if said:
        tell(said, "dim")
    return done.stdout


# Looking.


@dataclass
class Machine:
    """A machine of the run, seen from outside while it lives."""

    pid: int
    memory: int = 0  # bytes that only it has, at the last look

    def look(self) -> None:
        try:
            status = Path("/proc", str(self.pid), "status").read_text()
        except OSError:
            return
        if found := re.search(r"RssAnon:\s+(\d+) kB", status):
            self.memory = int(found.group(1)) * 1024

    @property
    def lives(self) -> bool:
        return Path("/proc", str(self.pid)).exists()


class Story:
    """The run's log, read on as far as the next thing to tell."""

    def __init__(self, client: Client, run: str) -> None:
        self.client = client
        self.run = run
        self.machine: Machine | None = None
        self.snapshots: list[Object] = []
        self.resumes_ms: list[float] = []
        self._began: dict[str, float] = {}
        self._events = client.follow(run)

    def until(self, kind: str, op: str = "") -> Object:
        """The next entry of this kind, of an operation of that name; what comes before is told."""
        for event in self._events:
            if isinstance(event, Ended):
                break
            if isinstance(event, Appended):
                self._notice(event.entry)
                if event.entry["kind"] == kind and (event.entry["op"] or "").startswith(op):
                    return event.entry
        found = self.client.run(self.run)
        why = (found["error"] or {}).get("message", "")
        raise Unexpected(f"the run is {found['state']} before any {kind} {op}: {why}")

    def _notice(self, entry: Object) -> None:
        data, op = entry["data"], entry["op"] or ""
        match entry["kind"]:
            case "machine.up":
                self.resumes_ms.append(data["resume_ms"])
                seen = self.client.run(self.run)["machine"]
                self.machine = Machine(seen["pid"]) if seen and seen["pid"] else None
            case "op.begin":
                self._began[op] = entry["at"]
                if self.machine is not None:
                    self.machine.look()
            case "op.end" if op.startswith("model:"):
                expect(data["value"]["status"] == 200, f"the model answered {data['value']}")
                took = duration(entry["at"] - self._began[op])
                tell(f"the model answered in {took}; recorded, so it is never asked twice", "dim")
            case "note.log":
                tell(f"the agent says: {data['message']}", "dim")
            case "snapshot":
                self.snapshots.append(data)
            case "freeze.failed" | "machine.failed" | "run.recovered" as kind:
                raise Unexpected(f"{kind}: {data.get('reason', '')}")


@contextmanager
def within(seconds: int, what: str) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise Unexpected(f"{what} took longer than {seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


# Telling.


def deploy(client: Client) -> Object:
    head("1  A machine that has loaded the agent")
    typed("deploy", str(AGENT))
    began, told = time.monotonic(), set[str]()

    def on_progress(stage: str, message: str, _: float | None) -> None:
        if message not in told:
            told.add(message)
            tell(f"{duration(time.monotonic() - began):>10}  {message}", "dim")

    with within(DEPLOY_LIMIT_S, "the deployment"):
        deployed = client.deploy(read_agent(AGENT), on_progress)
    if deployed["cached"]:
        tell("An earlier run of this demonstration has made its template: nothing to do.")
    else:
        took = duration(time.monotonic() - began)
        tell(f"Made in {took}. It was booted for the last time: every run starts from this.")
    figure("booting it took", duration(deployed["boot_ms"] / 1000))
    figure("the template takes", size(deployed["template_bytes"]), "shared by all of its runs")
    return deployed


def begin(client: Client, deployed: Object) -> Story:
    head("2  A run")
    given = (f"letter=@{LETTER}", f"notes={NOTES}", f"cooling_off={COOLING_OFF}")
    pairs = [part for pair in given for part in ("-i", pair)]
    story = Story(client, command("run", str(AGENT), *pairs, "--detach").strip())
    story.until("machine.up")
    up_ms = story.resumes_ms[-1]
    boot = f"booting took {duration(deployed['boot_ms'] / 1000)}"
    figure("restored in", duration(up_ms / 1000), f"{boot}: {deployed['boot_ms'] / up_ms:.0f} x")
    process = f", process {story.machine.pid}" if story.machine else ""
    tell(f"{story.run} has a machine of its own{process}. It reads the letter and drafts.")
    return story


def changed(text: str, before: str) -> str:
    """The paragraphs that `before` has not."""
    known = before.split("\n\n")
    parts = ["…" if part in known else part for part in text.split("\n\n")]
    return "\n\n".join(p for i, p in enumerate(parts) if p != "…" or parts[i - 1 : i] != ["…"])


def falls_asleep(story: Story, op: str, before: str = "") -> Object:
    """The agent begins to wait; its machine is frozen and goes. Gives the open wait."""
    story.until("op.begin", op)
    story.until("run.suspended")
    run = without_machine(story)
    machine, snapshot = story.machine, story.snapshots[-1]
    expect(len(run["waits"]) == 1, f"the run waits for {len(run['waits'])} things, not for one")
    wait: Object = run["waits"][0]
    if wait["kind"] == "wait":
        paper(changed(wait["data"]["draft"], before), wait["prompt"])
    figure("stood still for", duration(snapshot["pause_ms"] / 1000), "while it was copied")
    figure("on disk after", duration(snapshot["freeze_ms"] / 1000), "compared, compressed, synced")
    figure("costs", size(snapshot["bytes"]), "until it wakes, an hour or a year")
    if machine is not None:
        freed = f"process {machine.pid} has ended, {size(machine.memory)} of memory are free"
        figure("processes of it", "0", freed)
    return wait


def without_machine(story: Story) -> Object:
    """The run once its machine's process has ended and the server has none for it."""
    until = time.monotonic() + GONE_LIMIT_S
    while True:
        run: Object = story.client.run(story.run)
        if run["machine"] is None and (story.machine is None or not story.machine.lives):
            return run
        expect(time.monotonic() < until, f"the machine is still there: {run['machine']}")
        time.sleep(0.02)


def wakes(story: Story) -> None:
    story.until("run.resumed")
    story.until("machine.up")
    figure("awake in", duration(story.resumes_ms[-1] / 1000), "in the same line, with all it knew")


def answers(story: Story) -> None:
    head("3  It asks, and falls asleep")
    wait = falls_asleep(story, "wait:approve")

    head("4  You would like another draft")
    command("approve", wait["id"], "--note", WISH)
    wakes(story)
    wait = falls_asleep(story, "wait:approve", before=wait["data"]["draft"])

    head("5  You put it in your own words, and agree")
    command("approve", wait["id"], "--data", json.dumps({"draft": EDITED}, ensure_ascii=False))
    wakes(story)
    falls_asleep(story, "sleep:")
    tell(f"You may still change your mind: it sends {COOLING_OFF} later, and sleeps until then.")


def ends(story: Story) -> None:
    head("6  The clock wakes it")
    wakes(story)
    sent = story.until("op.begin", "step:send")["data"]["data"]["kwargs"]
    story.until("run.completed")
    run = story.client.run(story.run)
    expect(run["result"]["sent"] is True, f"nothing was sent: {run['result']}")
    expect(sent["draft"] == EDITED, "what was sent is not what was approved")
    expect(run["result"]["drafts"] == 2, f"{run['result']['drafts']} drafts instead of 2")
    expect(run["cycles"] == 3, f"it woke {run['cycles']} times, not 3 times")
    paper(sent["draft"], f"sent to {sent['to']}: {sent['subject']}")
    tell("This comes from the context log: the machine that sent it is gone for good.", "dim")


def sums(story: Story) -> None:
    head("7  What it came to")
    shown = command("show", story.run)
    for line in shown.split("\n\n")[0].splitlines():
        console.print(Text(f"  {plain(line.rstrip())}", "dim"), no_wrap=True, overflow="ellipsis")
    run = story.client.run(story.run)
    share = run["slept_s"] / (run["slept_s"] + run["ran_s"])
    figure(
        "slept",
        duration(run["slept_s"]),
        f"{share:.0%} of its time, here where answers come at once",
    )
    figure("froze", spread([s["freeze_ms"] for s in story.snapshots]), "each time, until durable")
    figure("woke", spread(story.resumes_ms[1:]), "each time, until the agent went on")
    figure("wrote", size(run["bytes"]), f"in {run['snapshots_count']} snapshots")


def spread(found_ms: list[float]) -> str:
    return f"{min(found_ms):.0f} to {max(found_ms):.0f} ms"


def goes_on() -> None:
    head("Go on by yourself")
    torpor = Path(sys.executable).with_name("torpor")
    for typed_text, what in (
        ("run examples/sleeper.py -i place=Rosa", "answer it in the terminal, or leave with d"),
        ("ps", "what runs and what sleeps"),
        ("waits", "what is asked of you; torpor approve answers it"),
        ("logs RUN, trace RUN", "what a run said and did"),
        ("bench sleep", "these figures, measured properly"),
    ):
        console.print(f"  [green]torpor {typed_text:<42}[/][dim]{what}[/]", soft_wrap=True)
    shown = torpor.relative_to(ROOT) if torpor.is_relative_to(ROOT) else torpor
    tell(f"(torpor is {shown} here)", "dim")


def main() -> None:
    os.chdir(ROOT)
    home = Home.find()
    began, was_up = time.monotonic(), running(home)
    console.print(Text("torpor: agents that sleep for free", "bold"))
    tell(
        "An agent answers a letter. It runs in a virtual machine of its own, and whenever it "
        "waits, for you or for the clock, that machine is frozen and gone."
    )
    client = ensure_server(home)
    try:
        deployed = deploy(client)
        health = client.health()
        figure("engine", f"{health['engine']}, {health['accel']}")
        figure("model", health["model"])
        with within(RUN_LIMIT_S, "the run"):
            story = begin(client, deployed)
            answers(story)
            ends(story)
            sums(story)
        goes_on()
    finally:
        if not was_up:
            stop_server(home)
    tell(f"\nAll of this took {duration(time.monotonic() - began)}.", "dim")


if __name__ == "__main__":
    try:
        main()
    except (Unexpected, TorporError) as error:
        console.print(Text.assemble(("\nnot as it should be: ", "bold red"), plain(str(error))))
        raise SystemExit(1) from error
