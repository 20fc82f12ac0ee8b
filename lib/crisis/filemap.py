# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that trace the page cache share: what page.bpf.h needs, and the names of files.

A file is known by its inode.  Its name is read in the kernel, from a dentry of
the inode up to the root of its file system, so that it is right for a file
that has been deleted, for one in another mount namespace, and below overlayfs
(where it is the file that really holds the pages).  User space puts the mount
point in front: `Mounts`.  Layouts follow include/linux/mm_types.h (struct
folio), include/linux/dcache.h and include/linux/xarray.h.
"""

import os
import struct

from . import proc, tasks

__all__ = ["TEXT", "HAS", "NAMES_SIZE", "Mounts", "Search", "parse_name", "device", "PAGE"]

TEXT = '#include "page.bpf.h"\n'     # of bin/cachestat, until its C is in a file
PAGE = os.sysconf("SC_PAGE_SIZE")
HAS = dict(tasks.HAS, HAVE_FOLIO=("folio", "5.16"), HAVE_FOLIO_ORDER=("folio._folio_order", "99"),
           HAVE_D_ALIAS=("dentry.d_alias", "99"))
NAMES_SIZE = 1 << 20    # bytes of the ring buffer of names: some 7,000 files between two readings
_HEAD = struct.Struct("=QQQIIIIII")


def parse_name(raw):        # for bin/cachestat, until it reads records
    """(inode address, name_of() it, File) of a struct name_record."""
    inode, ino, name, dev, _, mode, deleted, cut, length = _HEAD.unpack_from(raw)
    return inode, name, _file(ino, dev, mode, deleted, cut, raw[_HEAD.size:_HEAD.size + length])


class File:
    """A file as the kernel named it.  path is from its file system's root, None when the kernel has no name for it."""

    __slots__ = ("ino", "dev", "mode", "path", "deleted", "cut")

    def __init__(self, ino, dev, mode, path, deleted=False, cut=False):
        self.ino, self.dev, self.mode, self.path, self.deleted, self.cut = ino, dev, mode, path, deleted, cut

    @classmethod
    def named(cls, record):
        """The File of a record of struct name_record."""
        return _file(record.ino, record.dev, record.mode, record.deleted, record.cut, record.path[:record.length])


def _file(ino, dev, mode, deleted, cut, names):
    """The File with the path that names make: the last component first, each with its NUL."""
    parts = names.split(b"\0")[:-1]
    path = None
    if parts or mode & 0o170000 == 0o040000:
        path = "/" + b"/".join(reversed(parts)).decode("utf-8", "surrogateescape")
    return File(ino, dev, mode, path, bool(deleted), bool(cut))


def device(dev):
    """A kernel dev_t as "major:minor" (include/linux/kdev_t.h)."""
    return "%d:%d" % (dev >> 20, dev & 0xfffff)


