# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# disk = "128M"
# freeze_on_model_wait = false
# [[tool.torpor.egress]]
# host = "upstream.example"
# port = 18443
# [[tool.torpor.egress]]
# host = "asked.example"
# port = 18447
# secret = "ASKED_KEY"
# ask = true
# [[tool.torpor.egress]]
# host = "watched.example"
# port = 18447
# ///
"""The agents of the tests on real machines: one file, so that one template serves them all.

`ask` is how a test holds an agent where it wants it: the model is a server of the test's own, and
answers when the test lets it. So none is frozen meanwhile.
"""

import asyncio
import ctypes
import json
import mmap
import os
import random
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torpor

MIB = 1 << 20


def ask(question: str) -> str:
    return ask_with([{"role": "user", "content": question}])


def ask_with(messages: list[dict[str, Any]]) -> str:
    body = {"model": "m", "messages": messages}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer: str = json.load(response)["choices"][0]["message"]["content"]
    return answer


def drawn() -> list[str]:
    """From each generator that a copy of this machine would also have."""
    return [os.urandom(16).hex(), secrets.token_hex(16), str(uuid.uuid4()), repr(random.random())]


@torpor.step
def double(number: int) -> int:
    print(f"doubling {number}")
    return 2 * number


@torpor.step
def asked(question: str) -> str:
    print(f"asking {question}")
    answer = ask(question)
    print(f"asked {question}")
    return answer


@torpor.agent
def main_job(number: int) -> dict[str, Any]:
    print("begun")
    kept = {"doubled": double(number)}
    ask("hold main")
    verdict = torpor.approve(f"go on with {number}?", data=kept)
    print(f"approved: {verdict.approved}, {verdict.note}")
    kept["again"] = double(kept["doubled"])
    before = time.time()
    torpor.sleep(2)
    return {**kept, "note": verdict.note, "slept_s": time.time() - before}


@torpor.agent
def endure(cycles: int, mib: int) -> int:
    """Freeze `cycles` times, each time looking whether everything is still as it was."""
    chunks = [os.urandom(MIB) for _ in range(mib)]
    sums = [zlib.crc32(chunk) for chunk in chunks]
    path = Path("kept")
    file = path.open("w+b", buffering=0)
    ours, theirs = socket.socketpair()
    ticks = [0]

    def echo() -> None:
        while data := theirs.recv(4096):
            theirs.sendall(data)

    def tick() -> None:
        while True:
            ticks[0] += 1
            time.sleep(0.02)

    threads = [threading.Thread(target=work, daemon=True) for work in (echo, tick)]
    for thread in threads:
        thread.start()
    written = b""
    for cycle in range(cycles):
        before, ticked = time.monotonic(), ticks[0]
        torpor.approve(f"cycle {cycle}")
        torpor.emit({"cycle": cycle, "wall": time.time(), "drawn": drawn()})
        slept_s = time.monotonic() - before
        assert 0 <= slept_s < 600, f"the monotonic clock went by {slept_s} s"
        broken = [i for i, chunk in enumerate(chunks) if zlib.crc32(chunk) != sums[i]]
        assert not broken, f"cycle {cycle}: MiB {broken} of the buffer changed"
        chunks[cycle % mib] = os.urandom(MIB)
        sums[cycle % mib] = zlib.crc32(chunks[cycle % mib])
        # From the disk, not from what the kernel has of it in memory.
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert path.read_bytes() == written, f"cycle {cycle}: the file is another"
        more = os.urandom(20_000)
        file.write(more)
        written += more
        ours.sendall(more[:1000])
        back = b""
        while len(back) < 1000:
            back += ours.recv(4096)
        assert back == more[:1000], f"cycle {cycle}: the socket brought something else"
        while ticks[0] <= ticked:
            time.sleep(0.01)
        assert all(thread.is_alive() for thread in threads)
    return len(written)


@torpor.agent
def chat(turns: int) -> list[str]:
    torpor.context.append("system", "Be brief.", pinned=True)
    for _ in range(turns):
        torpor.context.append("user", torpor.event("say").result().data)
        reply = ask_with(torpor.context.window(1000))
        torpor.context.append("assistant", reply)
        torpor.emit(reply)
    return [message["content"] for message in torpor.context.messages]


@torpor.agent
def crash(name: str) -> dict[str, Any]:
    """Work that is cut off at `hold <name>`, once before it ever slept and once after."""
    print("one")
    first = double(1)
    print("two")
    held = asked(f"hold {name} 1")
    print("three")
    verdict = torpor.approve("half way?")
    print("four")
    second = double(2)
    numbers = drawn()
    torpor.emit({"drawn": numbers})
    print("five")
    held_again = asked(f"hold {name} 2")
    torpor.emit({"drawn": numbers})
    print("six")
    return {
        "first": first,
        "second": second,
        "held": [held, held_again],
        "approved": verdict.approved,
    }


