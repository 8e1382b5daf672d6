"""egress: what agents may reach, and what became of what they asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from torpor.cli import complete
from torpor.cli.agents import is_file
from torpor.cli.exits import Exit
from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.cli.reaching import show_rules
from torpor.core.egress import judge, parse_egress, parse_request
from torpor.core.states import FINAL
from torpor.project.reading import read_agent
from torpor.terminal.screen import facts, say, show, show_json, table
from torpor.web import words

_FOLLOW_S = 1.0
_STYLES = {"allow": "green", "ask": "yellow", "deny": "red"}
_EXITS = {"allow": Exit.DONE, "ask": Exit.ASKS, "deny": Exit.FAILED}

Object = dict[str, Any]
AgentArg = Annotated[
    str,
    typer.Argument(
        metavar="AGENT",
        show_default=False,
        help="The name of a deployed agent, or a file or project's directory.",
        autocompletion=complete.agents,
    ),
]

app = typer.Typer(
    help="See what agents may reach, try rules, and list what went out or was refused.",
    no_args_is_help=True,
)


@app.command()
def test(
    agent: AgentArg,
    method: Annotated[
        str, typer.Argument(metavar="METHOD", show_default=False, help="GET, POST, …")
    ],
    url: Annotated[
        str,
        typer.Argument(metavar="URL", show_default=False, help="https://…, or tcp://HOST:PORT"),
    ],
    as_json: Json = False,
) -> None:
    """Say whether an agent's request would be allowed, and which rule decides. Nothing is sent.

    For a deployed agent the host's egress.toml and secrets count, too.

    The exit code is 0 if it would be allowed, 1 if not, 6 if a person would be asked.
    """
    request = parse_request(method, url)
    if is_file(Path(agent)):
        from torpor.core.presets import hinted

        rules = parse_egress(list(read_agent(Path(agent)).egress), agent)
        verdict = asdict(hinted(judge(rules, request), request))
        found = {"verdict": verdict.pop("decision"), **verdict, "whole": False}
    else:
        found = connect().judge(agent, method, url)
    if as_json:
        show_json(found)
    else:
        _show_verdict(found, f"{request.method} {url}" if request.method else url)
    raise typer.Exit(_EXITS[found["verdict"]])


def _show_verdict(found: Object, what: str) -> None:
    verdict = found["verdict"]
    rows: list[tuple[str, str | Text]] = [
        (verdict, Text(words.line(what, 1000), _STYLES[verdict])),
    ]
    rows += [(name, found[name]) for name in ("rule", "secret") if found[name]]
    if record := {"model": "as a model call", "http": "request and answer"}.get(found["record"]):
        rows.append(("recorded", record))
    rows += [
        ("why" if name == "reason" else name, found[name])
        for name in ("reason", "hint")
        if found[name]
    ]
    show(facts(rows))
    if not found["whole"]:
        say(
            "By the file's rules alone: a host's egress.toml and secrets may be stricter.",
            "dim",
        )


@app.command()
def rules(agent: AgentArg, as_json: Json = False) -> None:
    """List what an agent may reach, presets expanded, and what each of its runs may use."""
    if is_file(Path(agent)):
        source = read_agent(Path(agent))
        listed = [asdict(rule) for rule in parse_egress(list(source.egress), agent)]
        found: Object = {"rules": listed, "budget": source.rules.given.get("budget", {})}
    else:
        found = connect().reach(agent)
    if as_json:
        show_json(found)
    else:
        show_rules(found)


@app.command()
def presets(as_json: Json = False) -> None:
    """List the rules for known services that a file can name: preset = "openai"."""
    from torpor.core.presets import presets

    known = presets().values()
    if as_json:
        show_json([asdict(preset) for preset in known])
        return
    rows = [
        (
            each.name,
            each.secret + (" (if named)" if each.optional_secret else ""),
            ", ".join(each.hosts)
            or each.host
            or ("the file's" if each.own_host else _hosts(each.rules)),
            each.about,
        )
        for each in known
    ]
    show(table(("PRESET", "SECRET", "HOSTS", ""), rows))


def _hosts(rules: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(rule.host for rule in rules))


@app.command()
def log(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="A run's id, or the beginning of one; by default all runs.",
            autocompletion=complete.runs,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as more comes, until RUN ends.")
    ] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the newest.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """List requests that went out, were refused, or wait for a permission.

    With -f each is listed when it has ended; with --json as well, one a line.
    """
    client = connect()
    found = client.exchanges(run, denied=denied, limit=limit)
    if not follow:
        if as_json:
            show_json(found)
        elif found:
            now = time.time()
            heads = ("AT", "RUN", "", "REQUEST", "STATUS", "SENT", "RECEIVED", "TOOK", "")
            show(table(heads, [_exchange(each, now) for each in found]))
        else:
            say("nothing was refused" if denied else "nothing went out")
        return

    def has_ended() -> bool:
        return run is not None and client.run(run)["state"] in FINAL

    for each in _follow(client.exchanges, found, has_ended, run=run, denied=denied):
        now = time.time()
        text = json.dumps(each) if as_json else "  ".join(filter(None, _exchange(each, now)))
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _follow(
    ask: Any, found: Sequence[Object], has_ended: Callable[[], bool], **wanted: Any
) -> Generator[Object]:
    """Those that have come to an end: of `found`, then all since the oldest of these."""
    known: set[tuple[str, int, str]] = set()
    since = min(map(_when, found), default=0.0)
    is_last = False
    while True:
        over = {
            (each["run"], each["seq"], each["verdict"]): each
            for each in found
            if each["ended_at"] is not None or each["verdict"] != "allow"
        }
        for key, each in over.items():
            if key not in known:
                since = max(since, _when(each))
                yield each
        known = set(over)  # of those before, no answer has any more
        if is_last:
            return
        is_last = has_ended()  # then one more answer has all the rest
        if not is_last:
            time.sleep(_FOLLOW_S)
        found = ask(since=since, limit=1000, **wanted)


def _when(exchange: Object) -> float:
    """As its place among the others is."""
    ended: float | None = exchange["ended_at"]
    return exchange["at"] if ended is None else ended


def _exchange(each: Object, now: float) -> tuple[str, ...]:
    sizes = [
        words.size(n) if n is not None else "" for n in (each["sent_bytes"], each["received_bytes"])
    ]
    took = "" if each["ms"] is None else words.duration(each["ms"] / 1000)
    how = [f"rule {each['rule']}"] if each["rule"] else []
    how += [f"secret {each['secret']}"] if each["secret"] else []
    how += [f"by {each['permitted_by']}"] if each["permitted_by"] else []
    how += [f"{each['times']} times"] if (each["times"] or 1) > 1 else []
    why = words.line(each["reason"] or "", 1000)
    return (
        words.clock(each["at"], now),
        each["run"],
        each["verdict"],
        words.exchange(each | {"name": each["host"]}),
        str(each["status"] or ""),
        *sizes,
        took,
        "; ".join(filter(None, [why, ", ".join(how)])),
    )
