"""The API's client: of the server on this host, over its Unix socket, or of one elsewhere, which
$TORPOR_URL names, with the key in $TORPOR_API_KEY.

`Client` raises the errors of `torpor.core.errors`, rebuilt from the server's problem details,
and `Unreachable` when nobody answers. It gives the API's JSON as it is; its shapes are at /docs
and in `torpor.web.shapes`. Synchronous: its user is the command line.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from torpor.client.events import Appended, Back, Ended, Followed, Lost, parse_events
from torpor.client.problems import Unreachable, foreign, from_problem, refusal, unreachable
from torpor.client.remote import Remote
from torpor.client.transport import Broken, Response, Transport
from torpor.core import jsonvalues
from torpor.core.errors import Invalid, NotFound
from torpor.core.home import Home
from torpor.core.limits import SILENCE_S
from torpor.core.origins import seen_from_afar
from torpor.core.paging import Page

if TYPE_CHECKING:
    from torpor.client.execs import Exec
    from torpor.client.files import Given
    from torpor.client.outcomes import Outcome
    from torpor.core.agentfile import AgentSource

# The server's heartbeat comes every 15 s: a stream that is silent for longer is dead.
_RETRY_S = 0.3
_PAGE = 1000

Object = dict[str, Any]
OnProgress = Callable[[str, str, float | None], None]


class Client:
    """Safe to use from several threads, which share its connections. Ends with `close`, or a
    `with` block; what is asked after that opens new ones."""

    def __init__(
        self,
        home: Home | None = None,
        *,
        url: str | None = None,
        key: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Of the server at `url`, asked with `key`; without these of that which the environment
        names, or of this host: of the data directory `home`, by default $TORPOR_HOME.

        `timeout_s` is how long it may take to answer. Raises Invalid.
        """
        self.home: Home = home or Home.find()
        self.remote: Remote | None = Remote.find() if url is None else Remote.of(url, key or "")
        if self.remote is None:
            self._http = Transport(self.home.socket("server"), {})
        else:
            bearer = {"authorization": f"Bearer {self.remote.key}"} if self.remote.key else {}
            self._http = Transport(self.remote.url, bearer)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def health(self) -> Object:
        return self._object("GET", "/health")

    def deploy(
        self, source: AgentSource, on_progress: OnProgress, engine: str | None = None
    ) -> Object:
        """`engine` is by default the server's choice."""
        body = {
            "engine": engine,
            "entry": source.entry,
            "files": {p: base64.b64encode(b).decode() for p, b in source.files.items()},
            "executable": sorted(source.executable),
            "requires_python": source.requires_python,
            "dependencies": list(source.dependencies),
            "memory_mib": source.memory_mib,
            "disk_mib": source.disk_mib,
            "env": dict(source.env),
            "egress": [dict(entry) for entry in source.egress],
            "keep": source.keep,
            "on_divergence": source.on_divergence,
            "rules": source.rules.given,
            "webhooks": dict(source.webhooks),
            "name": source.called,
            "origin": seen_from_afar(source.origin) if self.remote else source.origin,
        }
        data: Object
        for name, data in self._events("POST", "/agents", json=body):
            if name == "progress":
                on_progress(data["stage"], data["message"], data["fraction"])
            elif name == "deployed":
                return data
        raise self._unreachable("the server stopped while it deployed the agent")

    def agents(self) -> list[Object]:
        return self._list("GET", "/agents")

    def agent(self, ref: str, *, version: str | None = None, engine: str | None = None) -> Object:
        """What a run by this name would be started of; how it described itself is its `agent`."""
        query = _given({"version": version, "engine": engine})
        return self._object("GET", f"/agents/{_segment(ref)}", params=query)

    def reach(self, ref: str, *, exact: bool = False) -> Object:
        """What the agent may reach; `exact`: `ref` is where it comes from."""
        ref = seen_from_afar(ref) if exact and self.remote else ref
        query = {"agent": _named(ref), "exact": str(exact).lower()}
        return self._object("GET", "/egress/rules", params=query)

    def judge(self, ref: str, method: str, url: str) -> Object:
        """What would become of this request of the agent. Nothing is sent."""
        body = {"agent": _named(ref), "method": method, "url": url}
        return self._object("POST", "/egress/test", json=body)

    def exchanges(
        self,
        run: str | None = None,
        *,
        denied: bool = False,
        since: float | None = None,
        limit: int = 100,
    ) -> list[Object]:
        """The newest requests that left, were refused or are asked for, oldest first."""
        query = {"run": run, "denied": str(denied).lower(), "since": since, "limit": limit}
        return self._list("GET", "/egress", params=_given(query))

    def retire_agent(self, ref: str) -> Object:
        """Forget that it is deployed."""
        return self._object("DELETE", "/agents", params={"agent": _named(ref)})

    def start(
        self,
        version: str | None = None,
        agent: str | None = None,
        input: Object | None = None,
        id_key: str | None = None,
        *,
        files: Mapping[str, Given] | None = None,
        **start: Any,
    ) -> Object:
        """A run of `agent`, by its name, or of a version. The same `id_key` again is the same run.

        `files` are uploaded, and are in the agent's working directory, by their paths in it, when
        it begins. `start`: as `torpor.core.starting.Start` has it, and `engine`.
        """
        body = {"version": version, "agent": agent, "input": input or {}, "id_key": id_key, **start}
        if files:
            body["files"] = {path: self.upload(given) for path, given in files.items()}
        return self._object("POST", "/runs", json=body)

    def upload(self, given: Given) -> str:
        """A file, or bytes, that a run is to be given: its digest, which names it. One that is
        there already is not sent again."""
        from torpor.client.files import Content

        content = Content.of(given)
        with suppress(NotFound):
            return str(self._object("GET", f"/files/{content.digest}")["digest"])
        sent = {
            "body": content.pieces(),
            "headers": {"content-length": str(content.size)},
            "params": {"digest": content.digest},
        }
        return str(self._object("POST", "/files", timeout_s=None, **sent)["digest"])

    def upgrade(self, ref: str, version: str | None) -> Object:
        body = {"version": version}
        return self._object("POST", f"/runs/{_segment(ref)}/upgrade", json=body)

    def reload(self, ref: str, version: str, *, fresh: bool = False) -> Object:
        """The run that takes this one's place, of another version of its agent: all about it."""
        body = {"version": version, "fresh": fresh}
        return self._object("POST", f"/runs/{_segment(ref)}/reload", json=body)

    def schedules(self) -> list[Object]:
        return self._list("GET", "/schedules")

    def add_schedule(self, name: str, **settings: Any) -> Object:
        return self._object("PUT", f"/schedules/{_segment(name)}", json=settings)

    def pause_schedule(self, name: str, paused: bool) -> Object:
        return self._object("PATCH", f"/schedules/{_segment(name)}", json={"paused": paused})

    def remove_schedule(self, name: str) -> Object:
        return self._object("DELETE", f"/schedules/{_segment(name)}")

    def queues(self) -> list[Object]:
        return self._list("GET", "/queues")

    def set_queue(self, name: str, **changes: Any) -> Object:
        return self._object("PATCH", f"/queues/{_segment(name)}", json=changes)

    def runs(
        self, states: Iterable[str] = (), *, limit: int = 50, before: str | None = None
    ) -> list[Object]:
        """Newest first. At most 1000 are given at once."""
        return self._runs(states, limit, before)[0]

    def all_runs(self, states: Iterable[str] = ()) -> Iterator[Object]:
        wanted, before, more = tuple(states), None, True
        while more:
            page, more = self._runs(wanted, _PAGE, before)
            yield from page
            before = page[-1]["id"] if page else before

    def _runs(self, states: Iterable[str], limit: int, before: str | None) -> Page:
        query = {"states": ",".join(states), "limit": limit, "before": before}
        page, headers = self._exchange("GET", "/runs", params=_given(query))
        return Page(page, _is_followed(headers))

    def run(self, ref: str) -> Object:
        return self._object("GET", f"/runs/{_segment(ref)}")

    def entries(
        self,
        ref: str,
        *,
        after: int = 0,
        kinds: Sequence[str] = (),
        tail: int | None = None,
        since: float | None = None,
    ) -> Iterator[Object]:
        """The run's log past `after`; of `kinds` only, if any are named, only the last `tail`, only
        what is not older than `since`."""
        which: Object = {"kinds": ",".join(kinds), "tail": tail, "since": since}
        more = True
        while more:
            page, more = self.page(ref, after=after, limit=_PAGE, **which)
            yield from page
            after = page[-1]["seq"] if page else after
            which = {"kinds": which["kinds"]}  # what is last, and what is old, was settled

    def page(self, ref: str, *, after: int, limit: int, **which: Any) -> Page:
        """The next entries of the run's log past `after`."""
        query = _given({"after": after, "limit": limit, **which})
        entries, headers = self._exchange("GET", f"/runs/{_segment(ref)}/log", params=query)
        return Page(entries, _is_followed(headers))

    def follow(
        self,
        ref: str,
        *,
        after: int = 0,
        kinds: Sequence[str] = (),
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Followed]:
        """The run's log past `after` and on as it grows, until the run has ended; which of it, as
        `entries` has it.

        Outlives the server: when it goes away this tries again for ever, from where it was.
        Raises TimeoutError at `until`, a time of time.monotonic().
        """
        which: Object = {"kinds": ",".join(kinds), "tail": tail, "since": since}
        lost = False
        while True:
            try:
                query = _given({"after": after, "follow": "true", **which})
                path = f"/runs/{_segment(ref)}/log"
                for name, data in self._events("GET", path, params=query, until=until):
                    if lost:
                        lost = False
                        yield Back()
                    if name == "entry":
                        after = data["seq"]
                        which = {"kinds": which["kinds"]}
                        yield Appended(data)
                    elif name == "end":
                        yield Ended(data["state"])
                        return
            except Unreachable:
                pass
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {ref} has not ended yet")
            if not lost:
                lost = True
                yield Lost()
            time.sleep(_RETRY_S)

    def join(self, ref: str, *, timeout_s: float | None = None) -> Outcome:
        """The run once it has ended, or the retry that took its place. Raises TimeoutError if it
        goes on for longer; that changes nothing about the run."""
        from torpor.client.outcomes import join

        return join(self, ref, timeout_s)

    def cancel(self, ref: str) -> Object:
        return self._object("POST", f"/runs/{_segment(ref)}/cancel")

    def fork(
        self,
        ref: str,
        *,
        at: int | str | None = None,
        input: Object | None = None,
        version: str | None = None,
        set: Object | None = None,
    ) -> Object:
        body = {"at": at, "input": input, "version": version, "set": set or {}}
        return self._object("POST", f"/runs/{_segment(ref)}/fork", json=body)

    def retry(self, ref: str, *, version: str | None = None) -> Object:
        return self._object("POST", f"/runs/{_segment(ref)}/retry", json={"version": version})

    @contextmanager
    def exec(self, ref: str, request: Object) -> Iterator[Exec]:
        """A command beside the run's agent, as POST /v1/runs/RUN/execs takes it; it ends with the
        block. `run` in it is the run's whole id."""
        from torpor.client.execs import executing

        with executing(self._response, _segment(ref), request) as command:
            yield command

    def snapshots(self, ref: str) -> list[Object]:
        return self._list("GET", f"/runs/{_segment(ref)}/snapshots")

    def verify(self, ref: str) -> Object:
        """Reads all that the run's snapshots need: as long as that takes."""
        return self._object("GET", f"/runs/{_segment(ref)}/verify", timeout_s=None)

    def pin(self, ref: str, snapshot: str, pinned: bool) -> Object:
        path = f"/runs/{_segment(ref)}/snapshots/{_segment(snapshot)}"
        return self._object("PATCH", path, json={"pinned": pinned})

    def delete(self, ref: str) -> Object:
        return self._object("DELETE", f"/runs/{_segment(ref)}", timeout_s=None)

    def retention(self) -> Object:
        return self._object("GET", "/retention")

    def keep(self, retention: Object) -> Object:
        return self._object("PUT", "/retention", json=retention)

    def gc(self, *, dry_run: bool) -> Object:
        return self._object("POST", "/gc", json={"dry_run": dry_run}, timeout_s=None)

    def backup(self, directory: str, *, key: bool) -> Object:
        """`directory` is on the server's host."""
        body = {"directory": directory, "key": key}
        return self._object("POST", "/backups", json=body, timeout_s=None)

    def export(self, ref: str, snapshot: str | None) -> Iterator[bytes]:
        """The bytes of the run as a file. Raises Unreachable if they break off."""
        return self._stream(f"/runs/{_segment(ref)}/export", _given({"snapshot": snapshot}))

    def result(self, ref: str, op: str) -> Iterator[bytes]:
        """The bytes of what an operation gave: JSON, or what a step returned as bytes. Raises
        Unreachable if they break off."""
        return self._stream(f"/runs/{_segment(ref)}/results/{_segment(op)}", {})

    def artifacts(self, ref: str) -> list[Object]:
        """What the run published, then what was kept at its end, the newest of each name first."""
        return self._list("GET", f"/runs/{_segment(ref)}/artifacts")

    def artifact(self, ref: str, name: str, *, version: int | None = None) -> Iterator[bytes]:
        """The bytes of one. Raises Unreachable if they break off."""
        query = _given({"version": version})
        return self._stream(f"/runs/{_segment(ref)}/artifacts/{_segment(name)}", query)

    def output(self, ref: str, stream: str, *, offset: int = 0) -> Iterator[bytes]:
        """What the run's agent printed, from a byte on. Raises Unreachable if it breaks off."""
        path = f"/runs/{_segment(ref)}/output/{_segment(stream)}"
        return self._stream(path, {"offset": offset})

    def _stream(self, path: str, params: Object) -> Iterator[bytes]:
        with self._response("GET", path, params=params, timeout_s=None) as response:
            yield from response.chunks()

    def import_run(self, chunks: Iterable[bytes]) -> Object:
        return self._object("POST", "/imports", body=chunks, timeout_s=None)

    def send(
        self, ref: str, name: str, *, data: Any = None, id: str | None = None, by: str | None = None
    ) -> Object:
        """Send the run an event."""
        body = {"name": name, "data": data, "id": id, "by": by}
        return self._object("POST", f"/runs/{_segment(ref)}/events", json=body)

    def create_hook(
        self, agent: str, *, event: str | None, run_at: str | None, into: str | None
    ) -> Object:
        body = {"agent": agent, "event": event, "run_at": run_at, "into": into}
        return self._object("POST", "/hooks", json=body)

    def hooks(self, *, all: bool = False) -> list[Object]:
        return self._list("GET", "/hooks", params=_given({"all": "true" if all else None}))

    def revoke_hook(self, ref: str) -> Object:
        return self._object("DELETE", f"/hooks/{_segment(ref)}")

    def webhook_secret(self, url: str) -> Object:
        return self._object("POST", "/webhook-secrets", json={"url": url})

    def waits(
        self, run: str | None = None, *, tag: str | None = None, all: bool = False
    ) -> list[Object]:
        run = None if run is None else _named(run)
        query = {"run": run, "tag": tag, "all": "true" if all else None}
        return self._list("GET", "/waits", params=_given(query))

    def wait(self, ref: str) -> Object:
        return self._object("GET", f"/waits/{_segment(ref)}")

    def wait_action(self, ref: str) -> str:
        """All of what a permission is asked for."""
        return b"".join(self._stream(f"/waits/{_segment(ref)}/action", {})).decode()

    def complete(
        self,
        ref: str,
        *,
        data: Any = None,
        approved: bool | None = None,
        note: str | None = None,
        by: str | None = None,
    ) -> Object:
        """Answer a wait. Raises Conflict when somebody else was first."""
        body = {"data": data, "approved": approved, "note": note, "by": by}
        return self._object("POST", f"/waits/{_segment(ref)}/complete", json=body)

    def dashboard(self, port: int | None = None) -> Object:
        """A link that logs a browser of this host in, once: `url`."""
        return self._object("POST", "/dashboard/links", json={"port": port})

    def query(
        self,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> Object:
        """{columns, rows, more, ms}"""
        body = {"sql": sql, "parameters": parameters, "limit": limit, "timeout_s": timeout_s}
        # The server ends it; it may have to wait for its turn.
        return self._object("POST", "/query", json=_given(body), timeout_s=None)

    def totals(self) -> Object:
        """How much of everything there is."""
        return self._object("GET", "/totals")

    def keys(self) -> list[Object]:
        return self._list("GET", "/keys")

    def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
    ) -> Object:
        """With `key`, which is shown this once."""
        body = {"name": name, "scopes": scopes, "agents": agents, "expires_s": expires_s}
        return self._object("POST", "/keys", json=body)

    def revoke_key(self, ref: str) -> Object:
        return self._object("DELETE", f"/keys/{_segment(ref)}")

    def secrets(self) -> list[Object]:
        return self._list("GET", "/secrets")

    def secret_changes(self) -> list[Object]:
        return self._list("GET", "/secret-changes")

    def set_secret(self, name: str, value: str, **terms: Any) -> Object:
        """`terms`: hosts, placement, agents. The value never comes back."""
        body = {"value": value, **terms}
        return self._object("PUT", f"/secrets/{_segment(name)}", json=_given(body))

    def rotate_secret(self, name: str, value: str) -> Object:
        return self._object("POST", f"/secrets/{_segment(name)}/rotate", json={"value": value})

    def remove_secret(self, name: str) -> Object:
        return self._object("DELETE", f"/secrets/{_segment(name)}")

    def token(self, *, run: str | None, wait: str | None, expires_s: float) -> Object:
        body = {"run": run, "wait": wait, "expires_s": expires_s}
        return self._object("POST", "/tokens", json=body)

    def shutdown(self, on_progress: OnProgress) -> None:
        """Returns when the server has handed its runs over, or has gone."""
        begun = False
        try:
            for name, data in self._events("POST", "/shutdown"):
                begun = True
                if name == "progress":
                    on_progress(data["stage"], data["message"], data["fraction"])
        except Unreachable:
            if not begun:
                raise

    def _object(self, method: str, path: str, **options: Any) -> Object:
        found: Object = self._json(method, path, **options)
        return found

    def _list(self, method: str, path: str, **options: Any) -> list[Object]:
        found: list[Object] = self._json(method, path, **options)
        return found

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._exchange(method, path, **options)[0]

    def _exchange(
        self, method: str, path: str, *, timeout_s: float | None = -1.0, **options: Any
    ) -> tuple[Any, Mapping[str, str]]:
        """What is answered, and its headers."""
        timeout_s = self._timeout_s if timeout_s == -1.0 else timeout_s
        with self._response(method, path, timeout_s=timeout_s, **options) as response:
            try:
                return response.json(), response.headers
            except ValueError:
                raise foreign(response, self.remote) from None

    @contextmanager
    def _response(self, method: str, path: str, **options: Any) -> Iterator[Response]:
        """Raises what the server says if it refuses, Unreachable."""
        try:
            if "json" in options:  # the standard library would write what is no JSON, or raise
                body = jsonvalues.write(options.pop("json"), jsonvalues.ENTRY_DEPTH_MAX)
                options |= {"body": body.encode(), "headers": {"content-type": "application/json"}}
            with self._http.stream(method, f"/v1{path}", **options) as response:
                if not response.ok:
                    raise refusal(response, self.remote)
                yield response
        except jsonvalues.Refused as error:
            raise Invalid(f"the value {error}") from error
        except UnicodeEncodeError as error:
            raise _no_text(error) from error
        except Broken as error:
            raise self._unreachable(str(error)) from error

    def _events(self, method: str, path: str, **options: Any) -> Iterator[tuple[str, Any]]:
        """The events of a stream; ("", None) once it is open. Raises what `error` says."""
        with self._response(method, path, timeout_s=SILENCE_S, **options) as response:
            yield "", None
            for name, data in parse_events(response.lines()):
                if name == "error":
                    raise from_problem(data)
                yield name, data

    def _unreachable(self, why: str) -> Unreachable:
        return unreachable(self.remote, self.home, why)


def _is_followed(headers: Mapping[str, str]) -> bool:
    """Whether a page says that there is another."""
    return 'rel="next"' in headers.get("link", "")


def _segment(ref: str) -> str:
    """`ref` as one segment of a path, whatever somebody typed."""
    try:
        return quote(_named(ref), safe="")
    except UnicodeEncodeError as error:
        raise _no_text(error) from error


def _named(ref: str) -> str:
    """`ref`, if it can name anything."""
    if not ref.strip():
        raise Invalid(f"{ref!r} is not an id or a name", hint="It is empty. Is a variable not set?")
    return ref


def _no_text(error: UnicodeEncodeError) -> Invalid:
    """Arguments of a program that are not UTF-8 are halves of surrogate pairs to it."""
    return Invalid(f"{error.object!a} is not text", hint="It is not UTF-8.")


def _given(query: Object) -> Object:
    return {key: value for key, value in query.items() if value not in (None, "")}
