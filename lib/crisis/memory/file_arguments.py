# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of fincore and pagecache that choose files."""

from __future__ import annotations

import os

from .. import cli
from ..errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator

__all__ = ["add_arguments", "names_from"]

_NAME_MAX = 1 << 16  # bytes of a name in a list: open(2) takes 4096


def add_arguments(p: ArgumentParser) -> None:
    """Add to a parser the arguments that choose files, and the form of sizes and headings."""
    p.add_argument("-b", "--bytes", action="store_true", help="print sizes in bytes, not as 1.5M")
    p.add_argument("-n", "--noheadings", action="store_true", help="print no headings")
    p.add_argument(
        "-x",
        "--one-file-system",
        action="store_true",
        help="stay on the file system of each argument",
    )
    p.add_argument(
        "-L", "--dereference", action="store_true", help="follow symbolic links inside directories"
    )
    p.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and directories whose name or path matches the shell pattern; may be "
        "repeated",
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
