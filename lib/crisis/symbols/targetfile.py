# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening files whose names or contents a traced process controls.

A name can lead to anything: a device that acts when it is opened, a FIFO that
blocks, a file that only root may read and that was bound over the name in the
process's own mount namespace.  So a name is first opened with O_PATH, which
reaches no driver, then checked, and the same inode opened again through /proc/self/fd.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["open_regular", "owned_by", "readable_by_all", "credentials"]


def open_regular(
    path: str,
    allowed: Callable[[os.stat_result], bool] | None = None,
    follow: bool = False,
    dir_fd: int | None = None,
) -> int:
    """A descriptor for reading of a regular file, close-on-exec and non-blocking.

    allowed: called with the file's status; false for a file that must not be read.
    follow: the last component of the path may be a symbolic link.
    dir_fd: a descriptor of the directory to which a relative path refers.
    Raises OSError, also for what is not a regular file (EINVAL) or not allowed (ESTALE).
    """
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, dir_fd=dir_fd)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        if allowed is not None and not allowed(info):
            raise OSError(errno.ESTALE, "it is not the process's own file", path)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(f"/proc/self/fd/{fd}", flags)
    finally:
        os.close(fd)


def owned_by(uid: int | None) -> Callable[[os.stat_result], bool]:
    """For open_regular: the files of this user; none where it is None."""
    return lambda info: info.st_uid == uid


def readable_by_all(info: os.stat_result) -> bool:
    """For open_regular: files that every user may read."""
    return bool(info.st_mode & stat.S_IROTH)


def credentials(process: int) -> tuple[int, int]:
    """(effective UID, PID in its own PID namespace) of a process, as our user namespace shows it.

    process: a descriptor of its directory in /proc.
    Raises OSError, and ValueError for a file that is not as in proc_pid_status(5).
    """
    fd = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    fields = {}
    with os.fdopen(fd, "rb") as f:
        for row in f.read().splitlines():
            name, separator, value = row.partition(b":\t")
            if separator:
                fields[name] = value.split()
    try:
        return int(fields[b"Uid"][1]), int(fields[b"NSpid"][-1])
    except (KeyError, IndexError):
        raise ValueError("a malformed status") from None
