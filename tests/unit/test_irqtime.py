# SPDX-License-Identifier: GPL-2.0-or-later
"""irqtime: what the kernel counted beyond what the programs saw, and the report, on made-up
numbers.
"""

import json
from argparse import Namespace

import pytest

from helpers import load

irqtime = load("irqtime")


def source(row, cpu, count, name=None, total=None):
    """A Source that saw `count` interrupts of 10 ns each."""
    kind = "soft" if row.isupper() and row not in ("LOC", "CAL") else "hard"
    irq = None if kind == "soft" else int(row) if row.isdigit() else row
    return irqtime.Source(
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
    ledger = irqtime.Unseen(
        {("hard", 24, 0): 1000, ("soft", "NET_RX", 0): 50, ("hard", "LOC", 1): 7}
    )
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
    ledger = irqtime.Unseen({("hard", 24, 0): 1000})
    assert interval(ledger, [source("24", 0, 200)], n24_0=1100) == {}
    assert interval(ledger, [source("24", 0, 200)]) == {}


def test_counts_that_wrap():
    ledger = irqtime.Unseen({("hard", "LOC", 0): (1 << 32) - 50})
    assert interval(ledger, [source("LOC", 0, 60)], LOC_0=21) == {("LOC", 0): 10}
    assert interval(ledger, [source("LOC", 0, 60)], LOC_0=81) == {}


def test_two_vectors_share_a_row_of_the_kernel():
    ledger = irqtime.Unseen({})
    sources = [source("CAL", 0, 10, "call_function"), source("CAL", 0, 30, "call_function_single")]
    found = interval(ledger, sources, CAL_0=51)
    assert found == {("call_function", 0): 3, ("call_function_single", 0): 7}


def lossy():
    """Line 24 saw 88 of 100 on CPU 0 and all 10 on CPU 1; of TIMER, all 3 were unseen."""
    sources = [
        source("24", 0, 88, "nvme0q1"),
        source("24", 1, 10, "nvme0q1"),
        source("TIMER", 1, 0),
    ]
    sources[0].unseen, sources[2].unseen = 12, 3
    return sources


def test_time_is_scaled_by_what_was_unseen():
    args = Namespace(json=True, dist=False, timestamp=False, per_cpu=False)
    line, timer, hard, soft = map(
        json.loads, irqtime.render_json(args, 1e-5, lossy(), {"full": 0, "unseen": 3}).splitlines()
    )
    assert (line["count"], line["unseen"]) == (110, 12)
    assert (
        line["total_ns"] == 980 * 110 // 98 == 1100
        and line["avg_us"] == 0.01
        and line["max_ns"] == 15
    )
    assert line["cpu_ratio"] == pytest.approx(0.11)
    assert (timer["count"], timer["unseen"]) == (3, 3)
    assert timer["total_ns"] is timer["avg_us"] is timer["max_ns"] is timer["cpu_ratio"] is None
    assert (hard["count"], hard["total_ns"], hard["unseen"]) == (110, 1100, 12)
    assert (soft["count"], soft["total_ns"], soft["unseen"]) == (3, 0, 3) and soft["avg_us"] is None


def test_text_has_a_column_for_what_was_unseen():
    args = Namespace(json=False, dist=False, timestamp=False, per_cpu=True)
    assert (
        irqtime.render_text(args, 1e-5, lossy(), {"full": 0, "unseen": 3})
        == """
CPU TYPE IRQ NAME    COUNT TIME(us) AVG(us) MAX(us)  %CPU UNSEEN
  0 hard  24 nvme0q1   100        1    0.01     0.0 10.00     12
  1 hard  24 nvme0q1    10        0    0.01     0.0  1.00      0
  1 soft   - TIMER       3        -       -       -     -      3
  - hard   - total     110        1    0.01     0.0 11.00     12
  - soft   - total       3        0       -       -  0.00      3
"""
    )


def test_no_histogram_of_what_was_unseen():
    args = Namespace(json=False, dist=True, timestamp=False, per_cpu=False)
    text = irqtime.render_text(args, 1.0, lossy(), {"full": 0, "unseen": 3})
    assert "hard = nvme0q1\n" in text and "soft = TIMER" not in text
