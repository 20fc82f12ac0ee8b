# SPDX-License-Identifier: GPL-2.0-or-later
"""The delay accounts of tasks, by taskstats over generic netlink.

Follows include/uapi/linux/taskstats.h, kernel/taskstats.c and
kernel/delayacct.c.  struct taskstats only grows at its end, except that
version 15 (Linux 6.14) also put the longest and shortest delay behind each
total; version 16 undid that.
"""

import os
import struct

from . import netlink
from .errors import Error, NotPermitted, Unavailable

__all__ = ["DELAYS", "Taskstats", "parse", "switched_on"]

# What a task waits for: a turn on the CPU; block I/O; a page from swap; reclaim; a page evicted lately;
# compaction; a copy of a page on write; and what interrupts took.
DELAYS = ("cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")
_COUNT_AT = {"cpu": 16, "blkio": 32, "swapin": 48, "freepages": 312, "thrashing": 328, "compact": 352, "wpcopy": 400,
             "irq": 416}
_COUNT_AT_15 = {"cpu": 16, "blkio": 48, "swapin": 80, "freepages": 360, "thrashing": 392, "compact": 432,
                "wpcopy": 496, "irq": 528}
_SIZE_15 = 560
_SINCE = {"thrashing": 9, "compact": 11, "wpcopy": 13, "irq": 14}
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_CMD_GET, _ATTR_TGID, _TYPE_STATS, _TYPE_AGGR_TGID = 1, 2, 3, 5


def parse(raw):
    """{delay: (count, total ns)} of a struct taskstats, (None, None) for what this kernel does not keep.

    A total of 0 with a count is one that overflowed: (count, None).  Raises
    Unavailable for a layout that is not known.
    """
    version, = struct.unpack_from("=H", raw)
    if version == 15 and len(raw) != _SIZE_15 or version < 1:
        raise Unavailable("taskstats version %d of %d bytes is not known" % (version, len(raw)))
    found = {}
    for name, at in (_COUNT_AT_15 if version == 15 else _COUNT_AT).items():
        if version < _SINCE.get(name, 1) or len(raw) < at + 16:
            found[name] = None, None
            continue
        count, total = struct.unpack_from("=QQ", raw, at)
        found[name] = count, None if count and not total else total
    return found


def switched_on(root="/"):
    """False where kernel.task_delayacct is 0: then only the CPU's delays are kept.  Before Linux 5.14: True."""
    try:
        with open(os.path.join(root, "proc/sys/kernel/task_delayacct")) as f:
            return f.read().strip() != "0"
    except OSError:
        return True


class Taskstats:
    """A netlink socket to the kernel's taskstats.  Raises Unavailable."""

    def __init__(self):
        self._socket = netlink.Socket(netlink.GENERIC)
        try:
            found = self._ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0")
        except FileNotFoundError:
            raise Unavailable("the kernel gives no taskstats: it was built without CONFIG_TASKSTATS, or this is not "
                              "the host's network namespace") from None
        self._family, = struct.unpack("=H", found[_CTRL_ATTR_FAMILY_ID])

    def _ask(self, family, command, attribute, payload):
        answer = self._socket.ask(family, struct.pack("=BBH", command, 1, 0) + netlink.attribute(attribute, payload))
        return netlink.attributes(answer[4:])               # behind the generic header

    def process(self, pid):
        """parse() of a process: the sum of its threads, those that have ended too.

        Raises ProcessLookupError when there is none, NotPermitted.
        """
        try:
            found = self._ask(self._family, _CMD_GET, _ATTR_TGID, struct.pack("=I", pid))
        except PermissionError as exc:
            raise NotPermitted("cannot read taskstats: %s. Run it as root or with CAP_NET_ADMIN" % exc.strerror) \
                from None
        inner = netlink.attributes(found.get(_TYPE_AGGR_TGID, b""))
        if _TYPE_STATS not in inner:
            raise Error("cannot read taskstats of process %d: the answer holds none" % pid)
        return parse(inner[_TYPE_STATS])
