"""Damaged images and layers: seen, and replaced by what they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.image.test_image_deps import needs_tools, wheel_of

from torpor.control.observe.doctor import examine
from torpor.core.home import Home
from torpor.image import build
from torpor.image.build import Image, ensure_image, image_damage
from torpor.image.deps import ensure_deps, layer_damage
from torpor.image.intact import damage, digests
from torpor.image.publish import Workspace, build_once


def _root(workspace: Workspace, progress: object) -> Path:
    """A root as it is cached, of a few bytes."""
    root = workspace.directory / "root"
    (root / "modules").mkdir(parents=True)
    for name in ("root.erofs", "vmlinuz", "busybox", "modules/00-a.ko"):
        (root / name).write_bytes(name.encode() * 100)
    facts = {"content": digests(root, (path for path in root.rglob("*") if path.is_file()))}
    (root / "root.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(build, "_make_root", _root)
    return Home(tmp_path / "home").create()


def _unlink(path: Path) -> None:
    path.unlink()


def _damage(path: Path) -> None:
    """Another file of the same size; what shares its bytes keeps them."""
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


@pytest.mark.parametrize("harm", [_unlink, _damage])
@pytest.mark.parametrize("name", ["root.erofs", "vmlinuz", "initramfs", "image.json"])
def test_an_image_that_is_damaged_is_seen_and_made_anew(
    home: Home, name: str, harm: Callable[[Path], None]
) -> None:
    image = ensure_image(home)
    good = _files(image)
    harm(image.directory / name)
    assert image_damage(image.directory).startswith(name)
    said = {check.detail: check.ok for check in examine(home).checks if check.name == "guest image"}
    assert list(said.values()) == [False], said
    assert name in next(iter(said))

    told: list[str] = []
    assert ensure_image(home, lambda stage, text, _: told.append(text)) == image
    assert any(f"made anew: {name}" in text for text in told)
    assert _files(image) == good
    assert image_damage(image.directory) == ""


def test_a_damaged_root_is_made_anew_when_an_image_needs_it(home: Home) -> None:
    image = ensure_image(home)
    (root,) = (path for path in home.roots.iterdir() if path.is_dir())
    with (root / "root.erofs").open("r+b") as file:  # the image's, too
        file.write(b"x")
    assert image_damage(image.directory) == "root.erofs is damaged"
    assert ensure_image(home) == image
    assert image_damage(image.directory) == damage(root, "root.json") == ""


def test_an_image_that_is_whole_needs_no_root(home: Home) -> None:
    image = ensure_image(home)
    (root,) = (path for path in home.roots.iterdir() if path.is_dir())
    (root / "busybox").unlink()
    assert ensure_image(home, lambda *_: pytest.fail("nothing is to be made")) == image


def _files(image: Image) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in image.directory.iterdir()}


@needs_tools
def test_a_damaged_layer_gets_the_versions_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    wheel_of(tmp_path, "1.5")
    home = Home(tmp_path / "home")
    layer = ensure_deps(home, ("tiny",))
    assert layer is not None
    body = layer.read_bytes()
    wheel_of(tmp_path, "1.6")
    for harm in (_unlink, _damage):
        harm(layer)
        assert layer_damage(layer.parent).startswith("deps.erofs")
        (said,) = (check for check in examine(home).checks if check.name == "dependencies")
        assert said.ok is False
        assert "deps.erofs" in said.detail
        assert ensure_deps(home, ("tiny",)) == layer
        assert layer.read_bytes() == body
    shutil.rmtree(layer.parent)
    assert ensure_deps(home, ("tiny",)) == layer
    assert '"tiny": "1.6"' in (layer.parent / "deps.json").read_text()


def test_what_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    result = tmp_path / "name"
    result.write_text("damaged")

    def fail(workspace: Workspace) -> Path:
        raise ConnectionError("no network")

    with pytest.raises(ConnectionError):
        build_once(result, fail, damage=lambda _: "it is damaged")
    assert result.read_text() == "damaged"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "name"]
