"""A machine's inside, played: a supervisor and an agent that follow a script over a real link.

What the script has come to is plain JSON, so that a snapshot can hold it and another machine go
on from it, as a real one does. An agent is a list of threads, a thread is a list of lines:

    ["step", NAME]  ["wait", NAME]  ["sleep", UNTIL]  ["model", NAME]  ["checkpoint", NAME]
    ["nap", SECONDS]   a sleep of so long
    ["permission", NAME]   for an action of that name
    ["once", NAME]     a step that is asked about when it is in doubt
    ["file", NAME]     a step that writes a file; the result has all files that there are
    ["large", N]       a step whose result is N bytes, and goes in parts
    ["print", TEXT]  ["emit", VALUE]
    ["work", NAME]     a step; its body prints its name, and ends when the test lets it
    ["compute", NAME]  no operation; ends when the test lets it
    ["value", N]       a step; its result, as a TEXT or VALUE that is a number, is that many letters
    ["raw", MESSAGE]   says this instead of anything sensible; null: something that is no message
    ["exit", CODE]  ["fail", TYPE]

Commands beside it are played, too: "echo" writes its other words and ends; any other ends when it
gets a signal.

Before it starts it imports what it is told to; the modules `fails`, `ends`, `lingers` and `prints`
do as they are called. The agent that it then defines is called as its file reads.

When all threads are through, the agent's result is what each operation gave.
"""

from __future__ import annotations

import io
import tarfile
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torpor.core.ids import op_kind
from torpor.wire import messages, names
from torpor.wire.link import CONTROL, FILES, STDOUT, Link, LinkState

Object = dict[str, Any]
_WAITS = ("wait", "sleep", "doubt", "permission")
_KINDS = {**dict.fromkeys(("value", "work", "once", "large", names.FILE), "step"), "nap": "sleep"}
DIGEST = "0" * 32


@dataclass
class Thread:
    lines: list[list[Any]]
    at: int = 0
    op: str | None = None  # what it waits for


@dataclass
class State:
    """All that a snapshot holds of the inside."""

    threads: list[Thread] = field(default_factory=list)
    results: Object = field(default_factory=dict)
    journal: Object = field(default_factory=dict)  # op → record
    doubts: Object = field(default_factory=dict)  # op → how often it was begun again
    pending: Object = field(default_factory=dict)  # op → {kind}
    deferred: list[Object] = field(default_factory=list)
    status: list[Any] = field(default_factory=lambda: [0, 0])
    prepared: bool = True  # a template is taken of a supervisor that was prepared
    files: list[str] = field(default_factory=list)  # on the disk
    imported: list[str] = field(default_factory=list)
    file: str | None = None  # the agent's, as it came last
    started: bool = False
    over: bool = False
    link: Object = field(default_factory=lambda: Link().state().to_json())

    @classmethod
    def from_json(cls, value: Object) -> State:
        threads = [Thread(**each) for each in value["threads"]]
        return cls(**{**value, "threads": threads})


