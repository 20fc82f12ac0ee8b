# SPDX-License-Identifier: GPL-2.0-or-later
"""Resource limits: room for many descriptors.  Follows setrlimit(2)."""

from __future__ import annotations

import os

from ..errors import Error
from . import sysfs

__all__ = ["raise_open_files", "most_open_files"]


def raise_open_files(descriptors: int, what: str) -> None:
    """Raise RLIMIT_NOFILE, if need be, so that `descriptors` more can be opened.

    what: the descriptors' name, in the plural, for the message.
    Raises Error, naming the limit, when it cannot be raised enough.
    """
    import resource

    needed = descriptors + len(os.listdir("/proc/self/fd")) + 16
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    for limits in (needed, hard), (needed, needed):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return
        except (ValueError, OSError):
            pass
    raise Error(
        f"cannot open {descriptors} {what}: the limit of open files is {hard}. Raise it with "
        f"ulimit -Hn {needed}"
    )


def most_open_files(root: str = "/") -> int:
    """Raise RLIMIT_NOFILE as far as it can be; the limit then.

    That is the hard limit, and with CAP_SYS_RESOURCE fs.nr_open.
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in max(hard, sysfs.number(root, "proc/sys/fs/nr_open") or 0), hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            break
        except (ValueError, OSError):
            pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
