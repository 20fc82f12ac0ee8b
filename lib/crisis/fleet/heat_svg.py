# SPDX-License-Identifier: GPL-2.0-or-later
"""Heat maps as one SVG image: no script, no style from elsewhere.  Pure."""

from __future__ import annotations

from xml.sax.saxutils import escape

from .. import table
from .heat import colour, duration, shade
from .heat_text import clock, heading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .heat import Grid, Map

__all__ = ["WIDE", "render"]

WIDE = 480  # columns at most
_LEFT, _RIGHT, _PLOT = 80, 20, 960  # pixels
_ROW = 16
_HEAD, _FOOT = 40, 62
_SHADES = 32


def _colour(level: int) -> str:
    return "#" + bytes(colour(level, _SHADES)).hex()


def _text(text: str) -> str:
    return escape(table.escape(text))


def render(maps: Sequence[tuple[Map, Grid]], title: str, linear: bool) -> str:
    """The image of all maps, one below the other."""
    wide = _LEFT + _PLOT + _RIGHT
    top, parts = 40, []
    for one, grid in maps:
        parts.append(_map(one, grid, top, linear))
        top += _HEAD + _FOOT + _ROW * (grid.rows[1] - grid.rows[0] + 1)
    head = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{top}" '
        f'viewBox="0 0 {wide} {top}" font-family="sans-serif" font-size="12">\n'
        f"<title>{_text(title)}</title>\n"
        f'<rect width="{wide}" height="{top}" fill="#ffffff"/>\n'
        f'<text x="{wide / 2:g}" y="26" font-size="18" text-anchor="middle">{_text(title)}</text>\n'
    )
    return head + "".join(parts) + "</svg>\n"


def _map(one: Map, grid: Grid, top: int, linear: bool) -> str:
    """One map, `top` pixels below the upper edge."""
    first, last = grid.rows
    high = _ROW * (last - first + 1)
    plot = top + _HEAD
    name = escape(heading(one, grid))
    frame = f'x="{_LEFT}" y="{plot}" width="{_PLOT}" height="{high}"'
    parts = [
        f'<g>\n<text x="{_LEFT}" y="{top + 28}" font-size="14">{name}</text>\n',
        f'<rect {frame} fill="none" stroke="#999"/>\n',
        *_cells(one, grid, plot, linear),
    ]
    for row in range(first, last + 1):
        # a label is at the lower edge of its row, where its value is
        y, label = plot + _ROW * (last - row + 1), duration(row, one.unit)
        parts.append(
            f'<line x1="{_LEFT - 4}" y1="{y}" x2="{_LEFT}" y2="{y}" stroke="#999"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>\n'
        )
    parts += _times(grid, plot + high)
    parts += _legend(grid, plot + high + 30, linear)
    return "".join(parts) + "</g>\n"


def _width(grid: Grid) -> float:
    return _PLOT / max(len(grid.columns), 1)


def _cells(one: Map, grid: Grid, plot: int, linear: bool) -> list[str]:
    """A rectangle for each cell with events, with its values as a tooltip."""
    last, width = grid.rows[1], _width(grid)
    parts = []
    for at, (start, rows) in enumerate(grid.columns):
        when = clock(start, grid.seconds)
        for row, count in sorted(rows.items()):
            level = shade(count, grid.most, _SHADES, linear)
            span = f"{duration(row, one.unit)} to {duration(row + 1, one.unit)}"
            if when:
                span = f"{when}, {span}"
            parts.append(
                f'<rect x="{_LEFT + at * width:.2f}" y="{plot + _ROW * (last - row)}" '
                f'width="{width:.2f}" height="{_ROW}" fill="{_colour(level)}">'
                f"<title>{span}: {count} events</title></rect>\n"
            )
    return parts


def _times(grid: Grid, bottom: int) -> list[str]:
    """The times below the columns, at most eight."""
    width, parts = _width(grid), []
    step = -(-len(grid.columns) // 8)
    for at in range(0, len(grid.columns), max(step, 1)):
        x, label = _LEFT + at * width, clock(grid.columns[at][0], grid.seconds)
        parts.append(
            f'<line x1="{x:.2f}" y1="{bottom}" x2="{x:.2f}" y2="{bottom + 4}" stroke="#999"/>'
            f'<text x="{x:.2f}" y="{bottom + 18}">{label}</text>\n'
        )
    return parts


def _legend(grid: Grid, top: int, linear: bool) -> list[str]:
    """The shades from one event to most."""
    parts = [f'<text x="{_LEFT}" y="{top + 11}">1</text>\n']
    for level in range(1, _SHADES + 1):
        parts.append(
            f'<rect x="{_LEFT + 6 + 8 * level}" y="{top}" width="8" height="12" '
            f'fill="{_colour(level)}"/>\n'
        )
    x, scale = _LEFT + 22 + 8 * _SHADES, "linear" if linear else "logarithmic"
    most = f"{grid.most} events at most, {scale}"
    parts.append(f'<text x="{x}" y="{top + 11}">{most}</text>\n')
    return parts
