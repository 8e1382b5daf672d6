"""Files of a run, as they come over the link: real supervisor, real agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torpor.wire.link import FILES

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

SEEN = """
    import os
    from pathlib import Path
    import torpor

    @torpor.agent
    def seen():
        found = sorted(p for p in Path().rglob("*") if p.is_file() and ".py" not in p.name)
        return {str(p): [p.stat().st_size, p.read_bytes()[-3:].decode()] for p in found}
    """


def send(driver: Driver, path: str, data: bytes, frame: int = 60_000) -> None:
    driver.say("file", path=path, bytes=len(data))
    for at in range(0, len(data), frame):
        driver.link.send(FILES, data[at : at + frame])
        driver.flush()
        driver.pump(0)


def test_they_are_there_when_the_agent_begins(driver: Driver) -> None:
    driver.load(SEEN)
    send(driver, "large", bytes(1_000_000) + b"end")
    send(driver, "a/b/empty", b"")
    send(driver, "a/b/c", b"one", 1)
    send(driver, "a/b/c", b"two", 2)
    driver.start()
    assert driver.hear("done", "failed")["value"] == {
        "large": [1_000_003, "end"],
        "a/b/empty": [0, ""],
        "a/b/c": [3, "two"],
    }


def test_one_that_cannot_be_written_fails_the_run_in_words(driver: Driver) -> None:
    driver.load(SEEN + '\n    os.mkdir("large")\n')
    send(driver, "large", bytes(1_000_000))
    send(driver, "fine", b"fine")
    driver.start()
    failed = driver.hear("done", "failed")
    assert (failed["type"], failed["cancelled"]) == ("OSError", False)
    assert "the run's file large could not be written: " in failed["message"]
    assert "large is a directory" in failed["message"]
    assert not list((driver.directory / "work").glob(".*.part"))


def test_what_nobody_announced_correctly_is_refused(driver: Driver) -> None:
    driver.load(SEEN)
    driver.say("file", path="../outside", bytes=3)
    driver.say("file", path="half", bytes=3)
    driver.link.send(FILES, b"ab")
    driver.say("file", path="second", bytes=1)
    driver.link.send(FILES, b"c")
    driver.start()
    assert driver.hear("done", "failed")["value"] == {"half": [3, "abc"]}
    assert "leads out of it" in driver.complaints() and "half is not whole" in driver.complaints()
