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
    driver.until(lambda: bool(driver.said("status", waiting=1, busy=1, calls=1)))
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
    return [raw(b"nonsense\\r\\n\\r\\n"), raw(post + b"Content-Length: x\\r\\n\\r\\n"),
            raw(post + b"Content-Length: 9999999\\r\\n\\r\\n"),
            raw(post + b"Content-Length: 1\\r\\nExpect: 100-continue\\r\\n\\r\\n"),
            ask("fine")[0]]
"""
    assert driver.value(source) == ["400", "400", "413", "100", 200]


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


GIVING_UP = f"""{CLIENT}
def gives_up(prompt):
    \"\"\"Ask as a client whose timeout has come at once.\"\"\"
    connection = http.client.HTTPConnection(where)
    connection.request("POST", "/v1/chat/completions?x=1", json.dumps({{"p": prompt}}), {{}})
    return connection
"""


def both(driver: Driver) -> tuple[dict[str, Any], dict[str, Any]]:
    """The call and the checkpoint that came after its client had gone."""
    driver.until(lambda: len(driver.said("begin")) == 2)
    (call,), (checkpoint,) = (driver.said("begin", kind=kind) for kind in ("model", "checkpoint"))
    return call, checkpoint


def test_an_equal_request_takes_over_the_call_whose_client_has_gone(driver: Driver) -> None:
    """Under way or answered by then, and across a freeze: it is begun anew under its name at most,
    and never as another."""
    driver.load(f"""{GIVING_UP}
@torpor.agent
def main():
    gives_up("a").close()
    torpor.checkpoint()
    gives_up("a").close()
    torpor.approve("?")
    return ask("a")[2]
""")
    driver.start()
    call, checkpoint = both(driver)
    driver.say("result", op=checkpoint["op"], ok=True, value=None)
    wait = driver.hear("begin", kind="wait")
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw()
    driver.hear("thawed")
    driver.say("result", op=wait["op"], ok=True, value={"status": "completed"})
    driver.answer = echo
    driver.say("result", op=call["op"], ok=True, value=echo(call))
    assert driver.hear("done")["value"] == "re: a"
    assert {each["op"] for each in driver.said("begin", kind="model")} == {call["op"]}


def test_an_equal_request_gets_the_answer_that_nobody_heard(driver: Driver) -> None:
    """The host has recorded it: it is asked for again under its name."""
    driver.load(f"""{GIVING_UP}
@torpor.agent
def main():
    gives_up("a").close()
    torpor.checkpoint()
    return [ask("a")[2], ask("a")[2]]
""")
    driver.start()
    call, checkpoint = both(driver)
    driver.answer = echo
    driver.say("result", op=call["op"], ok=True, value=echo(call))
    driver.say("result", op=checkpoint["op"], ok=True, value=None)
    assert driver.hear("done")["value"] == ["re: a"] * 2
    begun = [each["op"] for each in driver.said("begin", kind="model")]
    first, second = (f"model:{call['name']}#{n}" for n in (1, 2))
    assert begun == [first, first, second]


def test_an_answer_whose_client_went_before_it_had_all_of_it_serves_the_next(
    driver: Driver,
) -> None:
    """It is over for the gateway, and in the log; but its last bytes went to nobody."""
    driver.load(f"""{CLIENT}
class Slow(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect((self.host, self.port))

@torpor.agent
def main():
    slow = Slow(where)
    slow.request("POST", "/v1/chat/completions?x=1", json.dumps({{"p": "a"}}), {{}})
    beginning = slow.getresponse().read(10).decode()
    other = ask("b")[2]  # comes after all of the first
    slow.close()
    return [beginning, other, len(ask("a")[2]), ask("a")[2]]
""")
    driver.start()
    call = driver.hear("begin")
    answer = model("a large one" * 1_000_000)
    driver.say("result", op=call["op"], ok=True, value=answer)
    other = driver.hear("begin")
    driver.say("result", op=other["op"], ok=True, value=echo(other))
    again = driver.hear("begin")
    assert again["op"] == call["op"]
    driver.answer = echo
    driver.say("result", op=call["op"], ok=True, value=answer)
    assert driver.hear("done")["value"] == ["a large on", "re: b", 11_000_000, "re: a"]


def test_an_error_that_nobody_heard_is_left_alone(driver: Driver) -> None:
    driver.load(f"""{GIVING_UP}
@torpor.agent
def main():
    gives_up("a").close()
    torpor.checkpoint()
    return ask("a")[0]
""")
    driver.start()
    call, checkpoint = both(driver)
    driver.answer = echo
    driver.say("result", op=call["op"], ok=True, value=model("slow down", status=429))
    driver.say("result", op=checkpoint["op"], ok=True, value=None)
    assert driver.hear("done")["value"] == 200
    assert len({each["op"] for each in driver.said("begin", kind="model")}) == 2


def test_equal_requests_whose_clients_are_there_are_two_calls(driver: Driver) -> None:
    driver.load(f"""{CLIENT}
@torpor.agent
def main():
    with ThreadPoolExecutor(2) as pool:
        return [each[2] for each in pool.map(ask, "aa")]
""")
    driver.start()
    first, second = driver.hear("begin"), driver.hear("begin")
    assert first["op"] != second["op"]
    for each in (first, second):
        driver.say("result", op=each["op"], ok=True, value=echo(each))
    assert driver.hear("done")["value"] == ["re: a", "re: a"]


AT_IMPORT = """
import http.client, os, torpor
from urllib.parse import urlsplit

def ask(path):
    connection = http.client.HTTPConnection(urlsplit(os.environ["OPENAI_BASE_URL"]).netloc)
    connection.request("POST", path, "{}")
    response = connection.getresponse()
    headers = [response.getheader(name) for name in ("x-should-retry", "connection")]
    return [response.status, response.reason, *headers, response.read().decode()]

TOLD = [ask("/v1/chat/completions"), ask("/v1/messages")]

@torpor.agent
def main():
    return TOLD
"""


def test_a_call_at_import_is_refused_at_once_in_the_shape_of_its_api(driver: Driver) -> None:
    openai, anthropic = driver.value(AT_IMPORT)
    assert openai[:4] == anthropic[:4] == [425, "torpor: not yet", "false", "close"]
    error = json.loads(openai[4])["error"]
    assert (error["code"], error["type"]) == ("no_run", "invalid_request_error")
    assert error["message"].startswith("torpor: not yet")
    assert "Make the call in the agent's function" in error["message"]
    told = json.loads(anthropic[4])
    assert (told["type"], told["error"]["message"]) == ("error", error["message"])
    assert not driver.said("begin")
