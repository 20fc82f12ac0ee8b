# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups: their directories, ids, depth and processes, in the v2 hierarchy and those of v1.

A cgroup is named by a directory of a mounted cgroup file system, or by its own
path ("/system.slice/cron.service"), which is looked up in the v2 hierarchy and
then in the v1 ones.  Follows cgroups(7), kernel/cgroup/cgroup.c and fs/kernfs.
Every function takes root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os

from ..errors import Error, Unavailable
from .proc import unescape_mount
from .sysfs import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "mounts",
    "find",
    "directory",
    "v2_directory",
    "processes",
    "inodes",
    "controller_mount",
    "task_hierarchy",
    "paths",
]


def mounts(root: str = "/") -> list[tuple[str, str, set[str] | None]]:
    """[(mount point, directory of the hierarchy mounted there, v1 controllers)].

    The controllers are None for v2.
    """
    found: list[tuple[str, str, set[str] | None]] = []
    for line in read(root, "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), (right.split(" ") + ["", ""])[:3]
        if kind in ("cgroup", "cgroup2"):
            controllers = None
            if kind == "cgroup":
                controllers = {
                    o for o in options.split(",") if o not in ("rw", "ro") and "=" not in o
                }
            found.append((unescape_mount(fields[4]), unescape_mount(fields[3]), controllers))
    return found


def find(path: str, root: str = "/") -> tuple[int, int, set[str] | None, str]:
    """(id, level, v1 controllers or None for v2, mount point) of a cgroup directory.

    id is kernfs' (the inode number), level is the depth
    below the hierarchy's root: cgroup.level, kernel/cgroup/cgroup.c.
    Raises Error when there is no such cgroup, Unavailable when its level cannot be known.
    """
    number, level, controllers, point, _ = _find(path, root)
    if level is None:
        raise Unavailable(f"the depth of cgroup {path} is not visible from this cgroup namespace")
    return number, level, controllers, point


def _find(path: str, root: str) -> tuple[int, int | None, set[str] | None, str, str]:
    mounted = mounts(root)
    candidates = [os.path.realpath(os.path.join(root, path.lstrip("/")) if root != "/" else path)]
    for point, _, _ in sorted(mounted, key=lambda m: m[2] is not None):
        candidates.append(os.path.join(root, point.lstrip("/"), path.lstrip("/")))
    for candidate in candidates:
        best = None
        for point, top, controllers in mounted:
            base = os.path.join(root, point.lstrip("/")).rstrip("/")
            if (candidate + "/").startswith(base + "/") and (
                best is None or len(base) > len(best[0])
            ):
                best = base, top, controllers, point
        if best is None:
            continue
        try:
            info = os.stat(candidate)
        except OSError:
            continue
        if not os.path.isdir(candidate):
            continue
        base, top, controllers, point = best
        below = [part for part in (top + candidate[len(base) :]).split("/") if part]
        return info.st_ino, None if ".." in below else len(below), controllers, point, candidate
    raise Error(f"no such cgroup: {path}")


def directory(path: str, root: str = "/") -> str:
    """The directory of a cgroup.  Raises Error as find."""
    return _find(path, root)[4]


def v2_directory(path: str, root: str = "/") -> tuple[str, str] | None:
    """(directory, mount point) of a cgroup; None for one of a v1 hierarchy.

    Raises Error as find.
    """
    _, _, controllers, point, at = _find(path, root)
    return None if controllers is not None else (at, os.path.join(root, point.lstrip("/")))


def processes(path: str, root: str = "/") -> list[int]:
    """The PIDs of the processes in a cgroup and below it.

    Those that this PID namespace does not show, which the file has as 0
    (cgroup_procs_show() in kernel/cgroup/cgroup.c), are left out.  Raises Error as find.
    """
    found: list[int] = []
    for at, _, files in os.walk(_find(path, root)[4]):
        if "cgroup.procs" in files:
            try:
                with open(os.path.join(at, "cgroup.procs")) as f:
                    found += [int(row) for row in f.read().split() if row != "0"]
            except OSError:  # a threaded one, or it has been removed
                continue
    return found


def inodes(path: str, root: str = "/") -> set[int]:
    """The inode numbers, which are their ids, of a cgroup and those below it.

    Raises Error as find.
    """
    return {os.stat(at).st_ino for at, _, _ in os.walk(_find(path, root)[4])}


def controller_mount(controller: str, root: str = "/") -> tuple[str, set[str] | None] | None:
    """(mount point, v1 controllers or None) of the hierarchy of a controller.

    That is v1's own, else v2; None without any.
    """
    mounted = mounts(root)
    for point, _, controllers in mounted:
        if controllers is not None and controller in controllers:
            return point, controllers
    for point, _, controllers in mounted:
        if controllers is None:
            return point, None
    return None


def task_hierarchy(
    version: int | None = None, root: str = "/"
) -> tuple[str, set[str] | None] | None:
    """(mount point, v1 controllers or None) of the hierarchy that tasks are placed in.

    None without any.

    version: 1 for that of v1's cpu controller, 2 for v2.  By default, where both
    are mounted, the one that leaves fewer processes in its root: systemd places
    them in v2's alone, an older container runtime in v1's.
    """
    found: dict[int, tuple[str, set[str] | None]] = {}
    for point, _, controllers in mounts(root):
        if controllers is None or "cpu" in controllers:
            found.setdefault(2 if controllers is None else 1, (point, controllers))
    if version:
        return found.get(version)

    def in_root(number: int) -> int:
        return read(root, found[number][0].lstrip("/") + "/cgroup.procs").count("\n")

    return found[min(found, key=lambda number: (in_root(number), -number))] if found else None


def paths(ids: Iterable[int], mount_point: str, root: str = "/") -> dict[int, str]:
    """{id: path below the mount point, "/" for its root} of those cgroups that still exist."""
    wanted = set(ids)
    found: dict[int, str] = {}
    base = os.path.join(root, mount_point.lstrip("/"))
    pending = [base]
    while pending and len(found) < len(wanted):
        at = pending.pop()
        try:
            number = os.stat(at).st_ino
            with os.scandir(at) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        if number in wanted:
            found[number] = at[len(base.rstrip("/")) :] or "/"
    return found
