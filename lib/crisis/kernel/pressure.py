# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure stall information of the system and of cgroups: averages, and the time lost in total.

Follows kernel/sched/psi.c and Documentation/accounting/psi.rst.  A reading is {resource: Sample},
a resource one of RESOURCES; a kind of stall is "some" or "full".
"""

from __future__ import annotations

import os
import time

from ..errors import Error, NotPermitted, Unavailable
from . import cgroup, rlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    Key = tuple[str, str]
    Reading = dict[str, "Sample"]
    # A reading's name: ("system", None), or ("cgroup", (directory, inode)).
    Name = tuple[str, Union[tuple[str, int], None]]

__all__ = [
    "RESOURCES",
    "KEYS",
    "Reader",
    "Sample",
    "Stall",
    "parse",
    "read_files",
    "SYSTEM_FILES",
    "system_directory",
    "cgroup_files",
    "difference",
    "stalls",
]

RESOURCES = ("cpu", "memory", "io", "irq")
SYSTEM_FILES = {name: name for name in RESOURCES}
# For the system as a whole, cpu full is not defined (and 0); irq has no some.
KEYS = (
    ("cpu", "some"),
    ("cpu", "full"),
    ("memory", "some"),
    ("memory", "full"),
    ("io", "some"),
    ("io", "full"),
    ("irq", "full"),
)


class Stall:
    """A line of a pressure file: averages over 10, 60 and 300 s in percent, total in us."""

    __slots__ = ("avg10", "avg60", "avg300", "total")

    def __init__(self, avg10: float, avg60: float, avg300: float, total: int) -> None:
        self.avg10, self.avg60, self.avg300, self.total = avg10, avg60, avg300, total

    @property
    def most(self) -> float:
        """The largest of the averages."""
        return max(self.avg10, self.avg60, self.avg300)


class Sample:
    """What a pressure file held.  now: ns of CLOCK_MONOTONIC."""

    __slots__ = ("raw", "now", "stalls")

    def __init__(self, raw: bytes, now: int, stalls: dict[str, Stall]) -> None:
        self.raw, self.now, self.stalls = raw, now, stalls


def parse(raw: bytes) -> dict[str, Stall]:
    """{"some" or "full": Stall} of the text of a pressure file."""
    found = {}
    for row in raw.decode().splitlines():
        kind, *fields = row.split()
        values = dict(field.split("=") for field in fields)
        ten, sixty, more = (float(values[name]) for name in ("avg10", "avg60", "avg300"))
        found[kind] = Stall(ten, sixty, more, int(values["total"]))
    return found


def read_files(
    directory: str,
    names: Mapping[str, str],
    before: Reading | None = None,
    dir_fd: int | None = None,
) -> Reading:
    """The reading of {resource: file in the directory}; files that cannot be read are left out.

    before: the previous reading of the same files; what has not changed is not parsed again.
    dir_fd: of the directory, if it is open.
    Raises NotPermitted; OSError when none can be read: FileNotFoundError when
    none exists, EOPNOTSUPP when the kernel has switched pressure off.
    """
    found: Reading = {}
    refused: OSError | None = None
    for resource, name in names.items():
        try:
            raw = _contents(f"{directory}/{name}" if dir_fd is None else name, dir_fd)
        except PermissionError as exc:
            raise NotPermitted(f"cannot read {directory}/{name}: {exc.strerror}") from None
        except OSError as exc:  # no irq.pressure, EOPNOTSUPP, or ENODEV for a cgroup that has gone
            refused = exc
            continue
        now = time.monotonic_ns()
        old = before.get(resource) if before else None
        found[resource] = Sample(raw, now, old.stalls if old and old.raw == raw else parse(raw))
    if not found and refused is not None:
        raise refused
    return found


def _contents(path: str, dir_fd: int | None = None) -> bytes:
    """A small file.  open() takes twice as long, which 8,000 files an interval make noticeable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def system_directory(root: str = "/") -> str:
    """Where the system's pressure files are; their names are SYSTEM_FILES."""
    return os.path.join(root, "proc/pressure")


def cgroup_files() -> dict[str, str]:
    """{resource: name} of the files that v2 cgroups can have: irq only where the system has it."""
    irq = os.path.exists(os.path.join(system_directory(), "irq"))
    return {name: name + ".pressure" for name in RESOURCES if name != "irq" or irq}


def stalls(reading: Reading) -> dict[Key, Stall]:
    """{(resource, kind): Stall} of a reading."""
    return {
        (resource, kind): stall
        for resource, sample in reading.items()
        for kind, stall in sample.stalls.items()
    }


def difference(before: Reading, after: Reading) -> dict[Key, tuple[int, float]]:
    """{(resource, kind): (us lost, share of the time between)}.

    Without what only one of the readings has, and what went back.
    """
    found = {}
    for resource, sample in after.items():
        old = before.get(resource)
        if old is None or sample.now <= old.now:
            continue
        for kind, stall in sample.stalls.items():
            if kind in old.stalls and stall.total >= old.stalls[kind].total:
                lost = stall.total - old.stalls[kind].total
                found[resource, kind] = lost, lost * 1000 / (sample.now - old.now)
    return found


