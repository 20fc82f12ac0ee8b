# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of files that the kernel knows by their inodes.

progs/page.bpf.h reads a file's name, from a dentry of the inode up to the root
of its file system, so that it is right for a file that has been deleted, for
one in another mount namespace, and below overlayfs (where it is the file that
really holds the pages).  Mounts puts the mount point in front, and Search
looks for files of which the kernel has no name.  Devices are the kernel's
dev_t (include/linux/kdev_t.h).
"""

from __future__ import annotations

import os

from ..kernel.proc import unescape_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    # [(root, mount point, type, source)] by "major:minor"
    _Table = dict[str, list[tuple[str, str, str, str]]]

__all__ = ["File", "device", "Mounts", "Search"]


class File:
    """A file as the kernel named it.

    path: from its file system's root; None when the kernel has no name for it.
    """

    __slots__ = ("ino", "dev", "mode", "path", "deleted", "cut")

    def __init__(
        self,
        ino: int,
        dev: int,
        mode: int,
        path: str | None,
        deleted: bool = False,
        cut: bool = False,
    ) -> None:
        self.ino, self.dev, self.mode, self.path, self.deleted, self.cut = (
            ino,
            dev,
            mode,
            path,
            deleted,
            cut,
        )

    @classmethod
    def named(cls, record: Any) -> File:
        """The File of a record of struct name_record."""
        return _file(
            record.ino,
            record.dev,
            record.mode,
            record.deleted,
            record.cut,
            record.path[: record.length],
        )


def _file(ino: int, dev: int, mode: int, deleted: int, cut: int, names: bytes) -> File:
    """The File with the path that names make: the last component first, each with its NUL."""
    parts = names.split(b"\0")[:-1]
    path = None
    if parts or mode & 0o170000 == 0o040000:
        path = "/" + b"/".join(reversed(parts)).decode("utf-8", "surrogateescape")
    return File(ino, dev, mode, path, bool(deleted), bool(cut))


def device(dev: int) -> str:
    """A kernel dev_t as "major:minor" (include/linux/kdev_t.h)."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"


