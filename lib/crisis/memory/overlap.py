# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory several processes have touched together, where they share pages.

The kernel counts Referenced for each mapping, not for each page, so that two
mappings of the same pages may have touched the same ones or others.  What can be
known is a range.  Of a mapping's Referenced, what exceeds the number of pages
that it shares must be in pages of its own; of the rest, what one process has
touched are different pages.  And no more can be touched than there is.

Which pages are shared, and by whom, comes from the page frame numbers in
pagemap.  Without them (CAP_SYS_ADMIN) and for large sets, a page that is mapped
twice by anybody counts as shared (Shared_Clean and Shared_Dirty of smaps), and
nothing is known of how many pages there are.  Sizes are bytes.
"""

from __future__ import annotations

from ..errors import NotPermitted
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Mapping as PyMapping
    from typing import Any, Optional

    from .process import Process
    from .smaps import Vma

    _Pages = tuple[list[int], int]
    _Frames = Callable[["Mapping"], Optional[_Pages]]
    _ByKey = dict[Any, list["Mapping"]]

__all__ = ["SPAN", "LIMIT", "Mapping", "touched", "reader"]

SPAN = 64 << 30  # bytes of address space that is searched for shared pages
# shared pages whose frame numbers are read: 4 GB; it takes 120 MB of memory and 0.5 s
LIMIT = 1 << 20


class Mapping:
    """What one process has touched of one mapping.

    key: equal in mappings that may map the same pages.  process: its PID.
    start, end: addresses.  ref, shared: as in smaps.
    """

    __slots__ = "key", "process", "anonymous", "start", "end", "ref", "shared"

    def __init__(self, process: int, vma: Vma) -> None:
        self.start, self.end, self.ref, self.shared = vma.start, vma.end, vma.referenced, vma.shared
        self.process, self.anonymous = process, vma.file.endswith(b" 0")
        # A child has its anonymous memory where its parent has it; a stack grows at its start.
        self.key: bytes | int = (
            vma.file if not self.anonymous else vma.name if vma.name == b"[stack]" else self.start
        )


def touched(mappings: Iterable[Mapping], frames: _Frames | None = None) -> tuple[int, int, int]:
    """(at least, estimate, at most) of the bytes that were touched.

    The estimate is the geometric mean of the other two, so that it is wrong by the
    square root of their quotient at most.
    mappings: [Mapping].  frames(mapping): as Process.frames(), or None where they cannot be read.
    """
    keys: _ByKey = {}
    least = most = 0
    anonymous: dict[int, int] = {}
    for mapping in mappings:
        if mapping.ref:
            keys.setdefault(mapping.key, []).append(mapping)
    found = _read(keys, frames) if frames else {}
    number: dict[int, int] = {}  # of mappings, by frame
    for pages in found.values():
        for shared, _ in pages:
            for frame in shared:
                number[frame] = number.get(frame, 0) + 1
    for key, members in keys.items():
        together, shared = sum(m.ref for m in members), [m.shared for m in members]
        if key in found:
            shared = [PAGE * sum(number[frame] > 1 for frame in part) for part, _ in found[key]]
            different = len(set().union(*(part for part, _ in found[key])))
            together = min(
                together, PAGE * (different + sum(exclusive for _, exclusive in found[key]))
            )
        elif len(members) == 1 and not members[0].anonymous:
            shared = [0]
        alone = [max(m.ref - part, 0) for m, part in zip(members, shared)]
        most += together
        least += sum(alone)
        if members[
            0
        ].anonymous:  # the anonymous mappings of a process share no pages with each other
            for m, part in zip(members, alone):
                anonymous[m.process] = anonymous.get(m.process, 0) + m.ref - part
        else:
            least += max(m.ref - part for m, part in zip(members, alone))
    least = min(least + max(anonymous.values(), default=0), most)
    return least, round(float(least * most) ** 0.5), most


def _read(keys: _ByKey, frames: _Frames) -> dict[Any, list[_Pages]]:
    """{key: [(frames, number of others) of each mapping]}.

    Of those mappings that may share pages and can be read.
    """
    found: dict[Any, list[_Pages]] = {}
    budget = LIMIT
    for key, members in keys.items():
        pages = sum(m.shared for m in members) // PAGE
        if (
            0 < pages <= budget
            and (len(members) > 1 or members[0].anonymous)
            and sum(m.end - m.start for m in members) <= SPAN
        ):
            budget -= pages
            read = [frames(m) for m in members]
            known = [pages for pages in read if pages is not None]
            if len(known) == len(read):
                found[key] = known
    return found


def reader(processes: PyMapping[int, Process]) -> _Frames:
    """touched()'s frames, where Mapping.process is a PID of {PID: Process}."""
    denied = False

    def frames(mapping: Mapping) -> _Pages | None:
        nonlocal denied
        try:
            return None if denied else processes[mapping.process].frames(mapping.start, mapping.end)
        except NotPermitted:
            denied = True
        except (KeyError, ProcessLookupError):  # it has ended
            pass
        return None

    return frames
