# SPDX-License-Identifier: GPL-2.0-or-later
"""What fincore knows of a file, or of several: a tuple, since processes pass it on by marshal."""

from __future__ import annotations

from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = tuple[Any, ...]

__all__ = [
    "FILE",
    "SIZE",
    "PAGES",
    "DIRTY",
    "WRITEBACK",
    "EVICTED",
    "RECENTLY_EVICTED",
    "MAP",
    "CHANGE",
    "FILES",
    "EXTENT",
    "percent",
]

FILE, SIZE, PAGES, DIRTY, WRITEBACK, EVICTED, RECENTLY_EVICTED, MAP, CHANGE, FILES, EXTENT = range(
    11
)
# (name, bytes, pages or None for each of PAGES ... RECENTLY_EVICTED, map, change in pages,
# None or (number of files, number of those whose pages are unknown),
# bytes of the file, or of the part of it, in which PAGES are counted).


def percent(record: Record) -> float | None:
    """The pages in memory, in percent; None where they are unknown and where there are none."""
    pages, extent = record[PAGES], (record[EXTENT] + PAGE - 1) // PAGE
    return None if pages is None or not extent else 100 * pages / extent


# Title: (field of a record, unit, what --help prints).  In util-linux's order, then our own.
COLUMNS: dict[str, tuple[int, str, str]] = {
    "PAGES": (PAGES, "pages", "pages of the file in memory"),
    "SIZE": (SIZE, "size", "size of the file"),
    "FILE": (FILE, "name", "name of the file"),
    "RES": (PAGES, "bytes", "data of the file in memory: PAGES in bytes"),
    "DIRTY_PAGES": (DIRTY, "pages", "pages not written back yet"),
    "DIRTY": (DIRTY, "bytes", "the same in bytes"),
    "WRITEBACK_PAGES": (WRITEBACK, "pages", "pages being written back now"),
    "WRITEBACK": (WRITEBACK, "bytes", "the same in bytes"),
    "EVICTED_PAGES": (EVICTED, "pages", "pages that were in memory and have been evicted"),
    "EVICTED": (EVICTED, "bytes", "the same in bytes"),
    "RECENTLY_EVICTED_PAGES": (
        RECENTLY_EVICTED,
        "pages",
        "evicted so recently that reading them again shows memory pressure",
    ),
    "RECENTLY_EVICTED": (RECENTLY_EVICTED, "bytes", "the same in bytes"),
    "PERCENT": (PAGES, "percent", "share of the file's pages that are in memory"),
    "MAP": (MAP, "map", "where in the file the pages are (see --map)"),
    "CHANGE": (CHANGE, "bytes", "with --watch: growth of RES since the report before"),
}
