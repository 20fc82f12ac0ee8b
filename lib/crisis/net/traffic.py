# SPDX-License-Identifier: GPL-2.0-or-later
"""What a network interface carried and lost between two readings.

Follows include/uapi/linux/if_link.h, include/uapi/linux/gen_stats.h and net/core/net-procfs.c.
"""

from __future__ import annotations

from operator import sub

from .link import COUNTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .link import Queue, Sample

__all__ = ["FRAME", "QUEUE", "SATURATION", "SATURATION_1_95", "Traffic"]

QUEUE = ("queue_drops", "queue_requeues")
# Packets that found no room, in the device, in the host, or in the queue.
SATURATION = ("rx_missed_errors", "rx_dropped", "tx_dropped", "queue_drops")
# What nicstat 1.95 adds up: the columns errs and drop of /proc/net/dev for received packets, and
# drop, fifo, colls and carrier for sent ones, with the counters that dev_seq_printf_stats() puts
# into each.
SATURATION_1_95 = (
    *("rx_errors", "rx_dropped", "rx_missed_errors"),
    *("tx_dropped", "tx_fifo_errors", "collisions", "tx_carrier_errors", "tx_aborted_errors"),
    *("tx_window_errors", "tx_heartbeat_errors"),
)
# Bytes of an Ethernet frame that the counters leave out: checksum, preamble and gap (IEEE 802.3).
FRAME = 24
_AT = {name: at for at, name in enumerate(COUNTERS)}
_SATURATION_1_95_AT = [_AT[name] for name in SATURATION_1_95]


class Traffic:
    """The changes of an interface.

    link: as it is now.  name: with its network namespace, where it is another one.  seconds:
    between the readings.  queue: as it is now, or None.
    """

    __slots__ = ("link", "name", "seconds", "queue", "_growth", "_now", "_queue_growth")

    def __init__(self, before: Sample | None, after: Sample, seconds: float) -> None:
        """before: None for counters that began at 0."""
        self.link, self.seconds, self.queue = after.link, seconds, after.queue
        self.name = after.link.full_name
        self._now = after.counters
        self._growth = tuple(map(sub, after.counters, before.counters)) if before else self._now
        self._queue_growth = _queue_growth(before.queue if before else None, after.queue)

    def change(self, name: str) -> int | None:
        """The growth of a counter of COUNTERS or QUEUE.

        None where the kernel or the interface does not have it, or it went back.
        """
        if name in QUEUE:
            return self._queue_growth[QUEUE.index(name)]
        at = _AT[name]
        value = self._growth[at] if at < len(self._growth) else -1
        return value if value >= 0 else None

    def rate(self, name: str, unit: float = 1) -> float | None:
        """The growth of a counter in a second, in `unit`; None where it is unknown."""
        change = self.change(name)
        return None if change is None else change / self.seconds / unit

    def average(self, way: str) -> float | None:
        """The mean size of a packet in bytes; 0 without packets.  way: "rx" or "tx"."""
        size, packets = self.change(way + "_bytes"), self.change(way + "_packets")
        if size is None or packets is None:
            return None
        return size / packets if packets else 0.0

    @property
    def used(self) -> bool:
        """Whether the interface has ever carried a packet."""
        return bool(self._now[0] or self._now[1])

    @property
    def packets(self) -> int:
        """Packets in both directions; of a counter that went back, none."""
        return (self.change("rx_packets") or 0) + (self.change("tx_packets") or 0)

    @property
    def bytes(self) -> int:
        """Bytes in both directions; of a counter that went back, none."""
        return (self.change("rx_bytes") or 0) + (self.change("tx_bytes") or 0)

    @property
    def saturation(self) -> int | None:
        """Packets of SATURATION; None where none of them is known."""
        lost = [change for change in map(self.change, SATURATION) if change is not None]
        return sum(lost) if lost else None

    @property
    def sat(self) -> int | None:
        """Packets of SATURATION_1_95; None where one of the counters went back."""
        changes = [self._growth[at] for at in _SATURATION_1_95_AT]
        return sum(changes) if min(changes) >= 0 else None

    def util(self, way: str = "") -> float | None:
        """The share of the interface's speed that its counted bytes use, as nicstat 1.95 has it.

        At most 1.  way: "rx" or "tx"; otherwise that of the busier direction, or of both together
        unless it is known to be full duplex.  None where the speed is not known.
        """
        received, sent = self.rate("rx_bytes"), self.rate("tx_bytes")
        if not self.link.speed or received is None or sent is None:
            return None
        if way:
            load = received if way == "rx" else sent
        else:
            load = max(received, sent) if self.link.full else received + sent
        return min(load * 8 / (self.link.speed * 1e6), 1.0)

    @property
    def wire_util(self) -> float | None:
        """The share of the interface's speed that is used on the wire, in the busier direction.

        With half duplex, in both together.  An Ethernet frame occupies FRAME bytes more than are
        counted.  None where the speed is not known.
        """
        frame = FRAME if self.link.ethernet else 0
        loads = []
        for way in "rx", "tx":
            size, packets = self.change(way + "_bytes"), self.change(way + "_packets")
            if size is None or packets is None or not self.link.speed:
                return None
            loads.append(size + frame * packets)
        load = sum(loads) if self.link.full is False else max(loads)
        return load * 8 / (self.link.speed * 1e6 * self.seconds) if self.link.speed else None

    def record(self) -> dict[str, object]:
        """All of it, by the keys of the suite's JSON."""
        return {
            **self.link.record(),
            "util_ratio": self.wire_util,
            "rx_util_ratio": self.util("rx"),
            "tx_util_ratio": self.util("tx"),
            "saturation_packets": self.saturation,
            "sat_packets": self.sat,
            **{name: self.change(name) for name in COUNTERS + QUEUE},
            "queue_packets": self.queue and self.queue.packets,
            "queue_bytes": self.queue and self.queue.bytes,
        }


def _queue_growth(before: Queue | None, after: Queue | None) -> tuple[int | None, int | None]:
    """The growth of QUEUE; None where the interface shows no queue."""
    if after is None:
        return None, None
    if before is None:
        return after.drops, after.requeues
    return (
        _wrapped_growth(before.drops, after.drops),
        _wrapped_growth(before.requeues, after.requeues),
    )


def _wrapped_growth(before: int, after: int) -> int:
    """The growth of a queue's counter, of 32 bits; another queueing discipline begins at 0
    again.
    """
    begun_again = before - (1 << 31) < after < before
    return after if begun_again else (after - before) % (1 << 32)
