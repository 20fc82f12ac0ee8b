# SPDX-License-Identifier: GPL-2.0-or-later
"""A growth curve as ASCII text, and its knee.  Pure."""

__all__ = ["knee", "lines"]

FLAT = 0.05             # a curve that grows by less than this share of its last value is flat
BEND = 0.1              # and one that never rises further above its chord than this has no knee


def knee(points, even):
    """The index of the point where a growing curve bends, or None where it does not.

    points: [(x, y)], x ascending.  even: place the points at equal distances,
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
    base, width = (first, len(points) - 1) if even else (0, points[-1][0])
    best, height = None, BEND
    for index, (x, y) in enumerate(points):
        above = (y - base) / (last - base) - (index if even else x) / width
        if above > height:
            best, height = index, above
    return best


def lines(points, mark, even, unit, wide=60, high=12):
    """The curve as text: y from 0 to its largest value, `*` for a point and `K` for point number `mark`.

    points, even: as for knee().  unit: (name of y, name of x), for the axes.
    """
    if not points:
        return ""
    top = max(y for _, y in points) or 1
    last = points[-1][0] or 1
    columns = []
    for index, (x, _) in enumerate(points):
        share = (index / (len(points) - 1) if len(points) > 1 else 0) if even else x / last
        columns.append(round(share * (wide - 1)))
    grid = [[" "] * wide for _ in range(high)]
    for index, (_, y) in enumerate(points):
        row, column = round(y / top * (high - 1)), columns[index]
        if index == mark or grid[row][column] != "K":
            grid[row][column] = "K" if index == mark else "*"
    result = ["%10s\n" % unit[0]]
    for row in range(high - 1, -1, -1):
        label = "%10.2f" % (top * row / (high - 1)) if row in (0, high - 1, (high - 1) // 2) else ""
        result.append(("%10s |%s" % (label, "".join(grid[row]))).rstrip() + "\n")
    result.append("%10s +%s\n" % ("", "-" * wide))
    axis = [" "] * (wide + 12)
    for index in (0, len(points) - 1) if mark is None else (0, len(points) - 1, mark):
        label = "%.3g" % points[index][0]
        at = min(columns[index], wide + 10 - len(label))
        if all(char == " " for char in axis[max(0, at - 1):at + len(label) + 1]):
            axis[at:at + len(label)] = label
    result.append("%12s%s %s\n" % ("", "".join(axis).rstrip(), unit[1]))
    return "".join(result)
