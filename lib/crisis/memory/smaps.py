# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of /proc/PID/smaps: what each mapping has in memory, and the sums.

Follows show_smap() and __show_smap() in fs/proc/task_mmu.c.  A mapping is a header, which begins
with a lower-case hexadecimal digit, and fields, which begin with a capital letter; the kernel
escapes a newline in a name.  Kernels differ in the fields that they have, not in their order.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .process import HUGE, HUGETLB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    _Entry = tuple[bytes, ...]  # the header, then the values of _FIELDS as digits

__all__ = ["Vma", "parse"]

_SHARED = ("Shared_Clean", "Shared_Dirty")
_ALWAYS = ("Rss", "Pss", *_SHARED, "Referenced")
_FIELDS = _ALWAYS + HUGE + HUGETLB
_OTHERS = r"(?:[A-Z].*\n)*?"
# One pass over the text, and no search for each field: it has 700 bytes for each mapping.  The
# fields of huge pages follow one another.
_ENTRY = (
    r"^([0-9a-f].*)\n"
    + "".join(rf"{_OTHERS}{name}: +(\d+) kB\n" for name in _ALWAYS)
    + f"(?:{_OTHERS}"
    + rf"{HUGE[0]}: +(\d+) kB\n"
    + "".join(rf"(?:{name}: +(\d+) kB\n)?" for name in HUGE[1:] + HUGETLB)
    + ")?"
)


class Vma(NamedTuple):
    """A mapping of a process (struct vm_area_struct); sizes in bytes."""

    start: int  # addresses
    end: int
    permissions: str
    name: bytes  # b"" for none
    rss: int
    pss: int
    referenced: int
    shared: int  # of the pages that other mappings map, too
    file: bytes  # device and inode; b"00:00 0" for anonymous memory


def parse(raw: bytes, touched: bool = False) -> tuple[dict[str, int], list[Vma]]:
    """({field of WINDOW_FIELDS: bytes}, mappings) of the text of smaps.

    touched: only the mappings of which Referenced is above 0; the sums are those of all.
    """
    entries: list[_Entry] = re.findall(_ENTRY.encode(), raw, re.M)
    columns = dict(zip(_FIELDS, list(zip(*entries))[1:]))
    sums = {name: _kilobytes(columns.get(name, ())) for name in _FIELDS if name not in _SHARED}
    return sums, list(_mappings(entries, touched))


def _kilobytes(column: Iterable[bytes]) -> int:
    """The sum in bytes; a field that this kernel does not have is empty."""
    return 1024 * sum(map(int, filter(None, column)))


def _mappings(entries: Iterable[_Entry], touched: bool) -> Iterator[Vma]:
    for header, rss, pss, clean, dirty, ref, *_ in entries:
        if touched and ref == b"0":
            continue
        # start-end perms offset dev inode name: show_map_vma()
        span, perms, _, device, inode, *name = header.split(None, 5)
        start, _, end = span.partition(b"-")
        yield Vma(
            int(start, 16),
            int(end, 16),
            perms.decode(),
            name[0] if name else b"",
            int(rss) * 1024,
            int(pss) * 1024,
            int(ref) * 1024,
            (int(clean) + int(dirty)) * 1024,
            device + b" " + inode,
        )
