"""The messages on the link's CONTROL channel: JSON objects whose key "t" names their type.

`FROM_GUEST` and `FROM_HOST` are the whole vocabulary of a machine and its host, `FROM_AGENT`,
`TO_AGENT` and `TO_PROCESS` that of the agent's process: for each type its fields, and for each
field the check (`torpor.wire.checks`) that its value must pass. Nothing gets past `decode` that the
tables do not allow (rule 13): an unknown type or key, a missing key, a wrong type, a string or
number out of range, too much nesting, NaN or infinity, text that is no valid Unicode. Everything
refused is `Invalid` and says which field was wrong and what belongs there. `encode` applies the
same checks, so a wrong message fails where it is made and not on the other side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torpor.core import artifacts, environment, execs, jsonvalues
from torpor.core.divergence import SUPERSEDED_MAX
from torpor.core.errors import Invalid
from torpor.core.limits import ID_KEY_MAX, NAME_MAX
from torpor.core.runfiles import FILE_BYTES_MAX, PATH_CHARS_MAX
from torpor.core.starting import DELAY_S_MAX, PRIORITY_MAX
from torpor.wire import names, wayout
from torpor.wire.checks import Check
from torpor.wire.checks import anything as _any
from torpor.wire.checks import flag as _flag
from torpor.wire.checks import hexadecimal as _hex
from torpor.wire.checks import integer as _integer
from torpor.wire.checks import list_of as _list
from torpor.wire.checks import number as _number
from torpor.wire.checks import object_of as _dict
from torpor.wire.checks import one_of as _one_of
from torpor.wire.checks import or_null as _or_null
from torpor.wire.checks import record as _record
from torpor.wire.checks import shown as _shown
from torpor.wire.checks import text as _text
from torpor.wire.streams import STREAM_MAX

PROTOCOL = 1
# One message, encoded. Parsed JSON can take twenty times its text's size, hence not more.
SIZE_MAX = 16 * 1024 * 1024
LINE_BYTES_MAX = SIZE_MAX + 1  # where messages are lines
OP_KINDS = (
    "step",
    "read",
    "context",
    "wait",
    "event",
    "sleep",
    "doubt",
    "permission",
    "child",
    "verdict",
    "model",
    "http",
    "checkpoint",
    *artifacts.KINDS,
)
EXCHANGES = ("model", "http")  # requests whose answers come as frames, too (`wire.streams`)
BATCH_MAX = 1000  # operations that begin at once
DEPTH_MAX = jsonvalues.MESSAGE_DEPTH_MAX  # nothing that a door took is refused here
NOTE_KINDS = ("log", "emit")
PLACE_MAX = 512
REMINDERS_MAX = 16
TEXT_MAX = 64 * 1024
ENTRY_CHARS_MAX = 1024 * 1024 - 4096  # of a value in an entry of the log, which takes 1 MiB
VALUE_BYTES_MAX = 1024 * 1024 * 1024  # a result that does not go in one message
PART_BYTES = 512 * 1024  # of it go in a message, in base64
TIME_MAX = 1e11  # unix seconds, about the year 5138: what is above it is no time

_OP = _text(NAME_MAX + 64, 1)
_NAME = _text(NAME_MAX, 1)
_OP_NAME = _text(NAME_MAX + 32, 1)  # a doubt is named after its step
_DIGEST = _hex(32)
_TEXT = _text(TEXT_MAX)
_ID = _text(64, 1)
_TIME = _number(0, TIME_MAX)
_SECONDS = _number(0, TIME_MAX)
_EPOCH = _integer(1)
_OBJECT = _dict(_any, 100_000)
_ERROR = _record({"type": _text(NAME_MAX), "message": _TEXT, "traceback?": _or_null(_TEXT)})


def _outcome(value: Mapping[str, Any]) -> str:
    """ok goes with a value, or with a blob, which is one that is kept apart; not ok goes with an
    error."""
    if value["ok"] == ("error" in value):
        return " must have an error exactly when ok is false"
    if "blob" in value and ("value" in value or not value["ok"]):
        return " has a blob beside a value or an error"
    return " has a value though ok is false" if "value" in value and not value["ok"] else ""


def _perhaps_outcome(value: Mapping[str, Any]) -> str:
    """An operation in doubt has none of it."""
    if "ok" in value:
        return _outcome(value)
    return " has an outcome without ok" if "value" in value or "error" in value else ""


_FORM = _one_of("json", "bytes")
_BLOB = _record({"digest": _hex(64), "bytes": _integer(0), "form": _FORM})
_PART = _text(PART_BYTES * 4 // 3 + 4)
_PLACE = {"at?": _text(PLACE_MAX), "side?": _flag, "hint?": _hex(16)}
_RECORD = {
    "op": _OP,
    "kind": _one_of(*OP_KINDS),
    "name": _OP_NAME,
    "digest": _DIGEST,
    **_PLACE,
    "ok?": _flag,
    "value?": _any,
    "error?": _ERROR,
    "blob?": _BLOB,
    "seq?": _integer(1),
    "again?": _integer(0),
}
_JOURNAL = _list(_record(_RECORD, _perhaps_outcome), 1_000_000)

_FIGURES = ("tokens", "sent", "whole", "messages", "of", "upto", "before", "after")
# Of a conversation's operations, which are `torpor.sdk.conversation`'s.
_CONTEXT = _record(
    {
        "message?": _OBJECT,
        "pinned?": _flag,
        "summary?": _text(SIZE_MAX),
        **{f"{figure}?": _integer(0) for figure in _FIGURES},
    }
)

_ENV = _dict(_text(environment.VALUE_CHARS_MAX), environment.COUNT_MAX)
# How a child is to be started, where that is not as usual: `torpor.core.starting`.
_START = _record(
    {
        "queue?": _NAME,
        "key?": _NAME,
        "priority?": _integer(-PRIORITY_MAX, PRIORITY_MAX),
        "delay_s?": _number(0, DELAY_S_MAX),
        "expires_s?": _number(0, DELAY_S_MAX),
        "env?": _ENV,
    }
)


def _one_end(value: Mapping[str, Any]) -> str:
    return "" if ("code" in value) != ("signal" in value) else " needs one of code and signal"


_SIDE = _integer(1, execs.SIDE_MAX)
_SIZE = _record({"rows": _SIDE, "cols": _SIDE})


def _sleep(value: Mapping[str, Any]) -> str:
    """How long is the host's to count: the guest's clock need not be right for that."""
    return "" if len(value) == 1 else " needs one of for_s and until"


def _passes(fault: Callable[[str], str]) -> Check:
    def check(value: Any) -> str:
        problem = fault(value) if isinstance(value, str) else "is text"
        return problem and f" must be right: it {problem}"

    return check


# `step`: it was published in its body. `kept`: when the agent had ended.
_PUBLISHED = _record(
    {
        "name": _passes(artifacts.name_fault),
        "media_type": _passes(artifacts.media_type_fault),
        "step?": _OP,
        "kept?": _flag,
    }
)

# What `begin` carries as data, by the kind of operation.
_BEGIN_DATA: dict[str, Check] = {
    "step": _OBJECT,
    "read": _record({}),
    "context": _CONTEXT,
    "checkpoint": _record({}),
    **dict.fromkeys(artifacts.KINDS, _PUBLISHED),
    "doubt": _record({}),
    "verdict": _record({"message": _TEXT, "superseded": _list(_OP, SUPERSEDED_MAX)}),
    "sleep": _record({"for_s?": _number(0, TIME_MAX), "until?": _TIME}, _sleep),
    "wait": _record(
        {
            "prompt": _TEXT,
            "data": _any,
            "schema?": _or_null(_OBJECT),
            "timeout_s": _or_null(_number(0, TIME_MAX)),
            "tags": _list(_text(NAME_MAX), 64),
            "approve": _flag,
            "id_key?": _text(ID_KEY_MAX, 1),
            "webhooks?": _list(_NAME, REMINDERS_MAX),
            "remind_after?": _list(_number(0, TIME_MAX), REMINDERS_MAX),
        }
    ),
    "permission": wayout.PERMISSION,
    "event": _record({"timeout_s": _or_null(_number(0, TIME_MAX))}),
    # `own`: an agent of its parent's file, and so of its parent's version.
    "child": _record(
        {"agent": _text(2 * NAME_MAX, 1), "own": _flag, "input": _OBJECT, "start?": _START}
    ),
    "model": wayout.EXCHANGE,
    "http": wayout.EXCHANGE,
}


def _begin(value: Mapping[str, Any]) -> str:
    stem, _, count = value["op"].rpartition("#")
    if stem != f"{value['kind']}:{value['name']}" or not (count.isascii() and count.isdigit()):
        return ".op must be kind:name#count, of the kind and name given beside it"
    if "hint" in value and value["kind"] != "step":
        return " has a hint, which is for steps"
    if "stream" in value and value["kind"] not in EXCHANGES:
        return " has a stream, which is for exchanges"
    problem = _BEGIN_DATA[value["kind"]](value["data"])
    return problem and f".data{problem}"


_AGENT = _record(
    {
        "name": _NAME,
        "doc": _or_null(_TEXT),
        "params": _list(_record({"name": _NAME, "required": _flag, "default?": _any}), 256),
        "open": _flag,
        "schema?": _OBJECT,  # of its input; its host checks that it can be used
    }
)

_BEGIN = _record(
    {
        "op": _OP,
        "kind": _one_of(*OP_KINDS),
        "name": _OP_NAME,
        "digest": _DIGEST,
        "data": _OBJECT,
        "stream?": _integer(1, STREAM_MAX),  # on which the answer is to come
        **_PLACE,
    },
    _begin,
)


def _children(value: Mapping[str, Any]) -> str:
    """They are one write, and each is to be another operation."""
    begins = value["begins"]
    if any(each["kind"] != "child" for each in begins):
        return ".begins may only be children"
    ops = {each["op"] for each in begins}
    return "" if len(ops) == len(begins) else ".begins has the same operation twice"


FROM_GUEST: dict[str, Check] = {
    names.HELLO: _record({"protocol": _integer(1), "python": _NAME, "kernel": _NAME}),
    names.IMPORTING: _record({"what": _NAME}),  # the module, or the line of a file of the agent's
    names.IMPORTED: _record({"failed?": _TEXT, "unfit?": _TEXT}),  # as `torpor.sdk.ahead` says
    names.LOADED: _record({"agents": _list(_AGENT, 256), "default": _or_null(_NAME)}),
    names.LOAD_FAILED: _record({"error": _TEXT, "traceback": _TEXT}),
    names.BEGIN: _BEGIN,
    names.BATCH: _record({"begins": _list(_BEGIN, BATCH_MAX)}, _children),
    names.PART: _record({"op": _OP, "data": _PART}),
    names.END: _record(
        {
            "op": _OP,
            "ok": _flag,
            "value?": _any,
            "error?": _ERROR,
            "blob?": _record({"bytes": _integer(0, VALUE_BYTES_MAX), "form": _FORM}),
            "files?": _flag,  # the step wrote some
        },
        _outcome,
    ),
    names.FETCH: _record({"op": _OP}),
    names.REPLAYED: _record({"op": _OP}),
    # `op`: the step in whose body it was said.
    names.NOTE: _record({"kind": _one_of(*NOTE_KINDS), "data": _any, "op?": _OP}),
    # `all`: the agent goes on only when all that it waits for has ended.
    names.STATUS: _record(
        {
            "waiting": _integer(0),
            "busy": _integer(0),
            "calls?": _integer(0),  # of the busy: only the host is at work, on recorded exchanges
            "all?": _flag,
        }
    ),
    # `wake_in`: until something of its own is due in the agent, for which it is to be awake.
    # `at_work`: it does not rest, but was to stand still all the same.
    names.PREPARED: _record({"wake_in?": _SECONDS, "at_work?": _flag}),
    # `again_s`: it is at work, or about to be, and may be asked again after that.
    names.UNPREPARED: _record({"reason": _TEXT, "again_s?": _SECONDS}),
    names.THAWED: _record({"epoch": _EPOCH, "at": _TIME}),
    # After a pause that ended with `resume`; `at` as its clock is now.
    names.RESUMED: _record({"at": _TIME}),
    names.DONE: _record({"value": _any}),
    names.FAILED: _record(
        {
            "type": _text(NAME_MAX),
            "message": _TEXT,
            "traceback": _or_null(_TEXT),
            "cancelled": _flag,
            "diverged?": _OP,  # from this operation of the log
            "after_s?": _number(0, TIME_MAX),  # tried again, then not before
            "final?": _flag,  # not to be tried again
        }
    ),
    names.EXITED: _record(
        {
            "code": _or_null(_integer(-(2**31), 2**31 - 1)),
            "signal": _or_null(_integer(1, 128)),
            "oom": _flag,
        }
    ),
    names.CRASHED: _record({"traceback": _TEXT}),
    names.CERTIFICATE: wayout.CERTIFICATE,
    # Of a command beside the agent (`torpor.guest.commands`). `taken`: so much of what it is to
    # read is in its hands.
    names.EXEC_OUTPUT: _record({"exec": _ID, "stream": _integer(1, 2), "data": _PART}),
    names.EXEC_TAKEN: _record({"exec": _ID, "bytes": _integer(1)}),
    names.EXEC_EXITED: _record(
        {
            "exec": _ID,
            "code?": _integer(0, 255),
            "signal?": _integer(1, 128),
            "problem?": _TEXT,  # it could not even begin
        },
        _one_end,
    ),
}
_PATH = _text(4096, 1)
_MODULES = _list(_record({"module": _PATH, "names": _list(_PATH, 4096)}), 1000)
_START_FIELDS = {"run": _ID, "epoch": _EPOCH, "agent": _or_null(_NAME), "input": _OBJECT}
_START_FIELDS |= {"env?": _ENV, "journal": _JOURNAL}
FROM_HOST: dict[str, Check] = {
    # A file of the run, whose bytes follow on the link's channel for files.
    names.FILE: _record({"path": _text(PATH_CHARS_MAX, 1), "bytes": _integer(0, FILE_BYTES_MAX)}),
    # Before `load`: start the agent's process, and import these ahead, as the file `entry` would.
    names.IMPORT: _record(
        {
            "entry": _or_null(_text(4096, 1)),
            "deps": _flag,
            "env?": _ENV,
            "modules": _MODULES,
            **wayout.TRUST,
        }
    ),
    names.LOAD: _record(
        {
            "entry": _text(4096, 1),
            "deps": _flag,
            "version": _ID,
            "env?": _ENV,
            **wayout.TRUST,
            **wayout.LEAVES,
        }
    ),
    # The answer to `certificate`. `problem`: there is none, and why.
    names.CERTIFIED: wayout.CERTIFIED,
    names.START: _record(_START_FIELDS),
    names.THAW: _record(
        {
            "epoch": _EPOCH,
            "run": _ID,
            "time": _TIME,
            "entropy": _hex(128),
            "started": _flag,
            "journal": _JOURNAL,
        }
    ),
    names.JOURNAL: _record({"records": _JOURNAL}),
    names.CLOCK: _record({"time": _TIME}),
    # `rest_s`: only if the agent rests, and nothing of its own is due within so long; or
    # `anyhow`, and then it is to say so. `calls`: under recorded calls, whose clients' timeouts are
    # to stand still.
    names.PREPARE: _record({"rest_s?": _SECONDS, "anyhow?": _flag, "calls?": _flag}),
    names.RESUME: _record({"time": _TIME}),
    names.RESULT: _record(
        {"op": _OP, "ok": _flag, "value?": _any, "error?": _ERROR, "blob?": _BLOB}, _outcome
    ),
    names.RECORDED: _record({"op": _OP}),
    names.PIECE: _record({"op": _OP, "data": _PART, "last": _flag, "problem?": _TEXT}),
    names.CANCEL: _record({"reason": _TEXT}),
    # `window`: so many bytes of what it writes may be sent; `exec.window` allows more.
    names.EXEC: _record(
        {
            "exec": _ID,
            "command": _list(_text(execs.COMMAND_CHARS_MAX), execs.ARGUMENTS_MAX),
            "dir?": _text(execs.DIR_CHARS_MAX, 1),
            "env": _ENV,
            "root": _flag,
            "stdin": _flag,
            "size?": _SIZE,
            "window": _integer(1),
        }
    ),
    names.EXEC_STDIN: _record({"exec": _ID, "data": _PART, "last": _flag}),
    names.EXEC_WINDOW: _record({"exec": _ID, "bytes": _integer(1)}),
    names.EXEC_SIZE: _record({"exec": _ID, "rows": _SIDE, "cols": _SIDE}),
    names.EXEC_SIGNAL: _record({"exec": _ID, "signal": _one_of(*execs.SIGNALS)}),
    names.EXEC_KILL: _record({"exec": _ID}),
}

MESSAGES: dict[str, Check] = {**FROM_GUEST, **FROM_HOST}
# What a machine's supervisor sends to the agent's process: the host's messages, and its own.
TO_AGENT: dict[str, Check] = {
    t: FROM_HOST[t]
    for t in (
        *(names.IMPORT, names.LOAD, names.START, names.JOURNAL, names.PREPARE),
        *(names.RESULT, names.RECORDED, names.PIECE, names.CANCEL),
    )
} | {names.REHEARSE: _record({})}
# What an agent without a machine gets, straight from the host. Its files are in directories of
# that: `app`, below its run's `home`; what steps did to files is `kept` beside it.
_WHERE = {"home": _PATH, "app": _PATH}
# `trust`: the directory that has the authority's certificate (`torpor.guest.trust`). `env`: what of
# the environment is the agent's own.
_WAY_OUT = {**wayout.TRUST, "trust?": _PATH, "env?": _ENV}
_PRINTED = _dict(_integer(0), 2)
_PLAIN_JOURNAL = _list(_record({**_RECORD, "printed?": _PRINTED}, _perhaps_outcome), 1_000_000)
TO_PROCESS: dict[str, Check] = {
    **{
        t: FROM_HOST[t]
        for t in (
            *(names.RESULT, names.RECORDED, names.PIECE, names.CANCEL),
            *(names.PREPARE, names.RESUME),
        )
    },
    # `known`: that nothing of it leaves anything behind has been seen.
    names.IMPORT: _record(
        {"entry": _PATH, "modules": _MODULES, "known": _flag, **_WHERE, **_WAY_OUT}
    ),
    names.LOAD: _record(
        {"entry": _PATH, "kept": _PATH, "compiled": _PATH, **_WHERE, **_WAY_OUT, **wayout.LEAVES}
    ),
    names.CERTIFIED: wayout.CERTIFIED,
    names.JOURNAL: _record({"records": _PLAIN_JOURNAL}),
    # `reloaded`: it goes on from what another version recorded.
    names.START: _record({**_START_FIELDS, "journal": _PLAIN_JOURNAL, "reloaded": _flag}),
}
# Of FROM_GUEST, what the agent's process says, and not what is around it.
FROM_AGENT: dict[str, Check] = {
    t: FROM_GUEST[t]
    for t in (
        *(names.IMPORTING, names.IMPORTED, names.LOADED, names.LOAD_FAILED),
        *(names.BEGIN, names.BATCH, names.PART, names.END, names.FETCH, names.REPLAYED),
        *(names.NOTE, names.STATUS, names.PREPARED, names.UNPREPARED, names.DONE, names.FAILED),
    )
}
# And what it says itself where there is nothing around it.
FROM_PROCESS = FROM_AGENT | {names.CERTIFICATE: FROM_GUEST[names.CERTIFICATE]}
# Its last word.
FINAL = (names.LOAD_FAILED, names.DONE, names.FAILED)
# What the agent wrote before it said these comes before them: the host notes how much it was.
AFTER_OUTPUT = (*FINAL, names.IMPORTED, names.END, names.REPLAYED)


def encode(t: str, **fields: Any) -> bytes:
    """The message of type `t`, ready for the CONTROL channel. Raises Invalid."""
    _check(t, fields, MESSAGES)
    try:
        data = _ENCODER.encode({"t": t, **fields}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(
            f"message {t} cannot be written as JSON: {_shown(str(error))}",
            hint="Values that leave the agent must be JSON: text, finite numbers, lists, objects.",
        ) from error
    if _too_deep(fields, data):
        raise Invalid(f"message {t} is nested more than {DEPTH_MAX} deep")
    if t == names.BEGIN:
        _check_kept(fields, data)
    if len(data) > SIZE_MAX:
        raise Invalid(
            f"message {t} has {len(data):,} bytes; the limit is {SIZE_MAX:,}",
            hint="Keep large data in a file and pass its path.",
        )
    return data


def encode_own(t: str, **fields: Any) -> bytes:
    """As `encode`, of what was checked when it was recorded, and may be longer than one message: a
    journal. For a process of this host, or of this machine."""
    return _ENCODER.encode({"t": t, **fields}).encode()


def decode(data: bytes, allowed: Mapping[str, Check] = MESSAGES) -> dict[str, Any]:
    """The message in `data` with its type under "t". Raises Invalid for all that is not one of
    `allowed`: a receiver names the side it listens to, FROM_GUEST or FROM_HOST."""
    if len(data) > SIZE_MAX:
        raise Invalid(f"a message of {len(data):,} bytes; at most {SIZE_MAX:,} are taken")
    try:
        message = jsonvalues.read_utf8(data, _DECODER.decode)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"a message that is not JSON: {_shown(str(error))}") from error
    if not isinstance(message, dict):
        raise Invalid(f"a message that is no object: {_shown(type(message).__name__)}")
    if _too_deep(message, data):
        raise Invalid(f"a message nested more than {DEPTH_MAX} deep")
    t = message.pop("t", None)
    _check(t, message, allowed)
    message["t"] = t
    return message


def error(type: str, message: str, traceback: str | None = None) -> dict[str, Any]:
    """The `error` object of a message, each text made valid Unicode and cut to what is allowed:
    reporting a failure must not fail on what the failure says."""
    described = {"type": _clip(type, NAME_MAX), "message": _clip(message, TEXT_MAX)}
    if traceback is not None:
        described["traceback"] = _clip(traceback, TEXT_MAX)
    return described


def _clip(text: str, length_max: int) -> str:
    """Keeps the start and, because a traceback says most at its end, the end."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= length_max:
        return text
    half = length_max // 2 - 1
    return f"{text[:half]}…{text[-half:]}"


def _check(t: Any, fields: dict[str, Any], allowed: Mapping[str, Check]) -> None:
    check = allowed.get(t) if isinstance(t, str) else None
    if check is None:
        raise Invalid(f"a message of the unknown type {_shown(t)}")
    if problem := check(fields):
        raise Invalid(f"message {t}{problem}")


def _check_kept(fields: Mapping[str, Any], data: bytes) -> None:
    """What begins stands in an entry of the log, where it is ASCII; else the run would fail for it.
    The input of a child stands in the child's."""
    if fields["kind"] in ("child", *EXCHANGES) or 3 * len(data) <= ENTRY_CHARS_MAX:
        return
    if (chars := len(json.dumps(fields["data"]))) > ENTRY_CHARS_MAX:
        raise Invalid(
            f"{chars:,} characters of JSON; the limit is {ENTRY_CHARS_MAX:,}",
            hint="Keep large data in a file, and name that instead.",
        )


def _too_deep(value: Any, data: bytes) -> bool:
    return jsonvalues.deeper_than(DEPTH_MAX, value, data.count(b"[") + data.count(b"{"))


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # 1e999 reads as infinity
        raise ValueError("a number too large for a double")
    return value


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
