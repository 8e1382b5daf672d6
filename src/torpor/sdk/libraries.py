"""Which Debian package has a shared library that a compiled module misses.

Debian names packages of libraries by a rule, so the table holds exceptions only. See
https://www.debian.org/doc/debian-policy/ch-sharedlibs.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# How the loader, ctypes and cffi say it.
_MISSING = re.compile(r"\b(lib[\w.+-]+): cannot open shared object file")
_GLIB = "libglib2.0-0"
_EXCEPTIONS = {
    "libGLU": "libglu1-mesa",
    "libatk-1.0": "libatk1.0-0",
    "libatk-bridge-2.0": "libatk-bridge2.0-0",
    "libatspi": "libatspi2.0-0",
    "libgeos_c": "libgeos-c1v5",
    "libgio-2.0": _GLIB,
    "libglib-2.0": _GLIB,
    "libgmodule-2.0": _GLIB,
    "libgobject-2.0": _GLIB,
    "libgthread-2.0": _GLIB,
    "libharfbuzz": "libharfbuzz0b",
    "libjpeg": "libjpeg62-turbo",
    "libnssutil3": "libnss3",
    "libsmbclient": "libsmbclient",
    "libsmime3": "libnss3",
    "libsnappy": "libsnappy1v5",
    "libxml2": "libxml2",
    "libxslt": "libxslt1.1",
}
# What a module of Python's library, which Debian keeps apart, is in.
_MODULES = {
    "ensurepip": "python3-venv",
    "idlelib": "idle-python3.11",
    "tkinter": "python3-tk",
}
_DRIVERS = ("libcuda", "libnvidia", "libnvcuvid")
# Packages of PyPI that do without.
_INSTEAD = {
    "libGL": "opencv-python-headless does without (instead of opencv-python)",
    "libxcb": "opencv-python-headless does without (instead of opencv-python)",
}


def debian_package(library: str) -> str:
    """The package that has `library`, a name such as libGL.so.1, or libgobject-2.0-0."""
    stem, so, version = library.partition(".so")
    if not so and (cut := re.fullmatch(r"(.+)-(\d+)", library)):
        stem, version = cut.groups()
    if stem in _EXCEPTIONS:
        return _EXCEPTIONS[stem]
    version = version.lstrip(".")
    apart = "-" if version and stem[-1].isdigit() else ""
    return f"{stem}{apart}{version}".lower().replace("_", "-")


def advice(error: BaseException, *, machine: bool) -> str:
    """What to do about `error` if it is that a library is missing, "" if it is not. `machine`: the
    agent is in a machine, not a process of the host."""
    for one in _chain(error):
        if isinstance(one, ModuleNotFoundError) and one.name in _MODULES:
            return _advice(f"the module {one.name}", _MODULES[one.name], "", machine)
        if found := _MISSING.search(" ".join(each for each in one.args if isinstance(each, str))):
            library = found[1]
            if library.startswith(_DRIVERS):
                return f"{library} belongs to the driver of a graphics card, and there is none here"
            instead = _INSTEAD.get(library.partition(".so")[0], "")
            return _advice(library, debian_package(library), instead, machine)
    return ""


def _advice(what: str, package: str, instead: str, machine: bool) -> str:
    has = f"Debian has {what} in the package {package}"
    if not machine:
        return f"{has}: install it on this host" + (f", or: {instead}" if instead else "")
    wheel = instead or "take a wheel that brings it along"
    return (
        f"{has}, which is not in the image, and machines cannot be given packages of Debian yet: "
        f"{wheel}, or install it on the host and use --engine process"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It and what it came of, each once."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
