"""The supervisor's loop: the link on one side, the agent's process on the other.

    host ◄── link (one byte channel) ──► supervisor ◄── control, hold, stdout, stderr ──► agent
                                             ▲
                                             └── frames ── gateway ◄── agent's connections

Most messages pass through, checked (rule 13). What the supervisor does itself is start the agent,
carry its output, make operations of recorded exchanges, and stand still and wake up:

    RUNNING ──prepare──► PREPARING ──agent held, cgroup frozen──► PREPARED ──thaw──► THAWING
       ▲                     │ hook failed, 2 s over, resume          │ resume          │ agent is
       ├─────unprepared──────┘                                        │                 │ fresh
       ├──────────────────────────────────────────────────────────────┘                 │
       └───────────────────────────────thawed───────────────────────────────────────────┘

PREPARED is where a snapshot is taken, and where its copies wake up. There nothing runs: no
agent's code, and of the supervisor only `_sleep`, which reads the link and nothing else. Messages
other than thaw and resume wait until the agent is fresh (rule 8). Each time the agent's process
says it is held it gets exactly one release; a release that comes after a prepare was given up
is answered at once.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from torpor.core.errors import Invalid, TorporError
from torpor.core.limits import PIPE_BYTES_MAX
from torpor.guest.agent import READ_BYTES, AgentProcess, describe_exit, exit_text
from torpor.guest.commands import Commands
from torpor.guest.exchanges import Exchanges
from torpor.guest.freshen import freshen_kernel, set_clock
from torpor.guest.gatewayside import GatewaySide
from torpor.guest.held import FRESH, HELD, SEED_BYTES
from torpor.guest.port import Port
from torpor.guest.runfiles import Arriving
from torpor.guest.settings import Settings
from torpor.guest.unpack import unpack
from torpor.wire import messages, names
from torpor.wire.link import CONTROL, FILES, STDERR, STDOUT, STREAMS, Received

PREPARE_S_MAX = 2.0
# Above this the agent's output stays in its pipes, and the agent waits: the host is behind.
UNACKED_BYTES_MAX = 1024 * 1024
_PORT_RETRY_S = 0.02  # while the host's end of the virtio port is closed


class Phase(enum.Enum):
    RUNNING = enum.auto()
    PREPARING = enum.auto()
    PREPARED = enum.auto()
    THAWING = enum.auto()


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # First of all: it is forked off, and is to have nothing of the rest.
        self._gateway = GatewaySide(settings)
        self._selector = selectors.DefaultSelector()
        self._port = Port(settings.link_fd)
        self._port_events = 0  # what the selector watches the port for
        self._port_retry_at: float | None = None
        self._exchanges = Exchanges(self._send, self._pass_on, self._gateway.give)
        self._gateway.join(self._selector, self._exchanges.from_gateway, self._send)
        self._commands = Commands(settings, self._selector, self._send)
        self._files = Arriving(settings)
        self._agent: AgentProcess | None = None
        self._agent_watched: dict[int, Callable[[int], None]] = {}  # by fd: what may be paused
        self._paused = False
        self._loaded: bytes | None = None  # the `loaded` message, until the rehearsal is over
        self._importing = True  # the agent has not been loaded yet
        self._ended = False  # the agent has said its last word
        self._phase = Phase.RUNNING
        self._prepare_until: float | None = None
        self._rest: dict[str, Any] = {}  # how the agent that is held rests
        self._frozen = False
        # Messages and frames that came while PREPARED or THAWING.
        self._deferred: list[dict[str, Any] | bytes] = []
        self._thaw_epoch = 0
        self._journal: list[Any] = []  # parts of one that came before the last
        self._status: dict[str, Any] = {"waiting": 0, "busy": 0}  # as sent
        self._agent_status = self._status
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            names.IMPORT: self._load,
            names.LOAD: self._load,
            names.FILE: self._files.announce,
            names.START: self._start,
            names.JOURNAL: self._take_journal,
            names.THAW: self._thaw,
            names.CLOCK: self._clock,
            names.PREPARE: self._prepare,
            names.RESUME: self._resume,
            names.RESULT: self._result,
            names.RECORDED: self._to_agent,
            names.PIECE: self._to_agent,
            names.CANCEL: self._to_agent,
            names.CERTIFIED: self._gateway.certified,
            **self._commands.handlers,
        }
        self._watch_children()

    # ---- the loop ----

    def run(self) -> None:
        """Serve until the host is gone; as a machine's first process, for ever."""
        self._say(
            names.HELLO,
            protocol=messages.PROTOCOL,
            python=".".join(map(str, sys.version_info[:3])),
            kernel=os.uname().release,
        )
        while True:
            self._pump()
            if self._asleep:
                self._sleep()
                continue
            for key, mask in self._selector.select(self._timeout_s()):
                # A handler may have closed what another event of this round is about.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(mask)
                if self._asleep:
                    break
            self._tick()

    @property
    def _asleep(self) -> bool:
        return self._phase is Phase.PREPARED

    def _timeout_s(self) -> float | None:
        due = [at for at in (self._prepare_until, self._port_retry_at) if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self) -> None:
        now = time.monotonic()
        if self._prepare_until is not None and now >= self._prepare_until:
            self._give_up_preparing(f"the agent did not stand still within {PREPARE_S_MAX:g} s")
        if self._port_retry_at is not None and now >= self._port_retry_at:
            self._port_retry_at = None

    def _sleep(self) -> None:
        """PREPARED: nothing but the link is looked at until the host says how to go on."""
        poll = select.poll()
        while self._asleep:
            poll.register(self._port.fd, select.POLLIN | (select.POLLOUT * self._port.blocked))
            poll.poll()
            if not self._read_port():
                time.sleep(_PORT_RETRY_S)
            self._port.write()

    def _pump(self) -> None:
        """Everything that is queued goes as far as it can."""
        self._update_status()
        if self._agent is not None:
            self._watch_agent_writes(self._agent, not self._agent.flush())
            self._pause_agent(self._agent, self._port.unacked > UNACKED_BYTES_MAX)
        self._gateway.pump(paused=self._port.unacked > UNACKED_BYTES_MAX)
        self._port.write()
        events = 0
        if self._port_retry_at is None:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE * self._port.blocked
        self._watch(self._port.fd, self._port_events, events, self._port_ready)
        self._port_events = events

    def _watch(self, fd: int, before: int, events: int, callback: Callable[[int], None]) -> None:
        if before == events:
            return
        if not events:
            self._selector.unregister(fd)
        elif not before:
            self._selector.register(fd, events, callback)
        else:
            self._selector.modify(fd, events, callback)

    # ---- the link ----

    def _send(self, message: bytes) -> None:
        self._port.send(CONTROL, message)

    def _pass_on(self, frame: bytes) -> None:
        self._port.send(STREAMS, frame)

    def _say(self, t: str, **fields: Any) -> None:
        self._send(messages.encode(t, **fields))

    def _port_ready(self, mask: int) -> None:
        if mask & selectors.EVENT_READ and not self._read_port():
            self._port_retry_at = time.monotonic() + _PORT_RETRY_S

    def _read_port(self) -> bool:
        """Take in what has come; False when the host's end is closed."""
        came = self._port.read()
        for received in came or ():
            self._received(received)
        return came is not None

    def _received(self, received: Received) -> None:
        if received.channel == FILES:
            self._files.take(received.message)
            return
        try:
            if received.channel == STREAMS:
                self._frame(received.message)
                return
            message = messages.decode(received.message, messages.FROM_HOST)
            if self._phase in (Phase.RUNNING, Phase.PREPARING) or message["t"] in (
                names.JOURNAL,
                names.THAW,
                names.RESUME,
            ):
                self._handlers[message["t"]](message)
            else:
                self._deferred.append(message)
        except TorporError as error:
            _complain(f"refused from the host: {error}")

    def _frame(self, frame: bytes) -> None:
        if self._phase in (Phase.RUNNING, Phase.PREPARING):
            self._exchanges.from_host(frame)
        else:
            self._deferred.append(frame)

    # ---- the agent ----

    def _load(self, message: dict[str, Any]) -> None:
        """Give the agent's process, which is started if need be, its files, and tell it to load
        them, or to import others ahead."""
        if not self._importing:
            raise Invalid("an agent is loaded already")
        settings = self._settings
        try:
            if self._files.tar:
                unpack(self._files.tar, settings.app, settings.uid)
                self._files.tar.clear()
            program = self._gateway.prepare(message)
            if self._agent is None:
                self._watch_agent(AgentProcess(settings, program))
        except (Invalid, OSError) as error:
            self._say(names.LOAD_FAILED, error=str(error), traceback="")
            return
        self._to_agent(message)

    def _watch_agent(self, agent: AgentProcess) -> None:
        self._agent = agent
        self._commands.program, self._commands.cgroup = agent.program, agent.cgroup

        def carry(fd: int, channel: int) -> Callable[[int], None]:
            def ready(mask: int) -> None:
                self._carry(fd, channel)

            return ready

        self._agent_watched = {
            agent.control.fileno(): self._hear_agent,
            agent.stdout: carry(agent.stdout, STDOUT),
            agent.stderr: carry(agent.stderr, STDERR),
        }
        for fd, callback in self._agent_watched.items():
            self._selector.register(fd, selectors.EVENT_READ, callback)
        self._selector.register(agent.hold, selectors.EVENT_READ, self._hear_hold)

    def _take_journal(self, message: dict[str, Any]) -> None:
        """A part of a journal too long for one message; `start` or `thaw` brings the last."""
        self._journal += message["records"]

    def _journal_for_agent(self, last: list[Any]) -> list[Any]:
        """Use the whole journal: exchanges are answered here, the rest by the agent."""
        records, self._journal = self._journal + last, []
        return self._exchanges.extend_journal(records)

    def _start(self, message: dict[str, Any]) -> None:
        message["journal"] = self._journal_for_agent(message["journal"])
        self._commands.env = message.get("env", {})
        self._exchanges.open()
        if problem := self._files.problem:
            self._ended = True
            error = messages.error("OSError", problem)
            self._say(names.FAILED, **error, traceback=None, cancelled=False)
            return
        if self._agent is not None:
            self._agent.say_line(messages.encode_own(**message))

    def _result(self, message: dict[str, Any]) -> None:
        if not self._exchanges.result(message):
            self._to_agent(message)

    def _to_agent(self, message: dict[str, Any]) -> None:
        if self._agent is not None:
            self._agent.say(message.pop("t"), **message)

    def _hear_agent(self, mask: int) -> None:
        agent = self._agent
        if agent is None:
            return
        if mask & selectors.EVENT_WRITE:
            agent.flush()
        try:
            lines = agent.read_lines()
            if lines is None:
                self._unwatch(agent.control.fileno())
                return
            for line in lines:
                self._from_agent(line)
        except (TorporError, ValueError) as error:
            # Its own process wrote to a descriptor that is not its own: it cannot be trusted on.
            _complain(f"refused from the agent, which is killed: {error}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.pid, signal.SIGKILL)

    def _hear_rest(self, agent: AgentProcess) -> None:
        """All that a process that stands still, or is gone, has said."""
        fd = agent.control.fileno()
        while fd in self._agent_watched and select.select([fd], [], [], 0)[0]:
            self._hear_agent(selectors.EVENT_READ)

    def _from_agent(self, line: bytes) -> None:
        message = messages.decode(line, messages.FROM_AGENT)
        t = message.pop("t")
        if t in messages.AFTER_OUTPUT:
            self._carry_rest()
        if t in messages.FINAL:
            self._ended = True
        if t == names.STATUS:
            self._agent_status = message
        elif t == names.UNPREPARED:
            self._give_up_preparing(**message)
        elif t == names.PREPARED:
            self._rest = message  # it is about to be held
        elif t == names.LOADED and self._agent is not None:
            self._loaded = line
            self._importing = False
            self._agent.say_line(messages.encode_own(names.REHEARSE))
        else:
            self._send(line)
            if t == names.REPLAYED and self._agent is not None:
                # The agent has waited: what it writes from now on comes after.
                self._agent.say(names.RECORDED, op=message["op"])

    def _carry(self, fd: int, channel: int) -> bool:
        """Pass on one read of the agent's output; False when there is none."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._port.send(channel, data)
        else:
            self._unwatch(fd)
        return bool(data)

    def _carry_rest(self) -> None:
        """What the agent wrote before its last word comes before it."""
        if self._agent is not None:
            for fd, channel in ((self._agent.stdout, STDOUT), (self._agent.stderr, STDERR)):
                # At most what a pipe holds: its children may go on writing without end.
                for _ in range(PIPE_BYTES_MAX // READ_BYTES):
                    if fd not in self._agent_watched or not self._carry(fd, channel):
                        break

    def _unwatch(self, fd: int) -> None:
        if self._agent_watched.pop(fd, None) is not None and not self._paused:
            self._selector.unregister(fd)

    def _pause_agent(self, agent: AgentProcess, paused: bool) -> None:
        if paused == self._paused:
            return
        self._paused = paused
        for fd, callback in self._agent_watched.items():
            if paused:
                self._selector.unregister(fd)
            else:
                self._selector.register(fd, selectors.EVENT_READ, callback)

    def _watch_agent_writes(self, agent: AgentProcess, wanted: bool) -> None:
        fd = agent.control.fileno()
        if fd in self._agent_watched and not self._paused:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(fd, events, self._hear_agent)

    def _update_status(self) -> None:
        status = {**self._agent_status}
        status["busy"] += self._exchanges.busy
        status["waiting"] += self._exchanges.asking
        if calls := self._exchanges.calls:
            status["calls"] = calls
        if status != self._status and (status["waiting"] or self._status["waiting"]):
            self._status = status
            self._say(names.STATUS, **status)

    # ---- children ----

    def _watch_children(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

        def reap(mask: int) -> None:
            os.read(woken, READ_BYTES)
            with contextlib.suppress(ChildProcessError):
                while True:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        return
                    if self._agent is not None and pid == self._agent.pid:
                        self._agent_exited(self._agent, status)
                    self._commands.reaped(pid, status)
                    self._gateway.reaped(pid, status)

        self._selector.register(woken, selectors.EVENT_READ, reap)

    def _agent_exited(self, agent: AgentProcess, status: int) -> None:
        if self._paused:
            self._pause_agent(agent, False)
        self._hear_rest(agent)
        self._carry_rest()
        for fd in list(self._agent_watched):
            self._unwatch(fd)
        if agent.hold in self._selector.get_map():
            self._selector.unregister(agent.hold)
        agent.close()
        self._agent = None
        if not self._ended:
            self._ended = True
            exited = describe_exit(status, agent.cgroup)
            if self._importing:
                self._say(names.LOAD_FAILED, error=exit_text(exited), traceback="")
            else:
                self._say(names.EXITED, **exited)
        if self._phase is Phase.PREPARING:
            self._give_up_preparing("the agent's process has ended")
        elif self._phase is Phase.THAWING:
            self._thawed()

    def say_crashed(self, trace: str) -> None:
        """The last word, as far as it still goes; a machine without a supervisor is gone."""
        with contextlib.suppress(Exception):
            self._say(names.CRASHED, traceback=trace)
            self._port.write()

    def end_agent(self) -> None:
        """Nobody is left to speak to: the agent ends with the supervisor, whatever it is doing."""
        if self._agent is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._agent.pid, signal.SIGKILL)

    # ---- standing still and waking up ----

    def _prepare(self, message: dict[str, Any]) -> None:
        if self._phase is not Phase.RUNNING:
            return
        self._phase = Phase.PREPARING
        self._rest = {}
        if self._agent is None or self._ended:
            self._prepared()
            return
        self._prepare_until = time.monotonic() + PREPARE_S_MAX
        if self._exchanges.asking or self._exchanges.calls:
            message["calls"] = True  # who waits for an answer must not time out meanwhile
        self._agent.say(**message)

    def _hear_hold(self, mask: int) -> None:
        agent = self._agent
        assert agent is not None
        try:
            byte = agent.hold.recv(1)
        except ConnectionResetError:
            byte = b""
        if byte == HELD:
            if self._loaded is not None:
                # A rehearsal, so that the first thaw does nothing for the first time.
                if self._settings.machine:
                    freshen_kernel(os.urandom(64), time.time())
                agent.release({"seeds": [os.urandom(SEED_BYTES)]})
            elif self._phase is Phase.PREPARING:
                self._agent_held(agent)
            else:
                agent.release({"seeds": []})
        elif not byte:
            self._selector.unregister(agent.hold)
        elif byte == FRESH and self._loaded is not None:
            self._send(self._loaded)
            self._loaded = None
        elif byte == FRESH and self._phase is Phase.THAWING:
            self._thawed()

    def _agent_held(self, agent: AgentProcess) -> None:
        # All that it said and wrote before goes to the log before the snapshot.
        self._hear_rest(agent)
        self._carry_rest()
        self._gateway.hear()  # what was sent before is on its way, if its operation begins
        if agent.cgroup is not None:
            self._frozen = agent.cgroup.freeze(self._prepare_left_s())
            self._gateway.hear()
            if self._frozen and self._gateway.used:
                self._frozen = agent.cgroup.freeze(self._prepare_left_s(), gateway=True)
            if not self._frozen:
                agent.release({"seeds": []})
                self._give_up_preparing("a process of the agent could not be frozen")
                return
        self._prepared()

    def _prepare_left_s(self) -> float:
        return max(0.0, (self._prepare_until or 0.0) - time.monotonic())

    def _prepared(self) -> None:
        self._prepare_until = None
        self._phase = Phase.PREPARED
        self._update_status()
        self._say(names.PREPARED, **self._rest)
        self._port.write()

    def _give_up_preparing(self, reason: str, **again: float) -> None:
        if self._phase is Phase.PREPARING:
            self._prepare_until = None
            self._phase = Phase.RUNNING
            self._say(names.UNPREPARED, reason=reason, **again)

    def _resume(self, message: dict[str, Any]) -> None:
        """It was not frozen after all, or goes on beside its snapshot. A pause was lost to the
        clock: nobody may read it before it is right again."""
        self._clock(message)
        self._say(names.RESUMED, at=time.time())
        if self._phase is Phase.PREPARING:
            # The agent may be held in a moment; it is then released as late as it is.
            self._prepare_until = None
        elif self._phase is Phase.PREPARED:
            self._release({"seeds": []})
        else:
            return
        self._go_on()

    def _thaw(self, message: dict[str, Any]) -> None:
        if self._phase is not Phase.PREPARED:
            raise Invalid(
                f"thaw while {self._phase.name.lower()}: only what was prepared is thawed"
            )
        # A part for the agent's process, the rest for the kernel: neither tells of the other.
        entropy = bytes.fromhex(message["entropy"])
        seed, entropy = entropy[:SEED_BYTES], entropy[SEED_BYTES:]
        if self._settings.machine:
            freshen_kernel(entropy, message["time"])
            self._gateway.freshen()
        self._commands.end_all()  # who asked for them is not there any more
        rest = self._journal_for_agent(message["journal"])
        self._phase = Phase.THAWING
        self._thaw_epoch = message["epoch"]
        if self._agent is None or self._ended:
            self._thawed()
            return
        if rest:
            self._agent.say_line(messages.encode_own(names.JOURNAL, records=rest))
        self._release(
            {
                "run": message["run"],
                "epoch": message["epoch"],
                "seeds": [seed],
                "journal": bool(rest),
            }
        )

    def _clock(self, message: dict[str, Any]) -> None:
        """A thaw and a resume set the clock too, but took their time to get there."""
        if self._settings.machine:
            set_clock(message["time"])

    def _release(self, identity: dict[str, Any]) -> None:
        agent = self._agent
        if agent is None or self._ended:
            return
        agent.release(identity)
        if self._frozen and agent.cgroup is not None:
            self._frozen = False
            agent.cgroup.thaw()

    def _thawed(self) -> None:
        self._say(names.THAWED, epoch=self._thaw_epoch, at=time.time())
        self._go_on()
        self._exchanges.thawed()

    def _go_on(self) -> None:
        self._phase = Phase.RUNNING
        deferred, self._deferred = self._deferred, []
        for each in deferred:
            if isinstance(each, bytes):
                self._frame(each)
            else:
                self._handlers[each["t"]](each)


def _complain(text: str) -> None:
    print(f"torpor supervisor: {text}", file=sys.stderr, flush=True)
