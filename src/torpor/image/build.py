"""From the recipe to an image that machines can boot.

recipe.digest()  ──►  cache/roots/<recipe>/     root.erofs vmlinuz busybox modules/ root.json
                           │ hard links           (a minute, network)
guest's own code  ──►  images/<digest>/         root.erofs vmlinuz initramfs image.json
                           │                      (an instant)
                      images/<digest>/disk-<MiB>.ext4, made when first asked for
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torpor
from torpor.core.errors import Missing, NotFound
from torpor.core.home import Home
from torpor.image import recipe
from torpor.image.bytecode import compile_tree
from torpor.image.initramfs import INIT, guest_sources, initramfs
from torpor.image.intact import damage, digests
from torpor.image.kernel import find_modules
from torpor.image.kernelmem import PAGE, kernel_memory
from torpor.image.publish import Workspace, build_once
from torpor.image.tools import ProgramFailed, require, run

# stage, message, fraction done (None: unknown)
Progress = Callable[[str, str, float | None], None]

# What mmdebstrap says when it begins something, and how far that is (of a build of 30 s here).
_ROOT_STEPS = (
    ("I: running apt-get update", "fetching Debian's package lists", 0.0),
    ("I: downloading packages", "downloading packages", 0.1),
    ("I: extracting archives", "extracting packages", 0.2),
    ("I: installing essential", "installing the base system", 0.3),
    ("I: installing remaining", "installing Python", 0.5),
    ("I: running --customize-hook", "kernel, compiling, packing the file system", 0.6),
)


@dataclass(frozen=True)
class Image:
    """A kernel and a root file system that machines boot; immutable. `digest` names its content."""

    digest: str
    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs"

    @property
    def root(self) -> Path:
        return self.directory / "root.erofs"

    def is_here(self) -> bool:
        """Whether its files are; not whether they are whole."""
        return all(path.is_file() for path in (self.kernel, self.initramfs, self.root))

    def facts(self) -> dict[str, Any]:
        """Versions of kernel, Python and every package, sizes."""
        facts: dict[str, Any] = json.loads((self.directory / "image.json").read_text())
        return facts

    def disk(self, mib: int) -> Path:
        """An empty disk of that size: a sparse file to be copied or read, never written.

        Equal bytes for equal sizes. Raises Missing, Exhausted, HostError.
        """
        return build_once(
            self.directory / f"disk-{mib}.ext4",
            lambda workspace: _make_disk(workspace, mib),
            damage=lambda disk: "" if disk.stat().st_size == mib << 20 else "its size is wrong",
        )


def ensure_image(home: Home, progress: Progress = lambda *_: None) -> Image:
    """The image of this version of torpor, built if need be (a minute, network, 1 GB for a while).

    Blocks; several callers at once share one build. Raises Missing when the host lacks a
    program, Exhausted when the disk is full, HostError when Debian cannot be reached.
    """
    if (known := find_image(home)) is not None:
        return known
    guest = guest_sources(Path(torpor.__file__).parent)
    root = home.roots / recipe.digest()
    waiting = _say_waiting(progress)

    def damaged(why: str) -> None:
        progress("image", f"the guest image is made anew: {why}", None)

    build_once(
        root,
        lambda workspace: _make_root(workspace, progress),
        waiting=waiting,
        damage=lambda directory: damage(directory, "root.json"),
        damaged=damaged,
    )
    facts = json.loads((root / "root.json").read_text())
    digest = image_digest(facts["content"], guest)
    directory = build_once(
        home.images / digest,
        lambda workspace: _make_image(workspace, root, facts, guest, progress),
        waiting=waiting,
        damage=image_damage,
        damaged=damaged,
    )
    return Image(digest, directory)


def find_image(home: Home) -> Image | None:
    """The image of this version of torpor, if it is built and whole."""
    guest = guest_sources(Path(torpor.__file__).parent)
    known = home.images / image_digest(_content(home.roots / recipe.digest()), guest)
    return None if image_damage(known) else Image(known.name, known)


def image_damage(directory: Path) -> str:
    """What is wrong with an image's files, "" if nothing is."""
    return damage(directory, "image.json")