class Reader:
    """What is to be read: the system, the system and all cgroups, or one cgroup.

    path: a cgroup, as kernel.cgroup.find takes it, or None.
    every: the system and all cgroups.
    mount: where the hierarchy of the cgroups is mounted, "" without cgroups.
    Raises Error, Unavailable.
    """

    def __init__(self, path: str | None = None, every: bool = False) -> None:
        self.mount = ""
        self._path, self._below, self._top = path, every, ""
        self._system = True
        self._root: str | None = None  # the root cgroup's directory: its pressure is the system's
        # The cgroups that there were, the top too, by their paths: open directories, inodes.
        self._known: dict[str, tuple[int, int]] = {}
        self._files = cgroup_files()
        self._before: dict[Name, Reading] = {}
        if path is None and not every:
            return
        mounts = [(len(top), point) for point, top, v1 in cgroup.mounts() if v1 is None]
        if not mounts:
            raise Unavailable(
                "no cgroup v2 file system is mounted: pressure is kept for those cgroups only"
            )
        if path is None:
            self._top = self.mount = min(mounts)[1]
        else:
            found = cgroup.v2_directory(path)
            if found is None:
                raise Error(f"cgroup {path} is of a v1 hierarchy: pressure is kept for v2 only")
            self._system = _is_root(found[0])
            if self._system:
                return
            self._top, self.mount = found
        if _is_root(self.mount):
            self._root = self.mount

    def read(self) -> dict[Name, Reading]:
        """The readings, by name.  Raises Error, NotPermitted and Unavailable."""
        found: dict[Name, Reading] = {}
        if self._system:
            found["system", None] = _read_system()
        if self._below:
            self._read_cgroups(found)
        elif self._top:
            try:
                name = self._top, os.stat(self._top).st_ino
                found["cgroup", name] = read_files(self._top, self._files)
            except OSError as exc:
                raise self._refused(exc) from None
        self._before = found
        return found

    def _read_cgroups(self, found: dict[Name, Reading]) -> None:
        """Add the readings of all cgroups.

        To list 2,000 directories takes as long as to read half of their files.  While the kernel
        counts as many cgroups as are known, and each of these is still there, none is new.
        """
        if self._number() != len(self._known) - 1:
            self._list()
        gone = [directory for directory in self._known if not self._read_cgroup(directory, found)]
        for directory in gone:
            os.close(self._known.pop(directory)[0])
        # One that was made at the same time has kept the number as it was.
        for directory in self._list() if gone else ():
            self._read_cgroup(directory, found)

    def _read_cgroup(self, directory: str, found: dict[Name, Reading]) -> bool:
        """Add the reading of a cgroup; False when it has been removed.  Raises NotPermitted."""
        fd, inode = self._known[directory]
        name = "cgroup", (directory, inode)
        if directory == self._root:
            return True
        try:
            found[name] = read_files(directory, self._files, self._before.get(name), fd)
        except OSError:  # removed, or switched off by its cgroup.pressure
            return _inode(directory) == inode
        return True

    def _number(self) -> int | None:
        """The number of cgroups below the top: nr_descendants (cgroup_stat_show())."""
        try:
            words = _contents(self._top + "/cgroup.stat").split()
        except OSError:
            return None
        return int(words[words.index(b"nr_descendants") + 1])

    def _list(self) -> list[str]:
        """Open the directories that are not known yet, and return them.

        From an open directory, its files are opened in two thirds of the time.
        """
        directories = self._walk()
        for directory in self._known.keys() - set(directories):
            os.close(self._known.pop(directory)[0])
        new = [directory for directory in directories if directory not in self._known]
        rlimit.raise_open_files(len(new), "cgroup directories")
        for directory in new:
            inode = _inode(directory)
            try:
                fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            self._known[directory] = fd, inode
        return [directory for directory in new if directory in self._known]

    def _walk(self) -> list[str]:
        found, pending = [], [self._top]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    pending += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
            except OSError:  # removed
                continue
            found.append(directory)
        return found

    def _refused(self, exc: OSError) -> Error:
        if isinstance(exc, FileNotFoundError):
            return Error(f"cgroup {self._path} has been removed, or keeps no pressure")
        return Unavailable(
            f"cgroup {self._path} keeps no pressure: {exc.strerror}. Write 1 to its "
            f"cgroup.pressure, or boot with psi=1"
        )


def _read_system() -> Reading:
    try:
        found = read_files(system_directory(), SYSTEM_FILES)
    except FileNotFoundError:
        raise _missing() from None
    except OSError as exc:
        raise Unavailable(f"cannot read /proc/pressure: {exc.strerror}. Boot with psi=1") from None
    if "cpu" in found:
        found["cpu"].stalls.pop("full", None)
    return found


def _inode(directory: str) -> int:
    """The inode number of a directory; 0 where there is none any more."""
    try:
        return os.stat(directory).st_ino
    except OSError:
        return 0


def _missing() -> Unavailable:
    """The error for a kernel without /proc/pressure.

    psi_proc_init() in kernel/sched/psi.c makes it where PSI is on.
    """
    from . import proc

    built = proc.kernel_option("CONFIG_PSI")
    off = "pressure stall information is switched off. Boot with psi=1"
    if built is None:
        off = "the kernel was built without CONFIG_PSI, or " + off
    elif not built:
        off = "the kernel was built without CONFIG_PSI"
    return Unavailable("there is no /proc/pressure: " + off)


def _is_root(directory: str) -> bool:
    """Whether a v2 cgroup is the root of the whole hierarchy, and not of a cgroup namespace."""
    return not os.path.exists(os.path.join(directory, "cgroup.type"))  # CFTYPE_NOT_ON_ROOT
