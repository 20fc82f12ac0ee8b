# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of files were in memory, as JSON lines.

pagecache save writes them, and restore reads them.
"""

from __future__ import annotations

import json
import os

from .. import cli, table
from ..errors import Error
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

__all__ = ["MOST_LINE", "Saved", "lines", "parse", "read"]

MOST_LINE = 32 << 20  # bytes of a line
_MOST_RANGES = 1 << 20  # of a line; a file with more has several


class Saved:
    """The pages of a file, or of a part of them.

    name: absolute.  size: bytes, and mtime: ns, when it was saved.  ranges: [(offset, end)] in
    bytes.
    """

    __slots__ = ("name", "size", "mtime", "ranges")

    def __init__(self, name: str, size: int, mtime: int, ranges: list[tuple[int, int]]) -> None:
        self.name, self.size, self.mtime, self.ranges = name, size, mtime, ranges


def lines(
    name: str, st: os.stat_result, size: int, runs: Sequence[tuple[int, int]]
) -> Iterator[str]:
    """Yield the lines of a file.  runs: [(first page, number of pages)]."""
    for first in range(0, max(len(runs), 1), _MOST_RANGES):
        record = {
            "file": os.path.abspath(name),
            "size_bytes": size,
            "mtime_ns": st.st_mtime_ns,
            "page_bytes": PAGE,
            "ranges": runs[first : first + _MOST_RANGES],
        }
        # Not table.json_line: a name that is not UTF-8 must come back as it was.
        yield json.dumps(record, separators=(",", ":")) + "\n"


def read(path: str) -> Iterator[Saved]:
    """Yield the Saved of each line of a list, until a stop; "-" is standard input.

    Raises Error, naming the line, and OSError.
    """
    with cli.reader(path) as f:
        number = 0
        while not cli.stopping():
            line, number = f.readline(MOST_LINE + 1), number + 1
            if not line or cli.stopping():  # a stop may cut a line short
                break
            try:
                saved = parse(line)
            except ValueError as exc:
                raise Error(f"{path}, line {number}: not a line of pagecache save: {exc}") from None
            yield saved


def parse(line: bytes) -> Saved:
    """One line.  Raises ValueError.

    Anybody may have written it: what a line can cost is bounded before it is
    parsed, and each type is checked.
    """
    if len(line) > MOST_LINE:
        raise ValueError(f"it is longer than {table.size(MOST_LINE)}")
    if line.count(b",") > 2 * _MOST_RANGES + 8:
        raise ValueError(f"it has more than {_MOST_RANGES} ranges")
    if line.count(b":") > 8192:  # more than a record and the name of a file can have
        raise ValueError("it has too many members")
    try:
        record = json.loads(
            line, parse_int=_whole, parse_float=_not_whole, parse_constant=_not_whole
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    for key, kind in _MEMBERS:
        if type(record.get(key)) is not kind:  # not isinstance: true is no number
            raise ValueError(f"{key} is missing or of a wrong type")
    name, size, unit = record["file"], record["size_bytes"], record["page_bytes"]
    if not name or b"\0" in os.fsencode(name):
        raise ValueError("the file name is empty, or contains a NUL")
    if size < 0 or not 512 <= unit <= 1 << 30 or unit & unit - 1:
        raise ValueError("a size is wrong")
    return Saved(name, size, record["mtime_ns"], [_range(span, unit) for span in record["ranges"]])


_MEMBERS = (
    ("file", str),
    ("size_bytes", int),
    ("mtime_ns", int),
    ("page_bytes", int),
    ("ranges", list),
)


def _range(span: object, unit: int) -> tuple[int, int]:
    """(offset, end) in bytes of [first page, number of pages]."""
    if type(span) is not list or [type(number) for number in span] != [int, int]:
        raise ValueError("a range is not two numbers")
    first, count = span
    if first < 0 or count < 1 or (first + count) * unit >= 1 << 63:
        raise ValueError("a range is outside of a file")
    return first * unit, (first + count) * unit


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number is too large")
    return int(text)


def _not_whole(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a whole number")
