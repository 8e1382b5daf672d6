"""Artifacts from the agent's side, under a real supervisor."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

SOURCE = """
    import torpor

    @torpor.agent
    def main():
        with open("report.bin", "wb") as file:
            file.write(bytes(1_200_000))
        one = torpor.artifact("report.bin")
        torpor.waitpoint("w").result()
        open("left.txt", "w").write("left")
        return [one.name, one.size, one.digest]
"""
ANSWER = {"status": "completed", "data": None}
OP, KEPT = "artifact:report.bin#1", "file:left.txt#1"
BLOB = {"digest": "ab" * 32, "bytes": 1_200_000, "form": "bytes"}


def published(driver: Driver) -> None:
    """From the start to its wait; the host has told what the log has."""
    driver.record = False
    driver.load(SOURCE)
    driver.start()
    end = driver.hear("end", op=OP)
    assert end["blob"] == {"bytes": 1_200_000, "form": "bytes"}
    assert b"".join(b64decode(part["data"]) for part in driver.said("part")) == bytes(1_200_000)
    driver.say("result", op=OP, ok=True, blob=BLOB)
    driver.hear("begin", kind="wait")


def test_it_goes_in_parts_and_the_host_says_what_it_is(driver: Driver) -> None:
    published(driver)
    (begin,) = driver.said("begin", op=OP)
    assert begin["data"] == {"name": "report.bin", "media_type": "application/octet-stream"}
    driver.say("result", op="wait:w#1", ok=True, value=ANSWER)
    # What it wrote and did not publish is kept before it says that it is done.
    kept = driver.hear("begin", op=KEPT)
    assert kept["data"] == {"name": "left.txt", "media_type": "text/plain", "kept": True}
    driver.hear("end", op=KEPT)
    assert not driver.said("done")
    driver.say("result", op=KEPT, ok=True, blob={**BLOB, "bytes": 4})
    assert driver.hear("done")["value"] == ["report.bin", 1_200_000, "ab" * 32]


def test_a_replay_sends_nothing(drive: Callable[[], Driver]) -> None:
    first, second = drive(), drive()
    published(first)
    record = {key: first.said("begin", op=OP)[0][key] for key in ("op", "kind", "name", "digest")}
    second.load(SOURCE)
    file = {**record, "op": KEPT, "kind": "file", "name": "left.txt", "ok": True, "blob": BLOB}
    second.start(journal=[{**record, "ok": True, "blob": BLOB}, file])
    second.hear("begin", kind="wait")
    assert not second.said("part") and not second.said("begin", op=OP)
    second.say("result", op="wait:w#1", ok=True, value=ANSWER)
    # What was kept before a crash is kept again, as another version.
    second.hear("end", op="file:left.txt#2")
    second.say("result", op="file:left.txt#2", ok=True, blob={**BLOB, "bytes": 4})
    assert second.hear("done")["value"] == ["report.bin", 1_200_000, "ab" * 32]


def test_one_whose_end_was_not_answered_is_in_the_journal_of_the_thaw(driver: Driver) -> None:
    """A machine is frozen between the end and its answer, as when it is handed over."""
    driver.record = False
    driver.load(SOURCE)
    driver.start()
    driver.hear("end", op=OP)
    driver.say("prepare", anyhow=True)
    driver.hear("prepared")
    begin = driver.said("begin", op=OP)[0]
    record = {key: begin[key] for key in ("op", "kind", "name", "digest", "at")}
    driver.thaw(journal=[{**record, "ok": True, "blob": BLOB, "seq": 5}])
    driver.hear("begin", kind="wait")
    driver.say("result", op="wait:w#1", ok=True, value=ANSWER)
    driver.hear("end", op=KEPT)
    driver.say("result", op=KEPT, ok=True, blob={**BLOB, "bytes": 4})
    assert driver.hear("done")["value"] == ["report.bin", 1_200_000, "ab" * 32]


def test_a_large_result_whose_end_was_not_answered_is_not_lost(driver: Driver) -> None:
    source = """
        import torpor

        @torpor.step
        def large():
            return bytes(1_500_000)

        @torpor.agent
        def main():
            return len(large())
    """
    driver.record = False
    driver.load(source)
    driver.start()
    driver.hear("end", op="step:large#1")
    driver.say("prepare", anyhow=True)
    while driver.hear("prepared", "unprepared")["t"] == "unprepared":
        # The end was here before the agent's thread had noted that it was sent: as hosts, again.
        driver.say("prepare", anyhow=True)
    begin = driver.said("begin", op="step:large#1")[0]
    record = {key: begin[key] for key in ("op", "kind", "name", "digest", "at")}
    blob = {**BLOB, "bytes": 1_500_000}
    driver.thaw(journal=[{**record, "ok": True, "blob": blob, "seq": 5}])
    assert driver.hear("done", "failed").get("value") == 1_500_000


def test_a_file_that_cannot_be_read_to_its_end_is_an_error_of_the_operation(
    driver: Driver,
) -> None:
    source = """
        import torpor
        from torpor.sdk import artifacts

        def broken(self):
            yield b"x" * 10
            raise OSError(5, "Input/output error")

        artifacts.Data.pieces = broken

        @torpor.agent
        def main():
            try:
                torpor.artifact(data=b"x", name="x")
            except OSError as error:
                return str(error)
    """
    value = driver.value(source)
    assert "Input/output error" in value
    (end,) = driver.said("end")
    assert (end["ok"], end["error"]["type"]) == (False, "OSError")


def test_nothing_is_frozen_while_one_is_on_its_way(driver: Driver) -> None:
    source = """
        import threading
        import torpor
        from torpor.sdk import artifacts
        from torpor.sdk.artifacts import Data

        go, reached = threading.Event(), threading.Event()

        def slow(self):
            yield b"x"
            reached.set()
            go.wait()
            yield b"y"

        Data.pieces = slow

        @torpor.agent
        def main():
            thread = threading.Thread(target=torpor.artifact, kwargs={"data": b"", "name": "x"})
            thread.start()
            reached.wait()
            torpor.waitpoint("w").result()
            go.set()
            thread.join()
    """
    driver.record = False
    driver.load(source)
    driver.start()
    driver.hear("begin", kind="wait")
    driver.say("prepare", anyhow=True)
    assert "on its way" in driver.hear("unprepared")["reason"]
    driver.say("result", op="wait:w#1", ok=True, value=ANSWER)
    driver.hear("end", op="artifact:x#1")
    driver.say("result", op="artifact:x#1", ok=True, blob={**BLOB, "bytes": 2})
    driver.hear("done")
