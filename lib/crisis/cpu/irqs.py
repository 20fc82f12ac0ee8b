# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of hard and soft interrupts: the programs of irqtime, hardirqs and softirqs.

Follows handle_irq_event_percpu() in kernel/irq/handle.c, handle_softirqs() in kernel/softirq.c and
arch/x86/kernel/irq.c for what is counted and between which tracepoints it is timed.
"""

from __future__ import annotations

from .. import bpf, cli, hist, table
from ..bpf import task
from ..kernel import interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from ..bpf import Source

    Row = tuple[str, int | str, int]
    Losses = dict[str, int | None]

__all__ = [
    "HARD",
    "SOFT",
    "Interrupt",
    "Tracer",
    "Unseen",
    "collect",
    "grouped",
    "note_losses",
    "sources",
    "totals",
]

_COUNTERS = ("full",)
LINE, VECTOR, SOFT_VECTOR = range(3)  # KIND_* of the programs
# What Tracer is to record, as masks of the kinds.
HARD, SOFT = 1 << LINE | 1 << VECTOR, 1 << SOFT_VECTOR
# arch/x86/include/asm/irq_vectors.h; the short names are those of /proc/interrupts.
VECTORS = {
    0xEC: ("LOC", "local_timer"),
    0xFD: ("RES", "reschedule"),
    0xFC: ("CAL", "call_function"),
    0xFB: ("CAL", "call_function_single"),
    0xF6: ("IWI", "irq_work"),
}
_SLOTS = 40  # the last bucket also takes what is longer than 2**39 ns, 9 minutes


def _points(names: Iterable[str], function: str) -> tuple[tuple[str, str], ...]:
    """Where to attach: the exit before the entry.

    An interrupt whose beginning was not seen is then not taken for the next one.
    """
    return tuple(
        (f"tp_btf/{name}_{way}:{function}_{way}", f"raw_tp/{name}_{way}:{function}_{way}")
        for name in names
        for way in ("exit", "entry")
    )


_LINES, _SOFT = _points(("irq_handler",), "on_line"), _points(("softirq",), "on_soft")
_VECTORS = _points([name for _, name in VECTORS.values()], "on_vector")


def sources(command: str, kinds: int) -> dict[str, Source]:
    """{name: Source} of a command that records these kinds: HARD, SOFT or both.

    Softirqs need the programs for hard interrupts too, whose time is not theirs.
    """
    lines = _LINES + _SOFT if kinds & SOFT else _LINES
    return {
        name: bpf.Source(
            f"{command}.{name}",
            "irqtime.bpf.c",
            points,
            (*task.PARAMS, "kinds", "nanoseconds", "slots"),
            _COUNTERS,
            dict(task.DEFINES, KIND_LINE=LINE, KIND_VECTOR=VECTOR, KIND_SOFT=SOFT_VECTOR),
            task.HAS,
            constants=task.CONSTANTS,
        )
        for name, points in (("vectors", _VECTORS + lines), ("lines", lines))
    }


class Interrupt:
    """One interrupt, on one CPU or on all: what it did in an interval.

    kind: "hard" or "soft"; irq: the line's number, or the letters of /proc/interrupts, or None.
    name: of the softirq, the vector, or the line's handler.
    cpu: None for all.
    count, total, max, slots: of those that the programs saw, in ns; slots: the counts of buckets by
        octaves of nanoseconds or microseconds; unseen: how many others the kernel counted.
    time: ns of all of them, those unseen assumed to be like the others; None if all were unseen.
    """

    __slots__ = "kind", "irq", "name", "cpu", "count", "total", "max", "slots", "unseen", "time"

    def __init__(
        self,
        kind: str,
        irq: int | str | None,
        name: str,
        cpu: int | None = None,
        count: int = 0,
        total: int = 0,
        most: int = 0,
        slots: Iterable[int] = (),
    ) -> None:
        self.kind, self.irq, self.name, self.cpu = kind, irq, name, cpu
        self.count, self.total, self.max, self.slots = count, total, most, list(slots)
        self.unseen = 0
        self.time: int | None = None

    def row(self) -> Row:
        """(kind, row of /proc/interrupts or /proc/softirqs, CPU): where the kernel counts it.

        Of an Interrupt of one CPU only.
        """
        assert self.cpu is not None, "the kernel counts by CPU"
        return self.kind, self.name if self.irq is None else self.irq, self.cpu

    def number(self) -> int:
        """How many there were."""
        return self.count + self.unseen

    def estimate(self) -> None:
        """Set time."""
        self.time = self.total * self.number() // self.count if self.count else None

    def mean(self) -> float | None:
        """Nanoseconds that one took; None where none was seen."""
        return self.time / self.number() if self.count and self.time is not None else None

    def add(self, other: Interrupt) -> None:
        """Add what another one did, except its time."""
        self.count += other.count
        self.unseen += other.unseen
        self.total += other.total
        self.max = max(self.max, other.max)
        self.slots = hist.merge(self.slots, other.slots)

    def record(self, args: Namespace, seconds: float) -> dict[str, Any]:
        """The figures as members of a JSON record.

        args: dist: with the buckets, whose limits are in ns in either unit; nanoseconds: the unit
            of the histogram; cgroup: None, or the filter under which `unseen` is not known.
        seconds: the length of the interval.
        """
        mean = self.mean()
        found: dict[str, Any] = {
            "count": self.number(),
            "total_ns": self.time,
            "max_ns": self.max if self.count else None,
            "avg_us": None if mean is None else mean / 1e3,
            "cpu_ratio": None if self.time is None else self.time / seconds / 1e9,
            "unseen": None if args.cgroup else self.unseen,
        }
        if args.dist:
            scale = 1 if args.nanoseconds else 1000
            rows = [
                (low * scale, (high + 1) * scale - 1, count)
                for low, high, count in hist.log2_rows(self.slots, 0)
            ]
            found["buckets"] = hist.buckets(rows, "ns")
        return found


class Unseen:
    """How many interrupts the kernel has counted and the programs have not seen.

    The programs miss some where the kernel runs none for a task.  A kernel
    counts an interrupt before its handlers run (kstat_incr_irqs_this_cpu(),
    kstat_incr_softirqs_this_cpu(), inc_irq_stat()), the programs count it at its
    end, so that on each CPU one of each row may be in progress, and is not taken
    for unseen.  Rows that the programs have never seen are left out: not each of
    them has a tracepoint (nested threaded lines, interrupts of Xen).
    """

    def __init__(self, counts: Mapping[Row, int]) -> None:
        """counts: the kernel's, as interrupts.counts() gives them, from after the attaching."""
        self.start = counts
        self.seen: dict[Row, int] = {}
        self.reported: dict[Row, int] = {}
        self.names: dict[Row, tuple[str, int | str | None, str, int | None]] = {}

    def assign(self, found: list[Interrupt], counts: Mapping[Row, int]) -> None:
        """Set unseen of the Interrupts of an interval.

        Adds one to `found` for a row of which none was seen in the interval.
        counts: the kernel's, from before the end of the interval.
        """
        members: dict[Row, list[Interrupt]] = {}
        for interrupt in found:
            row = interrupt.row()
            self.seen[row] = self.seen.get(row, 0) + interrupt.count
            self.names[row] = interrupt.kind, interrupt.irq, interrupt.name, interrupt.cpu
            members.setdefault(row, []).append(interrupt)
        for row, seen in self.seen.items():
            difference = counts.get(row, 0) - self.start.get(row, 0) - seen - 1
            # the kernel's counts are 32 bits wide
            difference = (difference + (1 << 31)) % (1 << 32) - (1 << 31)
            new = difference - self.reported.get(row, 0)
            if new > 0:
                self.reported[row] = difference
                if row not in members:
                    members[row] = [Interrupt(*self.names[row])]
                    found += members[row]
                _share(new, members[row])


