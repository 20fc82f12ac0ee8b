# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters of TCP and UDP of a network namespace, and nicstat's columns from them.

Follows net/ipv4/proc.c (/proc/net/snmp and /proc/net/netstat), whose names are those of RFC 4022,
RFC 4113 and enum linux_mib (include/uapi/linux/snmp.h).
"""

from __future__ import annotations

import os

from .link import entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    Counters = dict[str, int]

__all__ = ["TCP", "UDP", "Activity", "Protocols", "parse"]

# {key in JSON: counter}
TCP = {
    "in_segs": "Tcp.InSegs",
    "out_segs": "Tcp.OutSegs",
    "retrans_segs": "Tcp.RetransSegs",
    "in_errs": "Tcp.InErrs",
    "out_rsts": "Tcp.OutRsts",
    "estab_resets": "Tcp.EstabResets",
    "attempt_fails": "Tcp.AttemptFails",
    "passive_opens": "Tcp.PassiveOpens",
    "active_opens": "Tcp.ActiveOpens",
    "listen_drops": "TcpExt.ListenDrops",
    "listen_overflows": "TcpExt.ListenOverflows",
}
UDP = {
    "in_datagrams": "Udp.InDatagrams",
    "out_datagrams": "Udp.OutDatagrams",
    "in_errors": "Udp.InErrors",
    "no_ports": "Udp.NoPorts",
    "rcvbuf_errors": "Udp.RcvbufErrors",
    "sndbuf_errors": "Udp.SndbufErrors",
}
_FILES = ("/proc/net/snmp", "/proc/net/netstat")
_MAX_FILE = 1 << 16


def parse(text: str) -> Counters:
    """{"Protocol.Name": value} of pairs of lines, the names and the values of a protocol."""
    found: Counters = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        protocol, _, rest = names.partition(":")
        found.update(
            (f"{protocol}.{name}", int(value))
            for name, value in zip(rest.split(), values.partition(":")[2].split())
        )
    return found


class Protocols:
    """The counters of a network namespace.

    netns: as for link.Links.  Raises OSError.
    """

    def __init__(self, netns: str | None = None) -> None:
        self.netns = netns
        with entered(netns):  # an open file stays with the namespace in which it was opened
            self._fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in _FILES]

    def read(self) -> Counters:
        """{"Protocol.Name": value}.  Raises OSError."""
        found: Counters = {}
        for fd in self._fds:
            found.update(parse(os.pread(fd, _MAX_FILE, 0).decode("ascii", "replace")))
        return found


class Activity:
    """The growth of the counters between two readings, `seconds` apart.

    before: None for counters that began at 0.
    """

    def __init__(
        self, netns: str | None, before: Counters | None, after: Counters, seconds: float
    ) -> None:
        self.netns, self.seconds = netns, seconds
        self._before, self._after = before or {}, after

    def label(self, title: str) -> str:
        """The title, with the network namespace where it is another one."""
        return title if self.netns is None else f"{self.netns}/{title}"

    def change(self, name: str) -> int | None:
        """The growth of a counter of TCP or UDP.

        None where the kernel does not have it, or it went back.
        """
        after = self._after.get(name)
        if after is None:
            return None
        change = after - self._before.get(name, 0)
        return change if change >= 0 else None

    def rate(self, *names: str) -> float | None:
        """The growth of the sum of counters in a second; None where one is not known."""
        total = 0
        for name in names:
            change = self.change(name)
            if change is None:
                return None
            total += change
        return total / self.seconds

    def record(self, names: dict[str, str]) -> dict[str, object]:
        """The changes by the keys of the suite's JSON.  names: TCP or UDP."""
        return {"netns": self.netns, **{key: self.change(name) for key, name in names.items()}}

    @property
    def retransmitted(self) -> float | None:
        """The retransmitted segments, in percent of those sent for the first time; 0 without any.

        OutSegs leaves out segments that hold only octets which were sent before
        (__tcp_transmit_skb()).
        """
        again, sent = self.change("Tcp.RetransSegs"), self.change("Tcp.OutSegs")
        if again is None or sent is None or again and not sent:
            return None
        return 100 * again / sent if sent else 0.0
