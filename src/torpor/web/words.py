"""Times, sizes and foreign text in words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from textwrap import indent
from typing import Any

from torpor.core import amounts
from torpor.core.ids import op_kind, op_name

# What steers a terminal, and what turns text around, so that it is read as something else.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SIZES = ("B", "kB", "MB", "GB", "TB")
_BRIEF = 80
_EMITTED_CHARS = 4000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_DECISIONS = {"once": "allowed once", "run": "allowed for this run", "deny": "denied"}
_AWAITED = {"event": "the event", "permission": "permission"}


def duration(seconds: float) -> str:
    """`120 ms`, `3.1 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`; a lesser part of 0 is left out."""
    seconds = max(0.0, seconds)
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return _parts(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _parts(whole, _HOUR, "h", _MINUTE, "min")
    return _parts(whole, _DAY, "d", _HOUR, "h")


def _parts(whole: int, major: int, major_name: str, minor: int, minor_name: str) -> str:
    whole, rest = divmod(whole, major)
    lesser = rest // minor
    return f"{whole} {major_name}" + (f" {lesser} {minor_name}" if lesser else "")


def size(number: float) -> str:
    """Decimal units, as disks are sold: `812 B`, `1.2 MB`."""
    for unit in _SIZES[:-1]:
        if number < 999.5:
            digits = 0 if unit == "B" or number >= 99.95 else 1
            return f"{number:.{digits}f} {unit}"
        number /= 1000
    return f"{number:.1f} {_SIZES[-1]}"


def dollars(amount: float) -> str:
    """`$1.20`, `$0.0034`: small ones with two digits that count."""
    if amount == 0 or amount >= 0.1:
        return f"${amount:,.2f}"
    digits = 2
    while digits < 8 and amount * 10 ** (digits - 1) < 1:
        digits += 1
    return f"${amount:.{digits}f}"


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def ago(then: float, now: float) -> str:
    gone = now - then
    if gone < 1:
        return "now"
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        if gone >= unit:
            return f"{int(gone // unit)} {name} ago"
    return "now"


def clock(at: float, now: float) -> str:
    """Local time to the millisecond, with the date if it is another day's."""
    moment = datetime.fromtimestamp(at)
    text = moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
    return (
        text if moment.date() == datetime.fromtimestamp(now).date() else f"{moment:%Y-%m-%d} {text}"
    )


def plain(text: str) -> str:
    """Text from an agent without what steers a terminal: it must not redraw what we say of it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def line(text: str, most: int = 200) -> str:
    """On one line, cut to `most` characters."""
    one = " ".join(plain(text).split())
    return one if len(one) <= most else one[: most - 1] + "…"


def compact(value: Any, most: int = 200) -> str:
    """A JSON value on one line; a string as it is."""
    return line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), most)


def pretty(value: Any) -> str:
    """A result as a program's user wants it: text as text, all else as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def shown(value: Any) -> str:
    """What an agent lays before a person: an object as its fields, text in it as text."""
    if not isinstance(value, dict):
        return pretty(value)
    lines: list[str] = []
    for key, field in value.items():
        brief = json.dumps(field, ensure_ascii=False)
        text = pretty(field) if isinstance(field, str) or len(brief) > _BRIEF else brief
        lines.append(f"{key}:\n{indent(text, '  ')}" if "\n" in text else f"{key}: {text}")
    return "\n".join(lines)


def note(data: Mapping[str, Any]) -> str:
    """A `torpor.log` entry: its message, then the data beside it."""
    fields = data.get("data")
    beside = fields.items() if isinstance(fields, dict) else ()
    parts = [str(data.get("message", "")), *(f"{key}={compact(value)}" for key, value in beside)]
    return plain(" ".join(part for part in parts if part))


def emitted(data: Mapping[str, Any]) -> str:
    """A `torpor.emit` entry: its value, for people."""
    text = plain(shown(data["value"] if set(data) == {"value"} else data))
    return text if len(text) <= _EMITTED_CHARS else text[:_EMITTED_CHARS] + "…"


def unfit(data: Mapping[str, Any]) -> str:
    """A `snapshot.unfit` entry: what was of no use on this host, and what is done instead."""
    reason = line(str(data.get("reason", "")))
    if not data.get("snapshots"):
        return f"its template does not fit this host ({reason}): another is made"
    after = f"its log is replayed after entry {seq}" if (seq := data.get("seq")) else ""
    return f"its snapshot does not fit this host ({reason}): {after or 'its whole log is replayed'}"


