# SPDX-License-Identifier: GPL-2.0-or-later
"""The delay accounts of tasks, by taskstats over generic netlink.

Follows include/uapi/linux/taskstats.h, kernel/taskstats.c and
kernel/delayacct.c.  struct taskstats only grows at its end, except that
version 15 (Linux 6.14) also put the longest and shortest delay behind each
total; version 16 undid that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from ..errors import Error, NotPermitted, Unavailable
from .nla import HEADER, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    # Of each delay that the kernel keeps, its count and its total in ns, one after the other.
    Counters = tuple[int, ...]
    # Of each delay, its count and its total in ns; None for what the kernel does not keep.
    Accounts = dict[str, tuple[Union[int, None], Union[int, None]]]

__all__ = ["DELAYS", "OFF", "Layout", "Taskstats", "accounts", "attributes", "switched_on"]

OFF = "delay accounting is off. For new tasks: sysctl kernel.task_delayacct=1"
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
_GENERIC_HEADER = 4  # sizeof(struct genlmsghdr)
_CMD_GET, _ATTR_PID, _ATTR_TGID, _TYPE_STATS, _TYPE_AGGR_PID, _TYPE_AGGR_TGID = 1, 1, 2, 3, 4, 5
# A request: struct nlmsghdr, struct genlmsghdr, and one attribute of 32 bits.
_REQUEST = struct.Struct("=IHHIIBBHHHI")
_BATCH = 64  # requests sent at once: the answers, 1.3 KB of buffer each, must fit SO_RCVBUF


class Layout:
    """Where a version of struct taskstats has the delays.

    names: those of DELAYS that it has.  Raises Unavailable for a layout that is not known.
    """

    def __init__(self, version: int, size: int) -> None:
        if version == 15 and size != _SIZE_15 or version < 1:
            raise Unavailable(f"taskstats version {version} of {size} bytes is not known")
        places = _COUNT_AT_15 if version == 15 else _COUNT_AT
        self.names = [
            name
            for name, at in places.items()
            if version >= _SINCE.get(name, 1) and size >= at + 16
        ]
        form, end = "=", 0
        for name in self.names:
            form, end = f"{form}{places[name] - end}x2Q", places[name] + 16
        self._struct = struct.Struct(form)

    def unpack(self, raw: bytes | bytearray, at: int = 0) -> Counters:
        """The counters of the struct at a place of the buffer."""
        return self._struct.unpack_from(raw, at)


def accounts(names: Sequence[str], counters: Counters) -> Accounts:
    """{delay: (count, total ns)} of the counters of the delays `names`.

    (None, None) for what this kernel does not keep.  A total of 0 with a count is one that
    overflowed: (count, None).
    """
    found: Accounts = dict.fromkeys(DELAYS, (None, None))
    for index, name in enumerate(names):
        count, total = counters[2 * index : 2 * index + 2]
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

    Many requests are sent at once and answered before send(2) returns: 3 us a process.  pyroute2
    takes 46 to 125.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
        )
        self._socket.bind((0, 0))
        self._buffer = bytearray(1 << 13)
        self._family = self._find_family()
        # Of an answer: its length, where it has struct taskstats, and what that holds.
        self._length, self._at, self._layout = 0, 0, Layout(1, 0)

    @property
    def names(self) -> list[str]:
        """The delays that the counters are of."""
        return self._layout.names

    def _find_family(self) -> int:
        name = b"TASKSTATS\0"
        request = struct.pack(
            "=BBHHH", _CTRL_CMD_GETFAMILY, 1, 0, 4 + len(name), _CTRL_ATTR_FAMILY_NAME
        )
        request += name + bytes(-len(name) % 4 + 2)
        length = HEADER.size + len(request)
        self._socket.send(HEADER.pack(length, _GENL_ID_CTRL, _NLM_F_REQUEST, 0, 0) + request)
        answer = self._socket.recv(1 << 16)
        if _error(answer) == errno.ENOENT:
            raise Unavailable(
                "the kernel has no taskstats: it was built without CONFIG_TASKSTATS, or this is "
                "not the host's network namespace"
            )
        (family,) = struct.unpack(
            "=H", attributes(answer[HEADER.size + _GENERIC_HEADER :])[_CTRL_ATTR_FAMILY_ID]
        )
        return int(family)

    def read(self, numbers: Sequence[int], threads: bool = False) -> dict[int, Counters]:
        """{number: counters} of processes, or of threads; without those that do not exist.

        Those of a process are the sum of its threads, ended ones included.  Raises NotPermitted.
        """
        found: dict[int, Counters] = {}
        for at in range(0, len(numbers), _BATCH):
            batch = numbers[at : at + _BATCH]
            answered = self._query(batch, threads, found)
            for number in set(batch) - answered:  # there was no room for its answer
                if not self._query([number], threads, found):
                    raise Error("cannot read taskstats: no buffer space. Raise net.core.rmem_max")
        return found

    def _query(self, numbers: Sequence[int], threads: bool, found: dict[int, Counters]) -> set[int]:
        """Send the requests, and add the answers to `found`.  Returns what was answered."""
        attribute = _ATTR_PID if threads else _ATTR_TGID
        fixed = _REQUEST.size, self._family, _NLM_F_REQUEST
        self._socket.send(
            b"".join(
                _REQUEST.pack(*fixed, number, 0, _CMD_GET, 1, 0, 8, attribute, number)
                for number in numbers
            )
        )
        answered: set[int] = set()
        while True:
            try:
                length = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:  # all that came: send(2) returns when all is answered
                return answered
            _, _, _, number, _ = HEADER.unpack_from(self._buffer)
            answered.add(number)
            if length != self._length:
                if self._refused():
                    continue
                self._learn(bytes(self._buffer[:length]))
            found[number] = self._layout.unpack(self._buffer, self._at)

    def _refused(self) -> bool:
        """Whether the answer in the buffer is that there is no such task.  Raises other errors."""
        code = _error(self._buffer)
        if code in (errno.EPERM, errno.EACCES):
            raise NotPermitted(
                f"cannot read taskstats: {os.strerror(code)}. Run it as root or with CAP_NET_ADMIN"
            )
        if code not in (0, errno.ESRCH):
            raise Error(f"cannot read taskstats: {os.strerror(code)}")
        return code != 0

    def _learn(self, raw: bytes) -> None:
        """Find struct taskstats in an answer; it is at the same place in all of that length."""
        outer = attributes(raw[HEADER.size + _GENERIC_HEADER :])
        inner = attributes(outer.get(_TYPE_AGGR_TGID) or outer.get(_TYPE_AGGR_PID) or b"")
        if _TYPE_STATS not in inner:
            raise Error("cannot read taskstats: an answer holds none")
        stats = inner[_TYPE_STATS]
        (version,) = struct.unpack_from("=H", stats)
        self._layout = Layout(version, len(stats))
        self._length, self._at = len(raw), raw.index(stats)


def _error(answer: bytes | bytearray) -> int:
    """The errno that an answer reports, or 0."""
    _, kind, _, _, _ = HEADER.unpack_from(answer)
    return -struct.unpack_from("=i", answer, HEADER.size)[0] if kind == _NLMSG_ERROR else 0
