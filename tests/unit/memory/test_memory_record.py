# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of fincore: their columns, and the way through marshal to another process."""

import marshal

from crisis.memory.record import COLUMNS, Record, from_states, states
from crisis.memory.survey import Sums

MEMBERS = Record.__slots__


def values(record):
    return [getattr(record, member) for member in MEMBERS]


def test_a_record_survives_the_way_to_another_process():
    record = Record("a", 9000, (3, 1, 0, 2, 1), "Oo", extent=9000)
    record.change = -2
    total = Record(None, 9000, None, files=7, unknown=7, extent=4096)
    found = from_states(marshal.loads(marshal.dumps(states([record, total]))))
    assert [values(one) for one in found] == [values(record), values(total)]
    assert values(record) == ["a", 9000, 3, 1, 0, 2, 1, "Oo", -2, None, None, 9000]
    assert values(total) == [None, 9000, None, None, None, None, None, None, None, 7, 7, 4096]


def test_each_column_shows_a_member():
    assert {member for member, _, _ in COLUMNS.values()} == set(MEMBERS) - {
        "files",
        "unknown",
        "extent",
    } | {"percent"}
    assert {unit for _, unit, _ in COLUMNS.values()} == {
        "bytes",
        "pages",
        "size",
        "name",
        "map",
        "percent",
    }


def test_sums():
    """What mincore does not know has no sum; files whose pages are not known are counted apart."""
    sums = Sums()
    sums.add(5000, (2, 1, 0, 3, 1), 5000)
    sums.add(4096, (1, 0, 0, 0, 0), 4096)
    assert values(sums.record("x")) == ["x", 9096, 3, 1, 0, 3, 1, None, None, 2, 0, 12288]
    assert sums.record("x").percent == 100
    sums.add(100, None, 100)
    sums.add(4096, (1, None, None, None, None), 4096)
    assert values(sums.record("x")) == ["x", 13292, 4, *[None] * 6, 4, 1, 16384]
    other = Sums()
    other.merge(marshal.loads(marshal.dumps(sums.state())))
    assert values(other.record("x")) == values(sums.record("x"))
    unknown = Sums()
    unknown.add(7, None, 7)
    assert unknown.record("y").pages is None and unknown.record("y").unknown == 1