@torpor.step
def bulk(mib: int) -> bytes:
    return bytes(range(256)) * (mib << 12)


@torpor.step
def write_file(text: str) -> str:
    """By a child process, so that no hook of Python's sees it."""
    subprocess.run(["/bin/sh", "-c", f"echo {text} > made.txt"], check=True)
    return "made.txt"


@torpor.agent
def filing(name: str) -> str:
    path = write_file("by a step")
    asked(f"hold {name}")
    return Path(path).read_text()


@torpor.agent
def bulky(name: str, mib: int) -> list[Any]:
    """Keeps what is too large for a log, over a crash."""
    first = bulk(mib)
    asked(f"hold {name}")
    return [len(first), first == bytes(range(256)) * (mib << 12), bulk(mib) == first]


@torpor.agent
def given(doc: Path, raw: bytes, name: str) -> list[Any]:
    """Has files, loses its machine, sleeps, and has them still."""

    def seen() -> list[Any]:
        found = sorted(p for p in (doc, *Path("data").rglob("*")) if p.is_file())
        return [[str(p), p.stat().st_uid == os.getuid(), zlib.crc32(p.read_bytes())] for p in found]

    first = [seen(), zlib.crc32(raw)]
    doc.write_text("its own now")
    asked(f"hold {name}")
    torpor.approve("and now?")
    return [first, seen()]


@torpor.step
def publish_page() -> int:
    Path("page.html").write_text("<p>")
    return torpor.artifact("page.html").size


@torpor.agent
def publishing(name: str) -> list[Any]:
    """Publishes before a crash and after, and leaves something unpublished."""
    Path("out").mkdir()
    Path("out/report.bin").write_bytes(bytes(range(256)) * 8192)
    first = torpor.artifact("out/report.bin")
    page = publish_page()
    asked(f"hold {name}")
    second = torpor.artifact(name="note.txt", data=first.digest)
    Path("left.txt").write_text("left")
    torpor.waitpoint("look").result()
    return [first.name, first.size, page, second.size]


@torpor.agent
def fickle(name: str) -> list[Any]:
    """What it does depends on which of its machines it is in."""
    first = double(1)
    torpor.step(name=f"in machine {torpor.run.epoch}")(double)(2)
    return [first, asked(f"hold {name}"), torpor.run.id]


@torpor.agent
def model_once(name: str) -> list[str]:
    return [ask(f"say {name}"), ask(f"say {name}"), ask(f"hold {name}")]


@torpor.agent
def chatter(rounds: int, lines: int) -> list[int]:
    """Print much just before each wait, and something at once after."""
    answers = []
    number = 0
    for turn in range(rounds):
        for _ in range(lines):
            print(f"line {number} {'x' * 40}")
            number += 1
        answers.append(torpor.waitpoint(f"turn {turn}").result().data)
    return answers


@torpor.step
def my_key() -> str:
    return torpor.run.idempotency_key


@torpor.agent
def twin() -> dict[str, Any]:
    """Says who it is, before it slept and after."""
    first, doubled = torpor.run.id, double(21)
    verdict = torpor.approve("which one are you?")
    now = {"id": torpor.run.id, "epoch": torpor.run.epoch, "key": my_key(), "drawn": drawn()}
    return {"first": first, "doubled": doubled, "note": verdict.note, **now}


@torpor.agent
def stumbles(name: str) -> list[Any]:
    return [double(1), asked(f"refuse {name}")]


@torpor.agent
def sleeper() -> bool:
    return torpor.approve("wake up?").approved


@torpor.agent
def keeper(mib: int) -> int:
    """Has much to store when it is frozen."""
    kept = os.urandom(mib * MIB)
    total = zlib.crc32(kept)
    torpor.approve("go on?")
    assert zlib.crc32(kept) == total
    return len(kept)


@torpor.agent
def tidy(name: str) -> None:
    try:
        ask(f"hold {name}")
    finally:
        print("tidied up")
        double(21)


@torpor.step
def long_work(name: str) -> dict[str, Any]:
    """Computes until it does so on another machine, beside a process and a file that are open."""
    print("body", flush=True)
    epoch, rounds = torpor.run.epoch, 0
    number = int.from_bytes(os.urandom(8), "big")
    kept = Path("kept").open("w+")  # noqa: SIM115
    kept.write(str(number))
    echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert echo.stdin is not None and echo.stdout is not None
    torpor.emit({"at": "work"})
    while torpor.run.epoch == epoch:
        rounds += 1
    print(number, file=echo.stdin, flush=True)
    assert int(echo.stdout.readline()) == number
    kept.seek(0)
    assert int(kept.read()) == number
    echo.stdin.close()
    return {"epoch": epoch, "rounds": rounds, "echo": echo.wait()}


