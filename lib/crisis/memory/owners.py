# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory cgroups to which the pages of files are charged.  Needs root.

Follows Documentation/admin-guide/mm/pagemap.rst and fs/proc/page.c.
"""

from __future__ import annotations

import errno
import os

from ..errors import NotPermitted, Unavailable
from ..kernel import cgroup
from . import PAGE
from .mapping import PROT_READ, keep_unused, map_file, populate, unmap
from .residency import WINDOW, Residency, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .walk import Walk

__all__ = ["Charge", "Owners", "charges"]


class Owners:
    """Counts the pages of a file by owner.

    The resident pages are mapped, /proc/self/pagemap gives their frames and
    /proc/kpagecgroup the inode of each frame's cgroup.
    A page that is evicted meanwhile is read again.
    """

    def __init__(self) -> None:
        """Raises NotPermitted or Unavailable."""
        try:
            self.groups = os.open("/proc/kpagecgroup", os.O_RDONLY | os.O_CLOEXEC)
            self.map = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unavailable(
                "cannot see who owns the pages: this kernel has no /proc/kpagecgroup "
                "(CONFIG_MEMCG, CONFIG_PROC_PAGE_MONITOR)"
            ) from None
        except PermissionError:
            raise NotPermitted(
                "cannot see who owns the pages: /proc/kpagecgroup is root's. Run as root"
            ) from None
        self.residency = Residency()

    def count(self, fd: int, size: int) -> dict[int, int]:
        """{inode of the cgroup, or 0 for none: pages}.  Raises OSError, NotPermitted."""
        found: dict[int, int] = {}
        for offset, vector in self.residency.vectors(fd, size):
            if vector is None:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if not vector.count(1):
                continue
            length = min(WINDOW, size - offset)
            address = map_file(fd, offset, length, PROT_READ)
            try:
                keep_unused(address, length)
                for first, count in runs(vector, 1):
                    self._add(found, address + first * PAGE, count)
            finally:
                unmap(address, length)
        return found

    def _add(self, found: dict[int, int], address: int, count: int) -> None:
        try:
            populate(address, count * PAGE)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise Unavailable(
                    "cannot see who owns the pages: MADV_POPULATE_READ needs Linux 5.14"
                ) from None
            if exc.errno not in (errno.EFAULT, errno.ENOMEM):  # truncated under way
                raise
        frames = memoryview(os.pread(self.map, 8 * count, address // PAGE * 8)).cast("Q")
        start = last = -2  # of a run of frames
        for entry in frames:
            if not entry >> 63:  # not present
                continue
            frame = entry & (1 << 55) - 1
            if not frame:
                raise NotPermitted(
                    "cannot see who owns the pages: /proc/self/pagemap hides the frames. "
                    "Run as root"
                )
            if frame == last + 1:
                last = frame
                continue
            if last >= 0:
                self._charge(found, start, last)
            start = last = frame
        if last >= 0:
            self._charge(found, start, last)

    def _charge(self, found: dict[int, int], first: int, last: int) -> None:
        groups = (
            memoryview(os.pread(self.groups, 8 * (last - first + 1), 8 * first)).cast("Q").tolist()
        )
        while groups:
            group = groups[0]
            count = groups.count(group)
            found[group] = found.get(group, 0) + count
            groups = [g for g in groups if g != group] if count < len(groups) else []


class Charge:
    """The pages that one cgroup was charged for.  cgroup: its path, None for no cgroup."""

    __slots__ = ("cgroup", "files", "pages")

    def __init__(self) -> None:
        self.cgroup: str | None = None
        self.files = self.pages = 0


def charges(
    walk: Walk, paths: Iterable[str], on_error: Callable[[str, str, OSError], None]
) -> list[Charge]:
    """The charges for the pages of all files below the paths, most pages first.

    on_error(path, "measure", exception): called for what cannot be read.
    Raises NotPermitted, Unavailable.
    """
    counter = Owners()
    found: dict[int, Charge] = {}
    for prefix, name, fd, _, size, again in walk.files(paths):
        if again:
            continue
        try:
            owners = counter.count(fd, size)
        except OSError as exc:
            on_error(prefix + name, "measure", exc)
            continue
        for group, pages in owners.items():
            charge = found.setdefault(group, Charge())
            charge.files, charge.pages = charge.files + 1, charge.pages + pages
    mount = cgroup.controller_mount("memory")
    names = cgroup.paths([group for group in found if group], mount[0]) if mount else {}
    for group, charge in found.items():
        if group:
            charge.cgroup = names.get(group, f"id {group}, removed")
    return sorted(found.values(), key=lambda charge: -charge.pages)