class Mounts:
    """The mounts of this and other mount namespaces, read once for each, to make names whole.

    Devices are the kernel's s_dev, which mountinfo shows also where stat(2)
    does not (btrfs' subvolumes).
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self._tables: dict[str | None, _Table] = {}
        self._names: dict[str, str] = {}

    def _table(self, pid: int | str = "self") -> _Table:
        """The mounts of a process' namespace by device.

        Empty when they cannot be read.
        """
        namespace = None  # ours
        if pid != "self":
            try:
                namespace = os.readlink(os.path.join(self.root, f"proc/{pid}/ns/mnt"))
            except OSError:
                return {}
        if namespace not in self._tables:
            found: _Table = {}
            try:
                with open(os.path.join(self.root, f"proc/{pid}/mountinfo"), "rb") as f:
                    text = f.read().decode("utf-8", "surrogateescape")
            except OSError:
                text = ""
            for line in text.splitlines():
                left, _, right = line.partition(" - ")
                fields, types = left.split(" "), right.split(" ")
                found.setdefault(fields[2], []).append(
                    (
                        unescape_mount(fields[3]),
                        unescape_mount(fields[4]),
                        types[0],
                        unescape_mount(types[1]),
                    )
                )
            for mounts in found.values():  # first those whose root is nearest to the file system's
                mounts.sort(key=lambda mount: (len(mount[0]), len(mount[1])))
            self._tables[namespace] = found
        return self._tables[namespace]

    def refresh(self) -> None:
        """Forget what was read: mounts may have changed."""
        self._tables.clear()

    def block_device(self, dev: int) -> str:
        """The name of a block device, "/dev/vda1", or "block device 254:1"."""
        name = device(dev)
        if name not in self._names:
            self._names[name] = "block device " + name
            try:
                with open(os.path.join(self.root, f"sys/dev/block/{name}/uevent")) as f:
                    for line in f:
                        if line.startswith("DEVNAME="):
                            self._names[name] = "/dev/" + line[8:].strip()
            except OSError:
                pass
        return self._names[name]

    def filesystem(self, dev: int) -> tuple[str | None, str | None]:
        """(type, where it is mounted) of a file system.

        None and None where this namespace has not mounted it.
        """
        mounts = self._table().get(device(dev))
        if not mounts:
            return None, None
        return mounts[0][2], mounts[0][1]

    def path(self, file: File, pid: int | None = None) -> str | None:
        """The file's whole name, or None when the kernel has none.

        pid: a process that uses it, whose mount namespace serves when ours
        lacks the file system.  Without any mount the path is the file system's
        own behind "[major:minor]".
        """
        if file.mode & 0o170000 == 0o060000:
            return self.block_device(file.dev)
        if file.path is None:
            return None
        name = file.path
        whole = self._mounted(name, file.dev, "self")
        if whole is None and pid:
            whole = self._mounted(name, file.dev, pid)
        if whole is None:
            whole = f"[{device(file.dev)}]{name}"
        if file.cut:
            whole = "..." + name
        return whole + " (deleted)" if file.deleted else whole

    def _mounted(self, name: str, dev: int, pid: int | str) -> str | None:
        """The path, in a process' mount namespace, of a name in a file system; None without one."""
        for top, point, _, _ in self._table(pid).get(device(dev), ()):
            if top == "/":
                return point + name if point != "/" else name
            if name == top or name.startswith(top + "/"):
                return point.rstrip("/") + name[len(top) :] or "/"
        return None

    def _top(self, dev: int) -> tuple[str, str] | None:
        """(what is mounted, where) for the root of a file system, or what is nearest to it.

        None where it is not mounted.
        """
        mounts = self._table().get(device(dev))
        return mounts[0][:2] if mounts else None

    def find_open(self, pid: int, dev: int, ino: int) -> str | None:
        """The name under which a process has a file open or mapped, or None.

        From /proc/PID/fd and map_files.
        """
        top = self._top(dev)
        try:
            ours = (
                None if top is None else os.stat(os.path.join(self.root, top[1].lstrip("/"))).st_dev
            )
        except OSError:
            ours = None
        for directory in "fd", "map_files":
            base = os.path.join(self.root, f"proc/{pid}", directory)
            try:
                names = os.listdir(base)
            except OSError:
                continue
            for name in names[:4096]:
                link = os.path.join(base, name)
                try:
                    info = os.stat(link)
                    # btrfs gives each subvolume its own st_dev, so that only the mount of dev
                    # itself compares.
                    if info.st_ino == ino and info.st_dev in (
                        ours,
                        os.makedev(dev >> 20, dev & 0xFFFFF),
                    ):
                        return os.readlink(link)
                except OSError:
                    continue
        return None

    def find_inodes(self, dev: int, wanted: Iterable[int], seconds: float) -> dict[int, str]:
        """{inode: path} of those that a walk through the mounted file system finds.

        It ends after `seconds`.
        """
        import time

        top = self._top(dev)
        found: dict[int, str] = {}
        if top is None:
            return found
        wanted, deadline = set(wanted), time.monotonic() + seconds
        pending = [os.path.join(self.root, top[1].lstrip("/"))]
        try:
            ours = os.stat(pending[0]).st_dev
        except OSError:
            return found
        while pending and wanted and time.monotonic() < deadline:
            directory = pending.pop()
            try:
                if os.lstat(directory).st_dev != ours:
                    continue
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.inode() in wanted:
                            wanted.discard(entry.inode())
                            found[entry.inode()] = entry.path
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
            except OSError:
                continue
        return found


class Search:
    """Looks for the names of inodes that the kernel had none for, in a thread, for a bounded time.

    query() never waits.  A file system is walked once for all inodes queried
    meanwhile, then left alone for a while: it is the one that is in trouble.
    busy: whether the thread runs.
    """

    SECONDS, REST = 5, 60

    def __init__(self, mounts: Mounts) -> None:
        self._mounts, self.busy = mounts, False
        self._wanted: dict[int, set[int]] = {}  # inodes, by device
        self._found: dict[tuple[int, int], str | None] = {}
        self._rests: dict[int, float] = {}  # until when a file system is left alone

    def query(self, dev: int, ino: int) -> str | None:
        """The path, or None as long as it has not been found."""
        import time

        key = dev, ino
        if key not in self._found and self._rests.get(dev, 0) <= time.monotonic():
            self._found[key] = None
            self._wanted.setdefault(dev, set()).add(ino)
            if not self.busy:
                import _thread

                self.busy = True
                _thread.start_new_thread(self._run, ())
        return self._found.get(key)

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for the thread to end."""
        import time

        deadline = time.monotonic() + seconds
        while self.busy and time.monotonic() < deadline:
            time.sleep(0.01)

    def _run(self) -> None:
        import time

        while self._wanted:
            dev, inodes = self._wanted.popitem()
            self._rests[dev] = time.monotonic() + self.REST
            for ino, path in self._mounts.find_inodes(dev, inodes, self.SECONDS).items():
                self._found[dev, ino] = path
        self.busy = False