@torpor.agent
def handed_over(name: str) -> dict[str, Any]:
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(ask(f"hold {name}")))
    asking.start()
    print("before")
    worked = long_work(name)
    asking.join()
    print("after")
    return {**worked, "answers": answers}


IMPORTED_AT = time.time()


def ends_badly() -> None:
    raise LookupError("no such thing")


@torpor.agent
def goes_wrong(how: str) -> Any:
    print("going wrong")
    match how:
        case "raise":
            ends_badly()
        case "exit":
            sys.exit(4)
        case "os exit":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(b"".join(os.urandom(MIB) for _ in range(1024)))
        case "result":
            return object()
    return IMPORTED_AT


# A function that is written as machine code, at the same address in all machines of the template.
CODE = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
run_code = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(CODE)))


def write_code(answer: int) -> None:
    """mov eax, answer; ret"""
    CODE[:6] = b"\xb8" + struct.pack("<i", answer) + b"\xc3"


write_code(-1)
# So that whatever gets a machine of the template ready has run it.
torpor.on_thaw(run_code)
torpor.on_freeze(run_code)


@torpor.agent
def rewrites_itself(rounds: int) -> list[int]:
    """Write other code to where there was some, sleep, run it."""
    answers = []
    for turn in range(rounds):
        write_code(turn)
        torpor.approve(f"turn {turn}")
        answers.append(run_code())
    return answers


@torpor.agent
async def gathered(lines: int) -> list[int]:
    async def line(number: int) -> int:
        await torpor.waitpoint(f"w{number}")
        return double(number)

    return await asyncio.gather(*(line(number) for number in range(lines)))


@torpor.agent
def threaded(lines: int) -> list[int]:
    def line(number: int) -> int:
        torpor.waitpoint(f"w{number}").result()
        return double(number)

    with ThreadPoolExecutor(lines) as pool:
        return list(pool.map(line, range(lines)))


@torpor.agent
def any_of(lines: int) -> list[int]:
    waits = [torpor.waitpoint(f"w{number}") for number in range(lines)]
    doubled: dict[str, int] = {}
    while len(doubled) < lines:
        name = torpor.wait_any(*(wait for wait in waits if wait.name not in doubled)).name
        doubled[name] = double(int(name[1:]))
    return [doubled[wait.name] for wait in waits]


@torpor.agent
async def impatient(timeout_s: float) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            await torpor.approve("Quick?")
    except TimeoutError:
        return "timed out"
    return "answered"


def reach(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
    """How far a client comes, in a word."""
    try:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(20)
            client.connect((host, port))
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(100).decode().partition("\r\n")[0]
    except OSError as error:
        return type(error).__name__


def look_around(name: str) -> list[str]:
    return [
        reach(name, 443),
        reach("93.184.216.34", 80),
        reach("169.254.169.254", 443),
        reach("93.184.216.34", 8443),
        reach("93.184.216.34", 53, socket.SOCK_DGRAM),
    ]


def fetch_events() -> list[str]:
    request = urllib.request.Request("https://upstream.example:18443/events", b"hello")
    with urllib.request.urlopen(request, timeout=60) as response:
        return [line.decode().strip() for line in response]


@torpor.agent
def reaching() -> list[list[str]]:
    before = fetch_events()
    torpor.approve("once more?")
    return [before, fetch_events()]


@torpor.agent
def asking(urls: list[str]) -> list[list[object]]:
    """Post to each; what came of it."""
    found: list[list[object]] = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, b"order", timeout=2) as response:
                found.append([response.status, response.read().decode()])
        except urllib.error.HTTPError as error:
            found.append([error.code, error.read().decode()])
    return found


@torpor.agent
def confined() -> list[list[str]]:
    before = look_around("before.example.com")
    torpor.approve("look again?")
    return [before, look_around("after.example.com")]


@torpor.agent
def beside(seconds: float) -> str:
    def sleep() -> None:
        time.sleep(seconds)
        torpor.log("slept")

    thread = threading.Thread(target=sleep)
    thread.start()
    torpor.waitpoint("w").result()
    thread.join()
    return "done"


warmed: list[object] = []


@torpor.warm
def warms() -> None:
    import colorsys  # which nothing else does

    warmed.append(colorsys.__name__)
    warmed.append(double(4))
    ask("warm")


@torpor.agent
def is_warm() -> list[object]:
    return [*warmed, "colorsys" in sys.modules, ask("warm")]


@torpor.tool(permission="ask")
def refund(order: int, euros: float) -> str:
    print(f"refunding {order}")
    return f"order {order}: {euros} euros"


@torpor.agent
def clerk(orders: list[int]) -> list[str]:
    found = []
    for order in orders:
        try:
            found.append(refund(order, 9.5))
        except torpor.PermissionDenied as error:
            found.append(f"{error.by}: {error.reason}")
    return found