def error_line(error: Mapping[str, Any]) -> str:
    """`ValueError: no such topic`"""
    kind, message = error.get("type"), plain(str(error.get("message", "")))
    return f"{kind}: {message}" if kind and message else message or str(kind)


def times(run: Mapping[str, Any]) -> str:
    """`ran 3.1 s, slept 2 h`"""
    ran = f"ran {duration(run['ran_s'])}"
    return f"{ran}, slept {duration(run['slept_s'])}" if run["slept_s"] else ran


def beyond(share: Mapping[str, int]) -> str:
    """Where the output of a run is that its log did not take all of."""
    parts = [f"{size(share['logged'])} of {size(share['printed'])} in its log"]
    parts += [f"{size(share['kept'])} beside it"] * (share["kept"] > 0)
    parts += [f"{size(share['dropped'])} not kept"] * (share["dropped"] > 0)
    return ", ".join(parts)


def files(given: list[dict[str, Any]], most: int = 10) -> list[tuple[str, str]]:
    """Rows for the files that a run was given."""
    rows = [("file", f"{line(each['path'])}, {size(each['bytes'])}") for each in given[:most]]
    left = given[most:]
    if left:
        total = size(sum(each["bytes"] for each in left))
        rows.append(("file", f"and {len(left)} more, {total}: torpor show --json"))
    return rows


def used(usage: Mapping[str, Any]) -> str:
    """`gpt-4.1: 12 calls, 3,400 tokens in, 500 out, $0.01, and 2 calls that did not tell`"""
    parts = [f"{usage['model'] or 'unknown'}: {count(usage['calls'], 'call')}", *figures(usage)]
    if usage["repeats"]:
        parts.append(f"in doubt and repeated {count(usage['repeats'], 'time')}")
    return ", ".join(parts)


def figures(usage: Mapping[str, Any]) -> list[str]:
    """What calls used; some replies may not have reported it."""
    parts = [tokens(usage["input_tokens"], usage["output_tokens"])]
    if usage["cost_usd"] is not None:
        parts.append(dollars(usage["cost_usd"]))
    unmeasured = usage["unmeasured"]
    if parts[0] and unmeasured:
        parts.append(f"and {count(unmeasured, 'call')} without token counts")
    elif unmeasured:
        parts = ["tokens unknown"]
    return [part for part in parts if part]


def tokens(input: int | None, output: int | None) -> str:
    """`3,400 tokens in, 500 out`; empty where nothing is known"""
    known = [f"{n:,} {way}" for n, way in ((input, "in"), (output, "out")) if n is not None]
    return ", ".join(known).replace(" ", " tokens ", 1)


def conversation(counted: Mapping[str, Any]) -> str:
    """`17 messages, 1,260 tokens; 2,480 tokens sent of 6,200 (40 %), 8 turns, 2 compactions`"""
    text = f"{count(counted['messages'], 'message')}, {counted['tokens']:,} tokens"
    if counted["turns"]:
        sent, whole = counted["tokens_sent"], counted["tokens_whole"]
        text += f"; {sent:,} tokens sent of {whole:,}"
        text += f" ({100 * sent // whole} %)" if whole else ""
        text += f", {count(counted['turns'], 'turn')}"
    if counted["compactions"]:
        text += f", {count(counted['compactions'], 'compaction')}"
    return text


def question(wait: Mapping[str, Any], most: int = 200) -> str:
    """What a wait is about: its prompt, else the name that the agent gave it."""
    name = str(wait["op"]).partition(":")[2].removesuffix("#1")
    return line(wait["prompt"] or name or wait["op"], most)


def decision(value: Mapping[str, Any]) -> str | None:
    """What a permission's value says: `allowed once`, `allowed for this run`, `denied`; None of
    another wait's."""
    data = value.get("data")
    if not isinstance(data, dict) or not isinstance(value.get("approved"), bool):
        return None
    return _DECISIONS.get(str(data.get("decision")))


