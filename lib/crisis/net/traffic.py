# SPDX-License-Identifier: GPL-2.0-or-later
"""What a network interface carried and lost between two readings.

Follows include/uapi/linux/if_link.h and include/uapi/linux/gen_stats.h.
"""

from __future__ import annotations

from .link import utilization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .link import Link

__all__ = ["QUEUE", "SATURATION", "Traffic"]

QUEUE = ("queue_drops", "queue_requeues")
# Packets that found no room, in the device, in the host, or in the queue.
SATURATION = ("rx_missed_errors", "rx_dropped", "tx_dropped", "queue_drops")


class Traffic:
    """The changes of an interface.

    link: as it is now.  name: with its network namespace, where it is another one.  seconds:
    between the readings.
    changes: {name of link.COUNTERS or QUEUE: growth, or None where the counter went back}.
    bytes: in both directions.  util: as link.utilization() gives it.
    saturation: packets of SATURATION, None where none of them is known.
    """

    __slots__ = ("link", "name", "seconds", "changes", "bytes", "util", "saturation")

    def __init__(self, before: Link | None, after: Link, seconds: float) -> None:
        """before: None for an interface that has come since: its counters began at 0."""
        self.link, self.seconds = after, seconds
        self.name = after.name if after.netns is None else f"{after.netns}/{after.name}"
        old = before.counters if before else {}
        self.changes: dict[str, int | None] = {
            name: _growth(old.get(name, 0), value) for name, value in after.counters.items()
        }
        self.changes.update(_queue_changes(before, after))
        names = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
        known = {name: change for name, change in self.changes.items() if change is not None}
        self.bytes = known.get("rx_bytes", 0) + known.get("tx_bytes", 0)
        self.util: float | None = None
        if all(name in known for name in names):
            self.util = utilization(after, known, seconds)
        lost = [known[name] for name in SATURATION if name in known]
        self.saturation = sum(lost) if lost else None

    def rate(self, name: str, unit: float = 1) -> float | None:
        """The growth of a counter in a second, in `unit`; None where it is unknown."""
        change = self.changes.get(name)
        return None if change is None else change / self.seconds / unit

    def average(self, way: str) -> float | None:
        """The mean size of a packet in bytes; None without packets.  way: "rx" or "tx"."""
        size, packets = self.changes.get(way + "_bytes"), self.changes.get(way + "_packets")
        return size / packets if packets and size is not None else None


def _queue_changes(before: Link | None, after: Link) -> dict[str, int | None]:
    """The growth of QUEUE; None where the interface shows no queue."""
    if after.queue is None:
        return dict.fromkeys(QUEUE)
    old = before.queue if before and before.queue else (0, 0, 0, 0)
    _, _, drops, requeues = after.queue
    return dict(zip(QUEUE, (_wrapped_growth(old[2], drops), _wrapped_growth(old[3], requeues))))


def _growth(before: int, after: int) -> int | None:
    return after - before if after >= before else None


def _wrapped_growth(before: int, after: int) -> int:
    """The growth of a queue's counter, of 32 bits; another queueing discipline begins at 0
    again.
    """
    begun_again = before - (1 << 31) < after < before
    return after if begun_again else (after - before) % (1 << 32)
