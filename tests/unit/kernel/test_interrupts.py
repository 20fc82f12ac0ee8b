# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and names of interrupts, in a tree of files."""

from crisis.kernel import interrupts
from helpers import write_tree as tree


def test_interrupts(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/softirqs": "          CPU0 CPU1\n   HI:  1 0\n  TIMER: 5 6\n",
            "proc/interrupts": "     CPU0  CPU2\n  0:  5  0  IO-APIC 2-edge timer\n 24: 1 1  x "
            "y z\nLOC: 4 5 Local\n"
            "CAL: 7 0  Function call interrupts\nTLB: 2 1  TLB shootdowns\nERR:  3\n",
            "sys/kernel/irq/24/actions": "ahci,ehci\x1b\n",
        },
    )
    assert interrupts.softirqs(root) == ["HI", "TIMER"]
    assert interrupts.counts(root) == {
        ("soft", "HI", 0): 1,
        ("soft", "TIMER", 0): 5,
        ("soft", "TIMER", 1): 6,
        ("hard", 0, 0): 5,
        ("hard", 24, 0): 1,
        ("hard", 24, 2): 1,
        ("hard", "LOC", 0): 4,
        ("hard", "LOC", 2): 5,
        ("hard", "CAL", 0): 9,
        ("hard", "CAL", 2): 1,
        ("hard", "ERR", 0): 3,
    }
    assert interrupts.line_count(root) == 2
    assert interrupts.name(24, root) == "ahci,ehci\x1b" and interrupts.name(7, root) == "irq7"
