# SPDX-License-Identifier: GPL-2.0-or-later
"""The network: interfaces as nicstat shows them, backlogs, TCP, UDP and connection tracking.

Follows crisis.net, and for the rest net/ipv4/proc.c (/proc/net/sockstat), ip-sysctl.rst (tcp_mem)
and net/netfilter/nf_conntrack_standalone.c.
"""

from __future__ import annotations

import os

from ..net import link, rtnl
from ..net.protocols import Activity, Protocols
from ..net.traffic import Traffic
from ..table import size
from .row import Row, contents, growth, lines, per_second, ratio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..net.link import Sample
    from .row import Counters

__all__ = ["DROPPED", "RETRANSMITTED", "SEGMENTS", "Conntrack", "Interfaces", "Stack"]

DROPPED = 10  # rx_dropped a second: packets of unknown protocols, such as STP, count, too
RETRANSMITTED = 0.01  # of the segments sent
SEGMENTS = 5  # retransmitted segments a second
_REFUSED = 10  # entries that were not inserted a second
_CLASS = "/sys/class/net"
_LOST = ("rx_missed_errors", "tx_dropped", "queue_drops")  # and rx_dropped
_SHOWN = (
    "index up state speed_mbps duplex rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors"
    " rx_dropped rx_missed_errors tx_dropped tx_carrier_errors collisions queue_drops"
    " queue_packets".split()
)
_TCP = (
    *("Tcp.InSegs", "Tcp.OutSegs", "Tcp.RetransSegs", "Tcp.InErrs"),
    *("TcpExt.ListenOverflows", "TcpExt.ListenDrops"),
)
_UDP = ("Udp.InDatagrams", "Udp.OutDatagrams", "Udp.InErrors", "Udp.RcvbufErrors")
_UDP_MORE = ("Udp.SndbufErrors", "Udp.InCsumErrors")


class Interfaces:
    """A row for each interface that is up or has carried a packet."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> dict[int, Sample] | None:
        """The interfaces now, by their index; None where they cannot be read."""
        try:
            found = rtnl.samples()
        except OSError as exc:  # a sandbox
            self.missing = [f"no rtnetlink: {exc.strerror}"]
            return None
        for sample in found.values():
            if _has_device(sample.link.name):
                sample.link.speed, sample.link.full = _speed(sample.link.name)
        return found

    def rows(
        self, before: dict[int, Sample] | None, after: dict[int, Sample] | None, seconds: float
    ) -> list[Row]:
        """The rows; one without values where the interfaces cannot be read."""
        if before is None or after is None:
            return [Row("interface", unit="packets/s", notes=self.missing)]
        found = [
            Traffic(before[index], after[index], seconds)
            for index in sorted(after)
            if index in before
        ]
        return [_interface(one) for one in found if one.link.up or one.used]


def _speed(name: str) -> tuple[int | None, bool | None]:
    """(Mbit/s, full duplex) as the driver has it; None where it does not know."""
    speed = contents(f"{_CLASS}/{name}/speed") or ""
    full = {"full": True, "half": False}.get(contents(f"{_CLASS}/{name}/duplex") or "")
    return int(speed) if speed.isdigit() and int(speed) else None, full  # -1: unknown


def _interface(one: Traffic) -> Row:
    name = one.link.name
    util = one.wire_util
    lost, ignored = _sum(one, _LOST), one.change("rx_dropped") or 0
    errors = _sum(one, ("rx_errors", "tx_errors"))
    down = one.link.up and one.link.state in ("down", "lowerlayerdown")
    notes = ["no carrier" if down else None]
    for count, what in (
        (one.change("queue_drops"), "qdisc drops"),
        (one.change("rx_missed_errors"), "ring overflows"),
    ):
        notes.append(f"{what}: {count}" if count else None)
    if one.packets:
        received, sent = (one.rate(way + "_bytes") or 0 for way in ("rx", "tx"))
        notes.append(f"in {size(int(received))}/s, out {size(int(sent))}/s")
    notes.append(f"{one.link.speed} Mbit/s" if one.link.speed else None)
    record = one.record()
    return Row(
        "interface",
        name,
        util=util,
        saturation=(lost + ignored) / one.seconds,
        unit="packets/s",
        errors=errors,
        saturated=lost > 0 or ignored / one.seconds >= DROPPED,
        notes=notes,
        values={key: record[key] for key in _SHOWN},
    )


def _sum(one: Traffic, names: tuple[str, ...]) -> int:
    return sum(one.change(name) or 0 for name in names)


def _has_device(name: str, depth: int = 4) -> bool:
    """Whether an interface has a device, or lies upon one that has: a bond, a VLAN, a bridge.

    Others, such as veth and tun, report a speed that limits nothing.
    """
    at = f"{_CLASS}/{name}"
    if os.path.exists(at + "/device"):
        return True
    try:
        below = [entry[6:] for entry in os.listdir(at) if entry.startswith("lower_")]
    except OSError:
        return False
    return depth > 0 and any(_has_device(lower, depth - 1) for lower in below)


class Stack:
    """A row each for the CPUs' backlogs (softnet), TCP and UDP."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._protocols: Protocols | None = None
        try:
            self._protocols = Protocols()
        except OSError as exc:
            self.missing.append(f"TCP and UDP: {exc.strerror}")

    def read(self) -> Counters:
        """The counters now."""
        found: Counters = {}
        if self._protocols:
            found.update(self._protocols.read())
        try:
            found["softnet_dropped"], found["softnet_squeezed"] = link.softnet()
        except OSError:
            pass  # without /proc/net
        for line in lines("/proc/net/sockstat"):
            kind, *words = line.split()
            if kind == "TCP:":
                found.update(("tcp_" + k, int(v)) for k, v in zip(words[::2], words[1::2]))
        limits = (contents("/proc/sys/net/ipv4/tcp_mem") or "").split()
        if len(limits) == 3:
            found["tcp_mem_limit"] = int(limits[2])
        return found

    def rows(self, before: Counters, after: Counters, seconds: float) -> list[Row]:
        """The rows."""
        dropped = growth(before, after, "softnet_dropped")
        squeezed = growth(before, after, "softnet_squeezed")
        softnet = Row(
            "softnet",
            saturation=per_second(dropped, seconds),
            unit="packets/s",
            saturated=bool(dropped),
            notes=[f"out of budget: {squeezed}" if squeezed else None],
            values={"dropped_packets": dropped, "squeezed": squeezed},
        )
        activity = Activity(None, before, after, seconds)
        return [softnet, _tcp(activity, after, seconds), _udp(activity, seconds)]


