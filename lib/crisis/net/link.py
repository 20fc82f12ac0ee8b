# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces: their counters, queues and speed.

Follows include/uapi/linux/if_link.h (whose comments define each counter), net/core/rtnetlink.c,
net/core/gen_stats.c, net/ethtool/linkmodes.c and net/core/net-procfs.c.  Reading needs no
privilege; entering another network namespace needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from ..errors import Unavailable
from .netlink import GENERIC, ROUTE, Netlink, attribute, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Optional

    Speed = tuple[Optional[int], Optional[bool]]

__all__ = ["COUNTERS", "Link", "Links", "Queue", "Sample", "entered", "namespaces", "softnet"]

# struct rtnl_link_stats64, which grows at its end.
COUNTERS = tuple(
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped"
    " multicast collisions rx_length_errors rx_over_errors rx_crc_errors rx_frame_errors"
    " rx_fifo_errors rx_missed_errors tx_aborted_errors tx_carrier_errors tx_fifo_errors"
    " tx_heartbeat_errors tx_window_errors rx_compressed tx_compressed rx_nohandler"
    " rx_otherhost_dropped".split()
)
NAMED = "/run/netns"  # where ip-netns(8) keeps the namespaces that have names
_STATES = "unknown notpresent down lowerlayerdown testing dormant up".split()  # IF_OPER_*

_RTMGRP_LINK = 1
_RTM_GETLINK, _RTM_GETQDISC, _RTM_GETSTATS = 18, 38, 94
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_IFF_UP, _IFF_LOOPBACK, _ARPHRD_ETHER = 1, 8, 1
_IFLA_IFNAME, _IFLA_OPERSTATE, _IFLA_EXT_MASK, _IFLA_CARRIER_CHANGES = 3, 16, 29, 35
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
_STATISTICS = struct.Struct("=BxxxII")  # struct if_stats_msg: family, index, filter
_IFLA_STATS_LINK_64 = 1
_QUEUE = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_TC_H_ROOT, _TCA_STATS2, _TCA_STATS_QUEUE = 0xFFFFFFFF, 7, 3
_ETHTOOL_LINKMODES_GET, _ETHTOOL_HEADER, _ETHTOOL_DEV_INDEX = 4, 1, 1
_ETHTOOL_SPEED, _ETHTOOL_DUPLEX, _NESTED = 5, 6, 0x8000


class Link:
    """What an interface is.

    netns: the network namespace as it was given to Links, None for the caller's.
    index, name: of the interface.  loopback, ethernet: its kind.
    up: switched on by the administrator.  state: the operational state of RFC 2863, in lower case.
    speed: Mbit/s.  full: full duplex.  Both are None where the driver does not report them.
    """

    __slots__ = tuple("netns index name loopback ethernet up state speed full".split())

    netns: str | None
    index: int
    name: str
    loopback: bool
    ethernet: bool
    up: bool
    state: str
    speed: int | None
    full: bool | None

    @property
    def duplex(self) -> str | None:
        """The duplex mode, "full" or "half"; None where it is not known."""
        return {None: None, True: "full", False: "half"}[self.full]

    @property
    def full_name(self) -> str:
        """The name, with the network namespace where it is another one."""
        return self.name if self.netns is None else f"{self.netns}/{self.name}"

    def record(self) -> dict[str, object]:
        """What it is, by the keys of the suite's JSON."""
        return {
            "netns": self.netns,
            "interface": self.name,
            "index": self.index,
            "loopback": self.loopback,
            "up": self.up,
            "state": self.state,
            "speed_mbps": self.speed,
            "duplex": self.duplex,
        }


class Queue:
    """The root queueing discipline: packets and bytes that wait, packets dropped, packets put back.

    The latter two are counters of 32 bits.
    """

    __slots__ = ("packets", "bytes", "drops", "requeues")

    def __init__(self, packets: int, nbytes: int, drops: int, requeues: int) -> None:
        self.packets, self.bytes, self.drops, self.requeues = packets, nbytes, drops, requeues


class Sample:
    """An interface at one moment.

    counters: in the order of COUNTERS, as many as the kernel has.
    queue: None where the interface shows none.
    """

    __slots__ = ("link", "counters", "queue")

    def __init__(self, link: Link, counters: tuple[int, ...], queue: Queue | None) -> None:
        self.link, self.counters, self.queue = link, counters, queue


