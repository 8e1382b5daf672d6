"""Results too large for the log, from the agent's side."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

SOURCE = """
    import torpor

    @torpor.step
    def large(kind):
        if kind == "bytes":
            return bytes(range(256)) * 8192
        return {"text": "naïve 🦥" * 300_000, "raw": [b"x" * 900_000]}

    @torpor.agent
    def main(kind):
        one = large(kind)
        torpor.waitpoint("w").result()
        if kind == "bytes":
            return [type(one).__name__, len(one), one == bytes(range(256)) * 8192]
        return [len(one["text"]), one["text"][-7:], len(one["raw"][0])]
"""
RESULTS = {
    "bytes": ["bytes", 2 << 20, True],
    "json": [7 * 300_000, "naïve 🦥", 900_000],
}
ANSWER = {"status": "completed", "data": None}


def content(driver: Driver) -> bytes:
    return b"".join(b64decode(part["data"]) for part in driver.said("part"))


def ended(drive: Callable[[], Driver], kind: str) -> Driver:
    driver = drive()
    driver.answer = lambda begin: ANSWER
    assert driver.value(SOURCE, kind=kind) == RESULTS[kind]
    return driver


def replay(driver: Driver, first: Driver, kind: str, pieces: list[dict[str, Any]]) -> None:
    record = first.journal()[0]
    blob = {**record.pop("blob"), "digest": "0" * 64}
    driver.load(SOURCE)
    driver.start(journal=[{**record, "ok": True, "blob": blob}], kind=kind)
    op = driver.hear("fetch")["op"]
    assert op == "step:large#1"
    for piece in pieces:
        driver.say("piece", op=op, **piece)


def pieces(data: bytes, size: int = 300_000) -> list[dict[str, Any]]:
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    made = [{"data": b64encode(each).decode(), "last": False} for each in cut]
    return [*made, {"data": "", "last": True}]


def test_they_go_in_parts_and_come_back_in_pieces(drive: Callable[[], Driver]) -> None:
    for kind, result in RESULTS.items():
        first = ended(drive, kind)
        (end,) = first.said("end")
        assert end["blob"] == {"bytes": len(content(first)), "form": kind}
        second = drive()
        second.answer = lambda begin: ANSWER
        replay(second, first, kind, pieces(content(first)))
        assert second.hear("done")["value"] == result
        assert not second.said("begin", kind="step") and not second.said("part")


def test_no_snapshot_is_taken_while_one_is_on_its_way(drive: Callable[[], Driver]) -> None:
    first = ended(drive, "bytes")
    second = drive()
    *most, last = pieces(content(first))
    replay(second, first, "bytes", most)
    second.say("prepare")
    assert "on its way" in second.hear("unprepared")["reason"]
    second.say("piece", op="step:large#1", **last)
    wait = second.hear("begin", kind="wait")
    second.say("prepare")
    second.hear("prepared")
    second.say("resume", time=time.time())
    second.say("result", op=wait["op"], ok=True, value=ANSWER)
    assert second.hear("done")["value"] == RESULTS["bytes"]


def test_one_that_is_lost_is_told(drive: Callable[[], Driver]) -> None:
    first = ended(drive, "bytes")
    second = drive()
    lost = {"data": "", "last": True, "problem": "the value is damaged"}
    replay(second, first, "bytes", [lost])
    failed = second.hear("failed")
    assert (failed["type"], failed["message"]) == ("RuntimeError", "the value is damaged")


def test_one_that_is_too_large_fails_once(driver: Driver) -> None:
    source = """
        import torpor
        from torpor.wire import messages
        messages.VALUE_BYTES_MAX = 2_000_000
        ran = []
        @torpor.step(retries=3)
        def huge():
            ran.append(1)
            return b"x" * 2_000_001
        @torpor.agent
        def main():
            try:
                huge()
            except ValueError as error:
                return [str(error), len(ran)]
    """
    words, ran = driver.value(source)
    assert "step huge cannot be recorded: 2,000,001 bytes; at most 2,000,000" in words
    assert ran == 1
    assert not driver.said("part")


def test_what_is_kept_in_the_log_is_limited_before_it_is_sent(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor
        @torpor.agent
        def main(count):
            refused = []
            for say in (torpor.emit, torpor.log):
                try:
                    say("x" * count)
                except ValueError as error:
                    refused.append(str(error))
            return {"refused": refused, "result": "x" * (count if not refused else 0)}
    """
    small = drive().run(source, count=1_000_000)
    assert small["value"]["refused"] == [] and len(small["value"]["result"]) == 1_000_000
    large = drive().run(source, count=1_100_000)
    for said, kind in zip(large["value"]["refused"], ("emit", "log"), strict=True):
        assert said.startswith(f"torpor.{kind}: 1,100,") and "write it to a file" in said.lower()
    returning = source.replace("say(", "(lambda text: None)(")
    failed = drive().run(returning, count=1_100_000)
    assert failed["t"] == "failed" and "1,044,480 are kept" in failed["message"]
    assert "`torpor result RUN OPERATION`" in failed["message"]
