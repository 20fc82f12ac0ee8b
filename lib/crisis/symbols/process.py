# SPDX-License-Identifier: GPL-2.0-or-later
"""The executable mappings of processes, and the files behind them.

Follows proc_pid_maps(5).  A file is opened through /proc/PID/map_files, which finds what is deleted
or in another mount namespace, and stays open, so that its symbols outlive the process.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from bisect import bisect_left, bisect_right

from ..kernel.maps import mappings
from . import targetfile
from .elf import Elf, NotElf
from .module import Module

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ..kernel.maps import Identity, Mapping

    T = TypeVar("T")

__all__ = ["DENIED", "Processes", "apart"]

DENIED = errno.EPERM, errno.EACCES
_MAX_GONE = 4096  # mappings that are gone and still kept
_MAX_VDSO = 1 << 20  # bytes
_SPARE = 64  # descriptors that are left to the rest of the program
_NO_MAP: tuple[list[int], list[Mapping]] = [], []


class _Spent:
    """What the files of a process have cost: seconds, and functions that are kept."""

    __slots__ = ("seconds", "functions")

    def __init__(self) -> None:
        self.seconds, self.functions = 0.0, 0


class Processes:
    """The maps of processes, and their files.

    root: "/" or a fixture tree; note: called with a line for a file that is skipped.  A file's
    fault costs its own symbols, and the files of one process cost a bounded time and memory.
    """

    SECONDS, FUNCTIONS = 20, 1 << 24  # for the files of a process
    ALL_FUNCTIONS = 1 << 26  # 8 bytes each
    NOTES = 20

    def __init__(self, root: str = "/", note: Callable[[str], None] | None = None) -> None:
        self._root, self._note, self._notes = root, note or (lambda text: None), 0
        self._modules: dict[Identity, Module] = {}
        self._vdsos: dict[int, Module] = {}  # by size
        self._maps: dict[int, tuple[list[int], list[Mapping]]] = {}  # PID: (starts, mappings)
        self._spent: dict[int, _Spent] = {}  # by PID
        self._room: int | None = None  # descriptors that may still be opened
        self._full = False  # no descriptor was left, which has been noted

    def hold(self, pid: int) -> None:
        """Read a process's map, and open its executable files, so that addresses can be named after
        its end.

        Raises OSError when there is no such process.
        """
        rows = [row for row in mappings(pid, self._root) if row.executable]
        for row in rows:
            if not row.path.startswith("/"):
                continue
            known = self._modules.get(row.identity)
            if known is None or known.code in DENIED and known.pid != pid:
                self._modules[row.identity] = self._open(pid, row)
        old = self._maps.get(pid)
        if old is None or old[1] != rows:
            if old is not None:
                # What is gone from the map (dlclose) still names what was allocated there.
                rows = sorted(rows + apart(old[1], rows)[:_MAX_GONE])
            self._maps[pid] = [row.start for row in rows], rows
            self._changed(pid)

    def _changed(self, pid: int) -> None:
        """For subclasses: called when another map of a process has been read."""

    def inherit(self, pid: int, parent: int) -> None:
        """Take a process's map to be that of its parent, as it is after fork(2)."""
        if parent in self._maps:
            self._maps[pid] = self._maps[parent]

    def forget(self, pid: int) -> None:
        """Drop what is known of a process's memory: after an exec, or its end."""
        self._maps.pop(pid, None)

    def mapped(self, pid: int) -> list[Mapping]:
        """The executable mappings of a process that `hold` has read, as of `mappings`; another list
        after a change.
        """
        return self._maps.get(pid, _NO_MAP)[1]

    def mapping(self, pid: int, address: int) -> Mapping | None:
        """The executable mapping at an address when `hold` read the map, now or before, or None."""
        starts, rows = self._maps.get(pid, _NO_MAP)
        i = bisect_right(starts, address) - 1
        if i < 0:
            return None
        return rows[i] if address < rows[i].end else None

    def modules(self, pid: int) -> list[tuple[Identity, Module]]:
        """[(identity, Module)] of the executable files of a process that `hold` has read."""
        found = {
            row.identity: self._modules[row.identity]
            for row in self.mapped(pid)
            if row.path.startswith("/") and row.identity in self._modules
        }
        return list(found.items())

    def file(self, identity: Identity | str) -> tuple[Elf, Callable[[int, int], bytes]] | None:
        """(Elf, read) of a file that `hold` has met, or of "[vdso]": read(length, offset) returns
        bytes of it.

        None when there is none.  Raises ValueError for a malformed file, and so does read; OSError.
        """
        if isinstance(identity, str):
            own = _vdso_mapping() if identity == "[vdso]" else None
            vdso = self._vdso(own[1] - own[0]) if own else None
            return (vdso.elf, vdso.elf.read) if vdso and vdso.elf else None
        module = self._modules.get(identity)
        if module is None or module.fd is None:
            return None
        fd = module.fd
        return Elf(fd), lambda length, offset: os.pread(fd, length, offset)

    def _open(self, pid: int, row: Mapping) -> Module:
        """The Module of a mapped file.

        It must be a regular one: a device, such as /dev/zero, can be mapped, too.
        """
        if self._room is None:
            import resource

            self._room = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE, 8)
        path = row.path
        if self._room <= 0:
            return self._no_room(path, pid)
        process = os.path.join(self._root, f"proc/{pid}")
        inode, span = row.identity[1], f"{row.start:x}-{row.end:x}"
        try:
            fd = targetfile.open_regular(f"{process}/map_files/{span}", follow=True)
        except OSError as exc:
            # Without CAP_CHECKPOINT_RESTORE by its name: the process may have another file there by
            # now.
            try:
                fd = targetfile.open_regular(
                    f"{process}/root{path}",
                    lambda info: info.st_ino == inode or targetfile.readable_by_all(info),
                )
            except OSError as again:
                if again.errno in (errno.EMFILE, errno.ENFILE):
                    return self._no_room(path, pid)
                why = again if exc.errno in DENIED else exc
                return Module(None, path, pid, why.strerror, why.errno)
        self._room -= 1
        return Module(fd, path, pid)

    def _no_room(self, path: str, pid: int) -> Module:
        """The Module of a file for which no descriptor is left, which is noted once."""
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        why = f"the limit of open files is {limit}. Raise it with ulimit -n"
        if not self._full:
            self._note(f"not all files of process {pid} are looked into: {why}")
        self._full, self._room = True, 0
        return Module(None, path, pid, why, errno.EMFILE)

    def _vdso(self, size: int) -> Module | None:
        """The Module of the vDSO: ours if it is as large, since a process can write to its own."""
        if size in self._vdsos:
            return self._vdsos[size]
        own = _vdso_mapping()
        if own is None or own[1] - own[0] != size or size > _MAX_VDSO:
            return None
        module = self._vdsos[size] = Module(None, "[vdso]", os.getpid())
        try:
            with open("/proc/self/mem", "rb", 0) as f:
                module.load_image(os.pread(f.fileno(), size, own[0]))
        except (OSError, ValueError) as exc:
            module.why = str(exc)
        return module

    # The cost of files

    def find(self, module: Module, file_offset: int, pid: int) -> tuple[str, int] | None:
        """(name, offset) of the function at a place in a file that a process maps, or None."""
        if module.elf is None and module.why is None:
            self.guard(module, lambda: module.load(self._uid(pid)))
            self._charged(module).functions += module.size()
        return self.guard(module, lambda: module.find(file_offset))

    def _uid(self, pid: int) -> int | None:
        """The effective user ID of a process; None when it has ended."""
        try:
            directory = os.open(os.path.join(self._root, f"proc/{pid}"), os.O_PATH | os.O_DIRECTORY)
            try:
                return targetfile.credentials(directory)[0]
            finally:
                os.close(directory)
        except (OSError, ValueError):
            return None

    def _charged(self, module: Module) -> _Spent:
        """What the process has spent that has brought the file."""
        return self._spent.setdefault(module.pid, _Spent())

    def _is_spent(self, spent: _Spent) -> bool:
        return (
            spent.seconds > self.SECONDS
            or spent.functions > self.FUNCTIONS
            or sum(each.functions for each in self._spent.values()) > self.ALL_FUNCTIONS
        )

    def guard(self, module: Module, read: Callable[[], T]) -> T | None:
        """What read() returns of a module's file; None when the file is at fault, which is noted
        once.

        The time is charged to the process that has brought the file.
        """
        spent, begin = self._charged(module), time.monotonic()
        if module.why is None and self._is_spent(spent):
            module.why = self.skip(
                module.path, f"the files of process {module.pid} take too much time or memory"
            )
        if module.why is not None:
            return None
        try:
            return read()
        except NotElf as exc:  # a JIT's, or Windows', or data
            module.why = str(exc)
        except (ValueError, OverflowError, OSError, struct.error) as exc:
            module.why = self.skip(module.path, getattr(exc, "strerror", None) or str(exc))
        except MemoryError:
            module.why = self.skip(module.path, "out of memory")
        finally:
            spent.seconds += time.monotonic() - begin
        return None

    def skip(self, path: str, why: str) -> str:
        """Note that a file is left out; returns the reason."""
        self._notes += 1
        if self._notes <= self.NOTES:
            last = self._notes == self.NOTES
            more = ". Further files are skipped without a note" if last else ""
            self._note(f"skipped {path}: {why}{more}")
        return why


def _vdso_mapping() -> tuple[int, int] | None:
    """(start, end) of our own vDSO, or None."""
    for mapping in mappings(os.getpid()):
        if mapping.path == "[vdso]":
            return mapping.start, mapping.end
    return None


def apart(old: list[Mapping], rows: list[Mapping]) -> list[Mapping]:
    """Those of the old mappings that overlap none of the present ones, which are in order of their
    starts.
    """
    starts = [row.start for row in rows]
    found = []
    for row in old:
        i = bisect_left(starts, row.end) - 1  # the last that begins before its end
        if i < 0 or rows[i].end <= row.start:
            found.append(row)
    return found
