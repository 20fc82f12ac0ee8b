# SPDX-License-Identifier: GPL-2.0-or-later
"""A heat map on a terminal: shades of colour, or characters.  Pure."""

from __future__ import annotations

import time

from .. import table
from .heat import colour, duration, shade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .heat import Grid, Map

__all__ = ["COLOURS", "TRUE_COLOURS", "CHARACTERS", "MARGIN", "heading", "render", "clock"]

CHARACTERS = " .:-=+*#%@"
MARGIN = 10  # columns of the labels and the axis on the left
# From few events to many, on dark and on light terminals: the background of a space.
_PALETTE = (229, 228, 222, 221, 215, 209, 203, 197, 160, 124)
COLOURS = (" ", *(f"\x1b[48;5;{code}m \x1b[0m" for code in _PALETTE))
_STEPS = 24
_MIXED = (";".join(map(str, colour(level, _STEPS))) for level in range(1, _STEPS + 1))
TRUE_COLOURS = (" ", *(f"\x1b[48;2;{mixed}m \x1b[0m" for mixed in _MIXED))


def clock(seconds: float | None, step: float) -> str:
    """The local time of a column, with milliseconds where columns are shorter than a second."""
    if seconds is None:
        return ""
    try:
        text = time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{text}.{int(seconds * 1000 % 1000):03d}" if step < 1 else text


def heading(one: Map, grid: Grid) -> str:
    """What a map is of."""
    names = [f"{key} = {table.escape(value)}" for key, value in one.names.items()]
    kind = table.escape(one.kind) or "histogram"
    columns = f"{_number(len(grid.columns), 'column')} of {grid.seconds:g} s"
    return ", ".join([kind, *names, columns, _number(one.events, "event")])


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def render(one: Map, grid: Grid, cells: Sequence[str], linear: bool) -> str:
    """The map below its heading, between its axes, above the scale.

    cells: what to print for no event, for few, ... and for most.
    """
    shades = len(cells) - 1
    lines = [heading(one, grid)]
    first, last = grid.rows
    for row in range(last, first - 1, -1):
        line = [
            cells[shade(rows.get(row, 0), grid.most, shades, linear)] for _, rows in grid.columns
        ]
        lines.append(f"{duration(row, one.unit):>{MARGIN - 2}} |{''.join(line)}".rstrip())
    lines.append(f"{'':{MARGIN - 1}}+{'-' * len(grid.columns)}")
    lines.append(_axis(grid))
    scale = "linear" if linear else "logarithmic"
    lines.append(f"{'':{MARGIN}}1 {''.join(cells[1:])} {grid.most} events at most, {scale}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _axis(grid: Grid) -> str:
    """The times of the first column and of others, as far apart as they need."""
    text = ""
    for at, (start, _) in enumerate(grid.columns):
        label = clock(start, grid.seconds)
        last = at + len(label) >= len(grid.columns) and text
        if len(text) <= at - 4 * bool(text) and (at % 20 == 0) and not last:
            text = f"{text:<{at}}{label}"
    return " " * MARGIN + text
