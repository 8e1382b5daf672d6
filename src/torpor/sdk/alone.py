"""The agent's process where there is no machine and no supervisor: the `process` engine.

    python3 -S -P -m torpor.sdk.alone CONTROL_FD MARK [DEPS_DIR]

The same agent, runtime and messages as in a machine (`torpor.sdk.process`), straight to the
server. What the supervisor and the gateway do there is done here, in the process itself: what its
clients ask is served by a thread (`torpor.sdk.endpoint`), standing still is the control thread
holding the runtime's lock, and a step that is replayed leaves a *mark* in the output instead of
asking.

It waits to learn which agent to load, and in which directory: where a run's files are is a
name of that run alone, and what an agent makes of `__file__` is the same in each of its processes.
Before that it may be asked to import what the agent imports first (`torpor.sdk.ahead`).

A mark is NUL, MARK, colon, a decimal offset, newline. It says that what follows stands at that
offset of the stream: what the step had printed when it was recorded is not printed again. MARK is
random, so that no agent prints one by chance. Being in the stream it has its place there without
anybody having to wait for it: a log of any length is replayed without a round trip.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from torpor.core.ids import op_kind, op_name
from torpor.guest.exchanges import is_exchange
from torpor.replay.journal import Recorded
from torpor.sdk import compiled, process
from torpor.sdk.control import Reader
from torpor.sdk.endpoint import Endpoint
from torpor.sdk.operations import Operation
from torpor.sdk.rest import Rest
from torpor.sdk.routes import Routes
from torpor.sdk.runtime import Runtime
from torpor.sdk.stepfiles import StepFiles
from torpor.wire import names, streams

_PR_SET_PDEATHSIG = 1
_STREAMS = {"stdout": 1, "stderr": 2}


class _Marks:
    """Writes marks, each only where it says something new."""

    def __init__(self, mark: str) -> None:
        self._mark = f"\0{mark}:".encode()
        # Duplicates: the agent may point its own descriptors elsewhere.
        self._fds = {name: os.dup(fd) for name, fd in _STREAMS.items()}
        self._offsets = dict.fromkeys(_STREAMS, 0)

    def skip_to(self, printed: Mapping[str, int]) -> None:
        for name, offset in printed.items():
            if offset != self._offsets.get(name):
                self._offsets[name] = offset
                os.write(self._fds[name], b"%s%d\n" % (self._mark, offset))


class _Lines:
    """Of those that the server writes, the messages: frames are the endpoint's."""

    def __init__(self, reader: Reader, give: Callable[[bytes], None]) -> None:
        self._reader, self._give = reader, give

    def readline(self) -> bytes:
        while (line := self._reader.readline()).startswith(streams.LINE):
            self._give(streams.of_line(line.rstrip(b"\n")))
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


class AloneRuntime(Runtime):
    machine = False

    def __init__(self, control: socket.socket, mark: str) -> None:
        super().__init__(control, -1)
        self._files: StepFiles
        self._marks = _Marks(mark)
        self._asking = 0  # requests that wait for a person
        self._own_status: dict[str, Any] = {"waiting": 0, "busy": 0}  # without these
        self._endpoint = Endpoint(self.send, lambda: os._exit(1), self._ask_count)
        self._reader = _Lines(self._reader, self._endpoint.give)
        os.environ.update(self._endpoint.model)
        self.lines.own.add(self._endpoint.thread)
        self._records: list[Recorded] = []  # parts of a journal, of which `start` brings the last
        self._deferred: list[dict[str, Any]] = []  # came while it stood still
        self._routed = False
        self._handlers[names.JOURNAL] = self._take_journal
        self._handlers[names.CERTIFIED] = self._endpoint.give

    def move(self, message: dict[str, Any]) -> tuple[str, str]:
        """See `torpor.sdk.process.Move`."""
        # Taken out: nobody is to remember them.
        app, home = message.pop("app"), message.pop("home")
        os.chdir(app)
        self._heed_rules(message)
        if message["t"] == names.IMPORT:
            os.environ["HOME"] = home
            return app, os.path.basename(home)  # noqa: PTH119
        os.environ["HOME"] = home
        self._files = StepFiles(home, message["kept"])
        compiled.keep(app, message["compiled"])
        return app, ""

    def _heed_rules(self, message: dict[str, Any]) -> None:
        """Before anything is imported, which may look at the environment."""
        environment = self._endpoint.obey(message)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if environment and not self._routed:
            self._routed = True
            Routes(self._endpoint).install()

    def send(self, message: bytes) -> None:
        """From another thread than the agent's."""
        with self._critical:
            self._send(message)

    def _replay_step(self, operation: Operation, record: Recorded) -> None:
        self._marks.skip_to(record.get("printed", {}))
        assert operation.own is not None
        self._files.replay(operation.op)
        if operation.fetched is None:
            operation.replayed = operation.own

    def body(self, operation: Operation, *, begins: bool) -> None:
        if begins:
            self._files.begin(operation.op)
            return
        try:
            self._files.end(operation.op)
        except OSError as error:
            text = f"what {operation.op} wrote to files will not be there after a replay: {error}"
            data = {"message": text, "level": "warning", "data": {}}
            self.say(names.NOTE, kind="log", data=data, op=operation.op)

    def abandon(self, operation: Operation) -> None:
        self._files.forget(operation.op)
        super().abandon(operation)

    def _take_journal(self, message: dict[str, Any]) -> None:
        self._records += message["records"]

    def _start(self, message: dict[str, Any]) -> None:
        records = self._records + message["journal"]
        if message["reloaded"]:
            self._holding.expect_others()
            self._endpoint.reloaded()
        self._endpoint.give(records)
        message["journal"] = [e for e in records if not is_exchange(e["kind"], e["name"])]
        super()._start(message)

    def _result(self, message: dict[str, Any]) -> None:
        if is_exchange(op_kind(message["op"]), op_name(message["op"])):
            self._endpoint.give(message)
        else:
            super()._result(message)

    def _ask_count(self, asking: int) -> None:
        """So many requests wait for a person."""
        with self._critical:
            self._asking = asking
            self._tell(names.STATUS, **self._own_status)

    def _tell(self, t: str, **fields: Any) -> None:
        if t == names.STATUS:
            self._own_status = fields
            if self._asking:
                waiting = fields["waiting"] + self._asking
                fields = {"waiting": waiting, "busy": fields["busy"]}
        super()._tell(t, **fields)

    def _prepare(self, message: dict[str, Any]) -> None:
        if self._asking:
            message["calls"] = True  # their clients' timeouts are of no account
        super()._prepare(message)
        deferred, self._deferred = self._deferred, []
        for each in deferred:
            self._handlers[each["t"]](each)

    def _stand_still(self, found: Rest) -> list[Operation]:
        """Until the server says to go on, or ends this process: its run is suspended then."""
        self._tell(names.PREPARED, **found.report())
        while line := self._reader.readline():
            message = json.loads(line)
            if message["t"] == names.RESUME:
                break
            self._deferred.append(message)
        else:
            self._gone()
        return []

    def _gone(self) -> NoReturn:
        """The server is gone: nothing that this process does counts any more, nor what it has
        started does."""
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        super()._gone()


def main(arguments: list[str]) -> int:
    control_fd, mark, *deps = arguments
    os.set_inheritable(int(control_fd), False)
    if sys.platform == "linux":
        # An agent that computes in one long C call would not notice otherwise.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    runtime = AloneRuntime(socket.socket(fileno=int(control_fd)), mark)
    return process.live(runtime, deps, runtime.move, watched=())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
