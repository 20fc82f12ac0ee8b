# SPDX-License-Identifier: GPL-2.0-or-later
"""/tmp/perf-PID.map: the names of code compiled at run time, which a JIT writes for perf.

A line is "START SIZE NAME", in hexadecimal (tools/perf/Documentation/jit-interface.txt).
The traced process owns the file and may write anything: only what is its own
is opened, within limits, and of each line just the start and the place are kept.
"""

import os
from array import array
from bisect import bisect_right

from . import targetfile

__all__ = ["PerfMap"]

_MOST_BYTES = 32 << 20
_MOST_LINES = 1 << 19
_MOST_NAME = 4096
_PIECE = 1 << 20
_OFFSET_BITS = 25               # of a line's offset in the file


class PerfMap:
    """The map file of a process; an empty one when it has none of its own.

    process: its directory in /proc.  cut: why not all of the file was read, or None.
    """

    def __init__(self, process):
        self._starts, self._offsets, self._fd, self.cut = array("Q"), array("I"), None, None
        try:
            directory = os.open(process, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            uid, pid = targetfile.credentials(directory)
            self._fd = targetfile.open_regular("root/tmp/perf-%d.map" % pid, targetfile.owned_by(uid), dir_fd=directory)
            self._index()
        except (OSError, ValueError):           # most processes have none
            pass
        finally:
            os.close(directory)

    def _index(self):
        """Sort the lines by their starts; of several with one start the last in the file is the one that counts."""
        keys, at, rest = [], 0, b""
        while at < _MOST_BYTES and len(keys) < _MOST_LINES:
            block = os.pread(self._fd, min(_PIECE, _MOST_BYTES - at), at)
            if not block:
                break
            first = at - len(rest)
            lines = (rest + block).split(b"\n")
            at, rest = at + len(block), lines.pop()[:_PIECE]
            for line in lines:
                try:
                    start = int(line[:line.index(b" ")], 16)
                except ValueError:
                    start = -1
                if 0 <= start < 1 << 64:
                    keys.append(start << _OFFSET_BITS | first)
                first += len(line) + 1
        if len(keys) >= _MOST_LINES or at >= _MOST_BYTES:
            self.cut = "only its first %d lines are used" % len(keys)
        keys.sort()
        self._starts.extend(key >> _OFFSET_BITS for key in keys)
        self._offsets.extend(key & (1 << _OFFSET_BITS) - 1 for key in keys)

    def find(self, address):
        """(name, offset) or None."""
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        try:
            fields = os.pread(self._fd, _MOST_NAME, self._offsets[i]).split(b"\n", 1)[0].split(None, 2)
            start, size, name = int(fields[0], 16), int(fields[1], 16), fields[2]
        except (OSError, ValueError, IndexError):               # it may have been half written
            return None
        if start != self._starts[i] or not start <= address < start + size:
            return None
        return name.decode("utf-8", "surrogateescape"), address - start

    def close(self):
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._starts, self._offsets = array("Q"), array("I")
