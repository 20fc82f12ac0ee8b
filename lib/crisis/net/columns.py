# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of nicstat 1.95, with their widths and precisions, and the suite's own of losses.

Values of Linux's counters where 1.95 has only zeros there: see protocols.py for %ReTX and Drops.
A number that is not known is None: the counters NoCP and Defer of an interface and InKB and OutKB
of TCP, which Linux does not keep, and the utilization of an interface without a known speed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Precision = tuple[tuple[float, int], ...]

__all__ = ["LOST", "Column", "aligned", "interfaces", "losses", "number", "tcp", "udp"]

# (limit, decimals of a number below it); none above the last.
WIDE: Precision = ((100, 2), (100000, 1))
NARROW: Precision = ((10, 2), (100, 1))
FINE: Precision = ((10, 3), (100, 2), (10000, 1))
_THREE: Precision = ((float("inf"), 3),)
_WHOLE: Precision = ()
_LINE = 80  # columns of a terminal
LOST = {
    "rErr": "rx_errors",
    "rMiss": "rx_missed_errors",
    "rDrop": "rx_dropped",
    "noHnd": "rx_nohandler",
    "wErr": "tx_errors",
    "wCarr": "tx_carrier_errors",
    "wDrop": "tx_dropped",
    "Coll": "collisions",
    "qDrop": "queue_drops",
    "qReq": "queue_requeues",
}


class Column:
    """A column: its title, its width at least, the precision, and the value of a row."""

    __slots__ = ("title", "width", "precision", "value")

    def __init__(
        self, title: str, width: int, precision: Precision, value: Callable[[Any], float | None]
    ) -> None:
        self.title, self.width, self.precision, self.value = title, width, precision, value

    def cell(self, row: Any, unknown: float | None = None) -> str:
        """The value of the row as text; `unknown`, or "-" for None, where it is not known."""
        value = self.value(row)
        return number(unknown if value is None else value, self.precision)


def number(value: float | None, precision: Precision) -> str:
    """A number with as many decimals as its size allows; "-" for None."""
    if value is None:
        return "-"
    for limit, decimals in precision:
        if value < limit:
            return f"{value:.{decimals}f}"
    return f"{value:.0f}"


def _unknown(row: Any) -> None:
    return None


def _rate(title: str, width: int, precision: Precision, *what: Any) -> Column:
    return Column(title, width, precision, lambda row: row.rate(*what))


def _percent(title: str, width: int, way: str = "") -> Column:
    def value(row: Any) -> float | None:
        share = row.util(way)
        return None if share is None else 100 * share

    return Column(title, width, NARROW, value)


def _sat() -> Column:
    return Column("Sat", 6, WIDE, lambda row: None if row.sat is None else row.sat / row.seconds)


def interfaces(
    style: str, mbps: bool = False, separate: bool = False, parseable: bool = False
) -> list[Column]:
    """The columns of an interface (a traffic.Traffic), behind its name.

    style: "summary", "full" or "extended".  mbps: throughput in units of 131,072 bytes, except in
    parseable output.  separate: utilization by direction.
    """
    unit = 131072 if mbps and not parseable else 1024
    summary, extended = style == "summary" and not parseable, style == "extended"
    titles = ("RdMbps", "WrMbps") if mbps else ("RdKB", "WrKB")
    if not extended:
        titles = ("rMbps", "wMbps") if mbps else ("rKB/s", "wKB/s")
    width, precision = (14, _THREE) if summary else (7, FINE if parseable else WIDE)
    found = [
        _rate(titles[0], width, precision, "rx_bytes", unit),
        _rate(titles[1], width, precision, "tx_bytes", unit),
    ]
    if summary:
        return found
    found += [
        _rate("RdPkt" if extended else "rPk/s", 7, precision, "rx_packets"),
        _rate("WrPkt" if extended else "wPk/s", 7, precision, "tx_packets"),
    ]
    util = [_percent("%Util", 6 if extended else 5)]
    if separate and not parseable:
        util = [_percent("%rUtil", 6, "rx"), _percent("%wUtil", 6, "tx")]
    precision = WIDE if parseable else NARROW
    errors = [
        _rate("IErr", 5 if parseable else 6, precision, "rx_errors"),
        _rate("OErr", 5, precision, "tx_errors"),
        _rate("Coll", 5, precision, "collisions"),
        Column("NoCP", 5, precision, _unknown),
        Column("Defer", 5, precision, _unknown),
    ]
    if parseable:
        return [*found, *util, _sat(), *(errors if extended else ())]
    if extended:
        return [*found, *errors, *util]
    means = [
        Column("rAvs", 7, WIDE, lambda row: row.average("rx")),
        Column("wAvs", 7, WIDE, lambda row: row.average("tx")),
    ]
    return [*found, *means, *util, *(() if separate else (_sat(),))]


def losses() -> list[Column]:
    """What an interface (a traffic.Traffic) lost in the interval, and the queue that waits now."""

    def lost(name: str) -> Callable[[Any], float | None]:
        return lambda row: row.change(name)

    found = [Column(title, len(title), _WHOLE, lost(name)) for title, name in LOST.items()]
    return [
        *found,
        Column("qLen", 4, _WHOLE, lambda row: row.queue and row.queue.packets),
        Column("qKB", 3, _WHOLE, lambda row: row.queue and row.queue.bytes / 1024),
    ]


def tcp(parseable: bool = False) -> list[Column]:
    """The columns of TCP (a protocols.Activity), behind its name."""
    wide, narrow = (FINE, FINE) if parseable else (WIDE, NARROW)
    return [
        Column("InKB", 7, wide, _unknown),
        Column("OutKB", 7, wide, _unknown),
        _rate("InSeg", 7, wide, "Tcp.InSegs"),
        _rate("OutSeg", 7, wide, "Tcp.OutSegs"),
        _rate("Reset", 5, narrow, "Tcp.EstabResets", "Tcp.OutRsts"),
        _rate("AttF", 5, narrow, "Tcp.AttemptFails"),
        Column("%ReTX", 5, FINE, lambda row: row.retransmitted),
        _rate("InConn", 6, narrow, "Tcp.PassiveOpens"),
        _rate("OutCon", 6, narrow, "Tcp.ActiveOpens"),
        _rate("Drops", 5, narrow, "TcpExt.ListenDrops"),
    ]


def udp(parseable: bool = False) -> list[Column]:
    """The columns of UDP (a protocols.Activity), behind its name."""
    precision = FINE if parseable else WIDE
    return [
        _rate("InDG", 23, precision, "Udp.InDatagrams"),
        _rate("OutDG", 7, precision, "Udp.OutDatagrams"),
        _rate("InErr", 9, precision, "Udp.InErrors"),
        _rate("OutErr", 7, precision, "Udp.SndbufErrors"),
    ]


def aligned(widths: Sequence[int], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned cells, within 80 columns where the cells allow that.

    widths: of the columns at least, negative for cells at the left; a column is as wide as its
    longest cell, and the others give what they do not need.
    """
    longest = [max(map(len, cells)) for cells in zip(*lines)]
    wide = [max(abs(width), length) for width, length in zip(widths, longest)]
    excess = sum(wide) + len(wide) - 1 - _LINE
    for at in reversed(range(len(wide))):
        cut = max(0, min(excess, wide[at] - longest[at]))
        wide[at], excess = wide[at] - cut, excess - cut
    found = []
    for line in lines:
        cells = [
            cell.ljust(room) if width < 0 else cell.rjust(room)
            for cell, room, width in zip(line, wide, widths)
        ]
        found.append(" ".join(cells).rstrip())
    return found
