# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening files whose names or contents a traced process controls.

A name can lead to anything: a device that acts when it is opened, a FIFO that
blocks, a file that only root may read and that was bound over the name in the
process's own mount namespace.  So a name is first opened with O_PATH, which
reaches no driver, then checked, and the same inode opened again through /proc/self/fd.
"""

import errno
import os
import stat

__all__ = ["open_regular", "owned_by", "readable_by_all", "credentials"]


def open_regular(path, allowed=None, follow=False, dir_fd=None):
    """A descriptor for reading of a regular file.

    allowed: stat_result -> False for a file that must not be read; follow: the
    last component of the path may be a link.
    Raises OSError, also for what is not a regular file (EINVAL) or not allowed (ESTALE).
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        if allowed is not None and not allowed(info):
            raise OSError(errno.ESTALE, "it is not the process's own file", path)
        return os.open("/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(fd)


def owned_by(uid):
    """For open_regular: the files of this user."""
    return lambda info: info.st_uid == uid


def readable_by_all(info):
    """For open_regular: files that hold no secret from anybody."""
    return bool(info.st_mode & stat.S_IROTH)


def credentials(process):
    """(effective uid, PID in its own PID namespace) of a process, as our user namespace sees it.

    process: a descriptor of its directory in /proc.  Raises OSError, ValueError.
    """
    fd = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with os.fdopen(fd, "rb") as f:
        fields = dict(row.split(b":\t", 1) for row in f.read().splitlines() if b":\t" in row)
    try:
        return int(fields[b"Uid"].split()[1]), int(fields[b"NSpid"].split()[-1])
    except (KeyError, IndexError):
        raise ValueError("a malformed status") from None
