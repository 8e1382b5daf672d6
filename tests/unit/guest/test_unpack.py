from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from torpor.core.errors import Invalid
from torpor.guest.unpack import unpack


def made(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def test_files_and_directories_are_written(tmp_path: Path) -> None:
    script = member("sub/dir/run.sh")
    script.mode = 0o700
    data = made(member("agent.py"), member("empty", tarfile.DIRTYPE), script, content=b"x = 1\n")
    unpack(data, tmp_path / "app", None)
    assert (tmp_path / "app/agent.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "app/empty").is_dir()
    assert (tmp_path / "app/sub/dir/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "app/agent.py").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("a/../../b"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "agent.py"),
        member("pipe", tarfile.FIFOTYPE),
        member("null", tarfile.CHRTYPE),
    ],
    ids=lambda info: str(info.name),
)
def test_all_else_is_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    with pytest.raises(Invalid, match=bad.name):
        unpack(made(bad), tmp_path / "app", None)
    assert not list((tmp_path / "app").iterdir())


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not a tar"):
        unpack(b"PK\x03\x04" * 300, tmp_path, None)
