# SPDX-License-Identifier: GPL-2.0-or-later
"""showboost: its intervals and its columns."""

from clock_samples import G, Script, rates_of, second
from crisis.cpu import clock, clock_rate
from helpers import load


def test_clock_by_cpufreq_alone(hybrid):
    command = load("showboost")
    counters = clock.choose([0], root=hybrid)
    assert counters.name == "cpufreq"
    sample = counters.read(4)
    row = clock_rate.between(4, sample, sample, 2100, None)
    assert row.mhz == 3391 and row.mcyc is None and row.util is None
    args = command.get_parser().parse_args([])
    widths, _ = command.heading(args, [])
    assert command.render_text(args, widths, [], [row]).split()[1:] == [
        "-",
        "-",
        "-",
        "161%",
        "3391",
    ]


def test_an_interval_idle_throughout_has_no_utilization_and_no_clock():
    command = load("showboost")
    samples = second(0, 0, 1), second(1, 2 * G, 1), second(2, 4 * G, 2)
    stuck, _ = rates_of(Script(*samples), 2)
    assert stuck.util is stuck.mcyc is None  # busy, by the kernel's account
    idle, busy = rates_of(Script(*samples), 2, idle=True)
    assert (idle.mcyc, idle.acyc, idle.util, idle.mhz, idle.ratio) == (
        0,
        0,
        0,
        None,
        None,
    ) and busy.util == 1
    args = command.get_parser().parse_args([])
    widths, _ = command.heading(args, [])
    assert command.render_text(args, widths, [], [idle]).split()[1:] == ["0", "0", "0%", "-", "-"]
    low, mean, _ = clock_rate.summary([idle, busy])
    assert (low.util, mean.util, mean.mhz) == (0, 0.5, 3000)


def test_collect_reports_a_step_and_no_idle_cpu_as_offline(monkeypatch):
    command, notes = load("showboost"), []
    samples = [
        second(n, 10**16 + 2 * G * n - (10**15 if n > 2 else 0), max(n, 1)) for n in range(6)
    ]
    counters = Script(*samples)
    counters.name = "perf"
    monkeypatch.setattr(command.clock, "choose", lambda *args: counters)
    monkeypatch.setattr(
        command, "Clocks", lambda cpu, counters, log: type("C", (), {"base": 2000, "cpu": cpu})
    )
    monkeypatch.setattr(command.cli, "ticks", lambda interval, count: iter([1.0] * 5))
    monkeypatch.setattr(command.cli, "note", notes.append)
    ticks = iter([7, 7, 8, 9, 10, 11])  # of the first second none
    monkeypatch.setattr(command.cputime, "busy_ticks", lambda: {0: next(ticks)})
    args = command.get_parser().parse_args([])
    found = [row.util for _, (row,) in command.collect(args, command.Sampler(args))]
    assert found == [0, 1, None, 1, 1]
    assert notes == ["the TSC of CPU 0 was set: its rate is measured anew"]
