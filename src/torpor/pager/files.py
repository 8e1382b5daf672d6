"""The slots as a file system: FUSE requests in, calls on slots out.

Names and attributes are cached by the kernel without limit of time: they never change, and when a
slot is dropped its names are taken out of that cache explicitly (`forget_names`). Only so does the
kernel also let go of the slot's pages once nobody has them open.

An exception other than FUSEError in a handler would end the whole mount, and with it every
machine: `_errno` turns them all into an errno for the one request.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from torpor.pager import ranges
from torpor.pager.content import HotPages
from torpor.pager.slots import Node, Slot, Slots
from torpor.snapshot.layer import PAGE

log = logging.getLogger(__name__)

FOREVER_S = 10**8
# The most that one notify_store takes: the kernel's own limit for a request.
PUSH_PAGES = 32
_NAMES = {b"memory": Node.MEMORY, b"disk": Node.DISK}
_MODES = {
    Node.DIRECTORY: stat.S_IFDIR | 0o700,
    # Writable by mode although writes fail: QEMU opens even a private mapping read-write.
    Node.MEMORY: stat.S_IFREG | 0o600,
    Node.DISK: stat.S_IFREG | 0o600,
}

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _errno(
    handler: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    @functools.wraps(handler)
    async def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return guarded


class Files(pyfuse3.Operations):
    supports_dot_lookup = False

    def __init__(self, slots: Slots, mount: Path) -> None:
        super().__init__()
        self._slots = slots
        self._mount = mount

    @_errno
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode == pyfuse3.ROOT_INODE:
            slot = self._slots.find(os.fsdecode(name))
            if slot is None:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return _attributes(slot.inode(Node.DIRECTORY), Node.DIRECTORY, 0)
        slot, _ = self._slots.by_inode(parent_inode)
        if slot.gone or name not in _NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return _file(slot, _NAMES[name])

    @_errno
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if inode == pyfuse3.ROOT_INODE:
            return _attributes(inode, Node.DIRECTORY, 0)
        slot, node = self._slots.by_inode(inode)
        return _file(slot, node)

    @_errno
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Sizes are fixed; setting the one it has already is what some programs do to be sure."""
        slot, node = self._slots.by_inode(inode)
        now = _file(slot, node)
        if not fields.update_size or attr.st_size != now.st_size:
            raise pyfuse3.FUSEError(errno.EPERM)
        return now

    @_errno
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    @_errno
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if fh == pyfuse3.ROOT_INODE:
            entries = [
                (s.serial, os.fsencode(s.name), s.inode(Node.DIRECTORY), Node.DIRECTORY, 0)
                for s in self._slots
            ]
        else:
            slot, _ = self._slots.by_inode(fh)
            entries = [
                (int(node), name, slot.inode(node), node, slot.sizes[node])
                for name, node in _NAMES.items()
            ]
        for position, name, inode, node, size in entries:
            if position > start_id and not pyfuse3.readdir_reply(
                token, name, _attributes(inode, node, size), position
            ):
                break

    @_errno
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        slot, node = self._slots.by_inode(inode)
        if slot.gone:
            raise pyfuse3.FUSEError(errno.ENOENT)
        slot.opened()
        cached = node is Node.MEMORY
        return pyfuse3.FileInfo(fh=inode, keep_cache=cached, direct_io=not cached)

    @_errno
    async def release(self, fh: int) -> None:
        slot, _ = self._slots.by_inode(fh)
        self._slots.closed(slot)

    @_errno
    async def read(self, fh: int, off: int, size: int) -> bytes:
        slot, node = self._slots.by_inode(fh)
        return await slot.read(node, off, size)

    @_errno
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        slot, node = self._slots.by_inode(fh)
        await slot.write(node, off, buf)
        return len(buf)

    @_errno
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing to do: what makes a disk durable is a snapshot, and overlays outlive nothing."""

    @_errno
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = PAGE
        answer.f_namemax = 255
        return answer

    def push(self, slot: Slot, hot: HotPages) -> int:
        """Store pages in the kernel's cache of the slot's memory, from a worker thread. It is only
        ever a gain in time, so what fails is logged and left to faults."""
        inode = slot.inode(Node.MEMORY)
        pushed = 0
        try:
            # Has the kernel look the inode up: it takes no pages for one it does not know.
            (self._mount / slot.name / "memory").stat()
            for index, page, count in ranges.chunks(hot.numbers, limit=PUSH_PAGES):
                data = hot.pages[index : index + count]
                # Any buffer will do, whatever its stub says: no copy is made.
                pyfuse3.notify_store(inode, page * PAGE, data)  # type: ignore[arg-type]
                pushed += count
        except OSError as error:
            log.warning("slot %s: %d of %d pushed: %s", slot.name, pushed, len(hot.numbers), error)
        return pushed

    def forget_names(self, slot: Slot) -> None:
        """Take a dropped slot's names out of the kernel's cache, from a worker thread. The files'
        names first: once the directory is gone they could not be named."""
        directory = slot.inode(Node.DIRECTORY)
        for parent, name in (
            *((directory, name) for name in _NAMES),
            (pyfuse3.ROOT_INODE, os.fsencode(slot.name)),
        ):
            try:
                pyfuse3.invalidate_entry(parent, name)
            except OSError as error:
                if error.errno != errno.ENOENT:  # ENOENT: the kernel never knew it
                    log.warning("slot %s: name %s kept by the kernel: %s", slot.name, name, error)


def _file(slot: Slot, node: Node) -> pyfuse3.EntryAttributes:
    return _attributes(slot.inode(node), node, slot.sizes.get(node, 0))


def _attributes(inode: int, node: Node, size: int) -> pyfuse3.EntryAttributes:
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = inode
    attributes.st_mode = _MODES[node]
    attributes.st_nlink = 2 if node is Node.DIRECTORY else 1
    attributes.st_uid = os.getuid()
    attributes.st_gid = os.getgid()
    attributes.st_size = size
    attributes.st_blksize = PAGE
    attributes.st_blocks = size // 512
    attributes.entry_timeout = attributes.attr_timeout = FOREVER_S
    return attributes
