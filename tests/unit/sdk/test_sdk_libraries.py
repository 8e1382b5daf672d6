"""Missing shared libraries: the Debian package is named, as Debian 12 calls it."""

from __future__ import annotations

import ctypes

import pytest

from torpor.sdk.libraries import advice, debian_package


# As `apt-file search` answers on Debian 12.
@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libGLU.so.1", "libglu1-mesa"),
        ("libX11-xcb.so.1", "libx11-xcb1"),
        ("libX11.so.6", "libx11-6"),
        ("libasound.so.2", "libasound2"),
        ("libblas.so.3", "libblas3"),
        ("libcairo.so.2", "libcairo2"),
        ("libdbus-1.so.3", "libdbus-1-3"),
        ("libgeos_c.so.1", "libgeos-c1v5"),
        ("libglib-2.0.so.0", "libglib2.0-0"),
        ("libgobject-2.0-0", "libglib2.0-0"),
        ("libgomp.so.1", "libgomp1"),
        ("libmagic.so.1", "libmagic1"),
        ("libnspr4.so", "libnspr4"),
        ("libnss3.so", "libnss3"),
        ("libodbc.so.2", "libodbc2"),
        ("libpango-1.0.so.0", "libpango-1.0-0"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libusb-1.0.so.0", "libusb-1.0-0"),
        ("libxml2.so.2", "libxml2"),
        ("libxslt.so.1", "libxslt1.1"),
        ("libzbar.so.0", "libzbar0"),
    ],
)
def test_the_package_of_a_library(library: str, package: str) -> None:
    assert debian_package(library) == package


def test_it_is_found_behind_what_the_package_says_of_it() -> None:
    try:
        try:
            ctypes.CDLL("libnone-such_x.so.3")
        except OSError as error:
            raise ImportError("numpy: please read https://…, and reinstall") from error
    except ImportError as error:
        said = advice(error, machine=True)
        on_host = advice(error, machine=False)
    assert said.startswith("Debian has libnone-such_x.so.3 in the package libnone-such-x3, which ")
    assert "take a wheel that brings it along" in said
    assert on_host == (
        "Debian has libnone-such_x.so.3 in the package libnone-such-x3: install it on this host"
    )


def test_what_does_without_is_named() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    assert "opencv-python-headless does without" in advice(error, machine=True)


def test_a_module_that_debian_keeps_apart() -> None:
    error = ModuleNotFoundError("No module named 'tkinter'", name="tkinter")
    assert "the module tkinter in the package python3-tk" in advice(error, machine=True)


def test_a_driver_is_in_no_package() -> None:
    error = OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
    assert advice(error, machine=True).startswith(
        "libcuda.so.1 belongs to the driver of a graphics"
    )


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'x' from 'y'"),
        ModuleNotFoundError("No module named 'httpx'", name="httpx"),
        FileNotFoundError(2, "No such file or directory", "libgl.txt"),
        OSError("notes.txt: cannot open shared object file"),
        KeyError(1),
    ],
)
def test_all_else_needs_no_advice(error: Exception) -> None:
    assert advice(error, machine=True) == ""