def _share(number: int, interrupts: Sequence[Interrupt]) -> None:
    """Add to unseen of the Interrupts of one row in proportion to their counts."""
    count = sum(interrupt.count for interrupt in interrupts)
    for interrupt in interrupts[1:]:
        part = number * interrupt.count // count
        interrupt.unseen += part
        number -= part
        count -= interrupt.count
    interrupts[0].unseen += number


class Tracer:
    """The programs, and the reading of their banks."""

    def __init__(
        self, args: Namespace, sources: Mapping[str, Source], kinds: int = HARD | SOFT
    ) -> None:
        """args: source, cgroup, dist and nanoseconds of the options; kinds: those of sources()."""
        slots, cpus = _SLOTS if args.dist else 0, bpf.possible_cpus()
        self._soft_names = interrupts.softirqs()
        # Two banks of some 16 vectors and a few lines on each CPU, and every line (with two
        # handlers) on some CPU.
        entries = 48 * cpus + 4 * interrupts.line_count() + 512
        params = {"kinds": kinds, "nanoseconds": args.nanoseconds, "slots": slots}
        sizes = {
            "states": {"max_entries": cpus},
            "empty": {"elements": slots},
            "sources": {"max_entries": entries, "elements": slots},
        }
        self.program = bpf.load(sources, args, params, sizes)
        self._banks = bpf.Banks(self.program)
        # The kernel's counts are not kept by cgroup.
        self._unseen = None if args.cgroup else Unseen(interrupts.counts())

    def _named(self, key: Any, handler: bytes) -> tuple[str, int | str | None, str]:
        """(hard or soft, irq, name) of a record; handler: its name, of a line."""
        number: int = key.id
        if key.kind == SOFT_VECTOR:
            known = number < len(self._soft_names)
            return "soft", None, self._soft_names[number] if known else str(number)
        if key.kind == VECTOR:
            return ("hard", *VECTORS.get(number, (f"0x{number:x}", f"vector_0x{number:x}")))
        return "hard", number, table.decode(handler) or interrupts.name(number)

    def read(self, final: bool) -> tuple[list[Interrupt], Losses]:
        """([Interrupt of one CPU], losses) of the interval that ends now.

        The losses: full, interrupts that were not counted; unseen, softirqs that the programs did
        not see, None where that is not known.
        """
        kernel = interrupts.counts() if self._unseen else {}
        self._banks.switch(final)
        found = [
            Interrupt(
                *self._named(key, sums.name), key.cpu, sums.count, sums.total, sums.max, sums.slots
            )
            for key, sums in self._banks.hash("sources")
        ]
        lost: Losses = dict(self.program.lost(), unseen=None)
        if self._unseen:
            self._unseen.assign(found, kernel)
            lost["unseen"] = sum(one.unseen for one in found if one.kind == "soft")
        return found, lost


