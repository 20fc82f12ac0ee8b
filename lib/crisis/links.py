# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces and their queues, by rtnetlink, and their speed, by ethtool.

Follows include/uapi/linux/if_link.h (whose comments say what each counter is),
net/core/rtnetlink.c, net/core/gen_stats.c, include/uapi/linux/ethtool.h and
net/core/net-procfs.c.  All is of the network namespace of the caller; none of
it needs a privilege.
"""

import array
import os
import socket
import struct

from . import netlink

__all__ = ["Links", "Link", "COUNTERS", "softnet", "utilization"]

# struct rtnl_link_stats64, which grows at its end.
COUNTERS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
            "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
            "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
            "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler",
            "rx_otherhost_dropped")
_RTM_GETLINK, _RTM_GETQDISC = 18, 38
_IFLA_IFNAME, _IFLA_OPERSTATE, _IFLA_STATS64, _IFLA_CARRIER_CHANGES = 3, 16, 23, 35
_TCA_STATS2, _TCA_STATS_QUEUE, _TC_H_ROOT = 7, 3, 0xffffffff
_IFF_UP, _ARPHRD_ETHER = 1, 1
_STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")       # IF_OPER_*
_SIOCETHTOOL, _GLINKSETTINGS = 0x8946, 0x4c
_FRAME = 24                     # bytes on the wire that are not counted: checksum, preamble, gap (IEEE 802.3)


class Link:
    """An interface at one moment.

    index, name; up: switched on by the administrator; state: of _STATES;
    ethernet; speed in Mbit/s, full (duplex), both None where nobody tells;
    counters: {name of COUNTERS: count}; queue: (packets waiting, bytes waiting,
    packets dropped, packets put back) of its root queueing discipline, or None.
    """

    __slots__ = "index", "name", "up", "state", "ethernet", "speed", "full", "counters", "queue"


class Links:
    """Reads all interfaces.  Raises OSError."""

    def __init__(self):
        self._netlink = netlink.Socket(netlink.ROUTE)
        self._ethtool = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._speeds = {}       # index: (changes of the carrier, (speed, full))

    def read(self):
        """{index: Link}."""
        queues, found = self._queues(), {}
        for raw in self._netlink.dump(_RTM_GETLINK, bytes(16)):
            _, hardware, index, flags, _ = struct.unpack_from("=BxHiII", raw)
            attributes = netlink.attributes(raw[16:])
            link = found[index] = Link()
            link.index, link.up, link.ethernet = index, bool(flags & _IFF_UP), hardware == _ARPHRD_ETHER
            link.name = os.fsdecode(attributes[_IFLA_IFNAME].rstrip(b"\0"))
            state = attributes.get(_IFLA_OPERSTATE, b"\0")[0]
            link.state = _STATES[state] if state < len(_STATES) else "unknown"
            counters = memoryview(attributes.get(_IFLA_STATS64, b""))
            link.counters = dict(zip(COUNTERS, counters[:len(counters) // 8 * 8].cast("Q")))
            link.queue = queues.get(index)
            changes = attributes.get(_IFLA_CARRIER_CHANGES)
            known = self._speeds.get(index)
            if known is None or known[0] != changes:        # asking may take a driver milliseconds
                known = self._speeds[index] = changes, self._speed(attributes[_IFLA_IFNAME])
            link.speed, link.full = known[1]
        return found

    def _queues(self):
        found = {}
        for raw in self._netlink.dump(_RTM_GETQDISC, bytes(20)):
            index, _, parent = struct.unpack_from("=4xiII", raw)
            statistics = netlink.attributes(raw[20:]).get(_TCA_STATS2)
            if parent == _TC_H_ROOT and statistics is not None:
                queue = netlink.attributes(statistics).get(_TCA_STATS_QUEUE, b"")
                if len(queue) >= 20:
                    waiting, backlog, drops, requeues = struct.unpack_from("=4I", queue)
                    found[index] = waiting, backlog, drops, requeues
        return found

    def _speed(self, name):
        """(Mbit/s or None, full duplex or None) by ETHTOOL_GLINKSETTINGS, which first tells how long its answer is."""
        import fcntl
        settings = array.array("B", bytes(48 + 3 * 127 * 4))
        address, _ = settings.buffer_info()
        struct.pack_into("=I", settings, 0, _GLINKSETTINGS)
        request = struct.pack("16sP16x", name.rstrip(b"\0"), address)
        try:
            fcntl.ioctl(self._ethtool, _SIOCETHTOOL, request)
            words = struct.unpack_from("=b", settings, 15)[0]
            if words >= 0:
                return None, None
            struct.pack_into("=I", settings, 0, _GLINKSETTINGS)
            struct.pack_into("=b", settings, 15, -words)
            fcntl.ioctl(self._ethtool, _SIOCETHTOOL, request)
        except OSError:                 # the driver has no answer
            return None, None
        speed, duplex = struct.unpack_from("=IB", settings, 4)
        return speed if 0 < speed < 0x7fffffff else None, {0: False, 1: True}.get(duplex)


def utilization(link, changes, seconds):
    """The busy share of the interface's speed in the busier direction, or in both for half duplex; None without speed.

    changes: {name of COUNTERS: growth}.  An Ethernet frame occupies the wire for 24 bytes more than are counted.
    """
    if not link.speed or seconds <= 0:
        return None
    frame = _FRAME if link.ethernet else 0
    received, sent = (changes[way + "_bytes"] + frame * changes[way + "_packets"] for way in ("rx", "tx"))
    load = received + sent if link.full is False else max(received, sent)
    return load * 8 / (link.speed * 1e6 * seconds)


def softnet(root="/"):
    """(dropped, squeezed) of all CPUs: packets that found the backlog full, and turns that ran out of budget."""
    dropped = squeezed = 0
    with open(os.path.join(root, "proc/net/softnet_stat")) as f:
        for line in f:
            words = line.split()
            dropped, squeezed = dropped + int(words[1], 16), squeezed + int(words[2], 16)
    return dropped, squeezed
