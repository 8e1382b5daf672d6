"""The archive that the kernel unpacks first: busybox, modules, init, the guest's own code.

The guest's code travels here and not in the root file system, so that a change of it costs an
instant and not a new root; init copies it to /torpor. Format: cpio "newc", see cpio(5) and
https://docs.kernel.org/driver-api/early-userspace/buffer-format.html.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import zstandard

from torpor.image.recipe import DEPS_DIRECTORY, EPOCH_S, GUEST_DIRECTORY

# What a machine has of the package `torpor`, beside its __init__.py.
GUEST_PACKAGES = ("core", "guest", "replay", "sdk", "wire")

# Kernel parameters: torpor.disk=NAME (virtio-blk, ext4, writable), torpor.deps=NAME (EROFS, may
# be absent). The root is vda. A fault ends the machine at once: what nobody can talk to must
# not live on.
INIT = f"""\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
# Without a console device init has no standard files; what is opened next must not become them.
if (: > /dev/console) 2> /dev/null; then exec < /dev/console > /dev/console 2>&1
else exec < /dev/null > /dev/null 2>&1; fi

fail() {{
    echo "torpor: $1"
    $b poweroff -f
}}

disk= deps=
for word in $($b cat /proc/cmdline); do
    case $word in
        torpor.disk=*) disk=${{word#*=}} ;;
        torpor.deps=*) deps=${{word#*=}} ;;
    esac
done
for module in /modules/*; do
    $b insmod "$module" || fail "cannot insert the kernel module $module"
done
[ -n "$disk" ] || fail "the kernel parameter torpor.disk is missing"

$b mount -t erofs -o ro /dev/vda /lower || fail "cannot mount the root file system, vda"
$b mount -t ext4 -o noatime "/dev/$disk" /disk || fail "cannot mount the disk, $disk"
$b mkdir -p /disk/u /disk/w
$b mount -t overlay -o lowerdir=/lower,upperdir=/disk/u,workdir=/disk/w root /mnt \\
    || fail "cannot mount the overlay"
if [ -n "$deps" ]; then
    $b mount -t erofs -o ro "/dev/$deps" /mnt{DEPS_DIRECTORY} \\
        || fail "cannot mount the dependency layer, $deps"
fi
$b cp -a {GUEST_DIRECTORY}/. /mnt{GUEST_DIRECTORY} || fail "cannot copy the supervisor"

$b mount --move /proc /mnt/proc
$b mount --move /sys /mnt/sys
$b mount --move /dev /mnt/dev
$b ln -s /proc/self/fd /mnt/dev/fd
$b ln -s fd/0 /mnt/dev/stdin
$b ln -s fd/1 /mnt/dev/stdout
$b ln -s fd/2 /mnt/dev/stderr

# -m takes the package from the working directory; -E and -S keep all else out of its way.
exec $b switch_root /mnt /usr/bin/env -i -C {GUEST_DIRECTORY} \\
    PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 \\
    /usr/bin/python3 -S -E -m torpor.guest
"""

_DIRECTORIES = ("dev", "disk", "lower", "mnt", "proc", "sys")


@dataclass(frozen=True)
class Entry:
    """One file of a cpio archive. `path` is relative, `mode` has the file's type."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)  # major and minor, of a device node


def guest_sources(package: Path) -> dict[str, bytes]:
    """The part of the package `torpor` that goes into a machine: path in it → source."""
    paths = [package / "__init__.py"]
    for name in GUEST_PACKAGES:
        paths += (package / name).rglob("*.py")
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(paths)}


def initramfs(busybox: bytes, modules: Iterable[bytes], guest: Mapping[str, bytes]) -> bytes:
    """The archive, compressed. `modules` in insertion order; `guest`: path in /torpor → content."""
    regular, program = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755
    entries = [
        Entry("init", program, INIT.encode()),
        Entry("bin/busybox", program, busybox),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    ]
    entries += (Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES)
    entries += (Entry(f"modules/{n:02}.ko", regular, body) for n, body in enumerate(modules))
    entries += (
        Entry(f"{GUEST_DIRECTORY.lstrip('/')}/{path}", regular, body)
        for path, body in guest.items()
    )
    return zstandard.ZstdCompressor(level=10).compress(cpio(entries))


def cpio(entries: Iterable[Entry]) -> bytes:
    """A "newc" archive of the entries and the directories above them, sorted, owned by root.

    Sorting puts directories before what is in them, and makes the bytes a function of the
    entries alone.
    """
    every = {entry.path: entry for entry in entries}
    for path in list(every):
        for above in PurePosixPath(path).parents[:-1]:
            every.setdefault(str(above), Entry(str(above), stat.S_IFDIR | 0o755))
    records = [_record(n, every[path]) for n, path in enumerate(sorted(every), start=1)]
    return b"".join((*records, _record(0, Entry("TRAILER!!!", 0))))


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    owner, archive_device, check = (0, 0), (0, 0), 0
    fields: tuple[int, ...] = (inode, entry.mode, *owner, links, EPOCH_S, len(entry.data))
    fields += (*archive_device, *entry.device, len(name), check)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
