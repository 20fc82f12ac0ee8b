# SPDX-License-Identifier: GPL-2.0-or-later
"""The delay accounts of tasks, by taskstats over generic netlink.

Follows include/uapi/linux/taskstats.h, kernel/taskstats.c and
kernel/delayacct.c.  struct taskstats only grows at its end, except that
version 15 (Linux 6.14) also put the longest and shortest delay behind each
total; version 16 undid that.
"""

from __future__ import annotations

import os
import socket
import struct

from ..errors import Error, NotPermitted, Unavailable
from .netlink import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    # Of each delay, its count and its total in ns; None for what the kernel does not keep.
    Accounts = dict[str, tuple[Union[int, None], Union[int, None]]]

__all__ = ["DELAYS", "Taskstats", "attributes", "parse", "switched_on"]

# What a task waits for: a turn on the CPU; block I/O; a page from swap; reclaim; a page evicted
# lately; compaction; a copy of a page on write; and what interrupts took.
DELAYS = ("cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")
_COUNT_AT = {
    "cpu": 16,
    "blkio": 32,
    "swapin": 48,
    "freepages": 312,
    "thrashing": 328,
    "compact": 352,
    "wpcopy": 400,
    "irq": 416,
}
_COUNT_AT_15 = {
    "cpu": 16,
    "blkio": 48,
    "swapin": 80,
    "freepages": 360,
    "thrashing": 392,
    "compact": 432,
    "wpcopy": 496,
    "irq": 528,
}
_SIZE_15 = 560
_SINCE = {"thrashing": 9, "compact": 11, "wpcopy": 13, "irq": 14}
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_NETLINK_GENERIC, _NLM_F_REQUEST, _NLMSG_ERROR = 16, 1, 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_GENERIC_HEADER = 4  # sizeof(struct genlmsghdr)
_CMD_GET, _ATTR_TGID, _TYPE_STATS, _TYPE_AGGR_TGID = 1, 2, 3, 5


def parse(raw: bytes) -> Accounts:
    """{delay: (count, total ns)} of a struct taskstats.

    (None, None) for what this kernel does not keep.

    A total of 0 with a count is one that overflowed: (count, None).  Raises
    Unavailable for a layout that is not known.
    """
    (version,) = struct.unpack_from("=H", raw)
    if version == 15 and len(raw) != _SIZE_15 or version < 1:
        raise Unavailable(f"taskstats version {version} of {len(raw)} bytes is not known")
    found: Accounts = {}
    for name, at in (_COUNT_AT_15 if version == 15 else _COUNT_AT).items():
        if version < _SINCE.get(name, 1) or len(raw) < at + 16:
            found[name] = None, None
            continue
        count, total = struct.unpack_from("=QQ", raw, at)
        found[name] = count, None if count and not total else total
    return found


def switched_on(root: str = "/") -> bool:
    """False where kernel.task_delayacct is 0: then only the CPU's delays are kept.

    Before Linux 5.14: True.
    """
    try:
        with open(os.path.join(root, "proc/sys/kernel/task_delayacct")) as f:
            return f.read().strip() != "0"
    except OSError:
        return True


class Taskstats:
    """A netlink socket to the kernel's taskstats.  Raises Unavailable.

    One request for each process and interval: pyroute2 takes two to six times as long for it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
        )
        self._socket.bind((0, 0))
        self._sequence = 0
        try:
            found = self._ask(
                _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0"
            )
        except FileNotFoundError:
            raise Unavailable(
                "the kernel gives no taskstats: it was built without CONFIG_TASKSTATS, or this is "
                "not "
                "the host's network namespace"
            ) from None
        (self._family,) = struct.unpack("=H", found[_CTRL_ATTR_FAMILY_ID])

    def _ask(self, family: int, command: int, attribute: int, payload: bytes) -> dict[int, bytes]:
        """{type: payload} of the attributes of the answer.

        Raises OSError with the kernel's errno.
        """
        self._sequence += 1
        request = struct.pack("=BBHHH", command, 1, 0, 4 + len(payload), attribute) + payload
        request += bytes(-len(request) % 4)
        self._socket.send(
            _HEADER.pack(_HEADER.size + len(request), family, _NLM_F_REQUEST, self._sequence, 0)
            + request
        )
        while True:
            answer = self._socket.recv(1 << 16)
            length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence == self._sequence:
                break  # not of a request that was interrupted
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
            raise OSError(code, os.strerror(code))
        return attributes(answer[_HEADER.size + _GENERIC_HEADER : length])

    def process(self, pid: int) -> Accounts:
        """parse() of a process: the sum of its threads, those that have ended too.

        Raises ProcessLookupError when there is none, NotPermitted.
        """
        try:
            found = self._ask(self._family, _CMD_GET, _ATTR_TGID, struct.pack("=I", pid))
        except PermissionError as exc:
            raise NotPermitted(
                f"cannot read taskstats: {exc.strerror}. Run it as root or with CAP_NET_ADMIN"
            ) from None
        inner = attributes(found.get(_TYPE_AGGR_TGID, b""))
        if _TYPE_STATS not in inner:
            raise Error(f"cannot read taskstats of process {pid}: the answer holds none")
        return parse(inner[_TYPE_STATS])
