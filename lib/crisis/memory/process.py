# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory a process has touched.

By /proc/PID/clear_refs, then Referenced in smaps_rollup or smaps.

Follows clear_refs_write, smaps_account and show_smaps_rollup in
fs/proc/task_mmu.c.  Sizes are bytes, times are ns of CLOCK_MONOTONIC.  Every
function takes root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os
import sys
import time

from ..errors import Error, NotPermitted, Unavailable
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Phase = tuple[int, int]  # begin and end, in ns

__all__ = [
    "FIELDS",
    "HUGE",
    "HUGETLB",
    "WINDOW_FIELDS",
    "Process",
    "flush_is_free",
    "descendants",
    "reclaim_scanned",
]

FIELDS = ("Rss", "Pss", "Referenced")
# Of HUGE the granularity is a huge page; of HUGETLB nothing is counted at all.
HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
HUGETLB = ("Shared_Hugetlb", "Private_Hugetlb")
WINDOW_FIELDS = FIELDS + HUGE + HUGETLB
_PFN = (1 << 55) - 1
_ZEROS = bytes(1 << 19)  # as much of pagemap is read at once


class Process:
    """A process, held by its /proc directory: no other one can take its place when it ends.

    pid, comm; born: seconds from boot to its start.  Raises Error when there
    is no such process, ProcessLookupError once it has ended, NotPermitted.
    """

    def __init__(self, pid: int, root: str = "/") -> None:
        self.pid, self.root = pid, root
        self._directory = os.path.join(root, "proc", str(pid))
        try:
            self.fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise Error(f"no such process: {pid}") from None
        try:
            head, _, tail = self.read("stat").rpartition(b")")
        except BaseException:
            self.close()
            raise
        fields = tail.split()
        self.state, self.parent = fields[0].decode(), int(fields[1])
        self.kernel = bool(int(fields[6]) & 0x00200000)  # PF_KTHREAD, include/linux/sched.h
        self.born = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        self.comm = head.partition(b"(")[2].decode("utf-8", "surrogateescape")

    def close(self) -> None:
        os.close(self.fd)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of /proc/PID/name."""
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except PermissionError as exc:
            raise self._refused(name, exc) from None
        except FileNotFoundError:
            try:
                os.stat("stat", dir_fd=self.fd)
            except OSError:
                raise ProcessLookupError(3, "No such process") from None
            raise

    def read(self, name: str) -> bytes:
        """The bytes of /proc/PID/name."""
        with open(self.open(name), "rb", buffering=0) as f:
            return f.read()

    def _refused(self, name: str, exc: OSError) -> NotPermitted:
        try:
            import pwd

            owner = pwd.getpwuid(os.fstat(self.fd).st_uid).pw_name
        except (ImportError, KeyError, OSError):
            owner = f"uid {os.fstat(self.fd).st_uid}"
        what = "write" if name == "clear_refs" else "read"
        return NotPermitted(
            f"cannot {what} /proc/{self.pid}/{name}: {exc.strerror} (the process belongs to "
            f"{owner}). Run it as that user, or as root with CAP_SYS_PTRACE"
        )

    def probe(self) -> None:
        """Raise NotPermitted or Unavailable if the process may not be measured.

        Now, rather than after the interval.
        """
        for name, flags in ("clear_refs", os.O_WRONLY), ("smaps", os.O_RDONLY):
            try:
                os.close(self.open(name, flags))
            except FileNotFoundError:
                raise _no_page_monitor(name) from None

    def clear(self, flush: bool) -> Phase:
        """Clear the referenced bits.  Returns the (begin, end) of it.

        flush: also write 4, for its flush of the TLBs.
        """
        begin = time.monotonic_ns()
        self._clear_refs(b"1", b"4" if flush else b"")
        return begin, time.monotonic_ns()

    def flush(self) -> None:
        """Flush the TLBs of the process.

        That resets soft-dirty bits where the kernel has them: see flush_is_free.
        """
        self._clear_refs(b"4")

    def _clear_refs(self, *values: bytes) -> None:
        try:
            fd = self.open("clear_refs", os.O_WRONLY)
        except FileNotFoundError:
            raise _no_page_monitor("clear_refs") from None
        try:
            for value in filter(None, values):
                os.write(fd, value)
        finally:
            os.close(fd)

    def resident_runs(self) -> list[tuple[int, int]]:
        """[(start, end)] of the pages that are in memory, from maps and pagemap."""
        import re

        runs: list[tuple[int, int]] = []
        fd = self.open("pagemap")
        with open(fd, "rb", buffering=0):
            for line in self.read_memory("maps").splitlines():
                start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
                while start < end and not line.endswith(b"[vsyscall]"):
                    raw = os.pread(fd, min(end - start, 1 << 28) // PAGE * 8, start // PAGE * 8)
                    if not raw:
                        break
                    # The top byte of an entry has the flags; 0x80 is "present".
                    for found in re.finditer(
                        rb"[\x80-\xff]+", raw[7 if sys.byteorder == "little" else 0 :: 8]
                    ):
                        low, high = start + found.start() * PAGE, start + found.end() * PAGE
                        if runs and runs[-1][1] == low:
                            runs[-1] = runs[-1][0], high
                        else:
                            runs.append((low, high))
                    start += len(raw) // 8 * PAGE
        return runs

    def frames(self, start: int, end: int) -> tuple[list[int], int]:
        """Frames of the pages in [start, end) that other mappings map, too.

        Returns (page frame numbers, how many other pages are present).

        By bit 56 of pagemap, PM_MMAP_EXCLUSIVE.  Raises NotPermitted where the kernel hides the
        numbers (without CAP_SYS_ADMIN).
        """
        import array

        shared: list[int] = []
        exclusive, at, last = 0, start // PAGE * 8, end // PAGE * 8
        with open(self.open("pagemap"), "rb", buffering=0) as f:
            while at < last:
                raw = os.pread(f.fileno(), min(len(_ZEROS), last - at), at)
                if not raw:
                    break
                at += len(raw)
                if raw != _ZEROS[: len(raw)]:
                    present = [entry for entry in array.array("Q", raw) if entry >> 63]
                    frames = [entry & _PFN for entry in present if not entry >> 56 & 1]
                    exclusive += len(present) - len(frames)
                    shared += frames
        if shared and not any(shared):
            raise NotPermitted(
                "cannot read page frame numbers from pagemap: the kernel hides them. "
                "This needs CAP_SYS_ADMIN"
            )
        return shared, exclusive

    def rollup(self) -> tuple[dict[str, int], int, int]:
        """({field of WINDOW_FIELDS: bytes}, begin, end).

        From smaps where Linux is older than 4.14.
        """
        begin = time.monotonic_ns()
        try:
            raw = self.read_memory("smaps_rollup")
        except FileNotFoundError:
            from .smaps import parse

            smaps, begin, end = self.smaps()
            return parse(smaps, touched=True)[0], begin, end
        end = time.monotonic_ns()
        found = dict.fromkeys(WINDOW_FIELDS, 0)
        for line in raw.splitlines():
            field, _, value = line.partition(b":")
            name = field.decode()
            if name in found:
                found[name] = int(value.split()[0]) * 1024
        return found, begin, end

    def smaps(self) -> tuple[bytes, int, int]:
        """(the raw text of smaps, begin, end)."""
        begin = time.monotonic_ns()
        try:
            raw = self.read_memory("smaps")
        except FileNotFoundError:
            raise _no_page_monitor("smaps") from None
        return raw, begin, time.monotonic_ns()

    def read_memory(self, name: str) -> bytes:
        """The bytes of /proc/PID/name, which describes its memory.

        Raises ProcessLookupError when that has gone (a zombie).
        """
        raw = self.read(name)
        if not raw:
            raise ProcessLookupError(3, "No such process")
        return raw


def _no_page_monitor(name: str) -> Unavailable:
    return Unavailable(
        f"this kernel has no /proc/PID/{name}: it was built without CONFIG_PROC_PAGE_MONITOR"
    )


def flush_is_free(root: str = "/") -> bool:
    """True where writing 4 to clear_refs flushes the TLBs of the process and does nothing else.

    That is so on a kernel that keeps no soft-dirty bits: one that does sets
    bit 55 in the pagemap entry of a page that was just written.  Where pagemap
    cannot be read, False.
    """
    written = object()  # id() is its address, and making it has written there
    try:
        with open(os.path.join(root, "proc/self/pagemap"), "rb", buffering=0) as f:
            entry = int.from_bytes(os.pread(f.fileno(), 8, id(written) // PAGE * 8), sys.byteorder)
    except OSError:
        return False
    return bool(entry >> 63) and not entry >> 55 & 1


def descendants(pids: Iterable[int], root: str = "/") -> list[int]:
    """The processes `pids` and all that descend from them now, as a list of PIDs."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(os.path.join(root, "proc")):
        if name.isdigit():
            try:
                with open(os.path.join(root, "proc", name, "stat"), "rb", buffering=0) as f:
                    parent = int(f.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    pending = list(pids)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.append(pid)
            pending += children.get(pid, ())
    return sorted(found)


def reclaim_scanned(root: str = "/") -> int | None:
    """Pages that reclaim has scanned since boot, clearing referenced bits.

    The sum of pgscan_* in /proc/vmstat; None where that cannot be read.
    """
    try:
        with open(os.path.join(root, "proc/vmstat"), "rb", buffering=0) as f:
            raw = f.read()
    except OSError:
        return None
    # The same pages again by kind (anon, file) or by zone would count twice.
    return sum(
        int(line.split()[1])
        for line in raw.splitlines()
        if line.startswith(
            (b"pgscan_kswapd ", b"pgscan_direct ", b"pgscan_khugepaged ", b"pgscan_proactive ")
        )
    )
