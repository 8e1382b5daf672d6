"""attach: following a run in the terminal until it ends, or the person leaves.

    a thread ── reads the run's log from the server ──► queue ─┐  a byte on a pipe says so
    keyboard, only while a question is open ───────────────────┴► one loop shows and asks

One loop does all the showing, so lines never mix. What is open to be answered is asked of the
server after each entry that may have changed it: an answer given elsewhere (another terminal, the
API, a timeout) takes the question away here, and the run goes on. The run itself belongs to the
server: whatever ends this loop leaves it unharmed.
"""

from __future__ import annotations

import codecs
import os
import queue
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import typer
from rich.live import Live

from torpor.cli import parts, terminal
from torpor.cli.answering import answerable, how_to_answer, user
from torpor.cli.exits import Exit, of_run
from torpor.cli.options import Json, RunArg
from torpor.cli.question import Answer, Detach, Question, outcome_words
from torpor.client import Appended, Back, Client, Ended, Followed, Lost, Unreachable
from torpor.core.errors import CallerError
from torpor.core.home import Home
from torpor.core.states import FINAL
from torpor.terminal.screen import err, say, show_json
from torpor.web import words

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.")  # arrows and their like
# What a run may be asleep under.
_AWAITED = ("wait", "event", "sleep", "doubt", "permission", "child", "model", "http")
_PATIENCE_S = 2.0  # before it is said why a run has no machine

Object = dict[str, Any]
Explain: TypeAlias = Callable[[str], str]  # what to do about an error's message, or ""


