# SPDX-License-Identifier: GPL-2.0-or-later
"""/tmp/perf-PID.map: the names of code compiled at run time, which a JIT writes for perf.

A line is "START SIZE NAME", in hexadecimal (tools/perf/Documentation/jit-interface.txt).
The traced process owns the file and may write anything: only a file of its own
is opened, within limits, and of each line just the start and the place are kept.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right

from . import targetfile

__all__ = ["PerfMap"]

_MAX_BYTES = 32 << 20
_MAX_LINES = 1 << 19
_MAX_NAME = 4096
_PIECE = 1 << 20  # bytes read at a time
_OFFSET_BITS = 25  # of a line's offset in the file


def _start(line: bytes) -> int:
    """The address at which a line's code starts, or -1 for a malformed line."""
    try:
        start = int(line[: line.index(b" ")], 16)
    except ValueError:
        return -1
    return start if start < 1 << 64 else -1


class PerfMap:
    """The map file of a process; an empty one when it has none of its own.

    process: its directory in /proc.  cut: why not all of the file was read, or None.
    """

    cut: str | None

    def __init__(self, process: str) -> None:
        self._starts, self._offsets = array("Q"), array("I")
        self._fd, self.cut = -1, None
        try:
            directory = os.open(process, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            uid, pid = targetfile.credentials(directory)
            self._fd = targetfile.open_regular(
                f"root/tmp/perf-{pid}.map", targetfile.owned_by(uid), dir_fd=directory
            )
            self._index()
        except (OSError, ValueError):  # most processes have none
            pass
        finally:
            os.close(directory)

    def _index(self) -> None:
        """Sort the lines by their starts; of those with the same start, the last one counts."""
        keys: list[int] = []
        at, rest = 0, b""
        while at < _MAX_BYTES and len(keys) < _MAX_LINES:
            block = os.pread(self._fd, min(_PIECE, _MAX_BYTES - at), at)
            if not block:
                break
            offset = at - len(rest)
            lines = (rest + block).split(b"\n")
            at, rest = at + len(block), lines.pop()[:_PIECE]
            for line in lines:
                start = _start(line)
                if start >= 0:
                    keys.append(start << _OFFSET_BITS | offset)
                offset += len(line) + 1
        if len(keys) >= _MAX_LINES or at >= _MAX_BYTES:
            self.cut = f"only its first {len(keys)} lines are used"
        keys.sort()
        self._starts.extend(key >> _OFFSET_BITS for key in keys)
        self._offsets.extend(key & (1 << _OFFSET_BITS) - 1 for key in keys)

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, offset from its start) of the code at an address, or None."""
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        try:
            line = os.pread(self._fd, _MAX_NAME, self._offsets[i]).split(b"\n", 1)[0]
            fields = line.split(None, 2)
            start, size, name = int(fields[0], 16), int(fields[1], 16), fields[2]
        except (OSError, ValueError, IndexError):  # it may have been half written
            return None
        if start != self._starts[i] or not start <= address < start + size:
            return None
        return name.decode("utf-8", "surrogateescape"), address - start

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._starts, self._offsets = array("Q"), array("I")
