"""The code of the agent's own files, compiled once for all of its processes.

Where each run has its files at a place of its own, Python would compile them for each run, and
leave `__pycache__` in its working directory. So code is kept in one directory for all of them, by
the content of the file that it is of. What is there is checked when it is read, as nothing makes it
durable: at worst it is compiled once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import os
import sys
import tempfile
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType
from typing import Any

_DIGEST_BYTES = 32
_kept: str | None = None  # the directory


class Loader(SourceFileLoader):
    """Leaves nothing compiled beside the file."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass

    def get_code(self, fullname: str) -> CodeType | None:
        if _kept is None:
            return super().get_code(fullname)
        path = self.get_filename(fullname)
        source = self.get_data(path)
        return _code(_kept, source, path) or self._compile(_kept, source, path)

    def _compile(self, directory: str, source: bytes, path: str) -> CodeType:
        code: CodeType = self.source_to_code(source, path)
        data = marshal.dumps(code)
        with contextlib.suppress(OSError):
            fd, fresh = tempfile.mkstemp(prefix=".tmp-", dir=directory)
            with os.fdopen(fd, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(fresh, _place(directory, source))  # noqa: PTH105
        return code


def keep(app: str, directory: str) -> None:
    """Modules below `app` are loaded from what is kept in `directory`, from now on."""
    global _kept
    _kept = directory
    find = FileFinder.path_hook(
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (Loader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )

    def below(path: str) -> Any:
        if path != app and not path.startswith(os.path.join(app, "")):  # noqa: PTH118
            raise ImportError(f"{path} is not of the agent")
        return find(path)

    sys.path_hooks.insert(0, below)


def _code(directory: str, source: bytes, path: str) -> CodeType | None:
    """What is kept of it, as code of the file at `path`."""
    try:
        with open(_place(directory, source), "rb") as file:  # noqa: PTH123
            digest, data = file.read(_DIGEST_BYTES), file.read()
    except OSError:
        return None
    if hashlib.sha256(data).digest() != digest:
        return None
    code: CodeType = marshal.loads(data)
    return _of_file(code, path)


def _place(directory: str, source: bytes) -> str:
    compiler = b"%s %d " % (importlib.util.MAGIC_NUMBER, sys.flags.optimize)
    return os.path.join(directory, hashlib.sha256(compiler + source).hexdigest())  # noqa: PTH118


def _of_file(code: CodeType, path: str) -> CodeType:
    consts = (_of_file(c, path) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=path, co_consts=tuple(consts))
