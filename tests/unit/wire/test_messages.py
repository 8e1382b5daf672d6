from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core import jsonvalues
from torpor.core.errors import Invalid
from torpor.wire import messages, wayout
from torpor.wire.messages import FROM_GUEST, FROM_HOST, MESSAGES, decode, encode

DIGEST = "0123456789abcdef" * 2
ERROR = {"type": "ValueError", "message": "no", "traceback": "Traceback …"}
DOUBT = {"op": "step:a#1", "kind": "step", "name": "a", "digest": DIGEST, "at": "a.py:3"}
RECORDED = {**DOUBT, "ok": True, "seq": 7, "side": True}
WAIT = {
    "prompt": "Send it?",
    "data": {"to": ["ann"]},
    "timeout_s": None,
    "tags": ["mail"],
    "approve": True,
}
REQUEST = {"scheme": "https", "host": "a.example", "port": 443, "method": "POST", "target": "/"}
REQUEST |= {"headers": {"a": "b"}, "body": ""}
ACTION = {"name": "refund", "arguments": {"order": 7}}
MODEL = {"method": "POST", "path": "/v1/chat/completions", "headers": {"a": "b"}, "body": "{}"}
HTTP = {**MODEL, "scheme": "https", "host": "api.example.com", "port": 443}
WAY_OUT = {
    "egress": [{"host": "*.example.com", "port": 443, "protocol": "https", "record": "http"}],
    "placeholders": {"EXAMPLE_API_KEY": "torpor"},
    "authority": "-----BEGIN CERTIFICATE-----",
}
LEAF = {"names": ["api.example.com"], "chain": "c", "key": "k"}
EXEC = {"exec": "exec_1", "command": ["ls", ""], "env": {"A": "b"}, "root": False, "stdin": True}
CHILD = {"agent": "a", "own": True, "input": {"n": 1}}


def begin(kind: str, data: Any) -> dict[str, Any]:
    return {"op": f"{kind}:a#1", "kind": kind, "name": "a", "digest": DIGEST, "data": data}


