# SPDX-License-Identifier: GPL-2.0-or-later
"""What fincore knows of a file, or of several, and the columns that show it."""

from __future__ import annotations

from operator import attrgetter

from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .residency import Counts

    # values of a Record's members, which marshal takes
    State = tuple[Any, ...]

__all__ = ["COLUMNS", "Record", "from_states", "states"]

_MEMBERS = tuple(
    "name size pages dirty writeback evicted recently_evicted"
    " map change files unknown extent".split()
)
_state: Callable[[Record], State] = attrgetter(*_MEMBERS)
_NO_COUNTS = (None,) * 5


class Record:
    """A file, or the sum of several.

    name: None for the total of JSON lines.  size: bytes.
    pages, dirty, writeback, evicted, recently_evicted: pages, None where they are not known.
    map: where in the file the pages are, or None.  change: of `pages` since the report before, or
    None.  files, unknown: of a sum, how many files, and how many whose pages are not known; None
    for a file.  extent: bytes of the file, or of the part of it, in which pages are counted.
    """

    __slots__ = _MEMBERS

    def __init__(
        self,
        name: str | None,
        size: int,
        counts: Counts | tuple[int | None, ...] | None,
        map: str | None = None,
        files: int | None = None,
        unknown: int | None = None,
        *,
        extent: int,
    ) -> None:
        """counts: pages ... recently_evicted."""
        self.name, self.size, self.map = name, size, map
        self.files, self.unknown, self.extent = files, unknown, extent
        self.change: int | None = None
        counts = counts or _NO_COUNTS
        self.pages, self.dirty, self.writeback, self.evicted, self.recently_evicted = counts

    @property
    def percent(self) -> float | None:
        """The pages in memory, in percent; None where they are unknown and where there are none."""
        pages = (self.extent + PAGE - 1) // PAGE
        return None if self.pages is None or not pages else 100 * self.pages / pages


def states(records: Iterable[Record]) -> list[State]:
    """What `from_states` takes, for the way to another process by marshal."""
    return list(map(_state, records))


def from_states(states: Iterable[State]) -> list[Record]:
    """The Records whose states() these were."""
    found, new = [], Record.__new__
    for state in states:
        record = new(Record)
        (
            record.name,
            record.size,
            record.pages,
            record.dirty,
            record.writeback,
            record.evicted,
            record.recently_evicted,
            record.map,
            record.change,
            record.files,
            record.unknown,
            record.extent,
        ) = state
        found.append(record)
    return found


# Title: (member of a Record, unit, what --help prints).  In util-linux's order, then our own.
COLUMNS: dict[str, tuple[str, str, str]] = {
    "PAGES": ("pages", "pages", "pages of the file in memory"),
    "SIZE": ("size", "size", "size of the file"),
    "FILE": ("name", "name", "name of the file"),
    "RES": ("pages", "bytes", "data of the file in memory: PAGES in bytes"),
    "DIRTY_PAGES": ("dirty", "pages", "pages not written back yet"),
    "DIRTY": ("dirty", "bytes", "the same in bytes"),
    "WRITEBACK_PAGES": ("writeback", "pages", "pages being written back now"),
    "WRITEBACK": ("writeback", "bytes", "the same in bytes"),
    "EVICTED_PAGES": ("evicted", "pages", "pages that were in memory and have been evicted"),
    "EVICTED": ("evicted", "bytes", "the same in bytes"),
    "RECENTLY_EVICTED_PAGES": (
        "recently_evicted",
        "pages",
        "evicted recently: to read them again shows pressure",
    ),
    "RECENTLY_EVICTED": ("recently_evicted", "bytes", "the same in bytes"),
    "PERCENT": ("percent", "percent", "share of the file's pages that are in memory"),
    "MAP": ("map", "map", "where in the file the pages are (see --map)"),
    "CHANGE": ("change", "bytes", "with --watch: growth of RES since the report before"),
}