class Links:
    """All interfaces of a network namespace.

    netns: a name of ip-netns(8), a path such as /proc/PID/ns/net, or None for the caller's.
    speeds: {name: (Mbit/s, full duplex)} of interfaces whose driver is not to be queried.
    Raises OSError (FileNotFoundError when there is no such namespace).
    """

    def __init__(self, netns: str | None = None, speeds: Mapping[str, Speed] | None = None) -> None:
        self._netns, self._given = netns, speeds or {}
        # A socket stays in the namespace in which it was made.
        with entered(netns):
            self._route = Netlink(ROUTE)
            self._generic = Netlink(GENERIC)
            self._changes = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                ROUTE,
            )
            self._changes.bind((0, _RTMGRP_LINK))
        try:
            self._ethtool: int | None = self._generic.family("ethtool")
        except OSError:  # CONFIG_ETHTOOL_NETLINK is not set
            self._ethtool = None
        self._links: dict[int, Link] | None = None
        # The number of carrier changes at which the speed was read, and the speed, by index and
        # name.
        self._speeds: dict[tuple[int, str], tuple[bytes | None, Speed]] = {}

    def links(self) -> dict[int, Link]:
        """{index: Link}, in the order of the indexes.  Raises OSError."""
        if self._changed() or self._links is None:
            body = _LINK.pack(0, 0, 0, 0, 0)
            body += attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
            found = map(self._link, self._route.dump(_RTM_GETLINK, body))
            self._links = {link.index: link for link in found}
        return self._links

    def read(self) -> dict[int, Sample]:
        """{index: Sample}.  Raises OSError, and Unavailable if the kernel has no RTM_GETSTATS."""
        links, queues = self.links(), self._queues()
        found: dict[int, Sample] = {}
        body = _STATISTICS.pack(0, 0, 1 << (_IFLA_STATS_LINK_64 - 1))
        try:
            payloads = list(self._route.dump(_RTM_GETSTATS, body))
        except OSError as exc:
            raise Unavailable(f"cannot read the interfaces' counters: {exc.strerror}") from exc
        for payload in payloads:
            _, index, _ = _STATISTICS.unpack_from(payload)
            raw = attributes(payload, _STATISTICS.size).get(_IFLA_STATS_LINK_64)
            if index in links and raw:
                counters = tuple(memoryview(raw)[: len(raw) & ~7].cast("Q"))
                found[index] = Sample(links[index], counters, queues.get(index))
        return found

    def _changed(self) -> bool:
        """Whether an interface has come, gone or changed since the last call."""
        changed = False
        while True:
            try:
                self._changes.recv(1)
            except BlockingIOError:
                return changed
            except OSError:  # ENOBUFS: more changes than the socket holds
                pass
            changed = True

    def _link(self, payload: bytes) -> Link:
        link = Link()
        _, kind, link.index, flags, _ = _LINK.unpack_from(payload)
        found = attributes(payload, _LINK.size)
        link.netns, link.name = self._netns, os.fsdecode(found[_IFLA_IFNAME].rstrip(b"\0"))
        link.loopback, link.ethernet = bool(flags & _IFF_LOOPBACK), kind == _ARPHRD_ETHER
        link.up = bool(flags & _IFF_UP)
        state = found.get(_IFLA_OPERSTATE, b"\0")[0]
        link.state = _STATES[state] if state < len(_STATES) else "unknown"
        link.speed, link.full = self._speed(link, found.get(_IFLA_CARRIER_CHANGES))
        return link

    def _speed(self, link: Link, changes: bytes | None) -> Speed:
        if link.name in self._given:
            return self._given[link.name]
        known = self._speeds.get((link.index, link.name))
        if known is None or known[0] != changes:  # a driver may take milliseconds to answer
            known = self._speeds[link.index, link.name] = changes, self._driver_speed(link.index)
        return known[1]

    def _driver_speed(self, index: int) -> Speed:
        if self._ethtool is None:
            return None, None
        device = attribute(_ETHTOOL_DEV_INDEX, struct.pack("=I", index))
        body = attribute(_NESTED | _ETHTOOL_HEADER, device)
        try:
            answers = list(self._generic.generic(self._ethtool, _ETHTOOL_LINKMODES_GET, body))
        except OSError:  # the driver does not implement it, or the interface has gone
            return None, None
        found = attributes(answers[0]) if answers else {}
        speed, duplex = found.get(_ETHTOOL_SPEED), found.get(_ETHTOOL_DUPLEX, b"\xff")
        (mbps,) = struct.unpack("=I", speed) if speed else (0,)
        return mbps if 0 < mbps < 1 << 31 else None, {0: False, 1: True}.get(duplex[0])

    def _queues(self) -> dict[int, Queue]:
        found: dict[int, Queue] = {}
        for payload in self._route.dump(_RTM_GETQDISC, _QUEUE.pack(0, 0, 0, 0, 0)):
            _, index, _, parent, _ = _QUEUE.unpack_from(payload)
            if parent == _TC_H_ROOT:
                statistics = attributes(payload, _QUEUE.size).get(_TCA_STATS2, b"")
                queue = attributes(statistics).get(_TCA_STATS_QUEUE)
                if queue:
                    found[index] = Queue(*struct.unpack_from("=IIII", queue))
        return found


@contextlib.contextmanager
def entered(netns: str | None) -> Iterator[None]:
    """The calling thread in another network namespace; None for its own.

    Raises OSError, and ImportError without pyroute2.
    """
    if netns is None:
        yield
        return
    from pyroute2.netns import setns

    path = netns if "/" in netns else os.path.join(NAMED, netns)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        other = os.open(path, os.O_RDONLY)
        try:
            setns(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            setns(own)
    finally:
        os.close(own)


def namespaces(root: str = "/") -> list[str]:
    """The other network namespaces.

    Those with a name of ip-netns(8), then a path for each of which a process is a member.

    Raises OSError when /proc cannot be read.  Processes that may not be
    looked into are passed over.
    """
    own = os.stat(os.path.join(root, "proc/self/ns/net")).st_ino
    found: dict[int, str] = {}
    names = os.path.join(root, NAMED.lstrip("/"))
    for name in sorted(os.listdir(names)) if os.path.isdir(names) else ():
        found.setdefault(os.stat(os.path.join(names, name)).st_ino, name)
    for pid in sorted(
        int(name) for name in os.listdir(os.path.join(root, "proc")) if name.isdigit()
    ):
        path = os.path.join(root, f"proc/{pid}/ns/net")
        with contextlib.suppress(OSError):
            found.setdefault(os.stat(path).st_ino, path)
    found.pop(own, None)
    return list(found.values())


def softnet(root: str = "/") -> tuple[int, int]:
    """(dropped, squeezed) of all CPUs.

    Packets that found the backlog full, and turns that ran out of budget.
    """
    dropped = squeezed = 0
    with open(os.path.join(root, "proc/net/softnet_stat")) as f:
        for line in f:
            words = line.split()
            dropped, squeezed = dropped + int(words[1], 16), squeezed + int(words[2], 16)
    return dropped, squeezed
