# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard input or files, as lines of hosts."""

from __future__ import annotations

import os
import time

from .. import cli
from ..errors import Usage
from . import nodeset
from .lines import Lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .lines import Line

__all__ = ["read", "intervals", "hosts", "stream_host"]

_CHUNK = 1 << 16  # bytes
_MOST_HOSTFILE = 1 << 24  # bytes


def stream_host(path: str) -> str:
    """The host of lines that name none: that of a file is its name without .json or .jsonl."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    return stem if suffix in (".json", ".jsonl") and stem else os.path.basename(path)


def read(path: str) -> Iterator[Line]:
    """The lines of a file, "-" for standard input, until its end or a stop.

    Raises OSError.
    """
    stream = Lines(stream_host(path))
    with cli.reader(path) as file:
        data = file.read1(_CHUNK)
        while data:
            yield from stream.feed(data)
            data = file.read1(_CHUNK)
    yield from stream.feed(b"")


def intervals(interval: float, count: int | None) -> Iterator[list[Line] | None]:
    """Lines of standard input as they come, and None after each interval and at the end."""
    stream = Lines("-")
    deadline, number = time.monotonic() + interval, 0
    while not cli.stopping():
        left = deadline - time.monotonic()
        if left <= 0:
            yield None
            deadline, number = deadline + interval, number + 1
            if number == count:
                return
        elif cli.wait(left, (0,)):
            data = os.read(0, _CHUNK)
            yield list(stream.feed(data))
            if not data:
                break
    yield None


def hosts(lists: Sequence[str], files: Sequence[str]) -> list[str]:
    """The hosts of --hosts and --hostfile.  Raises OSError and Usage."""
    texts = list(lists)
    for path in files:
        with cli.reader(path) as file:
            lines = file.read(_MOST_HOSTFILE).decode("utf-8", "replace").splitlines()
        texts += [line.partition("#")[0] for line in lines]
    found = []
    for text in texts:
        try:
            found += nodeset.expand(text) if text.strip() else []
        except ValueError:
            raise Usage(
                f"'{cli.shown(text)}' is not a list of hosts, such as web[1-50],db1"
            ) from None
    return found