def _content(tar: bytes, name: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        file = files.extractfile(name)
        return "" if file is None else file.read().decode()


class Puppet:
    """`told(what, op)` hears of each body of a step that "ran", and that its end was "recorded";
    `lets(op)` says whether what is at work may end; `refuses(t)` may make it not do what a message
    of type `t` asks: "prepare" is refused, "cancel" and "thaw" are ignored; and not say
    a step's "end". While it `lags`, who was answered does not come to go on."""

    def __init__(
        self,
        state: State,
        report: Callable[[str, str], None],
        refuses: Callable[[str], bool],
        lets: Callable[[str], bool],
        lags: Callable[[], bool] = lambda: False,
        timers: list[float] | None = None,
    ) -> None:
        self.state = state
        self.link = Link.from_state(LinkState.from_json(state.link))
        self._report, self._refuses, self._lets, self._lags = report, refuses, lets, lags
        self._timers = (
            [] if timers is None else timers
        )  # of its own, each until one of them is due as it falls asleep
        self.clock_right = False  # neither a snapshot nor a pause has the time

    def to_json(self) -> Object:
        self.state.link = self.link.state().to_json()
        return asdict(self.state)

    def receive(self, data: bytes) -> None:
        for received in self.link.receive(data):
            if received.channel == FILES:
                self.state.file = _content(received.message, "agent.py")
                continue
            message = messages.decode(received.message, messages.FROM_HOST)
            if self.state.prepared and message["t"] not in (names.THAW, names.RESUME):
                self.state.deferred.append(message)
            else:
                self._hear(message)

    def say(self, t: str, **fields: Any) -> None:
        self.link.send(CONTROL, messages.encode(t, **fields))

    def _hear(self, message: Object) -> None:
        state = self.state
        match message["t"]:
            case "journal":
                self._learn(message["records"])
            case "thaw":
                if not state.prepared or self._refuses("thaw"):
                    return
                self.clock_right = True
                self._learn(message["journal"])
                self.say(names.THAWED, epoch=message["epoch"], at=time.time())
                self._go_on()
            case "import":
                self._import([each["module"] for each in message["modules"]])
            case "load":
                self._report("loaded", state.file or "")
                offered: Object = {
                    "name": state.file or "a",
                    "doc": None,
                    "params": [],
                    "open": True,
                }
                self.say(names.LOADED, agents=[offered], default=None)
            case "start":
                state.started = True
                state.threads = [Thread(lines) for lines in message["input"]["threads"]]
                self._learn(message["journal"])
                self._go()
            case "prepare":
                if self._refuses("prepare"):
                    self.say(names.UNPREPARED, reason="refused")
                    return
                runs = "rest_s" in message and self._runs
                if runs and not message.get("anyhow"):
                    self._report("refused", "prepare")
                    self.say(names.UNPREPARED, reason="a thread runs", again_s=0.001)
                    return
                state.prepared = True
                woken = {"wake_in": self._timers.pop()} if self._timers else {}
                self.say(names.PREPARED, **woken, **({"at_work": True} if runs else {}))
            case "resume":
                self.clock_right = True
                self.say(names.RESUMED, at=message["time"])
                if state.prepared:
                    self._go_on()
            case "result":
                self._settle(message["op"], message.get("value", message.get("error")))
                self._go()
            case "recorded":
                self._report("recorded", message["op"])
                self._settle(message["op"], state.pending.get(message["op"], {}).get("own"))
                self._go()
            case "exec" if message["command"][0] == "echo":
                words = " ".join(message["command"][1:]).encode()
                data = b64encode(words).decode()
                self.say(names.EXEC_OUTPUT, exec=message["exec"], stream=1, data=data)
                self.say(names.EXEC_EXITED, exec=message["exec"], code=0)
            case "exec.signal":
                self.say(names.EXEC_EXITED, exec=message["exec"], signal=15)
            case "cancel":
                if not self._refuses("cancel"):
                    self._end(
                        "failed", type="Cancelled", message="", traceback=None, cancelled=True
                    )

    def _import(self, modules: list[str]) -> None:
        for module in modules:
            self._report("imported", module)
            if module == "ends":
                self.say(names.LOAD_FAILED, error="its process ended", traceback="")
                return
            if module == "prints":
                self.link.send(STDOUT, b"printed")
        self.state.imported += modules
        failed = {"failed": "it fails"} if "fails" in modules else {}
        unfit = {"unfit": "it lingers"} if "lingers" in modules else {}
        self.say(names.IMPORTED, **failed, **unfit)

    def _learn(self, records: list[Object]) -> None:
        for record in records:
            if "ok" not in record:
                self.state.doubts[record["op"]] = record["again"]
                continue
            self.state.journal[record["op"]] = record
            if record["kind"] == "doubt":
                self.state.doubts[record["name"]] = record["again"]
            if record["op"] in self.state.pending:
                self._settle(record["op"], record.get("value", record.get("error")))

    def _go_on(self) -> None:
        self.state.prepared = False
        deferred, self.state.deferred = self.state.deferred, []
        for message in deferred:
            self._hear(message)
        self._go()

    @property
    def _runs(self) -> bool:
        """Whether a thread has something to do."""
        threads = self.state.threads
        at_work = any(each.op is None and each.at < len(each.lines) for each in threads)
        over = self.state.over or not all(each.at == len(each.lines) for each in threads)
        return at_work or (not over and all(each.op is None for each in threads))

    def _go(self) -> None:
        if not self._lags():
            self.play()

    def _settle(self, op: str, value: Any) -> None:
        if self.state.pending.pop(op, None) is None:
            return
        if op.startswith("doubt:"):
            step, _, number = op[6:].rpartition("#")
            self._settle_doubt(step, int(number), value["data"])
            return
        self.state.results[op] = value
        for thread in self.state.threads:
            if thread.op == op:
                thread.op = None

    def play(self) -> None:
        """Each thread as far as it comes."""
        state = self.state
        if not state.started or state.over or state.prepared:
            return
        assert self.clock_right, "the agent goes on with a clock that has lost a pause"
        for thread in state.threads:
            if thread.op is not None and op_kind(thread.op) == "compute" and self._lets(thread.op):
                thread.op = None
        for op, each in state.pending.items():
            if each.get("works") and self._lets(op):
                each["works"] = False
                self.say(names.END, op=op, ok=True, value=each["own"])
        for thread in state.threads:
            while thread.op is None and thread.at < len(thread.lines) and not state.over:
                verb, argument = thread.lines[thread.at]
                thread.at += 1
                self._do(thread, verb, argument)
        if not state.over:
            self._tell_status()
            if all(t.op is None and t.at == len(t.lines) for t in state.threads):
                files = {"files": sorted(set(state.files))} if state.files else {}
                self._end("done", value=state.results | files)

    def _do(self, thread: Thread, verb: str, argument: Any) -> None:
        match verb:
            case "print":
                self.link.send(STDOUT, _text(argument).encode())
            case "compute":
                thread.op = None if self._lets(f"compute:{argument}#1") else f"compute:{argument}#1"
            case "emit":
                self.say(names.NOTE, kind="emit", data=_text(argument))
            case "raw" if argument is None:
                self.link.send(CONTROL, b"nonsense")
            case "raw":
                self.say(**argument)
            case "exit":
                self._end("exited", code=argument, signal=None, oom=False)
            case "fail":
                self._end("failed", type=argument, message="", traceback=None, cancelled=False)
            case _:
                self._operate(thread, verb, argument)

    def _operate(self, thread: Thread, verb: str, argument: Any) -> None:
        state, name = self.state, str(argument)
        kind = _KINDS.get(verb, verb)
        op = f"{kind}:{name}#1"
        if op in state.journal:
            record = state.journal[op]
            state.results[op] = record.get("value", record.get("error"))
            if kind == "step":
                self.say(names.REPLAYED, op=op)
            return
        thread.op = op
        if verb == "once" and op in state.doubts:
            question = f"doubt:{op}#{state.doubts[op] + 1}"
            record = state.journal.get(question)
            state.pending[question] = {"kind": "doubt"}
            if record is not None:
                self._settle(question, record["value"])
            else:
                self.say(names.BEGIN, op=question, kind="doubt", name=op, digest=DIGEST, data={})
            return
        state.pending[op] = {"kind": kind}
        self.say(
            names.BEGIN, op=op, kind=kind, name=name, digest=DIGEST, data=_data(verb, argument)
        )
        if kind == "step":
            self._report("ran", op)
            value = _text(f"did {name}" if isinstance(argument, str) else argument)
            value = argument if verb == "large" else value
            if verb == "work":
                self.link.send(STDOUT, name.encode())
            works = verb == "work" and not self._lets(op)
            state.pending[op] |= {"own": value, "works": works}
            if verb == "large":
                content = bytes(argument)
                for at in range(0, argument, messages.PART_BYTES):
                    part = content[at : at + messages.PART_BYTES]
                    self.say(names.PART, op=op, data=b64encode(part).decode())
                if not self._refuses("end"):
                    blob = {"bytes": argument, "form": "bytes"}
                    self.say(names.END, op=op, ok=True, blob=blob)
            elif not works and not self._refuses("end"):
                wrote = {"files": True} if verb == "file" else {}
                state.files += [name] if wrote else []
                self.say(names.END, op=op, ok=True, value=value, **wrote)

    def _settle_doubt(self, op: str, number: int, ruling: Object) -> None:
        thread = next(thread for thread in self.state.threads if thread.op == op)
        if ruling["do"] == "again":
            if self.state.doubts[op] < number:  # else a repeat was cut off
                del self.state.doubts[op]
            self._operate(thread, "once", op[5:].rpartition("#")[0])
            return
        self.state.pending[op] = {"kind": "step", "own": ruling.get("result")}
        if ruling["do"] == "done":
            self.say(names.END, op=op, ok=True, value=ruling["result"])
        else:
            error = {"type": "E", "message": ruling["message"]}
            self.say(names.END, op=op, ok=False, error=error)

    def _tell_status(self) -> None:
        pending = self.state.pending.values()
        waits = [each for each in pending if each["kind"] in _WAITS]
        busy = sum(each["kind"] in ("step", "model") for each in pending)
        status = [len(waits), busy]
        if status != self.state.status and (status[0] or self.state.status[0]):
            self.state.status = status
            self.say(names.STATUS, waiting=status[0], busy=status[1])

    def _end(self, t: str, **fields: Any) -> None:
        self.state.over = True
        self.say(t, **fields)


def _text(argument: Any) -> Any:
    return "x" * argument if isinstance(argument, int) else argument


def _data(verb: str, argument: Any) -> Object:
    match verb:
        case "nap":
            return {"for_s": argument}
        case "sleep":
            return {"until": argument}
        case "wait":
            question = {"prompt": argument, "data": None, "timeout_s": None}
            return question | {"tags": [], "approve": False}
        case "permission":
            return {"action": {"name": argument, "arguments": {"n": 1}}, "timeout_s": None}
        case "model":
            path = f"/v1/responses?{argument}"
            return {"method": "POST", "path": path, "headers": {}, "body": "{}"}
    return {}
