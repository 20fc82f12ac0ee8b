# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of fincore, printed in bounded memory.

As text, as util-linux's JSON document, or as JSON lines.
"""

from __future__ import annotations

import time
from operator import attrgetter

from .. import cli, table
from . import PAGE
from .record import COLUMNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from typing import Any

    from .record import Record

__all__ = ["HELD", "CHUNK", "Printer"]

HELD = 1000  # rows that wait for the widths of columns; later rows get the same widths
_LEAST = {"bytes": 5, "size": 5, "name": 4}  # widths of columns by unit, as in util-linux
CHUNK = 1 << 15  # bytes of text written at a time


def _raw(text: str) -> str:
    return "".join(
        chr(b) if 0x20 < b < 0x7F and b != 0x5C else f"\\x{b:02x}"
        for b in text.encode("utf-8", "surrogateescape")
    )


class Printer:
    """Prints records.

    args: raw, json, document, noheadings and bytes of the command.  columns: titles in COLUMNS.
    lock: a descriptor to lock while writing, where several processes print.
    """

    def __init__(self, args: Namespace, columns: Sequence[str], lock: int | None = None) -> None:
        self.args, self.lock = args, lock
        self.fields: list[tuple[str, Callable[[Record], Any], str]] = []  # title, value, unit
        for title in columns:
            member, unit, _ = COLUMNS[title]
            self.fields.append((title, attrgetter(member), unit))
        self._keys = [
            name.lower() + ("_bytes" if unit in ("bytes", "size") else "")
            for name, _, unit in self.fields
        ]
        self.parts: list[str] = []
        self.length = 0
        # Rows that wait for the widths of the columns.
        self.held: list[Sequence[str]] | None = None
        self.first = True
        self.widths: list[int] = []
        self.time: str | None = None
        self.line: Callable[[Record], str]
        if args.json:
            self.line = self._json_line
        elif args.document:
            self.line = self._json_item
        elif args.raw:
            self.line = self._plain
        else:
            self.line, self.held = self._aligned, []

    def fix_widths(self) -> None:
        """Columns as wide as numbers in general are, for lines printed before the last is known."""
        self.widths = [
            max(
                len(name),
                {"pages": 8, "percent": 7, "name": 0, "map": 0}.get(
                    unit, 13 if self.args.bytes else 6
                ),
            )
            for name, _, unit in self.fields
        ]
        self.held = None

    def begin(self, time: str | None) -> None:
        """Begin a report.  time: that of JSON records."""
        self.time, self.first = time, True
        if self.args.document:
            self._text('{\n   "fincore": [')

    def print_heading(self) -> None:
        """Print the titles: before the first record; there are none over no record."""
        self.first = False
        if self.args.json or self.args.document or self.args.noheadings:
            return
        titles = [name for name, _, _ in self.fields]
        if self.held is not None:
            self.held.append(titles)
        else:
            self._text(" ".join(titles) + "\n" if self.args.raw else self._align(titles))

    def add(self, record: Record) -> None:
        """Print a record, at once or when the widths are known."""
        if self.first and not self.args.document:
            self.print_heading()
        if self.held is None:
            self._text(self.line(record))
        else:
            self.held.append(self.cells(record))
            if len(self.held) >= HELD:
                self._release()

    def end(self) -> None:
        """Print what is held, and the end of a document."""
        if self.args.document:
            self._text("\n   ]\n}\n")
        if self.held is not None:
            self._release()
        self.flush()
        if self.line == self._aligned:
            self.held = []

    def raw_line(self, text: str) -> None:
        """Print a line as it is."""
        self._text(text)

    def flush(self) -> None:
        """Write what was printed.  Raises KeyboardInterrupt when a stop finds the lock held."""
        data = "".join(self.parts)
        self.parts, self.length = [], 0
        if self.lock is None:
            cli.out(data)
            return
        import fcntl

        until: float | None = None
        while True:  # not F_SETLKW: who holds the lock may wait for the reader of a pipe
            try:
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if until is None and cli.stopping():
                    until = time.monotonic() + 0.5
                if until is not None and time.monotonic() > until:
                    raise KeyboardInterrupt from None
                time.sleep(0.001)
        try:
            cli.out(data)
        finally:
            fcntl.lockf(self.lock, fcntl.LOCK_UN)

    def _text(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)
        if self.length > CHUNK:
            self.flush()

    def _release(self) -> None:
        rows, self.held = self.held or [], None
        self.widths = [
            max([_LEAST.get(unit, 1)] + [len(row[i]) for row in rows])
            for i, (_, _, unit) in enumerate(self.fields)
        ]
        for row in rows:
            self._text(self._align(row))

    def _align(self, cells: Sequence[str]) -> str:
        return (
            " ".join(
                [
                    cell.ljust(width) if unit in ("name", "map") else cell.rjust(width)
                    for cell, width, (_, _, unit) in zip(cells, self.widths, self.fields)
                ]
            ).rstrip()
            + "\n"
        )

    def _aligned(self, record: Record) -> str:
        return self._align(self.cells(record))

    def _plain(self, record: Record) -> str:
        return " ".join(map(_raw, self.cells(record))) + "\n"

    def cells(self, record: Record) -> list[str]:
        """The cells of a record, one for each column."""
        in_bytes, raw = self.args.bytes, self.args.raw
        found = []
        for _, value_of, unit in self.fields:
            value = value_of(record)
            if value is None:
                cell = "-"
            elif unit == "percent":
                cell = f"{value:.3f}"
            elif unit == "name":
                cell = value if raw else table.escape(value)
            elif unit in ("map", "pages"):
                cell = str(value)
            else:
                if unit == "bytes":
                    value *= PAGE
                if in_bytes:
                    cell = str(value)
                else:
                    cell = table.size(value) if value >= 0 else "-" + table.size(-value)
            found.append(cell)
        return found

    def _json_line(self, record: Record) -> str:
        values: dict[str, object] = {"time": self.time, "record": "file"}
        if record.files is not None:
            values.update(
                record="total" if record.name is None else "sum",
                files=record.files,
                unknown=record.unknown,
                interrupted=cli.stopping(),
            )
        for key, (_, value_of, unit) in zip(self._keys, self.fields):
            value = value_of(record)
            if unit == "bytes" and value is not None:
                value *= PAGE
            values[key] = value
        return table.json_line(values)

    def _json_item(self, record: Record) -> str:
        lines = []
        for name, value_of, unit in self.fields:
            value = value_of(record)
            if value is not None and unit in ("bytes", "size"):
                value = value if unit == "size" else value * PAGE
                value = value if self.args.bytes else table.size(value)
            text = table.json_line(value).rstrip("\n")
            lines.append(f'         "{name.lower()}": {text}')
        head = "\n      {\n" if self.first else ",{\n"
        self.first = False
        return head + ",\n".join(lines) + "\n      }"
