# SPDX-License-Identifier: GPL-2.0-or-later
"""Hits and misses of the page cache, from the sums that progs/cachestat.bpf.c collects."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["Counts", "rank"]


class Counts:
    """Pages and page faults of an interval.

    A page's event and the one that explains it can fall on both sides of the interval's edge; no
    count is negative.
    """

    def __init__(self, raw: Mapping[str, int]) -> None:
        """raw: {member of struct counts: sum}."""
        self.read, self.faults = raw["read"], raw["faults"]
        self.added, self.write = raw["added"], max(0, raw["write"])
        self.metadata, self.dirties = max(0, raw["metadata"]), raw["dirtied"]
        self.reclaimed, self.dropped = raw["reclaimed"], raw["dropped"]
        self.hits = max(0, self.read - raw["read_fresh"])
        self.mmap_misses = raw["fault_added"]
        self.misses = max(0, self.added - self.mmap_misses - self.write - self.metadata)
        self.mmap_hits = max(0, self.faults - raw["fault_fresh"])
        self.read_miss, self.fault_miss = raw["read_miss"], raw["fault_miss"]
        waited_for = self.read_miss + self.fault_miss
        self.readahead = max(0, self.misses + self.mmap_misses - waited_for)

    @property
    def ratio(self) -> float | None:
        """HITS / (HITS + MISSES), None without any."""
        return _share(self.hits, self.misses)

    @property
    def demand_hits(self) -> int:
        """Requested pages that were there, also by readahead."""
        return max(0, self.read - self.read_miss)

    @property
    def demand_ratio(self) -> float | None:
        """The same share of the requested pages, None without any."""
        return _share(self.demand_hits, self.read_miss)

    def columns(self, demand: bool) -> list[int | str]:
        """HITS, MISSES, DIRTIES, HITRATIO, MMAP_HITS and MMAP_MISS as they are printed.

        demand: count as misses only the pages that a reader had to wait for.
        """
        if demand:
            mmap_hits = max(0, self.faults - self.fault_miss)
            hits, misses, ratio = self.demand_hits, self.read_miss, self.demand_ratio
            return [hits, misses, self.dirties, _percent(ratio), mmap_hits, self.fault_miss]
        hits, misses, ratio = self.hits, self.misses, self.ratio
        return [hits, misses, self.dirties, _percent(ratio), self.mmap_hits, self.mmap_misses]

    def record(self) -> dict[str, int | float | None]:
        """The members of a JSON record."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "dirties": self.dirties,
            "hit_ratio": self.ratio,
            "read_pages": self.read,
            "demand_hit_ratio": self.demand_ratio,
            "mmap_faults": self.faults,
            "mmap_hits": self.mmap_hits,
            "mmap_misses": self.mmap_misses,
            "miss_read_pages": self.read_miss,
            "miss_mmap_pages": self.fault_miss,
            "readahead_pages": self.readahead,
            "write_pages": self.write,
            "metadata_pages": self.metadata,
            "added_pages": self.added,
            "reclaimed_pages": self.reclaimed,
            "dropped_pages": self.dropped,
        }


def _share(hits: int, misses: int) -> float | None:
    return hits / (hits + misses) if hits + misses else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f}%"


def rank(group: Any) -> tuple[int, int, int]:
    """Orders groups: those that missed most come first, then those with the most hits.

    group: a record of struct group.  As with its Counts, which thousands of groups do not need.
    """
    read_in = group.counts_added - group.counts_fault_added
    read_in -= max(0, group.counts_write) + max(0, group.counts_metadata)
    hits = max(0, group.counts_read - group.counts_read_fresh)
    mmap_hits = max(0, group.counts_faults - group.counts_fault_fresh)
    return -max(0, read_in) - group.counts_fault_added, -hits - mmap_hits, -group.counts_dirtied
