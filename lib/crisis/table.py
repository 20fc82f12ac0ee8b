# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows as aligned text or as JSON lines.  Names from the system are always escaped."""

from __future__ import annotations

from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Cell = str | float | None

__all__ = ["escape", "decode", "size", "text", "json_line"]

# What could act on a terminal or break a line of output, as ranges of code points.
_UNSAFE = (
    (0x00, 0x1F),  # C0 control characters
    (0x7F, 0x9F),  # DEL, C1 control characters
    (0xAD, 0xAD),  # soft hyphen
    (0x61C, 0x61C),  # Arabic letter mark
    (0x200B, 0x200F),  # zero width, directional marks
    (0x2028, 0x202E),  # line and paragraph separators, bidirectional overrides
    (0x2060, 0x206F),  # invisible operators, bidirectional isolates
    (0xD800, 0xDFFF),  # surrogates
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFF9, 0xFFFB),  # interlinear annotation
    (0xE0000, 0xE007F),  # tags
)


def _escape_char(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if not any(first <= code <= last for first, last in _UNSAFE):
        return char
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def escape(value: str) -> str:
    r"""The string with control, format and surrogate characters as \xNN, \uNNNN or \UNNNNNNNN.

    A backslash becomes two, so that the result is unambiguous.
    """
    if "\\" not in value and value.isprintable():  # stricter than _UNSAFE
        return value
    return "".join(map(_escape_char, value))


def decode(raw: bytes) -> str:
    """A kernel string as str, cut at the first NUL; bytes that are not UTF-8 survive."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def size(number: int) -> str:
    """Bytes as util-linux prints them: 1023B, 1.5K, 12M, with powers of 1024."""
    if number < 1024:
        return f"{number}B"
    power = min((number.bit_length() - 1) // 10, 6)
    whole, rest = divmod(number, 1 << 10 * power)
    tenths = ((rest * 1000 >> 10 * power) + 50) // 100
    if tenths == 10:
        whole, tenths = whole + 1, 0
    fraction = f".{tenths}" if tenths else ""
    return f"{whole}{fraction}{'KMGTPE'[power - 1]}"


def _cell(value: Cell, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        value = escape(value)
    return (form % value).strip()


def text(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell]]) -> str:
    """Aligned lines, a header first, ending in a newline.

    columns: (title, format) pairs; a format such as "%8.2f" or "%-16s" is
             applied to the cell, None prints "-" in the same width, and a
             string is escaped.
    rows: sequences with one cell per column.
    """
    lines = [[title.strip() for title, _ in columns]]
    for row in rows:
        lines.append([_cell(value, form) for value, (_, form) in zip(row, columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    result = []
    for line in lines:
        cells = []
        for cell, width, (_, form) in zip(line, widths, columns):
            cells.append(cell.ljust(width) if form.startswith("%-") else cell.rjust(width))
        result.append(" ".join(cells).rstrip() + "\n")
    return "".join(result)


def json_line(record: dict[str, object]) -> str:
    r"""One JSON object and a newline, ASCII only, so that no name can break the line.

    A float is rounded to 6 places; a byte that was not UTF-8 reads \xNN.
    Raises ValueError for a float that is not finite.
    """
    return _encoder()(_plain(record)) + "\n"


@lru_cache(None)
def _encoder() -> Callable[[object], str]:
    """json.dumps() would make one for each record."""
    from json import JSONEncoder

    return JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _plain(value: object) -> object:
    if value is None or isinstance(value, int):  # most values: first
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
