"""A run's log as the spans of one trace, by OpenTelemetry's conventions for generative AI. Pure.

    run                      invoke_agent AGENT      from its creation to its end
     ├─ a machine's turn     machine 1               from its claim to its freeze, or the run's end
     │   ├─ a model call     chat MODEL              client; tokens, who answered, why it ended
     │   ├─ a request        GET HOST                client; URL, status, rule
     │   ├─ a step           step NAME
     │   └─ a wait           wait NAME               ends in a later turn, mostly
     └─ machine 2            linked to machine 1

(https://opentelemetry.io/docs/specs/semconv/gen-ai/). Ids are made of the run's and the
operation's names: what is exported twice is the same span, and who asks an agent's systems where a
request came from finds the run. A span is told when the turn ends in which it did, which is a
change of the run's state; what has no end when the run ends, ends with it, as an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from torpor.core.replies import HTTP_ERROR, read_reply
from torpor.core.states import FINAL

Value = str | int | float | bool | list[str]

_BEGINS = frozenset({"run.started", "run.resumed", "run.recovered"})
_ENDINGS = {f"run.{state.value}": state.value for state in FINAL}
_SUSPENDED = "run.suspended"
_UNENDED = "the run ended before it did"
_EXCHANGES = frozenset({"egress.request", "egress.end", "egress.refused"})
_NAMES = {"wait": "wait", "sleep": "sleep", "step": "step", "checkpoint": "checkpoint"}


@dataclass(frozen=True)
class Span:
    """Times are unix seconds; from `known_at` on it is to be sent. `error` says why it is one;
    `links` are spans of the same trace."""

    id: int
    parent: int | None
    name: str
    began: float
    ended: float
    known_at: float = 0.0
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[int, ...] = ()
    client: bool = False
    error: str | None = None


def trace_id(run: str) -> int:
    return int.from_bytes(blake2b(run.encode(), digest_size=16).digest())


def span_id(run: str, what: str) -> int:
    return int.from_bytes(blake2b(f"{run}\n{what}".encode(), digest_size=8).digest())


def spans(run: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> list[Span]:
    """What is to be told of a run, in the order in which it ended. `run` is as the API shows it."""
    return _Reading(run).read(entries)


@dataclass
class _Turn:
    epoch: Any
    id: int
    began: float
    before: int | None  # the turn before


class _Reading:
    def __init__(self, run: Mapping[str, Any]) -> None:
        self._run = run
        self._root = span_id(run["id"], "run")
        self._turn: _Turn | None = None
        self._at_work = False  # the turn has not ended
        self._open: dict[str, tuple[Mapping[str, Any], int]] = {}  # op → its beginning, the turn
        self._done: list[Span] = []  # whose turn has not ended
        self._finished: list[Span] = []

    def read(self, entries: Iterable[Mapping[str, Any]]) -> list[Span]:
        for entry in entries:
            kind, at = entry["kind"], entry["at"]
            if kind in _BEGINS:
                self._end_turn(at, error="its machine was lost")
                before = self._turn.id if self._turn else None
                id = span_id(self._run["id"], f"machine {entry['epoch']}")
                self._turn = _Turn(entry["epoch"], id, at, before)
                self._at_work = True
            elif kind == _SUSPENDED:
                self._end_turn(at)
                self._tell(at)
            elif kind == "op.begin":
                self._open[entry["op"]] = (entry, self._turn.id if self._turn else self._root)
            elif kind == "op.end" and entry["op"] in self._open:
                self._end_operation(entry["op"], at, entry["data"])
            elif kind in _EXCHANGES:
                self._exchange(entry)
            elif kind in _ENDINGS:
                self._end_run(at, entry["data"], _ENDINGS[kind])
                self._tell(at)
        return self._finished

    def _tell(self, at: float) -> None:
        self._finished += [replace(span, known_at=at) for span in self._done]
        self._done.clear()

    def _end_turn(self, at: float, error: str | None = None) -> None:
        if self._turn is None or not self._at_work:
            return
        self._at_work = False
        self._done.append(
            Span(
                id=self._turn.id,
                parent=self._root,
                name=f"machine {self._turn.epoch}",
                began=self._turn.began,
                ended=at,
                attributes={"torpor.run.id": self._run["id"], "torpor.epoch": self._turn.epoch},
                links=() if self._turn.before is None else (self._turn.before,),
                error=error,
            )
        )

    def _end_operation(self, op: str, at: float, data: Mapping[str, Any] | None) -> None:
        """`data` is of its result; None if the run ended without one."""
        entry, turn = self._open.pop(op)
        begun = entry["data"]
        kind, name = str(begun.get("kind")), str(begun.get("name"))
        attributes: dict[str, Value] = {"torpor.run.id": self._run["id"], "torpor.operation": op}
        error: str | None = None
        if data is None:
            error = _UNENDED
        elif not data.get("ok", True):
            failed = data.get("error") or {}
            error = f"{failed.get('type')}: {failed.get('message')}"
            attributes["error.type"] = str(failed.get("type"))
        title = f"{_NAMES.get(kind, kind)} {name}"
        if kind == "model":
            title, described = _model_call(begun, data)
            attributes |= described
        if kind == "http":
            title, facts = _request(begun.get("data") or {})
            value = (data or {}).get("value")
            status = value.get("status") if isinstance(value, Mapping) else None
            attributes |= facts | ({"http.response.status_code": status} if status else {})
        attributes |= _way((data or {}).get("egress"))
        status = attributes.get("http.response.status_code")
        if isinstance(status, int) and status >= HTTP_ERROR:
            error = f"the {'model' if kind == 'model' else 'host'}'s server answered {status}"
            attributes["error.type"] = str(status)
        here = self._turn.id if self._turn else self._root
        self._done.append(
            Span(
                id=span_id(self._run["id"], op),
                parent=turn,
                name=title,
                began=entry["at"],
                ended=at,
                attributes=attributes,
                links=() if here == turn else (here,),  # where it went on
                client=kind in ("model", "http"),
                error=error,
            )
        )

    def _exchange(self, entry: Mapping[str, Any]) -> None:
        """A request that is no operation."""
        kind, at, data = entry["kind"], entry["at"], entry["data"]
        known = f"egress {data.get('id')}"
        if kind == "egress.request":
            self._open[known] = (entry, self._turn.id if self._turn else self._root)
            return
        begun, turn = entry, self._turn.id if self._turn else self._root
        what = f"egress {entry['seq']}"
        error: str | None = str(data.get("reason", ""))
        if kind == "egress.end":
            if known not in self._open:
                return
            begun, turn = self._open.pop(known)
            what, error = known, data.get("problem")
        self._done.append(self._exchange_span(what, turn, begun, at, data, error))

    def _exchange_span(
        self,
        what: str,
        parent: int,
        begun: Mapping[str, Any],
        at: float,
        ended: Mapping[str, Any],
        error: str | None,
    ) -> Span:
        title, attributes = _request(begun["data"])
        attributes |= {"torpor.run.id": self._run["id"], **_way(begun["data"])}
        if "status" in ended:
            attributes["http.response.status_code"] = ended["status"]
            if ended["status"] >= HTTP_ERROR and error is None:
                error = f"the host's server answered {ended['status']}"
        return Span(
            id=span_id(self._run["id"], what),
            parent=parent,
            name=title,
            began=begun["at"],
            ended=at,
            attributes=attributes,
            client=True,
            error=error,
        )

    def _end_run(self, at: float, data: Mapping[str, Any], state: str) -> None:
        for op, (begun, turn) in list(self._open.items()):
            if begun["kind"] == "egress.request":
                span = self._exchange_span(op, turn, begun, at, {}, _UNENDED)
                self._done.append(span)
            else:
                self._end_operation(op, at, None)
        self._end_turn(at)
        agent = self._run["agent"] or ""
        failed = data.get("error") if state != "completed" else None
        error = None
        if isinstance(failed, Mapping):
            error = f"{failed.get('type')}: {failed.get('message')}"
        self._done.append(
            Span(
                id=self._root,
                parent=None,
                name=f"invoke_agent {agent}".strip(),
                began=self._run["created_at"],
                ended=at,
                attributes={
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.agent.name": agent,
                    "gen_ai.agent.version": self._run["version"],
                    "torpor.run.id": self._run["id"],
                    "torpor.run.state": state,
                    "torpor.engine": self._run["engine"],
                },
                error=error,
            )
        )


def _request(data: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    """Of an exchange: its name, and what describes it. The query is left out: it may have what is
    nobody's business."""
    if "host" in data:
        scheme, host, port = data["scheme"], str(data["host"]), data["port"]
        path = str(data.get("path", "")).partition("?")[0]
    else:
        try:
            parts = urlsplit(str(data.get("url") or f"//{data.get('name')}"))
            scheme, host, port, path = parts.scheme, parts.hostname or "", parts.port, parts.path
        except ValueError:
            scheme, host, port, path = "", str(data.get("url")), None, ""
    known: dict[str, Value | None] = {
        "http.request.method": str(data.get("method") or "") or None,
        "url.scheme": scheme or None,
        "url.path": path or None,
        "server.address": host,
        "server.port": port or {"https": 443, "http": 80}.get(scheme),
    }
    described = {key: value for key, value in known.items() if value is not None}
    return f"{data.get('method') or scheme or 'lookup'} {host}", described


