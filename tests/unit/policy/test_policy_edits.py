"""Which steps an edit touches: a table of edits, and agents of several files."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.policy.edits import Edit

AGENT = '''
"""An agent."""
import json
import torpor
from helpers import clean as tidy

PROMPT = "Say hello"
LIMITS = {"most": 3}
client = make_client(LIMITS)

class Store:
    folder = "kept"

    def put(self, what):
        return self.folder + what

    @torpor.step
    def load(self, key):
        return self.folder + key

def cut(text):
    # shorten it
    return text[:10]

@torpor.step
def search(topic):
    return cut(topic)

@torpor.step(retries=2)
def greet(name):
    text = PROMPT  # local names are its own
    return text + name

@torpor.step(name="keep it!")
def keep(what):
    return Store().put(tidy(what))

@torpor.step
def ask(model):
    return client.ask(model)

@torpor.step
def read():
    return open("prompts/hello.txt").read()

@torpor.agent
def main(topic):
    suffix = topic + "?"
    for word in topic.split():
        print(word)

    @torpor.step
    def nested():
        return suffix + word

    text = search(topic)
    print(text)
    greet(text)
    torpor.step(lambda: json.dumps(text))()
    return nested()

@torpor.agent
def child():
    return search("child")

if __name__ == "__main__":
    print(main("x"))
'''
HELPERS = """
def clean(text):
    return strip(text)

def strip(text):
    return text.strip()

def unused():
    return 1
"""
STEPS = ("search", "greet", "keep it!", "ask", "read", "nested", "Store.load", "child", "lambda")
FILES = {
    "agent.py": AGENT.encode(),
    "helpers.py": HELPERS.encode(),
    "prompts/hello.txt": b"hello",
    "README.md": b"read me",
}


def touched(new: dict[str, bytes], given: dict[str, Any] | None = None) -> set[str]:
    return set(Edit(FILES, new, given or {}).touched(STEPS))


def edited(old: str, new: str, file: str = "agent.py") -> dict[str, bytes]:
    text = FILES[file].decode()
    assert old in text
    return {**FILES, file: text.replace(old, new).encode()}


# A lambda has no name to be found by: any change of code may be its own.
LAMBDA = {"lambda"}


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("# shorten it", "# cut it short", set()),
        ("return text[:10]", "return (\n        text[:10]\n    )", set()),
        ('"""An agent."""', '"""A good agent."""', set()),
        ("print(main", "print(child() or main", set()),
        ("text[:10]", "text[:11]", {"search", "child"} | LAMBDA),
        ("return cut(topic)", "return cut(topic) + '!'", {"search", "child"} | LAMBDA),
        ("Say hello", "Say goodbye", {"greet"} | LAMBDA),
        ("retries=2", "retries=3", {"greet"} | LAMBDA),
        ('"most": 3', '"most": 4', {"ask"} | LAMBDA),
        ("make_client(LIMITS)", "make_client(1)", {"ask"} | LAMBDA),
        ('folder = "kept"', 'folder = "stored"', {"keep it!", "Store.load"} | LAMBDA),
        ("return self.folder + what", "return what", {"keep it!"} | LAMBDA),
        ("self.folder + key", "key", {"keep it!", "Store.load"} | LAMBDA),
        ("import clean as tidy", "import strip as tidy", {"keep it!"} | LAMBDA),
        ("import json", "import json, re", LAMBDA),
        # The agent itself is replayed: what it does otherwise shows by itself.
        ("print(text)", "print('found', text)", LAMBDA),
        ("greet(text)", "greet(text + '!')", LAMBDA),
        ('topic + "?"', 'topic + "!"', {"nested"} | LAMBDA),
        ("topic.split()", "topic.split(',')", {"nested"} | LAMBDA),
        ('search("child")', 'search("kid")', {"child"} | LAMBDA),
        # Nobody can say what such a thing changes.
        ("client = make", "torpor.setup()\nclient = make", set(STEPS)),
        (
            "client = make",
            "import helpers\nhelpers.strip = None\nclient = make",
            {"keep it!"} | LAMBDA,
        ),
    ],
)
def test_edits(old: str, new: str, wanted: set[str]) -> None:
    assert touched(edited(old, new)) == wanted


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("text.strip()", "text.lstrip()", {"keep it!"} | LAMBDA),
        ("return 1", "return 2", LAMBDA),
    ],
)
def test_edits_of_a_neighbour(old: str, new: str, wanted: set[str]) -> None:
    assert touched(edited(old, new, "helpers.py")) == wanted


def test_nothing_changed() -> None:
    assert touched(dict(FILES)) == set()


def test_a_file_touches_the_steps_that_name_it() -> None:
    assert touched({**FILES, "prompts/hello.txt": b"bye"}) == {"read"}
    assert touched({**FILES, "prompts/other.txt": b"new"}) == {"read"}, "its directory is named"
    assert touched({**FILES, "README.md": b"else"}) == set(), "nobody reads it"


def test_a_file_that_the_input_names_may_come_to_any_step() -> None:
    new = {**FILES, "README.md": b"else"}
    assert touched(new, {"paths": ["./README.md"]}) == set(STEPS)


def test_a_file_that_only_the_agent_names_may_come_to_any_step() -> None:
    body = FILES["agent.py"].replace(b'topic + "?"', b'topic + "data/in.csv"')
    old = {"agent.py": body, "data/in.csv": b"1"}
    steps = ("search", "greet")
    assert Edit(old, {**old, "data/in.csv": b"2"}, {}).touched(steps) == {*steps}


def test_a_librarys_function_is_not_the_agents_own() -> None:
    old = b"import httpx, torpor\n@torpor.agent\ndef main():\n    torpor.step(httpx.get)('u')\n"
    new = old.replace(b"'u'", b"'v'")
    assert Edit({"a.py": old}, {"a.py": new}, {}).touched(["get"]) == set()


def test_a_step_named_where_it_is_called() -> None:
    old = (
        b"import torpor\ndef one(): return 1\ndef two(): return 2\n"
        b"@torpor.agent\ndef main():\n    torpor.step(one, name='first')()\n"
        b"    torpor.step(name='second')(two)()\n"
    )
    steps = ("first", "second")
    changed = old.replace(b"return 1", b"return 3")
    assert Edit({"a.py": old}, {"a.py": changed}, {}).touched(steps) == {"first"}
    changed = old.replace(b"return 2", b"return 3")
    assert Edit({"a.py": old}, {"a.py": changed}, {}).touched(steps) == {"second"}


def test_what_this_python_cannot_read_may_be_anything() -> None:
    assert Edit({"a.py": b"x = 1"}, {"a.py": b"x = = 1"}, {}).touched(["s"]) == {"s"}
