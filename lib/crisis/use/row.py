# SPDX-License-Identifier: GPL-2.0-or-later
"""A row of the USE method, which of its values pass a threshold, and which rows are shown."""

from __future__ import annotations

import os

from ..kernel import pressure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Counters = dict[str, int]

__all__ = ["FULL", "Row", "visible", "contents", "lines", "growth", "per_second", "ratio", "stall"]

FULL = 0.9  # the utilization from which a row is marked
_IDLE = 0.01  # the utilization below which a row counts as idle
_SMALL_FILE = 4096


class Row:
    """What a resource did in an interval.

    kind: "cpu", "disk", …; name: of a resource that there can be several of, else None.
    util: share of its capacity in use, None where that is not known.
    saturation: how much work waited or was turned away, in `unit`; errors: how many in the
    interval.  None where they are not known.
    erroneous, saturated: the value passes its threshold, or is at fault for another reason.
    notes: the most important first.  values: what the row was computed from, for JSON.
    """

    __slots__ = tuple("kind name util saturation unit errors marks notes values".split())

    def __init__(
        self,
        kind: str,
        name: str | None = None,
        util: float | None = None,
        saturation: float | None = None,
        unit: str | None = None,
        errors: int | None = None,
        erroneous: bool | None = None,
        saturated: bool = False,
        notes: Iterable[str | None] = (),
        values: dict[str, object] | None = None,
    ) -> None:
        """erroneous: None for any error; notes: those that are None are left out."""
        self.kind, self.name, self.util = kind, name, util
        self.saturation, self.unit, self.errors = saturation, unit, errors
        passed = {
            "errors": bool(errors) if erroneous is None else erroneous,
            "saturation": saturated,
            "utilization": util is not None and util >= FULL,
        }
        self.marks = tuple(mark for mark, over in passed.items() if over)
        self.notes = [note for note in notes if note]
        self.values = values or {}

    @property
    def idle(self) -> bool:
        """Nothing is marked, waits or fails, and the utilization is below 1 %."""
        used = self.util is not None and self.util >= _IDLE
        return not (self.marks or used or self.saturation or self.errors)


def visible(rows: Sequence[Row], most: int) -> tuple[list[Row], list[Row]]:
    """(rows to show, the rest) of one kind, both in their order.

    The marked ones are shown, and up to `most` rows in all the most used ones.
    """

    def rank(at: int) -> tuple[bool, bool, float, int]:
        row = rows[at]
        return not row.marks, row.idle, -(row.util or 0), at

    ranked = sorted(range(len(rows)), key=rank)
    shown = {at for number, at in enumerate(ranked) if number < most or rows[at].marks}
    return (
        [row for at, row in enumerate(rows) if at in shown],
        [row for at, row in enumerate(rows) if at not in shown],
    )


def contents(path: str) -> str | None:
    """A file of less than a page without white space at its ends; None when it cannot be read.

    open() takes twice as long, which the files of thousands of cgroups and processes make
    noticeable.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, _SMALL_FILE).decode("utf-8", "surrogateescape").strip()
    except OSError:  # ENODEV: a cgroup or device that has gone
        return None
    finally:
        os.close(fd)


def lines(path: str) -> list[str]:
    """The lines of a file of any size; [] when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as f:
            return f.read().splitlines()
    except OSError:
        return []


def growth(before: Mapping[str, int], after: Mapping[str, int], *names: str) -> int | None:
    """The growth of the sum of those counters that both readings have.

    None where there is none of them, or one went back.
    """
    changes = [after[name] - before[name] for name in names if name in before and name in after]
    if not changes or min(changes) < 0:
        return None
    return sum(changes)


def per_second(change: int | None, seconds: float) -> float | None:
    """A growth as a rate."""
    return None if change is None or seconds <= 0 else change / seconds


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole; None where one is not known or the whole is 0."""
    return None if part is None or not whole else part / whole


def stall(path: str) -> dict[str, int]:
    """{"psi_some_us": time for which some task waited} of a pressure file; {} without it."""
    text = contents(path)
    some = pressure.parse(text.encode()).get("some") if text else None
    return {} if some is None else {"psi_some_us": some.total}