# At least one right message of every type, and of every kind of operation.
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("hello", {"protocol": 1, "python": "3.11.2", "kernel": "6.1.0"}),
    (
        "loaded",
        {
            "agents": [
                {
                    "name": "research",
                    "doc": None,
                    "params": [
                        {"name": "topic", "required": True},
                        {"name": "n", "required": False, "default": 3},
                    ],
                    "open": False,
                }
            ],
            "default": "research",
        },
    ),
    ("importing", {"what": "pandas.core.frame"}),
    ("load_failed", {"error": "no such module", "traceback": ""}),
    ("begin", begin("step", {"args": [1]})),
    ("begin", begin("checkpoint", {})),
    ("begin", begin("read", {})),
    ("begin", begin("doubt", {})),
    ("begin", {**begin("model", HTTP), "stream": 7}),
    ("begin", {**begin("http", {**HTTP, "permission": "permission:a#1"}), "stream": 2**32 - 1}),
    ("certificate", {"name": "b.example.com", "authority": "0" * 64}),
    ("certified", {"name": "b.example.com", "chain": "c", "key": "k"}),
    ("certified", {"name": "b.example.com", "problem": "no authority"}),
    ("begin", begin("permission", {"request": REQUEST, "timeout_s": None})),
    ("begin", begin("permission", {"action": ACTION, "timeout_s": 60, "step": True})),
    ("begin", begin("verdict", {"message": "m", "superseded": ["step:a#1"]})),
    ("begin", {**begin("step", {}), "at": "agent.py:3", "side": True}),
    ("begin", begin("sleep", {"until": 1.7e9})),
    ("begin", begin("wait", WAIT)),
    ("begin", begin("wait", {**WAIT, "schema": {"type": "object"}, "timeout_s": 60})),
    ("begin", begin("model", MODEL)),
    ("begin", begin("child", CHILD)),
    ("begin", begin("child", {**CHILD, "start": {"queue": "q", "key": "k", "priority": -1}})),
    ("begin", begin("child", {**CHILD, "start": {"delay_s": 1.5, "expires_s": 0}})),
    ("batch", {"begins": [begin("child", CHILD), begin("child", CHILD) | {"op": "child:a#2"}]}),
    ("end", {"op": "step:a#1", "ok": True, "value": [1, 2.5, None, "é😀"]}),
    ("end", {"op": "step:a#1", "ok": True}),
    ("end", {"op": "step:a#1", "ok": True, "blob": {"bytes": 2_000_000, "form": "json"}}),
    ("part", {"op": "step:a#1", "data": "eA=="}),
    ("fetch", {"op": "step:a#1"}),
    ("piece", {"op": "step:a#1", "data": "eA==", "last": False}),
    ("piece", {"op": "step:a#1", "data": "", "last": True, "problem": "lost"}),
    ("end", {"op": "step:a#1", "ok": False, "error": ERROR}),
    ("note", {"kind": "log", "data": "a line"}),
    ("status", {"waiting": 1, "busy": 0}),
    ("begin", begin("sleep", {"for_s": 2.5})),
    ("resume", {"time": 1.7e9}),
    ("resumed", {"at": 1.7e9}),
    ("prepared", {}),
    ("unprepared", {"reason": "busy"}),
    ("replayed", {"op": "step:a#1"}),
    ("thawed", {"epoch": 2, "at": 1.7e9}),
    ("done", {"value": None}),
    ("failed", {"type": "E", "message": "m", "traceback": None, "cancelled": False}),
    (
        "failed",
        {
            "type": "E",
            "message": "m",
            "traceback": None,
            "cancelled": False,
            "diverged": "step:a#1",
        },
    ),
    ("exited", {"code": None, "signal": 9, "oom": True}),
    ("crashed", {"traceback": "Traceback …"}),
    ("exec", {**EXEC, "window": 1}),
    ("exec", {**EXEC, "window": 1, "dir": "x", "size": {"rows": 1, "cols": 2}}),
    ("exec.output", {"exec": "exec_1", "stream": 2, "data": "eA=="}),
    ("exec.taken", {"exec": "exec_1", "bytes": 1}),
    ("exec.exited", {"exec": "exec_1", "code": 0}),
    ("exec.exited", {"exec": "exec_1", "signal": 9}),
    ("exec.stdin", {"exec": "exec_1", "data": "", "last": True}),
    ("exec.window", {"exec": "exec_1", "bytes": 1}),
    ("exec.size", {"exec": "exec_1", "rows": 1, "cols": 2}),
    ("exec.signal", {"exec": "exec_1", "signal": "INT"}),
    ("exec.kill", {"exec": "exec_1"}),
    ("file", {"path": "inputs/data.csv", "bytes": 1 << 30}),
    ("journal", {"records": []}),
    ("clock", {"time": 1.7e9}),
    ("import", {"entry": None, "deps": False, "modules": [{"module": "a.b", "names": ["*"]}]}),
    ("import", {"entry": "a.py", "deps": True, "modules": [], **WAY_OUT}),
    ("load", {"entry": "a.py", "deps": True, "version": "v", **WAY_OUT, "leaves": [LEAF]}),
    ("imported", {}),
    ("imported", {"failed": "ModuleNotFoundError: no", "unfit": "a thread was started"}),
    ("load", {"entry": "agent.py", "deps": True, "version": DIGEST, "env": {"A": "1"}}),
    ("start", {"run": "run_1", "epoch": 1, "agent": None, "input": {"x": 1}, "journal": []}),
    (
        "thaw",
        {
            "epoch": 2,
            "run": "run_1",
            "time": 1.7e9,
            "entropy": "0f" * 64,
            "started": True,
            "journal": [
                {**RECORDED, "value": 1},
                {**RECORDED, "op": "step:a#2", "ok": False, "error": ERROR},
                {**DOUBT, "op": "step:a#3", "again": 1},
            ],
        },
    ),
    ("prepare", {}),
    ("resume", {"time": 1.7e9}),
    ("result", {"op": "wait:a#1", "ok": True, "value": {"status": "completed"}}),
    ("recorded", {"op": "step:a#1"}),
    ("cancel", {"reason": "asked"}),
]


