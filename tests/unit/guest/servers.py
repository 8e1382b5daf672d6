"""Servers on the loopback that speak as much as an unmodified client needs."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

Headers = list[tuple[str, str]]


class Fake:
    """`serve` has a connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            while True:
                try:
                    connection, _ = self.listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def connect(self, _: object = None) -> socket.socket:
        return socket.create_connection(self.listener.getsockname())


def redis(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as file:
        while line := file.readline():
            words = []
            for _ in range(int(line[1:])):
                words.append(file.read(int(file.readline()[1:]) + 2)[:-2])
            file.write(b"$5\r\nvalue\r\n" if words[0].upper() == b"GET" else b"+OK\r\n")
            file.flush()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def postgres(connection: socket.socket) -> None:
    """The start of a session, and one answer to each simple query."""
    with connection, connection.makefile("rwb") as file:
        while True:
            length = int.from_bytes(file.read(4), "big")
            if not length:
                return
            body = file.read(length - 4)
            if int.from_bytes(body[:4], "big") in (80877103, 80877104):
                file.write(b"N")  # no encryption
                file.flush()
                continue
            break
        ready = _message(b"Z", b"I")
        file.write(_message(b"R", bytes(4)))
        for name, value in ((b"server_version", b"15.0"), (b"client_encoding", b"UTF8")):
            file.write(_message(b"S", name + b"\0" + value + b"\0"))
        file.write(_message(b"K", bytes(8)) + ready)
        file.flush()
        column = b"n\0" + bytes(6) + b"\0\0\0\x17" + b"\0\x04" + b"\xff\xff\xff\xff" + b"\0\0"
        row = _message(b"T", b"\0\x01" + column) + _message(b"D", b"\0\x01\0\0\0\x0242")
        while kind := file.read(1):
            file.read(int.from_bytes(file.read(4), "big") - 4)
            if kind == b"Q":
                file.write(row + _message(b"C", b"SELECT 1\0") + ready)
                file.flush()
            elif kind == b"X":
                return


def repository(directory: Path) -> None:
    """A git repository at `source` in it, with one file."""
    source = directory / "source"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(source)]
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    (source / "file").write_text("hello\n" * 10_000)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)


def git_backend(
    directory: Path, method: str, target: str, header: Callable[[str], str], body: bytes
) -> tuple[int, Headers, bytes]:
    """What git's own server answers for the repositories in `directory`. `header`: of the request,
    by its name in lower case; "" if there is none."""
    path, _, query = target.partition("?")
    environment = {
        "GIT_PROJECT_ROOT": str(directory),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "PATH": os.environ["PATH"],
        "REQUEST_METHOD": method,
        "REMOTE_USER": "a",
        "CONTENT_TYPE": header("content-type"),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": header("content-encoding"),
        "GIT_PROTOCOL": header("git-protocol"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    pairs = [line.split(": ", 1) for line in head.decode().split("\r\n")]
    headers = {name.lower(): value for name, value in pairs}
    status = int(headers.pop("status", "200").split()[0])
    return status, list(headers.items()), answer


OPENAI_EVENTS = b"".join(
    b"data: %b\n\n" % each
    for each in (
        b'{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{"content":"one "}}]}',
        b'{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{"content":"two"},"finish_reason":"stop"}]}',
        b"[DONE]",
    )
)
ANTHROPIC_EVENTS = b"".join(
    b"event: %b\ndata: %b\n\n" % each
    for each in (
        (
            b"message_start",
            b'{"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
            b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,'
            b'"usage":{"input_tokens":1,"output_tokens":1}}}',
        ),
        (
            b"content_block_start",
            b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        ),
        (
            b"content_block_delta",
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
            b'"text":"one two"}}',
        ),
        (b"content_block_stop", b'{"type":"content_block_stop","index":0}'),
        (b"message_stop", b'{"type":"message_stop"}'),
    )
)
