# SPDX-License-Identifier: GPL-2.0-or-later
"""A growth curve as ASCII text, and its knee.  Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Points = Sequence[tuple[float, float]]

__all__ = ["knee", "lines"]

FLAT = 0.05  # a curve that grows by less than this share of its last value is flat
BEND = 0.1  # a curve that never rises further above its chord than this has no knee


def knee(points: Points, even: bool) -> int | None:
    """The index of the point where a growing curve bends, or None where it does not.

    points: (x, y), x ascending.  even: place the points at equal distances,
    as on a logarithmic axis, instead of by x; otherwise the curve begins at
    (0, 0).  The knee is the point that lies furthest above the straight line
    from the first point to the last one, in units of the curve's width and
    height (Satopaa et al., "Finding a Kneedle in a Haystack", 2011).
    """
    if len(points) < 3 or points[-1][1] <= 0:
        return None
    first, last = points[0][1], points[-1][1]
    if last - first < FLAT * last:
        return 0
    base, width = (first, float(len(points) - 1)) if even else (0, points[-1][0])
    best, height = None, BEND
    for index, (x, y) in enumerate(points):
        above = (y - base) / (last - base) - (index if even else x) / width
        if above > height:
            best, height = index, above
    return best


def _columns(points: Points, even: bool, wide: int) -> list[int]:
    """The column of each point, from 0 to wide - 1."""
    if even:
        steps = max(len(points) - 1, 1)
        return [round(index / steps * (wide - 1)) for index in range(len(points))]
    last = points[-1][0] or 1
    return [round(x / last * (wide - 1)) for x, _ in points]


def _axis(points: Points, columns: list[int], mark: int | None, wide: int) -> str:
    """The values of x below the first, the last and the marked point, where they do not overlap."""
    axis = [" "] * (wide + 12)
    labelled = [0, len(points) - 1]
    if mark is not None:
        labelled.append(mark)
    for index in labelled:
        label = f"{points[index][0]:.3g}"
        at = min(columns[index], wide + 10 - len(label))
        if all(char == " " for char in axis[max(0, at - 1) : at + len(label) + 1]):
            axis[at : at + len(label)] = label
    return "".join(axis).rstrip()


def lines(
    points: Points,
    mark: int | None,
    even: bool,
    unit: tuple[str, str],
    wide: int = 60,
    high: int = 12,
) -> str:
    """The curve as text, y from 0 to its largest value: `*` for a point, `K` for point `mark`.

    points, even: as for knee().  unit: (name of y, name of x), for the axes.
    wide, high: columns and rows of the plot, without its axes.
    """
    if not points:
        return ""
    top = max(y for _, y in points) or 1
    columns = _columns(points, even, wide)
    grid = [[" "] * wide for _ in range(high)]
    for index, (_, y) in enumerate(points):
        row, column = round(y / top * (high - 1)), columns[index]
        if index == mark or grid[row][column] != "K":
            grid[row][column] = "K" if index == mark else "*"
    result = [f"{unit[0]:>10}\n"]
    labelled = (0, (high - 1) // 2, high - 1)
    for row in range(high - 1, -1, -1):
        label = f"{top * row / (high - 1):.2f}" if row in labelled else ""
        result.append(f"{label:>10} |{''.join(grid[row])}".rstrip() + "\n")
    result.append(f"{'':10} +{'-' * wide}\n")
    result.append(f"{'':12}{_axis(points, columns, mark, wide)} {unit[1]}\n")
    return "".join(result)
