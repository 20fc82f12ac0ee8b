# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock rate of CPUs in C0, between two samples of their cycle counters.  Pure.

Follows the Intel SDM volume 3, "Performance monitoring: APERF and MPERF": both
count in C0 only, APERF actual cycles, MPERF cycles of a constant rate.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Sample

__all__ = ["Rate", "between", "summary"]


class Rate:
    """What one CPU, or all of them, did in an interval; None for what is unknown.

    label: the CPU, or "min", "avg" and "max" of several.
    mcyc, acyc: cycles of MPERF and APERF.  util: the share of the time in C0.
    ratio: of mhz to the base clock, or of acyc to mcyc.  mhz: the clock rate in C0.
    idle: {column of CStates: share of the time}.
    """

    __slots__ = ("label", "mcyc", "acyc", "util", "ratio", "mhz", "idle")

    def __init__(
        self,
        label: int | str,
        mcyc: float | None = None,
        acyc: float | None = None,
        util: float | None = None,
        ratio: float | None = None,
        mhz: float | None = None,
    ) -> None:
        self.label, self.mcyc, self.acyc = label, mcyc, acyc
        self.util, self.ratio, self.mhz = util, ratio, mhz
        self.idle: dict[str, float | None] = {}

    @property
    def unknown(self) -> bool:
        """Whether nothing is known but cycles."""
        return self.mhz is None and self.ratio is None and self.util is None


def between(
    cpu: int,
    before: Sample | None,
    after: Sample | None,
    base: float | None,
    rate: float | None,
    known_rate: bool = False,
    idle: bool = False,
) -> Rate:
    """The Rate of a CPU between two samples.

    Nothing is known if one is missing or a counter went back; of a sample that has the clock
    itself, the later is enough.

    A CPU that was idle throughout has a util of 0 and no clock.
    base: MHz of the base clock, or None.  rate: MHz at which MPERF counts, or None.
    known_rate: whether util may be computed from it where no TSC was read.
    idle: whether the kernel counted it as idle throughout; otherwise counters
    that did not count are taken to be none.
    """
    if after is not None and after.mhz is not None:
        return Rate(cpu, mhz=after.mhz, ratio=after.mhz / base if base else None)
    if before is None or after is None or after.mperf is None:
        return Rate(cpu)
    mcyc, acyc = _growth(before.mperf, after.mperf), _growth(before.aperf, after.aperf)
    if mcyc == acyc == 0 and idle:
        return Rate(cpu, 0, 0, 0.0)
    if mcyc <= 0 or acyc <= 0:  # not counting, or written by someone
        return Rate(cpu)
    util = None
    ticks = _growth(before.tsc, after.tsc)
    if ticks > 0 and not after.stepped:
        util = min(mcyc / ticks, 1.0)
    elif known_rate and rate and after.ns > before.ns:
        util = min(mcyc * 1e3 / (rate * (after.ns - before.ns)), 1.0)
    mhz = rate * acyc / mcyc if rate else None
    ratio = mhz / base if mhz and base else acyc / mcyc
    return Rate(cpu, mcyc, acyc, util, ratio, mhz)


def _growth(before: int | None, after: int | None) -> int:
    """How much a counter grew; 0 where it was not read."""
    return 0 if before is None or after is None else after - before


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def summary(rates: Sequence[Rate]) -> list[Rate]:
    """The smallest, mean and largest values of CPUs.

    The mean clock is of the time that CPUs worked: one that idled weighs little.
    """
    kinds: tuple[tuple[str, Callable[[Sequence[float]], float]], ...]
    kinds = ("min", min), ("avg", _mean), ("max", max)
    found = []
    for label, choose in kinds:
        new = Rate(label)
        for name in "mcyc", "acyc", "util", "ratio", "mhz":
            values = [getattr(r, name) for r in rates if getattr(r, name) is not None]
            setattr(new, name, choose(values) if values else None)
        for name in rates[0].idle if rates else ():
            shares = [share for share in (r.idle.get(name) for r in rates) if share is not None]
            new.idle[name] = choose(shares) if shares else None
        found.append(new)
    worked = [r for r in rates if r.mcyc]
    cycles = sum(r.mcyc or 0 for r in worked)
    for name in "ratio", "mhz":
        if worked and all(getattr(r, name) is not None for r in worked):
            mean = sum(getattr(r, name) * r.mcyc for r in worked) / cycles
            setattr(found[1], name, mean)
    return found