def collect(args: Namespace, tracer: Tracer) -> Iterator[tuple[float, list[Interrupt], Losses]]:
    """Yield (seconds, [Interrupt of one CPU], losses) for each interval of args."""
    for number, seconds in enumerate(cli.ticks(args.interval, args.count), 1):
        yield (seconds, *tracer.read(cli.stopping() or number == args.count))


def grouped(
    found: Iterable[Interrupt], per_cpu: bool = False, by_name: bool = False
) -> list[Interrupt]:
    """Interrupts by the time that they took, most first.

    per_cpu: do not add up those of all CPUs.  by_name: add up lines of the same name; irq is None.
    """
    groups: dict[Any, Interrupt] = {}
    for one in found:
        irq, cpu = None if by_name else one.irq, one.cpu if per_cpu else None
        key = one.kind, irq, one.name, cpu
        groups.setdefault(key, Interrupt(*key)).add(one)
    for group in groups.values():
        group.estimate()
    return sorted(groups.values(), key=lambda one: (-(one.time or 0), one.cpu or 0))


def totals(rows: Iterable[Interrupt]) -> list[Interrupt]:
    """[Interrupt "total" of the hard ones, of the soft ones] of what grouped() returned."""
    hard, soft = Interrupt("hard", None, "total"), Interrupt("soft", None, "total")
    hard.time = soft.time = 0
    for one in rows:
        total = soft if one.kind == "soft" else hard
        total.add(one)
        total.time = (total.time or 0) + (one.time or 0)
    return [hard, soft]


def note_losses(lost: Losses) -> None:
    """Report on stderr the interrupts that were not counted."""
    if lost["full"]:
        cli.note(f"{lost['full']} interrupts not counted: the table of interrupts was full")
