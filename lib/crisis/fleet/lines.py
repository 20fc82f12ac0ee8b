# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of many hosts, as clush(1) and pdsh(1) print them, to hosts and JSON records.  Pure.

A line is of the host that it begins with ("web1: {...}"), else of the host whose heading came
last, as clush -b and dshbak(1) print one, else of the stream's own.  All input is hostile: the
length of a line, the depth and the size of its values are bounded.
"""

from __future__ import annotations

import json
import re
from datetime import datetime

from . import nodeset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Record = dict[str, Any]

__all__ = ["MOST_LINE", "Line", "Lines", "parse", "epoch"]

MOST_LINE = 1 << 20  # bytes of a line; longer ones are no records
MOST_TEXT = 1024  # characters of a text that are kept
MOST_DEPTH = 8  # nested values
MOST_MEMBERS = 4096  # of a record with all that is nested
MOST_DIGITS = 20  # of an integer: 64 bits
MOST_TIME = 1 << 36  # seconds since the epoch
MOST_FLOAT = 1e30  # sums of these are finite

_HOST = r"[A-Za-z0-9_.@%:\[\],/-]{1,4096}"
_PREFIX = re.compile(rf"({_HOST}):\s(?=(.*))", re.S)
_RULE = re.compile(r"-{10,}")
_HEADING = re.compile(rf"({_HOST})(?: \(\d+\))?")
_STATUS = re.compile(rf"(?:clush|pdsh@[^\s:]+): ({_HOST})(?: \(\d+\))?: (.+)")


class Line:
    """hosts: whose line it is, none if that is not known; record: its JSON object, or None.

    text: the line without the host, if it is no record; failed: it reports that the command on
    the host failed; cut: it begins as a record does.
    """

    __slots__ = "hosts", "record", "text", "failed", "cut"

    def __init__(self, hosts: Sequence[str], text: str, failed: bool = False) -> None:
        self.hosts, self.text, self.failed = hosts, text, failed
        self.record = None if failed else parse(text)
        self.cut = self.record is None and text.startswith("{")


class Lines:
    """Takes the bytes of one stream as they come, and yields its lines.

    name: the host of lines that name none.
    """

    def __init__(self, name: str) -> None:
        self._rest, self._skip = b"", False
        self._hosts: Sequence[str] = (name,)
        self._names: dict[str, Sequence[str]] = {name: self._hosts}
        self._left = nodeset.MOST  # hosts that may still be named
        self._heading: str | None = None  # None: outside, "": after the first rule

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that are complete with these bytes; b"" for the end of the stream."""
        parts = (self._rest + data).split(b"\n") if data else [self._rest, b""]
        self._rest = parts.pop()
        for part in parts:
            if self._skip:
                self._skip = False
            elif part:
                yield from self._line(part)
        if len(self._rest) > MOST_LINE:
            if not self._skip:
                yield from self._line(self._rest)
            self._rest, self._skip = b"", True

    def _line(self, raw: bytes) -> Iterator[Line]:
        text = raw[: MOST_LINE + 1].decode("utf-8", "backslashreplace").rstrip("\r")
        text = text.rpartition("\r")[2]  # clush overwrites its line of progress
        if not text.strip():
            return
        if text.startswith("{"):
            yield Line(self._hosts, text)
        elif not self._headed(text):
            yield self._prefixed(text)

    def _headed(self, text: str) -> bool:
        """Whether the line is a part of a heading: a rule, hosts, and a rule."""
        if _RULE.fullmatch(text):
            if self._heading:
                self._hosts = self._expanded(self._heading)
            self._heading = None if self._heading else ""
            return True
        match = _HEADING.fullmatch(text) if self._heading == "" else None
        self._heading = match[1] if match and self._expanded(match[1]) else None
        return self._heading is not None

    def _prefixed(self, text: str) -> Line:
        status = _STATUS.fullmatch(text)
        if status:
            return Line(self._expanded(status[1]), status[2], failed=True)
        match = _PREFIX.match(text)
        if not match:
            return Line((), text)
        return Line(self._expanded(match[1]), match[2])

    def _expanded(self, name: str) -> Sequence[str]:
        """The hosts of a prefix or heading; none for what is no list of hosts."""
        if name not in self._names:
            try:
                hosts = nodeset.expand(name)
            except ValueError:
                hosts = []
            self._left -= len(hosts) or 1
            if self._left < 0:
                return ()
            self._names[name] = tuple(hosts)
        return self._names[name]


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(text[:MOST_DIGITS])
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not abs(value) < MOST_FLOAT:  # nor NaN
        raise ValueError(text[:MOST_DIGITS])
    return value


def _refused(text: str) -> float:
    raise ValueError(text)


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_refused)


def parse(text: str) -> Record | None:
    """The JSON object of a line; None for what is none, or is beyond the bounds."""
    if len(text) > MOST_LINE or not text.startswith("{"):
        return None
    try:
        record = _decoder.decode(text)
        return _bounded(record, [MOST_MEMBERS], MOST_DEPTH)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        return None


def _bounded(value: Any, left: list[int], depth: int) -> Any:
    """The value with long texts cut and lone surrogates escaped; ValueError beyond the bounds."""
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise ValueError("too large")
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            value = value[: MOST_TEXT - 3] + "..."
        return value if value.isascii() else _unicode(value)
    if isinstance(value, dict):
        return {
            _bounded(key, left, depth): _bounded(item, left, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_bounded(item, left, depth - 1) for item in value]
    return value


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def epoch(time: object) -> float | None:
    """The seconds since the epoch of a record's "time"; None for what is none."""
    found = None
    if isinstance(time, (int, float)):
        found = float(time)
    elif isinstance(time, str):
        try:
            found = datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
        except (ValueError, OverflowError):
            pass
    return found if found is not None and 0 <= found < MOST_TIME else None
