"""Artifacts: files that a run publishes, which stay when its machine is gone.

    torpor.artifact("out/report.pdf")                    # torpor cp RUN:out/report.pdf .
    torpor.artifact(name="answer.json", data=b"{…}")

It is an operation: its content is durable before the agent goes on, and a replay is answered from
the log and sends nothing. In a step's body it is not asked for again by a replay, as nothing is;
a body that is repeated publishes anew. The same name again is a new version of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, Any

from torpor.core import artifacts
from torpor.sdk import arguments, freezing
from torpor.sdk.current import current
from torpor.sdk.operations import Operation, Outcome, inside
from torpor.sdk.runtime import Runtime
from torpor.wire import messages

Path = str | os.PathLike[str]
State = tuple[int, ...]  # of a file


@dataclass(frozen=True)
class Artifact:
    """What was published. `digest` is the BLAKE3 of its content, in hexadecimal digits."""

    name: str
    size: int
    digest: str


def artifact(
    path: Path | None = None,
    name: str | None = None,
    media_type: str | None = None,
    *,
    data: bytes | str | None = None,
) -> Artifact:
    """Publish the file at `path`, or `data` (text is written as UTF-8), as an artifact of this run:
    `torpor show` and the dashboard list it, `torpor cp RUN:NAME .` fetches it. Blocks until it is
    durable; in async code `await asyncio.to_thread(torpor.artifact, …)` does not hold the others
    up. At most 1 GiB.

    `name` is by default the path in the working directory, or of a file elsewhere its last part.
    The same name again makes a new version, and the newest is the one that is given. `media_type`
    follows from the name unless it is given.

    Raises OSError if the file cannot be read or its content not be stored, IsADirectoryError for a
    directory, ValueError for a name, a media type or a size that is not taken, TypeError for
    arguments that are not as above.
    """
    runtime = current("artifact")
    if (path is None) == (data is None):
        raise TypeError("torpor.artifact: give the path of a file, or data=… and name=…, not both")
    if data is not None and not isinstance(data, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"torpor.artifact: data must be bytes or text, not {type(data).__name__}")
    if path is None and name is None:
        raise TypeError("torpor.artifact: data has no name of its own: give it name=…")
    found = os.path.abspath(os.fsdecode(path)) if path is not None else None  # noqa: PTH100
    named = name if name is not None else default_name(found or "")
    described = _described(named, media_type)
    content = data.encode() if isinstance(data, str) else data
    freezing.flush_output()
    with ExitStack() as opened:
        source = File(found, opened) if found is not None else Data(bytes(content or b""))
        result = _publish(runtime, described, source)
    if found is not None:
        _note_published(found)
    return result


# What was published of the working directory's files, by their paths: as they were then.
_published: dict[str, State] = {}


def state_of(stats: os.stat_result) -> State:
    """Another one when the file is written."""
    return stats.st_size, stats.st_ino, stats.st_mtime_ns, stats.st_ctime_ns


def published(path: str) -> State | None:
    """How the file was when it was published last; None if it was not."""
    return _published.get(path)


def _note_published(path: str) -> None:
    with suppress(OSError):
        real = os.path.realpath(path)
        _published[real] = state_of(os.stat(real))  # noqa: PTH116


def default_name(path: str) -> str:
    """Of an absolute path."""
    here = os.path.realpath(os.curdir)
    inner = os.path.relpath(os.path.realpath(path), here)
    if inner == os.curdir or inner.startswith(os.pardir):
        return os.path.basename(path)  # noqa: PTH119
    return inner.replace(os.sep, "/")


def _described(name: Any, media_type: Any) -> dict[str, Any]:
    """The operation's data. Raises TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"torpor.artifact: name must be text, not {type(name).__name__}")
    if problem := artifacts.name_fault(name):
        raise ValueError(f"torpor.artifact: a name {problem}: {name[:80]!a}")
    if media_type is None:
        media_type = artifacts.guess_media_type(name)
    elif not isinstance(media_type, str) or artifacts.media_type_fault(media_type):
        raise ValueError(f"torpor.artifact: {media_type!r} is not a media type such as text/csv")
    return {"name": name, "media_type": media_type}


class Data:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def check(self) -> None:
        _check_size(len(self._data))

    def pieces(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), messages.PART_BYTES):
            yield self._data[at : at + messages.PART_BYTES]


class File:
    """Opened only if it is to be sent: a replay may not have it."""

    def __init__(self, path: str, opened: ExitStack) -> None:
        self._path, self._opened = path, opened
        self._file: IO[bytes] | None = None

    def check(self) -> None:
        """Raises OSError, ValueError."""
        if self._file is not None:
            return
        mode = os.stat(self._path).st_mode  # noqa: PTH116
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(
                f"torpor.artifact: {self._path} is a directory: make one file of "
                "it, for example with torpor.artifact(shutil.make_archive('name', "
                "'zip', directory))"
            )
        if not stat.S_ISREG(mode):
            raise ValueError(f"torpor.artifact: {self._path} is not a file")
        self._file = self._opened.enter_context(open(self._path, "rb"))  # noqa: PTH123, SIM115
        _check_size(os.fstat(self._file.fileno()).st_size)

    def pieces(self) -> Iterator[bytes]:
        assert self._file is not None
        size = 0
        while piece := self._file.read(messages.PART_BYTES):
            size += len(piece)
            _check_size(size)  # it may grow
            yield piece


def _check_size(size: int) -> None:
    if size > artifacts.BYTES_MAX:
        raise ValueError(
            f"torpor.artifact: {size:,} bytes; an artifact has at most {artifacts.BYTES_MAX:,}: "
            "compress it, or publish it in parts"
        )


def _publish(runtime: Runtime, described: dict[str, Any], source: Data | File) -> Artifact:
    kind, step = artifacts.ARTIFACT, inside.get()
    if step is not None:
        kind, described = artifacts.FILE, {**described, "step": step.op}

    def checked() -> dict[str, Any]:
        source.check()
        return described

    operation = runtime.begin(kind, described["name"], arguments.digest(), checked)
    if operation.replayed is None:
        send(runtime, operation, source.pieces())
    return given(described["name"], operation.block())


def send(runtime: Runtime, operation: Operation, pieces: Iterator[bytes]) -> None:
    """End the operation with this content, or with the error of reading it."""
    try:
        runtime.end(operation, Outcome(True, content=pieces, form="bytes"))
    except (OSError, ValueError) as error:
        kind = "ValueError" if isinstance(error, ValueError) else "OSError"
        runtime.end(operation, Outcome(False, error=messages.error(kind, str(error))))
    except BaseException:
        runtime.abandon(operation)
        raise


def given(name: str, outcome: Outcome) -> Artifact:
    """What the operation gave. Raises OSError, ValueError."""
    if outcome.ok and outcome.blob is not None:
        return Artifact(name, outcome.blob["bytes"], outcome.blob["digest"])
    error = outcome.error or {}
    raised = ValueError if error.get("type") == "ValueError" else OSError
    raise raised(error.get("message", f"torpor.artifact: {name} was not stored"))
