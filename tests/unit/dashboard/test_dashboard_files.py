"""What runs published, on their pages: to be downloaded, never to be opened as a page of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.dashboard.test_dashboard_access import Browser, browse

from torpor.core.home import Home
from torpor.core.runfiles import RunFile
from torpor.dashboard.render import previewed
from torpor.service.runs import RunRequest
from torpor.testing.fakes.service import VERSION
from torpor.worker.runfiles import RunFiles


def test_a_run_lists_its_files_and_gives_them_as_downloads(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        run = await browser.service.runs.start(RunRequest({"script": []}, version=VERSION))
        page = (await browser.http.get(f"/ui/runs/{run['id']}")).text
        there = f"/ui/runs/{run['id']}/artifacts/out/x.html?version=1"
        assert f'href="{there}" download' in page
        assert "kept at the end" in page and "version 2" in page
        got = await browser.http.get(there)
        assert (got.status_code, got.content) == (200, b"<p>")
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["content-security-policy"].startswith("sandbox")
        assert got.headers["x-content-type-options"] == "nosniff"
        old = await browser.http.get(f"/ui/runs/{run['id']}/artifacts/report.csv?version=1")
        assert old.content == b"a,b\n"
        assert (await browser.http.get(f"/ui/runs/{run['id']}/artifacts/no")).status_code == 404

    browse(home, talk)


def test_a_run_lists_what_it_was_given_and_gives_it_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def content(files: RunFiles, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        return RunFile(path, "0" * 64, 8), iter([b"<script>"])

    async def talk(browser: Browser) -> None:
        files = {"in/<b>.html": "0" * 64} | {f"x{n:02}": "1" * 64 for n in range(22)}
        run = await browser.service.runs.start(
            RunRequest({"script": []}, version=VERSION, files=files)
        )
        page = (await browser.http.get(f"/ui/runs/{run['id']}")).text
        there = f"/ui/runs/{run['id']}/files/in/%3Cb%3E.html"
        assert f'<a href="{there}" download>in/&lt;b&gt;.html</a>' in page
        assert "and 3 more" in page and "x19" not in page
        got = await browser.http.get(there)
        assert (got.status_code, got.content) == (200, b"<script>")
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-security-policy"].startswith("sandbox")

    monkeypatch.setattr(RunFiles, "content", content)
    browse(home, talk)


def test_only_who_is_logged_in_gets_them(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        assert (await browser.http.get("/ui/runs/x/artifacts/report.csv")).status_code == 401

    browse(home, talk, logged_in=False)


def test_only_small_images_without_scripts_are_previewed() -> None:
    def shown(media_type: str, size: int = 10) -> Any:
        return previewed({"media_type": media_type, "bytes": size})

    assert shown("image/png") and shown("image/jpeg")
    assert not shown("image/svg+xml") and not shown("text/html")
    assert not shown("image/png", 5 << 20)
