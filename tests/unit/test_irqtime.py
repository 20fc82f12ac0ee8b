# SPDX-License-Identifier: GPL-2.0-or-later
"""irqtime: the report, on made-up numbers."""

import json
from argparse import Namespace

import pytest

from crisis.cpu.irqs import Interrupt
from helpers import load

irqtime = load("irqtime")
ARGS = Namespace(dist=False, timestamp=False, per_cpu=False, nanoseconds=False, cgroup=None)
LOST = {"full": 0, "unseen": 3}


def options(**changed):
    return Namespace(**{**vars(ARGS), **changed})


def lossy():
    """Line 24 saw 88 of 100 on CPU 0 and all 10 on CPU 1; of TIMER, all 3 were unseen."""
    found = [
        Interrupt("hard", 24, "nvme0q1", 0, 88, 880, 15),
        Interrupt("hard", 24, "nvme0q1", 1, 10, 100, 15),
        Interrupt("soft", None, "TIMER", 1),
    ]
    found[0].unseen, found[2].unseen = 12, 3
    return found


def test_time_is_scaled_by_what_was_unseen():
    line, timer, hard, soft = map(
        json.loads, irqtime.render_json(ARGS, 1e-5, lossy(), LOST).splitlines()
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
    assert (
        irqtime.render_text(options(per_cpu=True), 1e-5, lossy(), LOST)
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
    found = lossy()
    found[0].slots = [88]
    text = irqtime.render_text(options(dist=True), 1.0, found, LOST)
    assert "hardirq = nvme0q1\n" in text and "softirq = TIMER" not in text
