# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces: their counters, queues and speed.

pyroute2 sends the requests and receives the answers.  Their messages are decoded here: pyroute2
makes several objects of each, which took ten times as long for the two dumps of an interval.

Follows include/uapi/linux/if_link.h (whose comments define each counter), net/core/rtnetlink.c,
net/core/gen_stats.c, include/uapi/linux/ethtool.h and net/core/net-procfs.c.  Reading needs no
privilege; entering another network namespace needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from ..errors import Unavailable
from .nla import HEADER, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Optional

    Speed = tuple[Optional[int], Optional[bool]]

__all__ = [
    "COUNTERS",
    "LINK",
    "QDISC",
    "Link",
    "Links",
    "Queue",
    "Sample",
    "decode_counters",
    "decode_link",
    "decode_queues",
    "entered",
    "namespaces",
    "softnet",
]

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
_IFF_UP, _IFF_LOOPBACK, _ARPHRD_ETHER = 1, 8, 1
_IFLA_IFNAME, _IFLA_OPERSTATE, _IFLA_CARRIER_CHANGES = 3, 16, 35
_IFLA_STATS_LINK_64 = 1
_TC_H_ROOT, _TCA_STATS2, _TCA_STATS_QUEUE = 0xFFFFFFFF, 7, 3

LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
QDISC = struct.Struct("=BxxxiIII")  # struct tcmsg
_STATS = struct.Struct("=BxxxII")  # struct if_stats_msg


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
        from pyroute2 import IPRoute
        from pyroute2.ethtool.ioctl import IoctlEthtool

        # A socket stays in the namespace in which it was made.
        with entered(netns):
            self._route, self._ethtool = IPRoute(), IoctlEthtool()
            self._changes = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            self._changes.bind((0, _RTMGRP_LINK))
        marshal = self._route.marshal
        marshal.msg_map = {**marshal.msg_map, **_undecoded()}  # the class's own is all sockets'
        self._links: dict[int, Link] | None = None
        # The number of carrier changes at which the speed was read, and the speed, by index and
        # name.
        self._speeds: dict[tuple[int, str], tuple[bytes | None, Speed]] = {}

    def links(self) -> dict[int, Link]:
        """{index: Link}, in the order of the indexes.  Raises OSError."""
        if self._changed() or self._links is None:
            found = map(self._link, self._dump(self._route.get_links))
            self._links = {link.index: link for link in found}
        return self._links

    def read(self) -> dict[int, Sample]:
        """{index: Sample}.  Raises OSError, and Unavailable if the kernel has no RTM_GETSTATS."""
        links, queues = self.links(), decode_queues(self._dump(self._route.get_qdiscs))
        found: dict[int, Sample] = {}
        try:
            messages = self._dump(
                self._route.stats,
                "dump",
                match={},  # without it, pyroute2 0.5 takes the mask for a filter of the answers
                filter_mask=1 << (_IFLA_STATS_LINK_64 - 1),
            )
        except OSError as exc:
            raise Unavailable(f"cannot read the interfaces' counters: {exc.strerror}") from exc
        for message in messages:
            _, index, _ = _STATS.unpack_from(message)
            raw = attributes(message, _STATS.size).get(_IFLA_STATS_LINK_64)
            if index in links and raw:
                found[index] = Sample(links[index], decode_counters(raw), queues.get(index))
        return found

    @staticmethod
    def _dump(request: Any, *arguments: Any, **options: Any) -> list[bytes]:
        """The bodies of the messages that answer a request by pyroute2.

        Raises OSError of the kernel's errno.
        """
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return [message.body for message in request(*arguments, **options)]
        except NetlinkError as exc:
            raise OSError(exc.code, os.strerror(exc.code)) from None

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

    def _link(self, message: bytes) -> Link:
        found = attributes(message, LINK.size)
        link = decode_link(message, found)
        link.netns = self._netns
        link.speed, link.full = self._speed(link, found.get(_IFLA_CARRIER_CHANGES))
        return link

    def _speed(self, link: Link, changes: bytes | None) -> Speed:
        if link.name in self._given:
            return self._given[link.name]
        known = self._speeds.get((link.index, link.name))
        if known is None or known[0] != changes:  # a driver may take milliseconds to answer
            known = self._speeds[link.index, link.name] = changes, self._driver_speed(link.name)
        return known[1]

    def _driver_speed(self, name: str) -> Speed:
        from pyroute2.ethtool.ioctl import NoSuchDevice, NotSupportedError

        try:
            self._ethtool.change_ifname(name)
            settings = self._ethtool.get_link_settings()
        except (OSError, NotSupportedError, NoSuchDevice, UnicodeEncodeError):
            return None, None
        speed = settings.speed if 0 < settings.speed < (1 << 31) - 1 else None
        return speed, {0: False, 1: True}.get(settings.duplex)


def decode_link(message: bytes, fields: Mapping[int, bytes]) -> Link:
    """The Link of a struct ifinfomsg and the attributes behind it, without a speed."""
    _, kind, index, flags, _ = LINK.unpack_from(message)
    link = Link()
    link.netns, link.index = None, index
    link.name = os.fsdecode(fields[_IFLA_IFNAME].rstrip(b"\0"))
    link.loopback, link.up = bool(flags & _IFF_LOOPBACK), bool(flags & _IFF_UP)
    link.ethernet = kind == _ARPHRD_ETHER
    state = fields.get(_IFLA_OPERSTATE, b"\0")[0]
    link.state = _STATES[state] if state < len(_STATES) else "unknown"
    link.speed = link.full = None
    return link


def decode_counters(raw: bytes) -> tuple[int, ...]:
    """Sample.counters of a struct rtnl_link_stats64."""
    return tuple(memoryview(raw)[: len(raw) & ~7].cast("Q"))


def decode_queues(messages: Iterable[bytes]) -> dict[int, Queue]:
    """{index of the interface: Queue} of each struct tcmsg, with its attributes, that shows one."""
    found: dict[int, Queue] = {}
    for message in messages:
        _, index, _, parent, _ = QDISC.unpack_from(message)
        if parent == _TC_H_ROOT:
            statistics = attributes(message, QDISC.size).get(_TCA_STATS2, b"")
            queue = attributes(statistics).get(_TCA_STATS_QUEUE)
            if queue:
                found[index] = Queue(*struct.unpack_from("=IIII", queue))
    return found


class _Message(dict):  # type: ignore[type-arg]
    """A message as pyroute2 wants it, of which only the head is decoded; body: the rest."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.length, *others = HEADER.unpack_from(data, offset)
        names = "type", "flags", "sequence_number", "pid"
        super().__init__(header={"length": self.length, **dict(zip(names, others))})
        self.body = bytes(data[offset + HEADER.size : offset + self.length])

    def decode(self) -> None:
        """Do nothing.  pyroute2 calls it after it has made a message."""


def _undecoded() -> dict[int, type]:
    """{type of message: class for pyroute2} of the answers."""
    from pyroute2.netlink.rtnl import RTM_NEWLINK, RTM_NEWQDISC, RTM_NEWSTATS

    return dict.fromkeys((RTM_NEWLINK, RTM_NEWQDISC, RTM_NEWSTATS), _Message)


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
