# SPDX-License-Identifier: GPL-2.0-or-later
"""The interfaces of this network namespace at one moment, by two dumps of rtnetlink.

For a command that must report soon on a machine without CPU time to spare: importing
pyroute2, which link.Links uses, takes 0.23 s of CPU time, ten times as much as all the rest of such
a report.

Follows net/core/rtnetlink.c, net/sched/sch_api.c and include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct

from .link import LINK, QDISC, Sample, decode_counters, decode_link, decode_queues
from .nla import HEADER, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["samples"]

_RTM_GETLINK, _RTM_GETQDISC = 18, 38
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_STATS64 = 23
_BUFFER = 1 << 17  # bytes; the kernel sends at most 32 KB at once


def samples() -> dict[int, Sample]:
    """{index: Sample}; the links have no speed and no duplex mode.  Raises OSError."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as route:
        queues = decode_queues(_dump(route, _RTM_GETQDISC, QDISC))
        found = {}
        for message in _dump(route, _RTM_GETLINK, LINK):
            fields = attributes(message, LINK.size)
            raw = fields.get(_IFLA_STATS64)
            if raw is not None:
                link = decode_link(message, fields)
                queue = queues.get(link.index)
                found[link.index] = Sample(link, decode_counters(raw), queue)
        return found


def _dump(route: socket.socket, kind: int, body: struct.Struct) -> Iterator[bytes]:
    """What follows the header of each message that answers a request for all.  Raises OSError."""
    length = HEADER.size + body.size
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    route.send(HEADER.pack(length, kind, flags, 0, 0) + bytes(body.size))
    while True:
        raw, at = route.recv(_BUFFER), 0
        while at + HEADER.size <= len(raw):
            length, answer, _, _, _ = HEADER.unpack_from(raw, at)
            if answer == _NLMSG_DONE:
                return
            message = raw[at + HEADER.size : at + length]
            if answer == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", message)[0]
                raise OSError(code, os.strerror(code))
            yield message
            at += max(length + 3 & ~3, HEADER.size)
