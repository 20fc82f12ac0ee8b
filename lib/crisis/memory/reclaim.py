# SPDX-License-Identifier: GPL-2.0-or-later
"""Direct reclaims, as progs/drsnoop.bpf.c sends them."""

from __future__ import annotations

from ..kernel import proc
from ..table import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["KINDS", "Reclaim"]

KINDS = ("global", "memcg", "node")
_UNKNOWN = (1 << 64) - 1


class Reclaim:
    """One direct reclaim.

    end: in ns of CLOCK_MONOTONIC; ns: how long it took; reclaimed, scanned: pages; free: pages at
    its begin; cgroup: its id, 0 for none; kind: one of KINDS; order, gfp: of the allocation; tgid,
    tid, uid, comm: of the task; kswapd: a letter of the state of each node's; stack: addresses,
    innermost first.  None is what is not known.
    """

    def __init__(self, event: Any, lru_gen: bool = False, wide: bool = False) -> None:
        """event: the record of struct event.

        lru_gen: the multi-generational LRU is in use; wide: the nodes are more than the program
        reads, so that it does not know what is free.
        """
        self.end, self.ns, self.reclaimed = event.ts, event.ns, event.reclaimed
        self.cgroup, self.order, self.gfp = event.cgroup, event.order, event.gfp
        self.tgid, self.tid, self.uid = event.tgid, event.tid, event.uid
        self.kind, self.comm = KINDS[event.kind], decode(event.comm)
        self.kswapd = event.kswapd.replace(b"\0", b"").decode("ascii") or None
        self.free = None if wide or event.free == _UNKNOWN else event.free
        self.scanned = scanned(event.scanned, lru_gen)
        self.stack = list(event.stack[: max(event.stack_size, 0) // 8])

    def free_pages(self) -> int:
        """Free pages when the reclaim began; else, where they could not be read there, now."""
        return proc.vmstat("nr_free_pages") if self.free is None else self.free


def scanned(pages: int, lru_gen: bool) -> int | None:
    """The number of pages that were scanned, None where that is not known.

    Linux 6.1 to 6.7 trace no scan of the multi-generational LRU.
    """
    return None if lru_gen and not pages else pages
