"""dev: an agent that runs as it is written.

    files ──save──► read, deployed ──► the run goes on as the new version ──► shown
            a thread watches          a thread for each save: only the newest counts

The run belongs to the server, as with `torpor run`: what is kept of it when its code changes is
decided there (`torpor.contextlog.reloads`). Until the new code is deployed, which is to say that it
was imported, the run that there is goes on: a slip in the code costs nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

import typer

from torpor.cli import terminal
from torpor.cli.agents import FilesOpt, InputOpt, TargetArg, deploy_now, offered, split_target
from torpor.cli.attach import Follower, finish
from torpor.cli.environment import EnvFileOpt, EnvOpt, given_env
from torpor.cli.exits import Exit
from torpor.cli.given import Files, usage
from torpor.cli.host import connect
from torpor.cli.inputs import InputGiven
from torpor.cli.reaching import new_lines, state_new
from torpor.client import Client
from torpor.core.agentfile import AgentSource
from torpor.core.errors import NotFound, TorporError
from torpor.core.home import Home
from torpor.core.layout import OURS
from torpor.core.states import RELOADED
from torpor.engine import registry
from torpor.project.missing import missing_file
from torpor.terminal.screen import say
from torpor.web import words

# Runs of `torpor dev` wait here, not where others do.
QUEUE = "dev"

Object = dict[str, Any]


def dev(
    target: TargetArg,
    input: InputOpt = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("-i", metavar="KEY=VALUE", help="One parameter, as with torpor run."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over at each change, without what was recorded.")
    ] = False,
    files: FilesOpt = None,
    env: EnvOpt = None,
    env_file: EnvFileOpt = None,
) -> None:
    """Run an agent while you write it: each save runs at once, as a plain process.

    Everything recorded is kept, model calls and answers too, up to the first step whose code has
    changed, or the point where the agent does something else. From there on it runs. Ctrl-C leaves.
    """
    path, name = split_target(target)
    if not path.exists():
        raise NotFound(f"no agent file at {path}", hint="Give the path of a Python file.")
    given = InputGiven.read(input, pairs or [])
    start = {"queue": QUEUE, "env": given_env(env, env_file)}
    session = Session(connect(), path, name, given, files or (), start, fresh=fresh)
    raise typer.Exit(session.run())


@dataclass(frozen=True)
class _Next:
    """A run that is to be shown, and what was saved before it."""

    run: Object
    saved: str


class Session:
    def __init__(
        self,
        client: Client,
        path: Path,
        name: str | None,
        given: InputGiven,
        files: Sequence[str],
        start: Object,
        *,
        fresh: bool,
    ) -> None:
        """`files` are given to the first run, and `start` says how that is started."""
        self._client, self._path, self._name = client, path, name
        self._given, self._files, self._start, self._fresh = given, files, start, fresh
        self._interactive = terminal.interactive()
        self._next: SimpleQueue[_Next | BaseException] = SimpleQueue()
        self._follower: Follower | None = None
        # Under the lock, which is held while the server is asked for a run: one at a time.
        self._lock = threading.Lock()
        self._saves = 0
        self._source: AgentSource | None = None  # what runs
        self._current: str | None = None  # the newest run
        self._version = ""
        self._stated_where = False
        home = Home(Path(client.health()["home"]))  # the server's, which may be elsewhere
        copies = "|".join(re.escape(each.as_posix()) for each in (home.work, home.processes))
        self._copies = re.compile(rf"(?:{copies})/[^/\s]+/work/")  # of the agent's files
        self._root = path.absolute().parent

    def run(self) -> int:
        """Until the person leaves; the exit code."""
        from torpor.cli import watching

        seen = watching.look(self._path)
        self._root = watching.root_of(self._path, seen)
        watch = partial(watching.watch, self._path, seen, self._saved)
        threading.Thread(target=self._or_end, args=(watch,), daemon=True).start()
        try:
            self._begin(seen)
            while True:
                self._show(self._await_next())
        except KeyboardInterrupt:
            return self._leave()
        except _Left:
            return 0

    # -- the first run ------------------------------------------------------------------------

    def _begin(self, seen: AgentSource | TorporError) -> None:
        if isinstance(seen, AgentSource):
            save = self._new_save()
            try:
                state_new(self._client, seen)
                deployed = deploy_now(self._client, seen, registry.FALLBACK.name)
            except TorporError as error:
                seen = error
            else:  # an input that does not fit ends the command: no save changes that
                self._deployed(save, seen, deployed, "")
        if isinstance(seen, TorporError):
            self._complain(seen)

    # -- what the threads do --------------------------------------------------------------------

    def _saved(self, seen: AgentSource | TorporError) -> None:
        save = self._new_save()
        if isinstance(seen, TorporError):
            self._complain(seen)
        else:
            deploy = partial(self._deploy, save, seen)
            threading.Thread(target=self._or_end, args=(deploy,), daemon=True).start()

    def _or_end(self, do: Callable[[], None]) -> None:
        """What a thread does; if that fails it is shown, and ends the command with the run."""
        try:
            do()
        except BaseException as error:
            self._say(f"torpor dev fails: {type(error).__name__}: {error}", "red")
            self._next.put(error)

    def _new_save(self) -> int:
        with self._lock:
            self._saves += 1
            return self._saves

    def _deploy(self, save: int, source: AgentSource) -> None:
        try:
            for line in new_lines(self._client, source):
                self._say(line, "yellow")
            deployed = self._client.deploy(source, self._progress, registry.FALLBACK.name)
            self._deployed(save, source, deployed, self._changes(source))
        except TorporError as error:
            if save == self._saves:
                self._complain(error)

    def _deployed(self, save: int, source: AgentSource, deployed: Object, saved: str) -> None:
        """The agent as it was saved can run: have it go on so."""
        with self._lock:
            if save != self._saves:
                return  # it was saved once more meanwhile
            version = deployed["version"]
            if self._current is None:
                created = self._first(version, offered(deployed, self._name, self._path))
            elif version != self._version:
                created = self._client.reload(self._current, version, fresh=self._fresh)
            else:
                return
            self._source, self._version, self._current = source, version, created["id"]
        self._next.put(_Next(created, saved))

    def _first(self, version: str, agent: Object | None) -> Object:
        carried = Files.of_options(self._files)
        given = self._given.of(agent, carried)
        with usage("-i"):
            carried.check()
        how = {"files": carried.by_place, **self._start}
        started = self._client.start(version, self._name, given, None, **how)
        return self._client.run(started["id"])

    def _progress(self, stage: str, message: str, fraction: float | None) -> None:
        if stage == "deps":
            self._say(message, "dim")

    def _changes(self, source: AgentSource) -> str:
        """Which files were saved, in words."""
        was = {} if self._source is None else self._source.files
        names = sorted(was.keys() | source.files.keys())
        changed = [name for name in names if was.get(name) != source.files.get(name)]
        # What is made of pyproject.toml is nothing that anybody saved.
        changed = [name for name in changed if not name.startswith(f"{OURS}/")]
        if not changed:
            return f"{self._path.name} changed"
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more} changed"

    # -- what the terminal shows ------------------------------------------------------------------

    def _say(self, text: str, style: str) -> None:
        if (follower := self._follower) is None:
            say(text, style)
        else:
            follower.tell(text, style)

    def _complain(self, error: TorporError) -> None:
        hint = f"\n{error.hint}" if error.hint else ""
        going = "the run goes on as it was" if self._goes_on() else "the next save is tried"
        self._say(f"error: {words.plain(self._at_home(error.message))}{hint}\n{going}", "red")

    def _goes_on(self) -> bool:
        return self._follower is not None

    def _at_home(self, text: str) -> str:
        """A traceback with the files that the person has, not the server's copies of them."""
        return self._copies.sub(lambda found: f"{self._root}/", text)

    def _shown(self, ended: Object) -> Object:
        error = ended["error"]
        if not error or not error.get("traceback"):
            return ended
        return {**ended, "error": {**error, "traceback": self._at_home(error["traceback"])}}

    def _await_next(self) -> _Next:
        found = self._next.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _show(self, wanted: _Next) -> None:
        """The run until it ends, and whatever takes its place, but not what a save makes of it."""
        run: Object = wanted.run
        say(_heading(run, wanted.saved), "cyan" if wanted.saved else "dim")
        if not self._stated_where:
            self._say_where(run)
        after: int = run["origin_seq"] or 0
        while True:
            ended = self._follow(run, after)
            if (successor := ended["successor"]) is None:
                break
            if (ended["error"] or {}).get("type") == RELOADED:
                return  # what a save has made of it comes next
            run = self._client.run(successor)
            after = run["origin_seq"]  # what it shares was shown
            say(f"failed: {words.error_line(ended['error'])} · {successor} goes on", "yellow")
        source = self._source
        explain = None if source is None else partial(missing_file, source=source)
        finish(self._shown(ended), explain=explain, as_json=False)
        say("the next save runs it again", "dim")

    def _follow(self, run: Object, after: int) -> Object:
        """As it ended. Raises _Left, KeyboardInterrupt."""
        follower = Follower(
            self._client,
            run["id"],
            after,
            as_json=False,
            interactive=self._interactive,
            awaited=run["waits"],
        )
        self._follower = follower
        if not follower.follow():
            raise _Left
        self._follower = None
        return self._client.run(run["id"])

    def _say_where(self, run: Object) -> None:
        """Where else it may be looked at, once: a link logs in one time."""
        self._stated_where = True
        if self._client.remote is not None:
            return  # only a browser of the server's host could
        link = self._client.dashboard()["url"]
        say(f"dashboard: {link}&run={run['id']}", "dim")

    def _leave(self) -> int:
        if self._follower is not None:
            self._follower.close()
            say(f"left; the run goes on: torpor logs -f {self._current}")
        return Exit.INTERRUPTED


class _Left(Exception):
    """The person has detached."""


def _heading(run: Object, saved: str) -> str:
    if not saved:
        return str(run["id"])
    fork_facts = run["forked"] or {}
    kept = words.count(fork_facts.get("kept", 0), "recorded operation")
    if not fork_facts.get("kept"):
        return f"↻ {saved}: {run['id']} begins anew"
    again = f", {fork_facts['again']} runs again" if fork_facts["again"] else ""
    return f"↻ {saved}: {run['id']} goes on with {kept}{again}"
