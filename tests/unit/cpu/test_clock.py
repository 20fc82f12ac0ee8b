# SPDX-License-Identifier: GPL-2.0-or-later
"""Cycle counters: their sources, and the TSC's rate and steps."""

import pytest

from clock_samples import G, Script, rates_of, second
from crisis.cpu import base_clock, clock, clock_rate, freq, thermal
from crisis.errors import Unavailable
from helpers import load


def set_counters(root, cpu, reference, delivered):
    with open(root + f"sys/devices/system/cpu/cpu{cpu}/acpi_cppc/feedback_ctrs", "w") as f:
        f.write(f"ref:{reference} del:{delivered}\n")


def test_clock_by_cppc_on_arm(arm):
    notes = []
    counters = clock.choose([0, 1], log=notes.append, root=arm)
    assert counters.name == "cppc" and any("not msr" in line for line in notes)
    machine = base_clock.Clocks(0, counters, print, arm)
    assert (machine.base, machine.source, machine.set) == (2800, "CPPC nominal_freq", 2200)
    assert machine.turbo_clocks() == [3000]
    before = counters.read(0)
    set_counters(arm, 0, 10**9 + 5 * 10**8, 26 * 10**8 + 13 * 10**8)
    row = clock_rate.between(
        0,
        before,
        counters.read(0),
        machine.base,
        counters.rate(machine.base, 0),
        counters.known_rate,
    )
    # 2.6 cycles for each of a reference that runs at 2800 * 100 / 280 = 1000 MHz
    assert (
        row.mhz == pytest.approx(2600)
        and row.ratio == pytest.approx(2600 / 2800)
        and row.util is None
    )


def test_clock_by_cppc_on_zen(zen4):
    counters = clock.choose([0], root=zen4)
    machine = base_clock.Clocks(0, counters, print, zen4)
    assert (machine.base, machine.boost, machine.turbo_clocks()) == (3250, True, [3800])
    assert load("showboost").render_machine(machine) == (
        "Base CPU MHz : 3250\nSet CPU MHz  : 3742\nTurbo MHz(s) : 3800\nTurbo Ratios : 116%\n"
    )
    before = counters.read(0)
    set_counters(zen4, 0, 10**12 + 650 * 10**6, 12 * 10**11 + 748 * 10**6)
    after = counters.read(0)
    after.ns = before.ns + 10**9
    row = clock_rate.between(
        0, before, after, machine.base, counters.rate(machine.base, 0), counters.known_rate
    )
    assert row.mhz == pytest.approx(3250 * 748 / 650) and row.util == pytest.approx(0.2)
    # a counter that went back is no clock
    set_counters(zen4, 0, 5, 5)
    assert clock_rate.between(0, after, counters.read(0), machine.base, machine.base).mhz is None


def test_mperf_goes_with_the_tsc_where_the_base_was_lowered():
    class Counters(clock.Counters):
        def _read(self, cpu):
            self.n += 1
            return clock.Sample(self.n * 10**9, self.n * 25 * 10**8, 1, 1)

    counters = Counters()
    counters.n = 0
    counters.read(0), counters.read(0)
    assert counters.tsc_mhz() == 2500
    assert (
        counters.rate(2000, 0) == 2500
        and counters.rate(2494, 0) == 2494
        and counters.rate(None, 0) == 2500
    )


@pytest.mark.parametrize("base", [None, 2000, 1000])
@pytest.mark.parametrize("step", [-5 * 10**18, -10 * G, -3 * G, 9 * G, 10**18])
def test_after_a_step_of_the_tsc_its_rate_is_measured_anew(step, base):
    """Half of each second in C0; base: that of the header, which may be wrong.

    The TSC is set in the fourth second.
    """
    start = 10**19
    counters = Script(
        *[second(n, start + 2 * G * n + (step if n > 3 else 0), n / 2) for n in range(9)]
    )
    rows = rates_of(counters, 8, base)
    for number, row in enumerate(rows, 1):
        # MPERF and APERF go on, but what share of the time their counts are is unknown while the
        # TSC is set.
        assert row.util == (None if number == 4 else pytest.approx(0.5)), number
        assert row.mhz == pytest.approx(3000) and row.ratio == pytest.approx(
            1.5 * 2000 / (base or 2000)
        ), number


def test_another_rate_of_the_tsc_after_a_step():
    """As after a migration to a machine with a faster TSC: two intervals, and the new rate is
    taken.
    """
    samples = [(n * G, 10**16 + 2 * G * n, 2 * G * n, 2 * G * n) for n in range(4)]
    samples += [(n * G, 3 * G * n, 10**12 + 3 * G * n, 10**12 + 3 * G * n) for n in range(4, 9)]
    rows = rates_of(Script(*samples), 8)
    assert [row.mhz for row in rows[:3] + rows[4:]] == [2000] * 3 + [3000] * 4


def test_counters_that_start_again_with_the_tsc():
    """As after suspend: all three go back at once."""
    samples = [second(n, 10**16 + 2 * G * n, 1000 + n / 4) for n in range(4)]
    samples += [second(n, 2 * G * (n - 4), (n - 4) / 4) for n in range(4, 8)]
    rows = rates_of(Script(*samples), 7)
    assert [row.util for row in rows] == [0.25] * 3 + [None] + [0.25] * 3
    assert [row.mhz for row in rows] == [pytest.approx(3000)] * 3 + [None] + [
        pytest.approx(3000)
    ] * 3
    assert rows[3].mcyc is None and rows[3].acyc is None


def test_a_late_reading_is_no_step():
    counters = Script(*[(n * G + (5 * 10**7 if n == 2 else 0), 2 * G * n, 1, 1) for n in range(4)])
    assert not any(counters.read(0).stepped for _ in range(4))


def test_nothing_on_graviton(graviton):
    assert thermal.sensors(graviton) == [] and freq.cpufreq(0, graviton) == {}
    for call in (
        lambda: load("cputemp").find(graviton),
        lambda: load("cpuhot").Probe(graviton),
        lambda: clock.choose([0], root=graviton),
    ):
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable, match="On ARM"):
        clock.choose([0], root=graviton)
