# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure stall information of the system and of cgroups: the time that tasks lost, in total.

Follows kernel/sched/psi.c and Documentation/accounting/psi.rst.  A reading is
{(resource, kind): (us in total, ns of CLOCK_MONOTONIC)}, a resource one of
RESOURCES, a kind "some" or "full".
"""

from __future__ import annotations

import os
import time

from ..errors import Error, NotPermitted, Unavailable
from . import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    Key = tuple[str, str]
    Reading = dict[Key, tuple[int, int]]
    # A reading's name: ("system", None), or ("cgroup", (directory, inode)).
    Name = tuple[str, Union[tuple[str, int], None]]

__all__ = [
    "RESOURCES",
    "KEYS",
    "Reader",
    "parse",
    "read_files",
    "system_files",
    "cgroup_files",
    "difference",
]

RESOURCES = ("cpu", "memory", "io", "irq")
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


def parse(raw: bytes) -> dict[str, int]:
    """{"some" or "full": us in total} of the text of a pressure file."""
    found = {}
    for row in raw.splitlines():
        words = row.split()
        found[words[0].decode()] = int(words[-1].partition(b"=")[2])
    return found


def read_files(paths: Mapping[str, str]) -> Reading:
    """The reading of {resource: path}; files that cannot be read are left out.

    Raises NotPermitted; OSError when none can be read: FileNotFoundError when
    none exists, EOPNOTSUPP when the kernel has switched pressure off.
    """
    found: Reading = {}
    refused: OSError | None = None
    for resource, path in paths.items():
        try:
            with open(path, "rb", buffering=0) as f:
                raw = f.read()
        except PermissionError as exc:
            raise NotPermitted(f"cannot read {path}: {exc.strerror}") from None
        except OSError as exc:  # no irq.pressure, EOPNOTSUPP, or ENODEV for a cgroup that has gone
            refused = exc
            continue
        now = time.monotonic_ns()
        for kind, total in parse(raw).items():
            found[resource, kind] = total, now
    if not found and refused is not None:
        raise refused
    return found


def system_files(root: str = "/") -> dict[str, str]:
    """{resource: path} of the system's pressure files."""
    return {name: os.path.join(root, "proc/pressure", name) for name in RESOURCES}


def cgroup_files(directory: str) -> dict[str, str]:
    """{resource: path} of the pressure files of a v2 cgroup."""
    return {name: os.path.join(directory, name + ".pressure") for name in RESOURCES}


def difference(before: Reading, after: Reading) -> dict[Key, tuple[int, float]]:
    """{(resource, kind): (us lost, share of the time between)}.

    Without what only one of the readings has, and what went back.
    """
    found = {}
    for key, (total, now) in after.items():
        if key in before and total >= before[key][0] and now > before[key][1]:
            lost = total - before[key][0]
            found[key] = lost, lost * 1000 / (now - before[key][1])
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
        if self._top:
            found.update(self._read_cgroups())
        return found

    def _read_cgroups(self) -> dict[Name, Reading]:
        found: dict[Name, Reading] = {}
        pending = [self._top]
        while pending:
            directory = pending.pop()
            try:
                if self._below:
                    with os.scandir(directory) as entries:
                        pending += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
                if directory != self._root:
                    name = directory, os.stat(directory).st_ino
                    found["cgroup", name] = read_files(cgroup_files(directory))
            except OSError as exc:  # removed, or switched off by its cgroup.pressure
                if not self._below:
                    raise self._refused(exc) from None
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
        found = read_files(system_files())
    except FileNotFoundError:
        raise _missing() from None
    except OSError as exc:
        raise Unavailable(f"cannot read /proc/pressure: {exc.strerror}. Boot with psi=1") from None
    found.pop(("cpu", "full"), None)
    return found


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
