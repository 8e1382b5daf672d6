from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.guest.conftest import Driver

CLIENT = """
import http.client, json, os, socket, torpor
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

where = urlsplit(os.environ["OPENAI_BASE_URL"]).netloc

def ask(prompt, connection=None):
    connection = connection or http.client.HTTPConnection(where)
    headers = {"Authorization": "Bearer torpor", "X-Mine": "yes"}
    connection.request("POST", "/v1/chat/completions?x=1", json.dumps({"p": prompt}), headers)
    response = connection.getresponse()
    return [response.status, response.getheader("content-type"), response.read().decode()]
"""


def model(body: str, status: int = 200, kind: str = "application/json") -> dict[str, Any]:
    headers = {"content-type": kind, "transfer-encoding": "chunked", "x-id": "7"}
    return {"status": status, "headers": headers, "body": body}


def echo(begin: dict[str, Any]) -> Any:
    return model(f"re: {json.loads(begin['data']['body'])['p']}")


def test_a_model_call_is_an_operation(driver: Driver) -> None:
    driver.answer = echo
    source = f"""{CLIENT}
@torpor.agent
def main():
    connection = http.client.HTTPConnection(where)
    return [ask("a", connection), ask("b", connection), ask("a", connection)]
"""
    kind = "application/json"
    assert driver.value(source) == [
        [200, kind, "re: a"],
        [200, kind, "re: b"],
        [200, kind, "re: a"],
    ]
    first, second, third = driver.said("begin")
    assert first["kind"] == "model"
    assert first["name"].startswith("/v1/chat/completions@")
    assert first["op"] == f"model:{first['name']}#1"
    assert third["op"] == f"model:{first['name']}#2"
    assert second["name"] != first["name"]
    assert first["data"]["method"] == "POST"
    assert first["data"]["path"] == "/v1/chat/completions?x=1"
    assert first["data"]["body"] == '{"p": "a"}'
    # The placeholder key stays here, and so does what concerns the connection.
    assert first["data"]["headers"] == {"x-mine": "yes"}


def test_calls_at_once_are_answered_each_its_own(driver: Driver) -> None:
    driver.load(f"""{CLIENT}
@torpor.agent
def main():
    with ThreadPoolExecutor(3) as pool:
        return [each[2] for each in pool.map(ask, "abc")]
""")
    driver.start()
    begun = [driver.hear("begin") for _ in range(3)]
    for each in reversed(begun):
        driver.say("result", op=each["op"], ok=True, value=echo(each))
    assert driver.hear("done")["value"] == ["re: a", "re: b", "re: c"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (model("data: x\\n\\n", kind="text/event-stream"), [200, "text/event-stream", "data: x"]),
        (model("slow down", status=429), [429, "application/json", "slow down"]),
        (ConnectionError("no upstream"), [502, "application/json", "no upstream"]),
        ({"what": 1}, [502, "application/json", "malformed"]),
        (
            {"status": 200, "headers": {"a": "b\r\nc: d"}, "body_b64": "aGk="},
            [200, None, "hi"],
        ),
    ],
)
def test_what_a_call_can_bring_back(driver: Driver, value: Any, seen: list[Any]) -> None:
    driver.answer = lambda begin: value
    source = f"{CLIENT}\n@torpor.agent\ndef main():\n    return ask('a')\n"
    status, kind, text = driver.value(source)
    assert [status, kind] == seen[:2]
    assert seen[2] in text


def test_a_recorded_call_is_not_made_again(
    drive: Callable[[], Driver], record: Callable[[Any, Any], dict[str, Any]]
) -> None:
    """Also when a step that made such a call is itself replayed, without its call."""
    source = f"""{CLIENT}
@torpor.step
def think(): return ask("first")[2]

@torpor.agent
def main(): return [think(), ask("second")[2], ask("third")[2]]
"""
    first = drive()
    first.answer = echo
    assert first.value(source) == ["re: first", "re: second", "re: third"]
    calls = [record(each, echo(each)) for each in first.said("begin", kind="model")]
    second = drive()
    second.answer = echo
    journal = [*first.journal(), *calls[:2]]
    assert second.value(source, journal=journal) == ["re: first", "re: second", "re: third"]
    (live,) = second.said("begin")
    assert json.loads(live["data"]["body"]) == {"p": "third"}


