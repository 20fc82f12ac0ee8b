# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows to aligned text or to JSON lines.  Names from the system are always escaped."""

__all__ = ["escape", "decode", "size", "text", "json_line"]

def _unsafe(char):
    """True for a character that could act on a terminal or break a line of output."""
    code = ord(char)
    if code < 0x20 or 0x7f <= code < 0xa0 or 0xd800 <= code < 0xe000:
        return True
    # Format, line and paragraph characters: bidirectional overrides, zero width, BOM, tags.
    return (0x200b <= code <= 0x200f or 0x2028 <= code <= 0x202e or 0x2060 <= code <= 0x206f
            or code in (0xad, 0x61c, 0xfeff) or 0xfff9 <= code <= 0xfffb
            or 0xe0000 <= code <= 0xe007f)


def escape(value):
    r"""The string with control, format and surrogate characters as \xNN, \uNNNN or \UNNNNNNNN.

    A backslash becomes two, so that the result is unambiguous.
    """
    if "\\" not in value and value.isprintable():       # stricter than what follows
        return value
    parts = []
    for char in value:
        if char == "\\":
            parts.append("\\\\")
        elif _unsafe(char):
            code = ord(char)
            if 0xdc80 <= code <= 0xdcff:        # a byte that was not UTF-8 (surrogateescape)
                parts.append("\\x%02x" % (code - 0xdc00))
            else:
                parts.append("\\x%02x" % code if code < 0x100 else
                             "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code)
        else:
            parts.append(char)
    return "".join(parts)


def decode(raw):
    """Bytes of a kernel string, cut at the first NUL, as str; bytes that are not UTF-8 survive."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def size(number):
    """Bytes as util-linux prints them: 1023B, 1.5K, 12M, with powers of 1024."""
    if number < 1024:
        return "%dB" % number
    power = min((number.bit_length() - 1) // 10, 6)
    whole, rest = number >> 10 * power, number & (1 << 10 * power) - 1
    tenths = ((rest * 1000 >> 10 * power) + 50) // 100
    if tenths == 10:
        whole, tenths = whole + 1, 0
    return "%d%s%s" % (whole, ".%d" % tenths if tenths else "", "KMGTPE"[power - 1])


def text(columns, rows):
    """Aligned lines, a header first, ending in a newline.

    columns: (title, format) pairs; a format such as "%8.2f" or "%-16s" is
             applied to the cell, None prints "-" in the same width, and a
             string is escaped.
    rows: sequences with one cell per column.
    """
    lines = [[title for title, _ in columns]]
    for row in rows:
        lines.append(["-" if cell is None else
                      form % (escape(cell) if isinstance(cell, str) else cell)
                      for cell, (_, form) in zip(row, columns)])
    widths = [max(len(line[i].strip()) for line in lines) for i in range(len(columns))]
    result = []
    for line in lines:
        cells = [cell.strip().ljust(width) if form.startswith("%-") else cell.strip().rjust(width)
                 for cell, width, (_, form) in zip(line, widths, columns)]
        result.append(" ".join(cells).rstrip() + "\n")
    return "".join(result)


def json_line(record):
    """One JSON object and a newline, ASCII only, so that no name can break the line.

    A float is rounded to 6 places; bytes that were not UTF-8 read \\xNN.
    """
    import json
    return json.dumps(_plain(record), separators=(",", ":"), allow_nan=False) + "\n"


def _plain(value):
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
