# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of fincore and pagecache that choose files and parts of them.

The letters are those of vmtouch, where they are free.
"""

from __future__ import annotations

import os

from .. import cli, table
from ..errors import Error
from . import PAGE
from .walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from typing import Any, Union

    Range = tuple[int, Union[int, None]]  # the first byte, which begins a page, and the end

__all__ = [
    "add_arguments",
    "byte_range",
    "byte_size",
    "names_from",
    "note_left_out",
    "span",
    "walk",
]

_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40}
_LARGEST = 1 << 63  # bytes
_NAME_MAX = 1 << 16  # bytes of a name in a list: open(2) takes 4096


def byte_size(text: str) -> int:
    """Bytes, as 4096, 4k, 100M or 1.5G; ArgumentTypeError otherwise."""
    shift = _SHIFTS.get(text[-1:].lower(), 0)
    digits = text[:-1] if shift else text
    if not (digits.isascii() and digits.replace(".", "", 1).isdigit()):
        raise cli.type_error(text, "a size in bytes, such as 4096, 4k, 100M or 1.5G")
    value = int(float(digits) * (1 << shift)) if "." in digits else int(digits[:20]) << shift
    if value >= 1 << 63:
        raise cli.type_error(text, "a size below 8E")
    return value


def byte_range(text: str) -> Range:
    """A part of a file, as 4k-50k, 100M-, -5M or 5M: the first 5 MB; ArgumentTypeError otherwise.

    It begins with the page that its first byte is in.  An end of 0 is that of the file.
    """
    first, hyphen, last = text.rpartition("-")
    if "-" in first:
        raise cli.type_error(text, "a range, such as 4k-50k, 100M- or 5M")
    start = byte_size(first) // PAGE * PAGE if first else 0
    end = byte_size(last) if last or not hyphen else 0
    if end and end <= start:
        raise cli.type_error(text, "a range in ascending order")
    return start, end or None


def span(part: Range | None, size: int) -> tuple[int, int]:
    """(start, end) in bytes of a part of a file of that size, to the end of the last page."""
    start, end = part or (0, None)
    if end is None or end >= size:
        return min(start, size), size
    return start, min(-(-end // PAGE) * PAGE, size)


def add_arguments(p: ArgumentParser, *range_options: str) -> None:
    """Add to a parser the arguments that choose files, and the form of sizes and headings.

    range_options: the names of the option that chooses a part of each file.
    """
    p.add_argument("-b", "--bytes", action="store_true", help="print sizes in bytes, not as 1.5M")
    p.add_argument("-n", "--noheadings", action="store_true", help="print no headings")
    p.add_argument(
        "-x",
        "-F",
        "--one-file-system",
        action="store_true",
        help="stay on the file system of each argument",
    )
    p.add_argument(
        "-L",
        "-f",
        "--dereference",
        action="store_true",
        help="follow symbolic links inside directories",
    )
    p.add_argument(
        "-i",
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and directories whose name matches the shell pattern, or whose path "
        "does if the pattern has a slash; may be repeated",
    )
    p.add_argument(
        "-I",
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only files that match the shell pattern; may be repeated",
    )
    p.add_argument(
        "-m",
        "--max-size",
        type=byte_size,
        metavar="SIZE",
        help="leave out files larger than SIZE bytes; K, M, G and T are powers of 1024",
    )
    p.add_argument(
        *range_options,
        dest="range",
        type=byte_range,
        metavar="RANGE",
        help="only this part of each file, in bytes: 4k-50k, 100M-, or 5M for the first 5 MB",
    )
    p.add_argument(
        "--files-from",
        metavar="LIST",
        help="read names from this file, one a line; - is standard input",
    )
    p.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="names of --files-from end in a NUL byte, not a newline",
    )


def walk(args: Namespace, share: tuple[int, int] = (0, 1), **options: Any) -> Walk:
    """The Walk over the files that the arguments choose.  options: of Walk."""
    first = args.range[0] if args.range else 0
    largest = _LARGEST if args.max_size is None else args.max_size
    return Walk(
        args.exclude,
        args.one_file_system,
        args.dereference,
        share,
        stopping=cli.stopping,
        include=args.include,
        sizes=(first + 1 if first else 0, largest),
        **options,
    )


def note_left_out(args: Namespace, walk: Walk) -> None:
    """Print how many files -m and the range have left out."""
    for number, why in (
        (walk.too_large, f"larger than {table.size(args.max_size or 0)}"),
        (walk.too_small, "too short for the range"),
    ):
        if number:
            cli.note(f"left out: {number} file{'s' if number > 1 else ''} {why}")


def names_from(path: str, null: bool) -> Iterator[str]:
    """Yield the names in a list file as they come, until its end or a stop.

    "-" is standard input.  Raises OSError.
    """
    separator, rest = b"\0" if null else b"\n", b""
    with cli.reader(path) as stream:
        for block in iter(lambda: stream.read1(1 << 16), b""):
            *names, rest = (rest + block).split(separator)
            yield from map(os.fsdecode, filter(None, names))
            if len(rest) > _NAME_MAX:
                raise Error(
                    f"cannot read names from {path}: one has more than {_NAME_MAX} bytes. With -0 "
                    f"they end in NUL bytes"
                )
    if rest and not cli.stopping():  # else it may be half a name
        yield os.fsdecode(rest)