def test_a_call_in_flight_outlives_the_freeze(
    driver: Driver, record: Callable[[Any, Any], dict[str, Any]]
) -> None:
    driver.load(f"""{CLIENT}
@torpor.agent
def main():
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "a")
        torpor.approve("?")
        return answer.result()[2]
""")
    driver.start()
    driver.until(lambda: bool(driver.said("status", waiting=1, busy=1)))
    (call,) = driver.said("begin", kind="model")
    (wait,) = driver.said("begin", kind="wait")
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw(journal=[record(call, echo(call))])
    driver.hear("thawed")
    driver.say("result", op=wait["op"], ok=True, value={"status": "completed"})
    assert driver.hear("done")["value"] == "re: a"


def test_what_is_no_request_is_refused_and_the_rest_goes_on(driver: Driver) -> None:
    driver.answer = echo
    source = f"""{CLIENT}
def raw(data):
    host, port = where.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data)
        return connection.makefile("rb").readline().decode().split()[1]

@torpor.agent
def main():
    post = b"POST /v1/x HTTP/1.1\\r\\n"
    return [raw(b"nonsense\\r\\n\\r\\n"), raw(post + b"\\r\\n"),
            raw(post + b"Content-Length: 9999999\\r\\n\\r\\n"),
            raw(post + b"Content-Length: 1\\r\\nExpect: 100-continue\\r\\n\\r\\n"),
            ask("fine")[0]]
"""
    assert driver.value(source) == ["400", "411", "413", "100", 200]


VARYING = f"""{CLIENT}
import threading

@torpor.step
def think(n): return ask(f"in a step {{n}}")[2]

@torpor.agent
def main(asks, steps=0):
    told = [think(n) for n in range(steps)]
    return told + [ask(each)[2] for each in asks]
"""


def test_a_call_that_is_made_while_recorded_ones_are_left_is_warned_of(
    drive: Callable[[], Driver], record: Callable[[Any, Any], dict[str, Any]]
) -> None:
    def logged(driver: Driver) -> list[dict[str, Any]]:
        """The whole log's journal."""
        ends = {each["op"]: each for each in driver.said("end")}
        made = []
        for seq, begin in enumerate(driver.said("begin"), 1):
            made.append(
                record(begin, ends[begin["op"]]["value"] if begin["op"] in ends else echo(begin))
            )
            # The call of a step is in the log before the step's end.
            made[-1]["seq"] = 10 * seq + (15 if begin["kind"] == "step" else 0)
        return made

    first = drive()
    first.answer = echo
    first.value(VARYING, asks=["a", "b", "c"], steps=2)
    journal = logged(first)

    # As it was, killed after any of its calls: nothing to say, also not of the steps' own calls.
    for upto in range(4, len(journal) + 1):
        same = drive()
        same.answer = echo
        assert same.value(VARYING, journal[:upto], asks=["a", "b", "c"], steps=2)[2:] == [
            f"re: {each}" for each in "abc"
        ]
        assert not same.said("note")
        same.close()

    other = drive()
    other.answer = echo
    other.value(VARYING, journal, asks=["a", "B", "C"], steps=2)
    notes = [each["data"] for each in other.said("note")]
    assert [each["level"] for each in notes] == ["warning"] * 2
    made = [each["op"] for each in other.said("begin")]
    recorded = [each["op"] for each in journal[-2:]]
    assert [each["data"] for each in notes] == [
        {"recorded": op, "made": instead} for op, instead in zip(recorded, made, strict=True)
    ]
