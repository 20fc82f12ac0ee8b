# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel counted beyond what the programs saw, and sums of interrupts."""

from argparse import Namespace

import pytest

from crisis import hist
from crisis.cpu import irqs


def source(row, cpu, count, name=None, total=None):
    """An Interrupt that saw `count` interrupts of 10 ns each."""
    kind = "soft" if row.isupper() and row not in ("LOC", "CAL") else "hard"
    irq = None if kind == "soft" else int(row) if row.isdigit() else row
    return irqs.Interrupt(
        kind, irq, name or row, cpu, count, 10 * count if total is None else total, 15
    )


def interval(ledger, sources, **rows):
    """{(row, CPU): unseen} after an interval in which the kernel's counts became ROW_CPU=number."""
    counts = {}
    for name, count in rows.items():
        row, _, cpu = name.lstrip("n").rpartition("_")
        counts[
            "soft" if row.startswith("NET") else "hard",
            int(row) if row.isdigit() else row,
            int(cpu),
        ] = count
    ledger.assign(sources, counts)
    return {(s.name, s.cpu): s.unseen for s in sources if s.unseen}


def test_what_the_kernel_counted_beyond_is_unseen_by_row_and_cpu():
    ledger = irqs.Unseen({("hard", 24, 0): 1000, ("soft", "NET_RX", 0): 50, ("hard", "LOC", 1): 7})
    # 88 of 100 of line 24; one of each row may be in progress.
    sources = [source("24", 0, 88), source("24", 1, 5), source("NET_RX", 0, 40)]
    assert interval(ledger, sources, n24_0=1101, n24_1=6, NET_RX_0=90, LOC_1=500) == {("24", 0): 12}
    # What was in progress has ended: it is no longer missing.  A row that nobody has ever seen
    # stays out.
    sources = [source("24", 0, 100)]
    assert interval(ledger, sources, n24_0=1201, n24_1=6, NET_RX_0=90, LOC_1=900) == {}
    # None of a row in this interval: a row of its own without a time.
    sources = []
    assert interval(ledger, sources, n24_0=1204, n24_1=6, NET_RX_0=95) == {
        ("24", 0): 3,
        ("NET_RX", 0): 4,
    }
    assert [(s.kind, s.irq, s.count) for s in sources] == [("hard", 24, 0), ("soft", None, 0)]


def test_more_seen_than_counted_is_no_loss():
    """Each handler of a shared line counts; a CPU that went offline has no count."""
    ledger = irqs.Unseen({("hard", 24, 0): 1000})
    assert interval(ledger, [source("24", 0, 200)], n24_0=1100) == {}
    assert interval(ledger, [source("24", 0, 200)]) == {}


def test_counts_that_wrap():
    ledger = irqs.Unseen({("hard", "LOC", 0): (1 << 32) - 50})
    assert interval(ledger, [source("LOC", 0, 60)], LOC_0=21) == {("LOC", 0): 10}
    assert interval(ledger, [source("LOC", 0, 60)], LOC_0=81) == {}


def test_two_vectors_share_a_row_of_the_kernel():
    ledger = irqs.Unseen({})
    sources = [source("CAL", 0, 10, "call_function"), source("CAL", 0, 30, "call_function_single")]
    found = interval(ledger, sources, CAL_0=51)
    assert found == {("call_function", 0): 3, ("call_function_single", 0): 7}


def lines():
    """Two lines of one name and one of another, on two CPUs; of the second, half were unseen."""
    found = [source("24", 0, 10, "xhci"), source("25", 0, 20, "xhci"), source("25", 1, 30, "xhci")]
    found[1].unseen = 20
    return [*found, source("26", 1, 500, "nvme", total=1)]


def test_groups_by_time():
    rows = irqs.grouped(lines())
    assert [(row.irq, row.cpu, row.number(), row.time) for row in rows] == [
        (25, None, 70, 500 * 70 // 50),
        (24, None, 10, 100),
        (26, None, 500, 1),
    ]
    rows = irqs.grouped(lines(), per_cpu=True)
    assert [(row.irq, row.cpu, row.time) for row in rows] == [
        (25, 0, 400),
        (25, 1, 300),
        (24, 0, 100),
        (26, 1, 1),
    ]


def test_groups_by_name_as_the_classics():
    rows = irqs.grouped(lines(), by_name=True)
    assert [(row.irq, row.name, row.number(), row.unseen, row.time) for row in rows] == [
        (None, "xhci", 80, 20, 600 * 80 // 60),
        (None, "nvme", 500, 0, 1),
    ]


def test_totals_are_the_sums_of_their_kind():
    rows = irqs.grouped([*lines(), source("NET_RX", 0, 7)])
    hard, soft = irqs.totals(rows)
    assert (hard.number(), hard.unseen, hard.time, hard.max) == (580, 20, 801, 15)
    assert (soft.number(), soft.unseen, soft.time, soft.max) == (7, 0, 70, 15)


@pytest.mark.parametrize(
    "nanoseconds, buckets",
    [(True, [(1024, 2047, 3), (4096, 8191, 1)]), (False, [(2000, 3999, 3), (8000, 15999, 1)])],
)
def test_buckets_are_in_nanoseconds_in_either_unit(nanoseconds, buckets):
    slots = [0] * 40
    for value, count in ((1500, 3), (5000, 1)) if nanoseconds else ((2, 3), (9, 1)):
        slots[hist.bucket(value, 0)] = count
    one = irqs.Interrupt("hard", 24, "nvme", None, 4, 100, 50, slots)
    one.estimate()
    args = Namespace(dist=True, nanoseconds=nanoseconds, cgroup=None)
    found = one.record(args, 1.0)["buckets"]
    assert [tuple(bucket.values()) for bucket in found] == buckets
    assert list(found[0]) == ["lo_ns", "hi_ns", "count"]


def test_unseen_is_unknown_for_a_cgroup():
    args = Namespace(dist=False, nanoseconds=False, cgroup="/db.slice")
    one = source("24", 0, 4)
    one.estimate()
    assert one.record(args, 1.0)["unseen"] is None