@pytest.mark.parametrize(("t", "fields"), RIGHT)
def test_a_right_message_comes_back_as_it_was(t: str, fields: dict[str, Any]) -> None:
    assert decode(encode(t, **fields)) == {"t": t, **fields}


def test_every_type_is_tried_above_and_belongs_to_one_side() -> None:
    assert {t for t, _ in RIGHT} == set(MESSAGES)
    assert not FROM_GUEST.keys() & FROM_HOST.keys()


@pytest.mark.parametrize(("t", "fields"), RIGHT)
def test_the_other_side_s_messages_are_refused(t: str, fields: dict[str, Any]) -> None:
    data = encode(t, **fields)
    mine, other = (FROM_GUEST, FROM_HOST) if t in FROM_GUEST else (FROM_HOST, FROM_GUEST)
    assert decode(data, mine)["t"] == t
    with pytest.raises(Invalid, match="unknown type"):
        decode(data, other)


@pytest.mark.parametrize(("t", "fields"), RIGHT)
def test_an_unknown_key_and_a_missing_one_are_refused_both_ways(
    t: str, fields: dict[str, Any]
) -> None:
    variants = [{**fields, "extra": 1}]
    optional = {"value", "blob"} if t in ("end", "result") else {"at", "side", "diverged"}
    optional |= {"problem", "dir", "size", "failed", "unfit"} | ({"env"} if t == "load" else set())
    optional |= {"stream", *wayout.FIELDS}
    variants += [{k: v for k, v in fields.items() if k != gone} for gone in set(fields) - optional]
    for wrong in variants:
        with pytest.raises(Invalid, match=t):
            encode(t, **wrong)
        with pytest.raises(Invalid, match=t):
            decode(json.dumps({"t": t, **wrong}).encode())


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "hello",
        {"protocol": True, "python": "3", "kernel": "6"},
        "hello.protocol must be an integer",
    ),
    ("hello", {"protocol": 1, "python": "", "kernel": "6"}, "hello.python must be a string"),
    ("end", {"op": "x", "ok": 1}, "end.ok must be true or false"),
    ("end", {"op": "x", "ok": False}, "error exactly when"),
    ("end", {"op": "x", "ok": True, "error": ERROR}, "error exactly when"),
    ("end", {"op": "x", "ok": False, "error": ERROR, "value": 1}, "a value though"),
    ("end", {"op": "x" * 1000, "ok": True}, "end.op must be a string of 1 to"),
    ("end", {"op": "x", "ok": False, "error": "no"}, "end.error must be an object"),
    ("status", {"waiting": -1, "busy": 0}, "status.waiting must be an integer from"),
    ("thawed", {"epoch": 0, "at": 1}, "thawed.epoch"),
    ("thawed", {"epoch": 1, "at": -1}, "thawed.at must be a number from 0"),
    ("note", {"kind": "gossip", "data": 1}, "one of log, emit"),
    ("note", {"kind": ["log"], "data": 1}, "one of log, emit"),
    ("begin", {**begin("step", {}), "digest": DIGEST.upper()}, "begin.digest must be 32 lowercase"),
    ("begin", {**begin("step", {}), "op": "step:b#1"}, "begin.op must be kind:name#count"),
    ("begin", {**begin("step", {}), "op": "step:a#one"}, "begin.op must be kind:name#count"),
    ("begin", {**begin("step", {}), "op": "step:a#²"}, "begin.op must be kind:name#count"),
    ("begin", begin("step", [1]), "begin.data must be an object"),
    ("batch", {"begins": [begin("step", {})]}, "batch.begins may only be children"),
    ("batch", {"begins": [begin("child", CHILD)] * 2}, "has the same operation twice"),
    ("begin", begin("child", {**CHILD, "start": {"queue": ""}}), "data.start.queue must be"),
    ("begin", begin("child", {**CHILD, "start": {"priority": 1.5}}), "start.priority must be an"),
    (
        "begin",
        begin("child", {**CHILD, "start": {"delay_s": -1}}),
        "start.delay_s must be a number",
    ),
    ("begin", begin("child", {**CHILD, "start": {"id_key": "k"}}), "start has the unknown key"),
    ("begin", begin("dance", {}), "begin.kind must be one of"),
    ("begin", begin("sleep", {}), "needs one of for_s and until"),
    ("begin", begin("permission", {"timeout_s": None}), "needs one of request and action"),
    ("begin", begin("checkpoint", {"x": 1}), "begin.data has the unknown key 'x'"),
    ("begin", begin("wait", {**WAIT, "tags": ["a", 2]}), r"begin.data.tags\[1\] must be a string"),
    ("begin", begin("wait", {**WAIT, "timeout_s": -1}), "begin.data.timeout_s must be a number"),
    ("begin", begin("model", {**MODEL, "body_b64": ""}), "one of body and body_b64"),
    ("begin", begin("model", {**MODEL, "headers": {"a": 1}}), r"headers\['a'\] must be a string"),
    ("exited", {"code": 0, "signal": 0, "oom": False}, "exited.signal"),
    ("load", {"entry": "a.py", "deps": None, "version": "v"}, "load.deps must be true or false"),
    ("certified", {"name": "b.example.com", "chain": "c"}, "certified needs a chain and a key"),
    ("begin", {**begin("step", {}), "stream": 7}, "begin has a stream, which is for exchanges"),
    (
        "start",
        {"run": "r", "epoch": 1, "agent": None, "input": {}, "journal": [{**RECORDED, "op": 1}]},
        r"start.journal\[0\].op must be a string",
    ),
]