def _way(data: Any) -> dict[str, Value]:
    """How it was let out."""
    if not isinstance(data, Mapping):
        return {}
    keys = ("rule", "secret", "address", "code")
    return {f"torpor.egress.{key}": str(data[key]) for key in keys if data.get(key)}


_OPERATIONS = (  # by how a path ends
    ("/chat/completions", "chat"),
    ("/responses", "chat"),
    ("/completions", "text_completion"),
    ("/embeddings", "embeddings"),
    ("/messages", "chat"),
    (":generateContent", "generate_content"),
    (":streamGenerateContent", "generate_content"),
    (":embedContent", "embeddings"),
)
# As OpenTelemetry names them. Who answers for the deployment's own model, the broker alone knows:
# of that, and of a host that is nobody's here, the protocol is named.
_PROVIDERS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("mistral.ai", "mistral_ai"),
    ("groq.com", "groq"),
    ("deepseek.com", "deepseek"),
    ("x.ai", "x_ai"),
    ("cohere.com", "cohere"),
    ("perplexity.ai", "perplexity"),
)
_PROTOCOLS = (("/messages", "anthropic"), ("GenerateContent", "gcp.gemini"))


def _provider(host: str, path: str) -> str:
    named = (name for end, name in _PROVIDERS if f".{host}".endswith(f".{end}"))
    spoken = (name for end, name in _PROTOCOLS if path.lower().endswith(end.lower()))
    return next(named, None) or next(spoken, "openai")


def _model_call(
    begun: Mapping[str, Any], data: Mapping[str, Any] | None
) -> tuple[str, dict[str, Value]]:
    request = begun.get("data") or {}
    path = str(request.get("path", "")).partition("?")[0]
    reply = read_reply((data or {}).get("value"))
    operation = next((name for end, name in _OPERATIONS if path.endswith(end)), path)
    known: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(str(request.get("host", "")), path),
        "gen_ai.request.model": _model_of(request) or reply.model,
        "gen_ai.response.model": reply.model,
        "gen_ai.usage.input_tokens": reply.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": reply.cached_tokens,
        "gen_ai.usage.output_tokens": reply.output_tokens,
        "gen_ai.response.finish_reasons": [reply.finish] if reply.finish else None,
        "http.request.method": str(request.get("method", "")),
        "url.path": path,
        "http.response.status_code": reply.status,
    }
    described = {key: value for key, value in known.items() if value is not None}
    return f"{operation} {described.get('gen_ai.request.model', '')}".strip(), described


def _model_of(request: Mapping[str, Any]) -> str | None:
    try:
        model = json.loads(request["body"])["model"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return model if isinstance(model, str) else None
