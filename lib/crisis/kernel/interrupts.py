# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts and softirqs: their counts and names, from /proc and /sys.

Follows show_interrupts() in kernel/irq/proc.c, fs/proc/softirqs.c and
Documentation/ABI/testing/sysfs-kernel-irq.  Every function takes root="/", so
that a fixture tree can stand in.
"""

from __future__ import annotations

from .sysfs import read

__all__ = ["softirqs", "counts", "line_count", "name"]


def softirqs(root: str = "/") -> list[str]:
    """["HI", "TIMER", …], by vector number: the rows of /proc/softirqs."""
    return [line.split(":")[0].strip() for line in read(root, "proc/softirqs").splitlines()[1:]]


def counts(root: str = "/") -> dict[tuple[str, int | str, int], int]:
    """{(kind, row, CPU): number since boot}, without zeros.

    kind: "hard" of /proc/interrupts, "soft" of /proc/softirqs.

    row: the number of a line, the letters of another interrupt, or the name of a
    softirq.  CAL includes TLB, which x86 takes out of it (arch_show_interrupts()).
    The counts are 32 bits wide and wrap.
    """
    found: dict[tuple[str, int | str, int], int] = {}
    for kind, path in ("hard", "proc/interrupts"), ("soft", "proc/softirqs"):
        head, *lines = read(root, path).splitlines()
        cpus = [int(word[3:]) for word in head.split()]
        for line in lines:
            label, _, rest = line.partition(":")
            label = label.strip()
            row: int | str = int(label) if label.isdigit() else "CAL" if label == "TLB" else label
            for cpu, word in zip(cpus, rest.split()):
                if not word.isdigit():
                    break
                if word != "0":
                    found[kind, row, cpu] = found.get((kind, row, cpu), 0) + int(word)
    return found


def line_count(root: str = "/") -> int:
    """The number of interrupt lines that /proc/interrupts shows."""
    return sum(
        line.partition(":")[0].strip().isdigit()
        for line in read(root, "proc/interrupts").splitlines()
    )


def name(number: int, root: str = "/") -> str:
    """The handlers of an interrupt line: "ahci,ehci_hcd".

    "irq7" when the kernel does not show them, or they have gone.
    """
    try:
        return read(root, f"sys/kernel/irq/{number}/actions").strip() or f"irq{number}"
    except OSError:
        return f"irq{number}"