@pytest.mark.parametrize(("t", "fields", "problem"), WRONG)
def test_a_wrong_field_is_named_both_ways(t: str, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        encode(t, **fields)
    with pytest.raises(Invalid, match=problem):
        decode(json.dumps({"t": t, **fields}).encode())


def nested(depth: int) -> bytes:
    """A `done` whose value is `depth` lists, one within the other."""
    return b'{"t":"done","value":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b'"' + b"[" * 100 + b'"',
        b"7",
        b"{}",
        b'{"t":null}',
        b'{"t":["done"]}',
        b'{"t":"' + b"x" * 100_000 + b'"}',
        b'{"t":"done","value":NaN}',
        b'{"t":"done","value":-Infinity}',
        b'{"t":"done","value":1e999}',
        b'{"t":"done","value":' + b"9" * 5000 + b"}",
        b'{"t":"done","value":"\\ud800"}',
        b'{"t":"done","value":"\\uDFFF"}',
        b'{"t":"done","value":1} more',
        nested(messages.DEPTH_MAX),
        nested(100_000),
        b'{"t":"done","value":"' + b"x" * messages.SIZE_MAX + b'"}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_message_is_invalid_and_the_error_is_short(data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        decode(data)
    assert len(caught.value.message) < 300


def test_nesting_is_allowed_up_to_the_limit_and_width_does_not_count_as_depth() -> None:
    assert decode(nested(messages.DEPTH_MAX - 1))["t"] == "done"
    wide: list[list[int]] = [[] for _ in range(1000)]
    assert decode(encode("done", value=wide))["value"] == wide


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes",
        float("nan"),
        float("inf"),
        "\ud800",
        {("a", "b"): 1},
        json.loads(nested(messages.DEPTH_MAX))["value"],
        "x" * messages.SIZE_MAX,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_could_not_be_read_back_is_refused_where_it_is_made(value: Any) -> None:
    with pytest.raises(Invalid):
        encode("done", value=value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Invalid):
        encode("done", value=loop)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abt?é", max_size=3), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_value_travels_unchanged(value: Any) -> None:
    assert decode(encode("done", value=value))["value"] == value


@given(st.sampled_from(sorted(MESSAGES)), st.sampled_from([f for _, f in RIGHT]), json_values)
def test_a_foreign_object_is_a_message_or_invalid_and_nothing_else(
    t: str, fields: dict[str, Any], value: Any
) -> None:
    keys = sorted(fields)
    for foreign in ({**fields, **dict.fromkeys(keys[:1], value)}, {"value": value}):
        try:
            message = decode(json.dumps({**foreign, "t": t}).encode())
        except Invalid as error:
            assert len(error.message) < 300
        else:
            assert message["t"] == t


@given(st.binary(max_size=200))
def test_random_bytes_are_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)


@given(
    st.text(max_size=50),
    st.text(st.characters(), max_size=50).map(lambda text: text * 5000),
    st.none() | st.text(max_size=50),
)
def test_an_error_can_always_be_reported(name: str, text: str, traceback: str | None) -> None:
    made = messages.error(name * 20, text, traceback)
    read = decode(encode("end", op="step:a#1", ok=False, error=made))
    assert read["error"] == made
    assert len(made["message"]) <= messages.TEXT_MAX


def test_a_cut_error_text_keeps_its_start_and_its_end() -> None:
    made = messages.error("E", "start " + "x" * messages.TEXT_MAX + " end")
    assert made["message"].startswith("start ") and made["message"].endswith(" end")


@pytest.mark.parametrize("beside", [{"value": 1}, {"ok": False, "error": ERROR}])
def test_a_result_kept_apart_stands_alone(beside: dict[str, Any]) -> None:
    fields = {"op": "step:a#1", "ok": True, "blob": {"bytes": 1, "form": "bytes"}}
    with pytest.raises(Invalid, match="blob"):
        encode("end", **{**fields, **beside})


def test_what_every_door_lets_in_fits_into_every_message() -> None:
    """Values come wrapped: an answer in a record in a journal, a spawned input in a batch."""
    deepest: Any = 1
    for _ in range(jsonvalues.DEPTH_MAX):
        deepest = [deepest]
    answer = {"status": "completed", "data": deepest, "approved": None, "note": None, "by": None}
    named: dict[str, Any] = {"op": "wait:w#1", "kind": "wait", "name": "w", "digest": "0" * 32}
    record = {**named, "ok": True, "value": answer, "seq": 1}
    child: dict[str, Any] = {**named, "op": "child:w#1", "kind": "child"}
    child["data"] = {"agent": "w", "own": True, "input": {"x": deepest[0]}}
    for t, fields in (
        ("journal", {"records": [record]}),
        ("result", {"op": "wait:w#1", "ok": True, "value": answer}),
        ("batch", {"begins": [child]}),
        ("done", {"value": deepest}),
        ("note", {"kind": "log", "data": {"message": "x", "data": {"value": deepest}}}),
    ):
        assert decode(messages.encode(t, **fields))["t"] == t


PUBLISHED = {"name": "out/a.csv", "media_type": "text/csv"}
# A machine's word for a file's name becomes a path and a header elsewhere.
WRONG_FILES: dict[str, dict[str, Any]] = {
    "leads elsewhere": {**PUBLISHED, "name": "../a.csv"},
    "is absolute": {**PUBLISHED, "name": "/a.csv"},
    "is no text": {**PUBLISHED, "name": 7},
    "ends a header": {**PUBLISHED, "media_type": "text/csv\r\nx: y"},
    "says more": {**PUBLISHED, "path": "/etc"},
    "says less": {"name": "a.csv"},
}


@pytest.mark.parametrize("kind", ["artifact", "file"])
def test_what_is_published_has_a_name_that_leads_nowhere(kind: str) -> None:
    named = {"op": f"{kind}:a#1", "kind": kind, "name": "a", "digest": "0" * 32}
    messages.encode("begin", **named, data={**PUBLISHED, "step": "step:s#1", "kept": False})
    for data in WRONG_FILES.values():
        with pytest.raises(Invalid, match="data"):
            messages.encode("begin", **named, data=data)
