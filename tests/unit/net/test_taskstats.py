# SPDX-License-Identifier: GPL-2.0-or-later
"""The delay accounts of tasks: layouts of struct taskstats."""

import struct

import pytest

from crisis.errors import Unavailable
from crisis.net import taskstats


def attribute(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_attributes():
    raw = attribute(3, b"eth0\0") + attribute(23, b"12345678")
    raw += struct.pack("=HH", 6, 0x8000 | 7) + b"xy"  # a nested one, at the end without padding
    assert taskstats.attributes(raw) == {3: b"eth0\0", 23: b"12345678", 7: b"xy"}
    assert (
        taskstats.attributes(raw + b"\0\0\0\0")
        == taskstats.attributes(raw + b"\1")
        == taskstats.attributes(raw)
    )


# Offsets by the C compiler: offsetof(struct taskstats, ..._count), uapi/linux/taskstats.h.
PLACES = {
    "cpu": 16,
    "blkio": 32,
    "swapin": 48,
    "freepages": 312,
    "thrashing": 328,
    "compact": 352,
    "wpcopy": 400,
    "irq": 416,
}


def made_up(version, size, places, values):
    raw = bytearray(size)
    struct.pack_into("=H", raw, 0, version)
    for name, pair in values.items():
        struct.pack_into("=QQ", raw, places[name], *pair)
    return bytes(raw)


VALUES = {name: (index + 1, 1000 * (index + 1)) for index, name in enumerate(taskstats.DELAYS)}


@pytest.mark.parametrize(
    "version, size, missing",
    [
        (8, 328, {"thrashing", "compact", "wpcopy", "irq"}),
        (9, 344, {"compact", "wpcopy", "irq"}),
        (12, 400, {"wpcopy", "irq"}),
        (13, 416, {"irq"}),
        (14, 432, set()),
        (16, 560, set()),
        (17, 700, set()),
    ],
)
def test_versions(version, size, missing):
    values = {name: pair for name, pair in VALUES.items() if PLACES[name] + 16 <= size}
    found = taskstats.parse(made_up(version, size, PLACES, values))
    assert found == {
        name: (None, None) if name in missing else VALUES[name] for name in taskstats.DELAYS
    }


def test_version_15_has_the_extremes_in_between():
    # Every (count, total) is followed by max and min: 16 bytes more for each delay before it.
    order = ["cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq"]
    places = {name: PLACES[name] + 16 * index for index, name in enumerate(order)}
    assert taskstats.parse(made_up(15, 560, places, VALUES)) == VALUES
    with pytest.raises(Unavailable):
        taskstats.parse(made_up(15, 500, PLACES, {}))
    with pytest.raises(Unavailable):
        taskstats.parse(bytes(560))


def test_an_overflowed_total_is_not_zero():
    assert taskstats.parse(made_up(14, 432, PLACES, {"blkio": (7, 0)}))["blkio"] == (7, None)
