# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces, over pyroute2.

Their counters and queues come by rtnetlink, and their speed by ethtool.

Follows include/uapi/linux/if_link.h (whose comments say what each counter is),
net/core/rtnetlink.c, net/core/gen_stats.c, include/uapi/linux/ethtool.h and
net/core/net-procfs.c.  Reading needs no privilege; entering another network
namespace needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import contextlib
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Queue = tuple[int, int, int, int]

__all__ = ["Links", "Link", "COUNTERS", "namespaces", "softnet", "utilization"]

# struct rtnl_link_stats64, which grows at its end.  pyroute2 decodes the first 23 members only.
COUNTERS = tuple(
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped"
    " multicast collisions rx_length_errors rx_over_errors rx_crc_errors rx_frame_errors"
    " rx_fifo_errors rx_missed_errors tx_aborted_errors tx_carrier_errors tx_fifo_errors"
    " tx_heartbeat_errors tx_window_errors rx_compressed tx_compressed rx_nohandler"
    " rx_otherhost_dropped".split()
)
ROOT_QUEUE = 0xFFFFFFFF  # TC_H_ROOT
IFF_UP, ARPHRD_ETHER = 1, 1
RTMGRP_LINK = 1
NAMED = "/run/netns"  # where ip-netns(8) keeps the namespaces that have names
# Bytes of an Ethernet frame that the counters leave out: checksum, preamble and gap (IEEE 802.3).
FRAME = 24


class Link:
    """An interface at one moment.

    netns: the network namespace as it was given to Links, None for the caller's.
    index, name: of the interface.  up: switched on by the administrator.
    state: the operational state of RFC 2863, in lower case.
    ethernet: whether it carries Ethernet frames.
    speed: Mbit/s.  full: full duplex.  Both are None where the driver has no answer.
    counters: {name of COUNTERS: count}.
    queue: (packets waiting, bytes waiting, packets dropped, packets put back)
        of its root queueing discipline, or None.
    """

    __slots__ = tuple("netns index name up state ethernet speed full counters queue".split())

    netns: str | None
    index: int
    name: str
    up: bool
    state: str
    ethernet: bool
    speed: int | None
    full: bool | None
    counters: dict[str, int]
    queue: Queue | None

    def at(self, counters: dict[str, int], queue: Queue | None) -> Link:
        """This link with the counters of another moment."""
        link = Link()
        for name in "netns", "index", "name", "up", "state", "ethernet", "speed", "full":
            setattr(link, name, getattr(self, name))
        link.counters, link.queue = counters, queue
        return link


class Links:
    """All interfaces of a network namespace.

    netns: a name of ip-netns(8), a path such as /proc/PID/ns/net, or None for
    the caller's.  Raises OSError (FileNotFoundError when there is none).
    """

    def __init__(self, netns: str | None = None) -> None:
        from pyroute2 import IPRoute
        from pyroute2.ethtool.ioctl import IoctlEthtool
        from pyroute2.netlink import nlmsg
        from pyroute2.netlink.rtnl import RTM_NEWSTATS
        from pyroute2.netlink.rtnl.ifstatsmsg import ifstatsmsg

        class Counters(nlmsg):  # type: ignore[misc]
            """struct if_stats_msg, with the counters as bytes, whatever their number."""

            fields = ifstatsmsg.fields
            nla_map = (("IFLA_STATS_UNSPEC", "none"), ("IFLA_STATS_LINK_64", "cdata"))

        self._netns = netns
        # A socket stays in the namespace in which it was made.
        with _entered(netns):
            self._route, self._ethtool = IPRoute(), IoctlEthtool()
            self._changes = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            self._changes.bind((0, RTMGRP_LINK))
        self._route.marshal.msg_map[RTM_NEWSTATS] = Counters
        self._links: dict[int, Link] | None = None
        # Changes of the carrier, and (speed, full), by name and index.
        self._speeds: dict[tuple[str, int], tuple[Any, tuple[int | None, bool | None]]] = {}

    def read(self) -> dict[int, Link]:
        """{index: Link}."""
        if self._changed() or self._links is None:
            self._links = {link.index: link for link in map(self._link, self._route.get_links())}
        queues = self._queues()
        found: dict[int, Link] = {}
        for message in self._route.stats("dump"):
            link, raw = self._links.get(message["ifindex"]), message.get_attr("IFLA_STATS_LINK_64")
            if link and raw:
                counters = memoryview(raw)[: len(raw) & ~7].cast("Q")
                found[link.index] = link.at(dict(zip(COUNTERS, counters)), queues.get(link.index))
        return found

    def _changed(self) -> bool:
        """Whether an interface has come, gone or changed since the last call.

        To read all attributes of all interfaces costs ten times what their counters do.
        """
        changed = False
        while True:
            try:
                self._changes.recv(1)
            except BlockingIOError:
                return changed
            except OSError:  # ENOBUFS: more changes than the socket holds
                pass
            changed = True

    def _link(self, message: Any) -> Link:
        link = Link()
        link.netns, link.index = self._netns, message["index"]
        link.name = os.fsdecode(message.get_attr("IFLA_IFNAME"))  # bytes where it is not UTF-8
        link.up, link.ethernet = (
            bool(message["flags"] & IFF_UP),
            message["ifi_type"] == ARPHRD_ETHER,
        )
        link.state = (message.get_attr("IFLA_OPERSTATE") or "unknown").lower()
        changes, key = message.get_attr("IFLA_CARRIER_CHANGES"), (link.name, link.index)
        known = self._speeds.get(key)
        if known is None or known[0] != changes:  # a driver may take milliseconds to answer
            known = self._speeds[key] = changes, self._speed(link.name)
        link.speed, link.full = known[1]
        return link

    def _queues(self) -> dict[int, Queue]:
        found: dict[int, Queue] = {}
        for message in self._route.get_qdiscs():
            statistics = message.get_attr("TCA_STATS2")
            queue = statistics and statistics.get_attr("TCA_STATS_QUEUE")
            if message["parent"] == ROOT_QUEUE and queue:
                found[message["index"]] = (
                    queue["qlen"],
                    queue["backlog"],
                    queue["drops"],
                    queue["requeues"],
                )
        return found

    def _speed(self, name: str) -> tuple[int | None, bool | None]:
        """(Mbit/s or None, full duplex or None)."""
        from pyroute2.ethtool.ioctl import NoSuchDevice, NotSupportedError

        try:
            self._ethtool.change_ifname(name)
            settings = self._ethtool.get_link_settings()
        except (OSError, NotSupportedError, NoSuchDevice, UnicodeEncodeError):
            return None, None
        return (
            settings.speed if 0 < settings.speed < 0x7FFFFFFF else None,
            {0: False, 1: True}.get(settings.duplex),
        )


@contextlib.contextmanager
def _entered(netns: str | None) -> Iterator[None]:
    """The calling thread in another network namespace."""
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


def utilization(link: Link, changes: Mapping[str, int], seconds: float) -> float | None:
    """The busy share of the interface's speed.

    In the busier direction, or in both for half duplex; None without speed.

    changes: {name of COUNTERS: growth}.  An Ethernet frame occupies the wire for FRAME bytes more
    than are counted.
    """
    if not link.speed or seconds <= 0:
        return None
    frame = FRAME if link.ethernet else 0
    received, sent = (
        changes[way + "_bytes"] + frame * changes[way + "_packets"] for way in ("rx", "tx")
    )
    load = received + sent if link.full is False else max(received, sent)
    return load * 8 / (link.speed * 1e6 * seconds)


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