def command(
    run: RunArg,
    all: Annotated[
        bool, typer.Option("--all", help="Show it from its beginning, not only from now on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Follow a run as `torpor run` does: its output, its questions, its end.

    Ctrl-C leaves it running. The exit code is the run's.
    """
    client = Client(Home.find())
    found = client.run(run)
    after = 0 if all else found["last_seq"]
    raise typer.Exit(attach(client, found, after=after, as_json=as_json))


def attach(
    client: Client,
    run: Object,
    *,
    after: int = 0,
    explain: Explain | None = None,
    as_json: bool = False,
) -> int:
    """Follow `run` from a place in its log, by default its beginning, and what takes its place if
    it fails. Gives the exit code."""
    interactive = terminal.interactive()
    following: str | None = run["id"]
    midway = after > 0 and run["state"] not in FINAL
    while following is not None:
        follower = Follower(client, following, after, as_json=as_json, interactive=interactive)
        try:
            if midway:
                follower.catch_up(run)
            if not follower.follow():
                return Exit.DONE
        except KeyboardInterrupt:
            follower.close()
            _say_detached(following)
            return Exit.INTERRUPTED
        midway, ended = False, client.run(following)
        following = ended["successor"]
        if following is not None:
            after = client.run(following)["origin_seq"]  # what it shares was shown
            say(f"failed: {words.error_line(ended['error'])} · {following} goes on", "yellow")
    return finish(ended, explain=explain, as_json=as_json)


def finish(run: Object, *, explain: Explain | None = None, as_json: bool) -> int:
    """Show how an ended run ended. Gives the exit code."""
    if as_json:
        show_json(run)
    if run["state"] == "completed":
        if run["result"] is not None and not as_json:
            sys.stdout.write(words.pretty(run["result"]).rstrip("\n") + "\n")
            sys.stdout.flush()
        say(f"completed · {words.times(run)}", "green")
        return Exit.DONE
    error = run["error"] or {}
    if error.get("traceback"):
        say(words.plain(error["traceback"]).rstrip("\n"), "dim")
    why = f": {words.error_line(error)}" if error else ""
    say(f"{run['state']}{why} · {words.times(run)}", "red")
    if explain is not None and (hint := explain(str(error.get("message", "")))):
        say(words.plain(hint), "yellow")
    return of_run(run["state"])


def _say_detached(run: str) -> None:
    say(f"detached; the run goes on: torpor attach {run}")


@dataclass(frozen=True)
class _Remark:
    """A remark of somebody else's."""

    text: str
    style: str


class Follower:
    """Shows one run; `awaited` are waits that are open before what is shown first."""

    def __init__(
        self,
        client: Client,
        run: str,
        after: int,
        *,
        as_json: bool,
        interactive: bool,
        awaited: Iterable[Object] = (),
    ) -> None:
        self._client = client
        self._after = after
        self._run = run
        self._interactive = interactive
        # With --json, stdout is for the one document at the end.
        self._stdout = sys.stderr if as_json else sys.stdout
        self._at_line_start = True
        self._answer: str | None = None  # the call of whose answer the line on stderr is
        self._prints = False  # the agent, while answers come: then it shows them itself
        self._arrived: queue.SimpleQueue[Followed | Exception | _Remark] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()  # Windows selects nothing else
        self._handing_over, self._closed = threading.Lock(), False
        # As of the entry shown last, by operation.
        self._awaited: dict[str, Object] = {wait["op"]: wait for wait in awaited}
        self._announced: set[str] = set()
        self._wants_machine = True  # it may have to wait for one
        self._stated_why: str | None = None  # it has none
        self._frozen_bytes: float | None = None
        self._waking = False
        self._question: Question | None = None
        self._live: Live | None = None
        self._terminal: list[Any] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def catch_up(self, run: Object) -> None:
        """Show how the run stands that is followed from the middle of its log on."""
        waits = words.awaited(run, self._client.waits(self._run))
        self._awaited = {wait["op"]: wait for wait in waits}
        why = f": waiting for {words.waiting_for(waits, time.time())}" if waits else ""
        self._remark(f"{run['id']} is {run['state']}{why}")
        self._refresh()

    def follow(self) -> bool:
        """Show the run until it ends. False if the person left before."""
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while True:
                keys = [sys.stdin.fileno()] if self._question else []
                sources: list[socket.socket | int] = [self._woken, *keys]
                ready, _, _ = select.select(sources, [], [], self._patience_s)
                if not ready and self._wants_machine:
                    self._say_why()
                if self._woken in ready:
                    self._woken.recv(4096)
                    if self._take_arrived():
                        return True
                elif ready and self._question is not None and self._take_keys(self._question):
                    self.close()
                    _say_detached(self._run)
                    return False
        finally:
            self.close()

    @property
    def _patience_s(self) -> float | None:
        # On Windows Ctrl-C is heard only in between.
        return _PATIENCE_S if self._wants_machine or not terminal.HERE else None

    def _say_why(self) -> None:
        """Why nothing happens: a queue that is full or paused looks like a hang."""
        try:
            why = self._client.run(self._run).get("queued_because")
        except Unreachable:
            return  # the log's reader says so, and when it is back
        self._wants_machine = why is not None
        if why is not None and why != self._stated_why:
            self._remark(f"waits for a machine: {why}")
        self._stated_why = why

    def tell(self, text: str, style: str) -> None:
        """Show a remark between what the run does, or after it; from any thread."""
        if not self._hand_over(_Remark(text, style)):
            say(text, style)

    def close(self) -> None:
        """Give the terminal back as it was."""
        self._drop_question()
        self._end_line()
        with self._handing_over:
            if not self._closed:
                self._closed = True
                self._woken.close()
                self._wake.close()
        while not self._arrived.empty():
            match self._arrived.get():
                case _Remark(text, style):
                    say(text, style)

    def _read(self) -> None:
        """The thread: whatever the log brings, its failure too, goes to the loop."""
        try:
            for event in self._client.follow(self._run, after=self._after):
                if not self._hand_over(event):
                    return
        except Exception as error:
            self._hand_over(error)

    def _hand_over(self, event: Followed | Exception | _Remark) -> bool:
        """Whether the loop is there to take it."""
        with self._handing_over:
            if not self._closed:
                self._arrived.put(event)
                self._wake.send(b"!")
            return not self._closed

    # -- the log ------------------------------------------------------------------------------

    def _take_arrived(self) -> bool:
        """Show all that has arrived; True when the run has ended."""
        stale = ended = False
        while not ended and not self._arrived.empty():
            match self._arrived.get():
                case Appended(entry):
                    # Who answered is said before what the agent did with it.
                    if self._question is not None and entry["op"] == self._question.wait["op"]:
                        self._refresh()
                    self._show(entry)
                    stale |= entry["kind"] != "output" and not entry["kind"].startswith("note.")
                case Ended():
                    stale = ended = True
                case Lost():
                    self._remark("the server is gone; the run goes on when it is back (torpor up)")
                case Back():
                    self._remark("the server is back")
                    stale = True
                case _Remark(text, style):
                    self._remark(text, style)
                case error:
                    raise error
        if stale:
            self._refresh()
        return ended

    def _show(self, entry: Object) -> None:
        data = entry["data"]
        self._wants_machine |= entry["kind"] in ("run.suspended", "op.end")
        match entry["kind"]:
            case "op.begin" if data["kind"] in _AWAITED:
                self._awaited[entry["op"]] = {**data, "op": entry["op"]}
            case "op.end":
                self._awaited.pop(entry["op"], None)
                if entry["op"] == self._answer:
                    self._end_answer()
            case parts.PART:
                self._answering(entry["op"], data["text"])
            case "output":
                self._prints |= self._answer is not None
                self._output(data["text"], to_stderr=data["stream"] == "stderr")
            case "note.log":
                self._remark(words.note(data))
            case "note.emit":
                self._remark(words.emitted(data), "")
            case "snapshot":
                self._frozen_bytes = data.get("bytes")
            case "run.suspended" if data.get("handed_over"):
                self._remark("its server stops; frozen where it was until the next torpor up")
            case "run.suspended":
                cost = "" if self._frozen_bytes is None else f" · {words.size(self._frozen_bytes)}"
                reason = words.waiting_for(list(self._awaited.values()), time.time())
                self._remark(f"asleep: waiting for {reason}{cost} · freed the machine; 0 processes")
            case "run.started" | "run.resumed" as kind:
                self._wants_machine, self._stated_why = False, None
                self._waking = kind == "run.resumed"
            case "machine.up" if self._waking:
                self._waking = False
                self._remark(f"awake in {words.duration(data['resume_ms'] / 1000)}")
            case "log.superseded":
                given_up = words.count(len(data["ops"]), "recorded operation")
                self._remark(f"from here it does something else: {given_up} not used")
            case "freeze.failed":
                self._remark(f"stays awake, it could not be frozen: {words.line(data['reason'])}")
            case "machine.failed":
                self._remark(f"its machine failed: {words.line(data['reason'])}")
            case "egress.refused":
                self._remark(words.refused(data), "yellow")
            case "snapshot.unfit":
                self._remark(words.unfit(data))
            case "run.recovered":
                whence = "its beginning" if self._frozen_bytes is None else "its newest snapshot"
                self._remark(f"its machine was lost; recovering from {whence} and the log")

    def _answering(self, op: str, text: str) -> None:
        """A model's words as they come, for who watches."""
        if not self._interactive or self._prints:
            return
        with self._above_question():
            if self._answer != op:
                self._end_line()
            self._answer = op
            err.print(words.plain(text), end="", style="dim", markup=False, soft_wrap=True)
            if self._question is not None:
                self._end_line()

    def _output(self, text: str, *, to_stderr: bool) -> None:
        with self._above_question():
            self._end_answer()
            file = sys.stderr if to_stderr else self._stdout
            file.write(text)
            file.flush()
            if text:
                self._at_line_start = text.endswith("\n")
            if self._question is not None:
                self._end_line()

    def _remark(self, text: str, style: str = "dim") -> None:
        with self._above_question():
            self._end_line()
            say(text, style)

    def _end_line(self) -> None:
        """Output that ends in the middle of a line must not share it with what comes next."""
        self._end_answer()
        if not self._at_line_start:
            self._stdout.write("\n")
            self._stdout.flush()
            self._at_line_start = True

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer = None
            err.print()

    # -- the question -------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Make the question on screen the first open wait that a person can answer, or none."""
        try:
            waits = self._client.waits(self._run)
        except Unreachable:
            return  # the log's reader says so, and when it is back
        open_waits = [wait for wait in waits if answerable(wait)]
        if not self._interactive:
            for wait in open_waits:
                if wait["id"] not in self._announced:
                    self._announced.add(wait["id"])
                    self._remark(f"waiting: {words.question(wait)}\n  {how_to_answer(wait)}")
            return
        now = self._question
        if now is not None and now.wait["id"] not in [wait["id"] for wait in open_waits]:
            self._drop_question()
            self._say_outcome(self._client.wait(now.wait["id"]))
        if self._question is None and open_waits:
            self._end_line()
            # Before it is drawn: what was typed until now was no answer to it and is dropped, what
            # is typed from its first sight on counts.
            self._terminal = terminal.read_keys()
            self._question = Question(open_waits[0], others=len(open_waits) - 1)
            self._start_live()

    def _take_keys(self, question: Question) -> bool:
        """Give the question what was typed; True when the person leaves."""
        typed = os.read(sys.stdin.fileno(), 4096)
        if not typed:  # the terminal is gone
            return True
        for key in _ESCAPES.sub("", self._decoder.decode(typed)):
            match question.key(key):
                case Detach():
                    return True
                case Answer() as answer:
                    self._send(question, answer)
                    return False
        if self._live is not None:
            self._live.update(question, refresh=True)
        return False

    def _send(self, question: Question, answer: Answer) -> None:
        wait = question.wait["id"]
        try:
            ended = self._client.complete(
                wait, data=answer.data, approved=answer.approved, note=answer.note, by=user()
            )
        except Unreachable:
            self._object(
                question, "Not answered: no server is running. Run torpor up, then try again."
            )
            return
        except CallerError as error:
            # It was answered elsewhere a moment ago, or the answer is not what the agent takes.
            ended = self._client.wait(wait)
            if ended["state"] == "open":
                self._object(question, error.message)
                return
        self._drop_question()
        self._say_outcome(ended)
        self._refresh()

    def _object(self, question: Question, problem: str) -> None:
        question.problem = problem
        if self._live is not None:
            self._live.update(question, refresh=True)

    def _say_outcome(self, wait: Object) -> None:
        self._remark(f"{words.question(wait)}: {outcome_words(wait)}")

    def _start_live(self) -> None:
        self._live = Live(
            self._question,
            console=err,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="visible",
        )
        self._live.start(refresh=True)

    def _drop_question(self) -> None:
        self._question = None
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._terminal is not None:
            terminal.give_back(self._terminal)
            self._terminal = None

    @contextmanager
    def _above_question(self) -> Iterator[None]:
        """Take the question off the screen, and draw it again below what is written meanwhile."""
        if self._live is None:
            yield
            return
        self._live.stop()
        yield
        self._start_live()