class Mounts:
    """The mounts of this and other mount namespaces, read once for each, to make names whole.

    Devices are the kernel's s_dev, which mountinfo shows also where stat(2)
    does not (btrfs' subvolumes).
    """

    def __init__(self, root="/"):
        self.root, self._tables, self._names = root, {}, {}

    def _table(self, pid="self"):
        """{"major:minor": [(root, mount point, type, source)]} of a process' namespace; {} when it cannot be read."""
        try:
            namespace = os.readlink(os.path.join(self.root, "proc/%s/ns/mnt" % pid))
        except OSError:
            if pid != "self":
                return {}
            namespace = None
        if namespace not in self._tables:
            found = {}
            try:
                with open(os.path.join(self.root, "proc/%s/mountinfo" % pid), "rb") as f:
                    text = f.read().decode("utf-8", "surrogateescape")
            except OSError:
                text = ""
            for line in text.splitlines():
                left, _, right = line.partition(" - ")
                fields, types = left.split(" "), right.split(" ")
                found.setdefault(fields[2], []).append(
                    (proc.unescape_mount(fields[3]), proc.unescape_mount(fields[4]), types[0],
                     proc.unescape_mount(types[1])))
            self._tables[namespace] = found
        return self._tables[namespace]

    def refresh(self):
        """Forget what was read: mounts may have changed."""
        self._tables.clear()

    def block_device(self, dev):
        """The name of a block device, "/dev/vda1", or "block device 254:1"."""
        name = device(dev)
        if name not in self._names:
            self._names[name] = "block device " + name
            try:
                with open(os.path.join(self.root, "sys/dev/block/%s/uevent" % name)) as f:
                    for line in f:
                        if line.startswith("DEVNAME="):
                            self._names[name] = "/dev/" + line[8:].strip()
            except OSError:
                pass
        return self._names[name]

    def filesystem(self, dev):
        """(type, where it is mounted) of a file system, None where this namespace has not mounted it."""
        mounts = self._table().get(device(dev))
        if not mounts:
            return None, None
        mount = min(mounts, key=lambda m: (len(m[0]), len(m[1])))
        return mount[2], mount[1]

    def path(self, file, pid=None):
        """The file's whole name, or None when the kernel has none.

        pid: a process that uses it, whose mount namespace is asked when ours
        lacks the file system.  Without any mount the path is the file system's
        own behind "[major:minor]".
        """
        if file.mode & 0o170000 == 0o060000:
            return self.block_device(file.dev)
        if file.path is None:
            return None
        name, key = file.path, device(file.dev)
        for table_ in (self._table(), self._table(pid) if pid else {}):
            best = None
            for top, point, _, _ in table_.get(key, ()):
                if (name + "/").startswith(top.rstrip("/") + "/") and \
                        (best is None or (len(top), len(point)) < (len(best[0]), len(best[1]))):
                    best = top, point
            if best is not None:
                rest = name[len(best[0].rstrip("/")):]
                whole = best[1].rstrip("/") + rest or "/"
                break
        else:
            whole = "[%s]%s" % (key, name)
        if file.cut:
            whole = "..." + name
        return whole + " (deleted)" if file.deleted else whole

    def _top(self, dev):
        """(where the root of a file system or what is nearest to it is mounted, what is mounted there), or None."""
        mounts = self._table().get(device(dev))
        return min(((m[0], m[1]) for m in mounts), key=lambda m: (len(m[0]), len(m[1]))) if mounts else None

    def find_open(self, pid, dev, ino):
        """The name under which a process has a file open or mapped, or None: /proc/PID/fd and map_files."""
        top = self._top(dev)
        try:
            ours = None if top is None else os.stat(os.path.join(self.root, top[1].lstrip("/"))).st_dev
        except OSError:
            ours = None
        for directory in "fd", "map_files":
            base = os.path.join(self.root, "proc/%d" % pid, directory)
            try:
                names = os.listdir(base)
            except OSError:
                continue
            for name in names[:4096]:
                link = os.path.join(base, name)
                try:
                    info = os.stat(link)
                    # btrfs gives each subvolume its own st_dev, so that only the mount of dev itself compares.
                    if info.st_ino == ino and info.st_dev in (ours, os.makedev(dev >> 20, dev & 0xfffff)):
                        return os.readlink(link)
                except OSError:
                    continue
        return None

    def find_inodes(self, dev, wanted, seconds):
        """{inode: path} of those that a walk through the mounted file system finds within so many seconds."""
        import time
        top, found = self._top(dev), {}
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

    ask() never waits.  A file system is walked once for all inodes asked for
    meanwhile, then left alone for a while: it is the one that is in trouble.
    """

    SECONDS, REST = 5, 60

    def __init__(self, mounts):
        self._mounts, self._wanted, self._found, self._busy, self._rests = mounts, {}, {}, False, {}

    def ask(self, dev, ino):
        """The path, or None as long as it has not been found."""
        import time
        key = dev, ino
        if key not in self._found and self._rests.get(dev, 0) <= time.monotonic():
            self._found[key] = None
            self._wanted.setdefault(dev, set()).add(ino)
            if not self._busy:
                import _thread
                self._busy = True
                _thread.start_new_thread(self._run, ())
        return self._found.get(key)

    def wait(self, seconds):
        """Give the thread so long to end."""
        import time
        deadline = time.monotonic() + seconds
        while self._busy and time.monotonic() < deadline:
            time.sleep(.01)

    def _run(self):
        import time
        while self._wanted:
            dev, inodes = self._wanted.popitem()
            self._rests[dev] = time.monotonic() + self.REST
            for ino, path in self._mounts.find_inodes(dev, inodes, self.SECONDS).items():
                self._found[dev, ino] = path
        self._busy = False
