# SPDX-License-Identifier: GPL-2.0-or-later
"""Heat maps: where events are put, and what cannot be drawn."""

import json
from xml.etree import ElementTree

import pytest

from crisis.fleet import heat, heat_svg, heat_text
from crisis.fleet.heat import Grid, Heat
from crisis.fleet.lines import Lines

EPOCH = 1774785600  # 2026-03-29 12:00:00 UTC


def record(at, counts, **more):
    """A histogram of the second that ends at EPOCH + `at`; counts: {lowest value: events}."""
    buckets = [
        {"lo_us": low, "hi_us": max(2 * low - 1, low), "count": n} for low, n in counts.items()
    ]
    return {"time": EPOCH + at, "record": "histogram", "seconds": 1.0, "buckets": buckets, **more}


def drawn(records, by=(), host="web1"):
    found, stream = Heat(by), Lines("-")
    for one in records:
        text = one if isinstance(one, str) else json.dumps(one)
        for line in stream.feed(f"{host}: {text}\n".encode()):
            found.take(line)
    return found


def test_columns_are_intervals_and_rows_octaves():
    found = drawn([record(1.004, {0: 1, 1: 2, 5: 3}), record(2.01, {64: 4}), record(5.0, {5: 6})])
    (one,) = found.maps()
    assert one.cells == {0: {0: 3, 2: 3}, 1: {6: 4}, 4: {2: 6}} and one.events == 16
    grid = found.grid(one, 80)
    assert [rows for _, rows in grid.columns] == [{0: 3, 2: 3}, {6: 4}, {}, {}, {2: 6}]
    assert [round(start - EPOCH, 1) for start, _ in grid.columns] == [0, 1, 2, 3, 4]
    assert (grid.rows, grid.most, grid.seconds) == ((0, 6), 6, 1)


def test_neighbours_become_one_column_where_there_are_too_many():
    found = drawn(record(n + 1, {0: 1}) for n in range(10))
    grid = found.grid(found.maps()[0], 4)
    assert [rows[0] for _, rows in grid.columns] == [3, 3, 3, 1] and grid.seconds == 3


def test_intervals_without_end():
    number = 3 * heat.MOST_COLUMNS
    found = drawn(record(n + 1, {0: 1}) for n in range(number))
    (one,) = found.maps()
    assert one.events == number and len(one.cells) <= heat.MOST_COLUMNS
    assert found.step == 4 and {rows[0] for rows in one.cells.values()} == {4}


@pytest.mark.parametrize(
    "seconds, nominal", [(0.509, 0.5), (1.02, 1), (0.998, 1), (15.02, 15), (12.1, 12), (0.54, 0.5)]
)
def test_the_width_of_a_column_is_the_interval_that_was_wanted(seconds, nominal):
    assert drawn([record(1, {0: 1}, seconds=seconds)]).step == nominal


def test_maps_by_a_key():
    records = [record(1, {0: 1}, cpu=0), record(1, {0: 2}, cpu=1), record(2, {0: 4}, cpu=1)]
    assert [one.events for one in drawn(records).maps()] == [7]
    named = [(one.names, one.events) for one in drawn(records, ["cpu"]).maps()]
    assert named == [({"cpu": "1"}, 6), ({"cpu": "0"}, 1)]
    named = [(one.names, one.events) for one in drawn(records, ["host"]).maps()]
    assert named == [({"host": "web1"}, 7)]


def test_totals_are_not_added_to_their_parts():
    records = [record(1, {0: 1}, record="irq", type="hard", name=name) for name in "ab"]
    records.append(record(1, {0: 2}, record="total", type="hard"))
    assert [one.events for one in drawn(records).maps()] == [2]
    assert [one.names["name"] for one in drawn(records, ["name"]).maps()] == ["a", "b"]


def test_buckets_of_microseconds_in_nanoseconds():
    one = record(1, {})
    one["buckets"] = [{"lo_ns": 2000, "hi_ns": 3999, "count": 1}]
    (found,) = drawn([one]).maps()
    assert (found.unit, found.cells) == ("us", {0: {1: 1}})
    one["buckets"] = [{"lo_ns": 2048, "hi_ns": 4095, "count": 1}]
    (found,) = drawn([one]).maps()
    assert (found.unit, found.cells) == ("ns", {0: {11: 1}})


@pytest.mark.parametrize("bad", ["Welcome", "{}", '{"buckets":5}', '{"time":1,"buckets":[1]}'])
def test_other_lines_are_counted(bad):
    found = drawn([bad, record(1, {0: 1})])
    assert found.other == 1 and found.maps()[0].events == 1


@pytest.mark.parametrize("time", [None, "now", 1e29, -5, [], EPOCH + 3e9])
def test_strange_times(time):
    found = drawn([record(1, {0: 1}), record(1, {0: 1}, time=time), record(2, {0: 1})])
    for one in found.maps():
        grid = found.grid(one, 70)
        assert heat_text.render(one, grid, heat_text.CHARACTERS, False)
        ElementTree.fromstring(heat_svg.render([(one, grid)], "x", False))


def test_shades():
    assert heat.shade(0, 10, 9, False) == 0
    for linear in False, True:
        shades = [heat.shade(count, 1000, 9, linear) for count in range(1, 1001)]
        assert shades[0] == 1 or not linear
        assert shades == sorted(shades) and min(shades) >= 1 and shades[-1] == 9
    assert heat.shade(10, 1000, 9, False) > heat.shade(10, 1000, 9, True) == 1
    assert heat.shade(1, 1, 9, False) == 9


def test_durations():
    shown = [heat.duration(row, "us") for row in (0, 1, 9, 10, 19, 20, 30)]
    assert shown == ["0", "2 us", "512 us", "1.02 ms", "524 ms", "1.05 s", "1073 s"]
    assert heat.duration(9, "ns") == "512 ns" and heat.duration(4, "ms") == "16 ms"


def test_nothing_to_draw():
    found = drawn([record(1, {})])
    (one,) = found.maps()
    grid = Grid(one, None, 1.0, 10)
    assert "0 events" in heat_text.render(one, grid, heat_text.CHARACTERS, False)


def test_a_picture_is_well_formed_and_shows_every_event():
    names = {"comm": "<script>&\"'\x1b[1m\n"}
    found = drawn([record(n + 1, {0: 5, 1 << n: 7}, **names) for n in range(10)], ["comm"])
    pairs = [(one, found.grid(one, 480)) for one in found.maps()]
    image = ElementTree.fromstring(heat_svg.render(pairs, "<b>&\x1b", False))
    texts = "".join(image.itertext())
    assert "<script>" in texts and "\x1b" not in texts
    assert not [tag for tag in image.iter() if "script" in tag.tag]
    titles = [cell[0].text for cell in image.iter() if cell.tag.endswith("rect") and len(cell)]
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == 120