def awaited(run: Mapping[str, Any], waits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a run waits for: these open waits of it, and the calls under which it is asleep."""
    calls = [{"kind": op_kind(op), "op": op} for op in run.get("asleep_under") or ()]
    return [*waits, *calls]


def waiting_for(waits: Sequence[dict[str, Any]], now: float) -> str:
    """What open waits and calls wait for, the first of them in words."""
    if not waits:
        return "an answer"
    first, more = waits[0], len(waits) - 1
    if first["kind"] == "model":
        what = "the model's answer"
    elif first["kind"] == "http":
        what = f"an answer from {line(op_name(first['op']).partition('/')[0], 60)}"
    elif first["kind"] == "sleep" and first["due_at"] is not None:
        what = (
            f"{clock(first['due_at'], now).rsplit('.', 1)[0]} ({duration(first['due_at'] - now)})"
        )
    elif first["kind"] == "child":
        what = f"a run of {question(first, 60)}"
    else:
        kind = _AWAITED.get(first["kind"], "approval" if first["approve"] else "an answer")
        what = f"{kind}: {question(first, 60)}"
    return f"{what} and {more} more" if more else what


def place(rule: Mapping[str, Any]) -> str:
    """Where a rule of an agent leads: `api.github.com`, `tcp://db.example.com:5432`."""
    host, port, protocol = rule["host"], rule["port"], rule["protocol"]
    if (protocol, port) == ("https", 443):
        return str(host)
    scheme = f"{protocol}://" if protocol else ""
    usual = port in (0, {"https": 443, "http": 80}.get(protocol))
    return f"{scheme}{host}" if usual else f"{scheme}{host}:{port}"


def allowed(rule: Mapping[str, Any], most: int = 3) -> str:
    """What of it: `POST /repos/acme/*/issues`."""
    beyond = len(rule["paths"]) - most
    paths = [*rule["paths"][:most], *([f"and {beyond} more"] if beyond > 0 else [])]
    methods = ", ".join(rule["methods"])
    if rule["protocol"] == "tcp":
        return "connections"
    return f"{methods} {' '.join(paths)}".strip() or "all"


def manner(rule: Mapping[str, Any]) -> str:
    """How: `denied`, `with GITHUB_TOKEN, asks a person first`."""
    parts = ["denied"] * rule["deny"]
    parts += [f"with the secret {rule['secret']}"] if rule["secret"] else []
    parts += ["asks a person first"] * rule["ask"]
    parts += {"model": ["model calls"], "http": ["recorded"]}.get(rule["record"], [])
    return ", ".join(parts)


def rule(given: Mapping[str, Any]) -> str:
    """On one line."""
    how = manner(given)
    return f"{place(given)}: {allowed(given)}" + (f", {how}" if how else "")


def exchange(data: Mapping[str, Any]) -> str:
    """What an agent asked for: `GET https://…`, or the name that it looked up."""
    what = data.get("url") or data.get("name") or "?"
    port = f":{data['port']}" if data.get("port") and not data.get("url") else ""
    return line(f"{data.get('method') or ''} {what}{port}".strip(), 300)


def let_out(data: Mapping[str, Any]) -> str:
    """An `egress.request` entry: `GET https://… (rule host a.example, secret TOKEN)`."""
    return f"{exchange(data)}{by_rule(data)}"


def by_rule(data: Mapping[str, Any]) -> str:
    """` (rule host a.example, secret TOKEN)`, as far as it is known."""
    how = [f"{key} {line(str(data[key]))}" for key in ("rule", "secret") if data.get(key)]
    return f" ({', '.join(how)})" if how else ""


def answered(data: Mapping[str, Any]) -> str:
    """An `egress.end` entry: `HTTP 200 in 31 ms, 0 B sent, 512 B received`."""
    status = f"HTTP {data['status']}" if data.get("status") else "ended"
    text = f"{status} in {duration(data['ms'] / 1000)}, {moved(data)}"
    return f"{text}: {line(str(data['problem']))}" if data.get("problem") else text


def moved(data: Mapping[str, Any]) -> str:
    """The bodies of an exchange, both ways: `0 B sent, 512 B received`."""
    return f"{size(data['sent'])} sent, {size(data['received'])} received"


def refused(data: Mapping[str, Any]) -> str:
    """An `egress.refused` entry: `GET https://… was refused: no rule allows it.`"""
    again = f" ({data['times']} times by now)" if data.get("times", 1) > 1 else ""
    return f"{exchange(data)} was refused{again}: {line(str(data.get('reason', '')), 1000)}"


def budget(shares: Sequence[Mapping[str, Any]]) -> str:
    """What a run has used of its budget: `0.42 of 2 USD, 12 of 1,000 requests`; empty if it has
    neither used anything nor any limit."""
    parts = []
    for each in shares:
        kind, used, allowed = each["kind"], each["used"], each["allowed"]
        if allowed is not None:
            parts.append(f"{_amount(kind, used).rpartition(' ')[0]} of {_amount(kind, allowed)}")
        elif used:
            parts.append(_amount(kind, used))
    return ", ".join(parts)


def _amount(kind: str, amount: float) -> str:
    """With its unit, which is the last word."""
    if way := {"bytes_out": "sent", "bytes_in": "received"}.get(kind):
        return f"{size(amount)} {way}"
    return amounts.shown(kind, amount)