def _content(root: Path) -> dict[str, str]:
    """The digests of a root's files as they were when it was made; {} where that is not known."""
    try:
        content: dict[str, str] = json.loads((root / "root.json").read_text())["content"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return content


def open_image(home: Home, digest: str) -> Image:
    """An image made earlier, perhaps by another version of torpor. Raises NotFound."""
    directory = home.images / digest
    if not re.fullmatch("[0-9a-f]{32}", digest) or not directory.is_dir():
        raise NotFound(
            f"there is no guest image {digest} on this host",
            hint="Templates and snapshots made with it cannot be restored; deploy the agent again.",
        )
    return Image(digest, directory)


def image_digest(root_content: dict[str, str], guest: dict[str, bytes]) -> str:
    """The name of an image: the digests of the root's files, init, and the guest's own code.

    Not of the initramfs's bytes: whether the host could compile the code beforehand makes no
    difference that a snapshot could see.
    """
    sources = {path: hashlib.sha256(body).hexdigest() for path, body in guest.items()}
    facts = json.dumps([root_content, INIT, sources], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _say_waiting(progress: Progress) -> Callable[[], None]:
    return lambda: progress("image", "waiting for another process that builds it", None)


def _make_root(workspace: Workspace, progress: Progress) -> Path:
    require("mmdebstrap", "dpkg-deb", "mkfs.erofs", "lz4")
    if not Path(recipe.KEYRING).is_file():
        raise Missing(
            f"Debian's archive keys are not on this host: {recipe.KEYRING}",
            hint="torpor setup installs them.",
        )

    def on_line(line: str) -> None:
        for begins, message, fraction in _ROOT_STEPS:
            if line.startswith(begins):
                progress("root", message, fraction)

    try:
        run(
            recipe.command(str(workspace.directory)),
            on_line=on_line,
            environment=recipe.environment(),
            lock_fd=workspace.lock_fd,
        )
    except ProgramFailed as error:
        error.hint = (
            f"It installs Debian {recipe.SUITE} from {recipe.mirror()}; is that reachable? "
            "TORPOR_DEBIAN_MIRROR names another. Without root it needs newuidmap (package "
            "uidmap) and this user in /etc/subuid."
        )
        raise
    built = workspace.directory / "torpor"
    progress("root", "unpacking the kernel", 0.95)
    return _arrange_root(workspace, built)


def _arrange_root(workspace: Workspace, built: Path) -> Path:
    """From what the script left in `made` to a root as it is cached."""
    kernel, busybox = workspace.directory / "kernel", workspace.directory / "busybox"
    for package, unpacked in (("linux", kernel), ("busybox", busybox)):
        run(["dpkg-deb", "-x", str(built / f"{package}.deb"), str(unpacked)])
    root = workspace.directory / "root"
    (root / "modules").mkdir(parents=True)
    (built / "root.erofs").rename(root / "root.erofs")
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    vmlinuz.rename(root / "vmlinuz")
    memory = kernel_memory((root / "vmlinuz").read_bytes())
    behind = _append(root / "root.erofs", memory.pages)
    (busybox / "bin" / "busybox").rename(root / "busybox")
    for n, module in enumerate(find_modules(kernel)):
        module.rename(root / "modules" / f"{n:02}-{module.name}")
    packages = dict(line.split() for line in (built / "packages.txt").read_text().splitlines())
    facts = {
        "suite": recipe.SUITE,
        "kernel": (built / "kernel.txt").read_text().strip(),
        # Where in root.erofs the kernel's memory is, and where that is in a machine's; in pages.
        "kernel_memory": {
            "at": behind,
            "first_page": memory.first_page,
            "pages": len(memory.pages) // PAGE,
        },
        "python": packages[f"python{recipe.PYTHON_VERSION}"],
        "content": digests(root, (path for path in root.rglob("*") if path.is_file())),
        "packages": packages,
    }
    (root / "root.json").write_text(json.dumps(facts, indent=1))
    return root


def _make_image(
    workspace: Workspace,
    root: Path,
    facts: dict[str, Any],
    guest: dict[str, bytes],
    progress: Progress,
) -> Path:
    progress("image", "packing the supervisor", None)
    code = workspace.directory / "guest"
    for path, body in guest.items():
        file = code / "torpor" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    compile_tree(code, recipe.GUEST_DIRECTORY)

    image = workspace.directory / "image"
    image.mkdir(mode=0o700)
    for name in ("root.erofs", "vmlinuz"):
        os.link(root / name, image / name)
    archive = initramfs(
        busybox=(root / "busybox").read_bytes(),
        modules=[path.read_bytes() for path in sorted((root / "modules").iterdir())],
        guest={
            path.relative_to(code).as_posix(): path.read_bytes()
            for path in code.rglob("*")
            if path.is_file()
        },
    )
    (image / "initramfs").write_bytes(archive)
    content = digests(image, list(image.iterdir()))
    (image / "image.json").write_text(json.dumps({**facts, "content": content}, indent=1))
    return image


def _make_disk(workspace: Workspace, mib: int) -> Path:
    require("mkfs.ext4")
    disk = workspace.directory / "disk"
    disk.touch(mode=0o600)
    os.truncate(disk, mib << 20)
    # Few non-zero blocks, and none that the kernel would fill in later: no journal, no reserve
    # for growing, and the file is known to read as zeros. A snapshot keeps what is not zero.
    run(
        [
            *("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-L", "torpor"),
            *("-U", recipe.UUID, "-O", "^has_journal,^resize_inode"),
            *("-E", f"hash_seed={recipe.UUID},assume_storage_prezeroed=1,root_owner=0:0"),
            str(disk),
        ],
        environment={"E2FSPROGS_FAKE_TIME": str(recipe.EPOCH_S)},
    )
    return disk


def _append(file: Path, pages: bytes) -> int:
    """Put `pages` behind what the file holds; the number of their first page in it."""
    at = -(-file.stat().st_size // PAGE)
    os.truncate(file, at * PAGE)
    with file.open("ab") as target:
        target.write(pages)
    return at
