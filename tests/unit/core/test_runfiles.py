"""Where a run's files may be, and how they get there."""

from __future__ import annotations

from pathlib import Path

import pytest

from torpor.core.errors import Invalid
from torpor.core.runfiles import (
    FILE_BYTES_MAX,
    FILES_BYTES_MAX,
    FILES_MAX,
    PATH_CHARS_MAX,
    PATHS_CHARS_MAX,
    Place,
    check_path,
    check_paths,
    check_sizes,
)


@pytest.mark.parametrize("path", ["a", "a/b.csv", ".env", "a b/ü.txt", "x" * 255, "-"])
def test_a_path_below_the_working_directory_is_taken(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "1 to 1,024 characters"),
        ("a/" * (PATH_CHARS_MAX // 2) + "a", "1 to 1,024 characters"),
        ("/etc/passwd", "is absolute"),
        ("../a", "leads out of it"),
        ("a/../../b", "leads out of it"),
        (".", "not written plainly"),
        ("./a", "not written plainly"),
        ("a//b", "not written plainly"),
        ("a/", "not written plainly"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("\udc80", "not UTF-8"),
        ("ü" * 128, "more than 255 bytes"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        check_path(path)


def test_all_of_them_can_be_at_once() -> None:
    check_paths(["a", "b/a", "b/c/a", "ab"])
    with pytest.raises(Invalid, match="two files would both be at 'a'"):
        check_paths(["a", "b", "a"])
    with pytest.raises(Invalid, match="'a/b' would be both a file and the directory of 'a/b/c'"):
        check_paths(["a/b/c", "a/b", "a/bc"])
    with pytest.raises(Invalid, match=f"at most {FILES_MAX:,} files"):
        check_paths(map(str, range(FILES_MAX + 1)))
    with pytest.raises(Invalid, match="more than 131,072 characters together"):
        check_paths(f"{'d/' * 400}{n}" for n in range(PATHS_CHARS_MAX // 800 + 1))


def test_sizes_are_bounded_each_and_together() -> None:
    assert check_sizes({"a": FILE_BYTES_MAX, "b": 1}) == FILE_BYTES_MAX + 1
    with pytest.raises(Invalid, match=r"a has 1,073,741,825 bytes; .* at most 1,073,741,824"):
        check_sizes({"a": FILE_BYTES_MAX + 1})
    with pytest.raises(Invalid, match=f"at most {FILES_BYTES_MAX:,}"):
        check_sizes(dict.fromkeys("abcd", FILE_BYTES_MAX) | {"e": 1})


def write(root: Path, path: str, data: bytes) -> None:
    place = Place(root, path)
    place.write(data)
    assert not (root / path).is_file() or (root / path).read_bytes() != data
    place.finish()


def test_a_file_is_there_once_it_is_whole_and_instead_of_what_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    write(tmp_path, "a", b"new")
    write(tmp_path, "b/c/d", b"deep")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}
    assert (tmp_path / "a").read_bytes() == b"new" and (tmp_path / "b/c/d").read_bytes() == b"deep"


def test_one_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, "a")
    place.write(b"half")
    place.give_up()
    assert not list(tmp_path.iterdir())


def test_no_link_leads_out(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "a").write_text("theirs")
    (root / "d").symlink_to(outside)
    (root / "a").symlink_to(outside / "a")
    (root / ".a.part").symlink_to(outside / "a")
    write(root, "d/a", b"ours")
    write(root, "a", b"ours")
    assert (outside / "a").read_text() == "theirs"
    assert (root / "a").read_bytes() == (root / "d/a").read_bytes() == b"ours"
    with pytest.raises(IsADirectoryError):
        write(root, "d", b"")
