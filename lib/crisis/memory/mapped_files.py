# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that processes have mapped or open, from /proc/PID.

Follows show_map_vma() in fs/proc/task_mmu.c and proc(5).  Every function takes
root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os
import stat

from ..errors import Error, NotPermitted
from ..table import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["files_of", "process_files", "mappers"]


def files_of(pids: Iterable[int], root: str = "/") -> tuple[list[tuple[str, str]], int]:
    """process_files() of several processes, each name once."""
    paths: dict[str, str] = {}
    unreachable = 0
    for pid in pids:
        found, missed = process_files(pid, root)
        unreachable += missed
        for name, path in found:
            paths.setdefault(name, path)
    return list(paths.items()), unreachable


def process_files(pid: int, root: str = "/") -> tuple[list[tuple[str, str]], int]:
    """The regular files that a process has mapped or open, each inode once.

    Returns ([(name, path that opens it)], the number of those that cannot be reached).

    The paths are /proc/PID/map_files and /proc/PID/fd, which reach deleted
    files and those of other mount namespaces.  Without CAP_CHECKPOINT_RESTORE,
    which map_files needs, mapped files are opened by name where the name still
    leads to the same inode.  The second result counts those that cannot be reached.
    Raises Error for no such process, NotPermitted for somebody else's.
    """
    base = os.path.join(root, f"proc/{pid}")
    found: dict[tuple[int, int], tuple[str, str]] = {}
    unreachable = 0
    try:
        numbers = os.listdir(base + "/fd")
        with open(base + "/maps", "rb") as f:
            maps = f.read().decode("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise Error(f"no such process: {pid}") from None
    except PermissionError:
        raise NotPermitted(
            f"cannot list the files of process {pid}: not permitted. Run as its user or as root"
        ) from None
    for number in numbers:
        unreachable += not _add(found, f"{base}/fd/{number}", None)
    for line in maps:
        # start-end perms offset dev inode name (fs/proc/task_mmu.c, show_map_vma)
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[4] == "0":
            continue
        start, _, end = fields[0].partition("-")
        name = fields[5]
        major, _, minor = fields[3].partition(":")
        key = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        if key in found:
            continue
        if not _add(found, f"{base}/map_files/{int(start, 16):x}-{int(end, 16):x}", None):
            unreachable += not _add(found, name, key)
    return list(found.values()), unreachable


def mappers(root: str = "/") -> dict[tuple[int, int, int] | str, dict[int, str]]:
    """{(major, minor, inode) and path: {pid: comm}} of all mapped files.

    Of the processes that this user may look into.
    """
    found: dict[tuple[int, int, int] | str, dict[int, str]] = {}
    for pid in filter(str.isdigit, os.listdir(os.path.join(root, "proc"))):
        base = os.path.join(root, "proc", pid)
        try:
            with open(base + "/maps", "rb") as f:
                lines = f.read().splitlines()
            with open(base + "/comm", "rb") as f:
                comm = decode(f.read().rstrip(b"\n"))
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[4] != b"0":
                major, minor = fields[3].split(b":")
                inode = int(major, 16), int(minor, 16), int(fields[4])
                found.setdefault(inode, {})[int(pid)] = comm
                found.setdefault(os.fsdecode(fields[5]), {})[int(pid)] = comm
    return found


def _add(
    found: dict[tuple[int, int], tuple[str, str]], path: str, expected: tuple[int, int] | None
) -> bool:
    """False when the file cannot be reached; one that is not regular is left out."""
    try:
        st = os.stat(path)
        if stat.S_ISREG(st.st_mode):
            key = st.st_dev, st.st_ino
            if expected not in (None, key):
                return False
            if key not in found:
                found[key] = (os.readlink(path) if expected is None else path), path
        return True
    except FileNotFoundError:
        return expected is None  # a descriptor that was closed under way; a name that is gone
    except OSError:
        return False
