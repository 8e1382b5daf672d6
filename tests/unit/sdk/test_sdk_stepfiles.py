"""What a step changed is seen, and what nobody changed is not looked at again."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import pytest

from torpor.sdk import stepfiles
from torpor.sdk.stepfiles import Listing


def test_a_listing_is_made_anew_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    scan = stepfiles._scan

    def counted(home: str, below: str = "") -> object:
        looked.append(home)
        return scan(home, below)

    monkeypatch.setattr(stepfiles, "_scan", counted)
    monkeypatch.setattr(stepfiles, "_MANY", 1)
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "x"
    path.write_text("one")
    listing = Listing(str(tmp_path))
    listing.scan()  # and listens from now on
    before = listing.scan()
    looked.clear()
    assert listing.scan() is before and not looked

    def changed() -> bool:
        nonlocal before
        after = listing.scan()
        differs, before = after != before, after
        return differs

    path.write_text("two")
    assert changed() and not changed()
    subprocess.run(["sh", "-c", "mkdir new && echo x > new/y"], cwd=tmp_path, check=True)
    assert changed() and "new/y" in before
    (tmp_path / "new" / "y").write_text("z")
    assert changed()
    os.rename(path, tmp_path / "z")  # noqa: PTH104
    assert changed() and "sub/x" not in before
    # What is written through a mapping nobody hears: as long as there is one, all is looked at.
    with path.open("w+b") as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        os.utime(path, (1, 1))
        with mmap.mmap(file.fileno(), 0) as mapped:
            changed()
            looked.clear()
            assert not changed() and looked
            mapped[0] = 1
            mapped.flush()
            assert changed()