def _tcp(activity: Activity, after: Counters, seconds: float) -> Row:
    again, percent = activity.change("Tcp.RetransSegs"), activity.retransmitted
    share = None if percent is None else percent / 100
    drops = activity.change("TcpExt.ListenDrops")
    util = ratio(after.get("tcp_mem"), after.get("tcp_mem_limit"))
    many = (per_second(again, seconds) or 0) >= SEGMENTS and (share or 0) >= RETRANSMITTED
    notes = [
        f"connections dropped: {drops}" if drops else None,
        None if not share else f"retransmitted: {100 * share:.2f}%",
        f"sockets: {after['tcp_inuse']}" if "tcp_inuse" in after else None,
    ]
    return Row(
        "tcp",
        util=util,
        saturation=per_second(drops, seconds),
        unit="connections/s",
        errors=again,
        erroneous=many,
        saturated=bool(drops),
        notes=notes,
        values={
            **_changes(activity, _TCP),
            "retransmitted_ratio": share,
            "memory_pages": after.get("tcp_mem"),
            "memory_limit_pages": after.get("tcp_mem_limit"),
            "sockets": after.get("tcp_inuse"),
            "orphans": after.get("tcp_orphan"),
            "time_wait": after.get("tcp_tw"),
        },
    )


def _udp(activity: Activity, seconds: float) -> Row:
    full = [activity.change(name) for name in ("Udp.RcvbufErrors", "Udp.SndbufErrors")]
    known = [change for change in full if change is not None]
    received = full[0]
    return Row(
        "udp",
        saturation=per_second(sum(known), seconds) if known else None,
        unit="datagrams/s",
        errors=activity.change("Udp.InCsumErrors"),
        saturated=any(known),
        notes=[f"receive buffers full: {received}" if received else None],
        values=_changes(activity, _UDP + _UDP_MORE),
    )


def _changes(activity: Activity, names: tuple[str, ...]) -> dict[str, object]:
    """The growth of the counters, by their names in JSON: "out_segs"."""
    keys = {name: name.partition(".")[2] for name in names}
    return {_snake(key): activity.change(name) for name, key in keys.items()}


def _snake(name: str) -> str:
    """OutSegs as out_segs."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class Conntrack:
    """A row for the connection tracking table, where there is one."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> Counters:
        """The counters now."""
        found: Counters = {}
        for key, file in ("entries", "nf_conntrack_count"), ("limit", "nf_conntrack_max"):
            text = contents("/proc/sys/net/netfilter/" + file)
            if text is not None:
                found[key] = int(text)
        title, *cpus = lines("/proc/net/stat/nf_conntrack") or [""]
        for line in cpus:  # a line for each CPU
            for name, word in zip(title.split(), line.split()):
                if name in ("insert_failed", "drop", "early_drop"):
                    found[name] = found.get(name, 0) + int(word, 16)
        return found

    def rows(self, before: Mapping[str, int], after: Counters, seconds: float) -> list[Row]:
        """The row."""
        if "entries" not in after:
            return []
        dropped = growth(before, after, "drop", "early_drop")
        failed = growth(before, after, "insert_failed")
        row = Row(
            "conntrack",
            util=ratio(after["entries"], after.get("limit")),
            saturation=per_second(dropped, seconds),
            unit="packets/s",
            errors=failed,
            erroneous=(per_second(failed, seconds) or 0) >= _REFUSED,
            saturated=bool(dropped),
            notes=[f"{after['entries']} of {after.get('limit', '?')} connections"],
            values={
                "entries": after["entries"],
                "limit": after.get("limit"),
                "dropped": growth(before, after, "drop"),
                "early_dropped": growth(before, after, "early_drop"),
                "insert_failed": failed,
            },
        )
        return [row]
