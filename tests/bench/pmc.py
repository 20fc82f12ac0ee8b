#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The PMC commands' own cost, with software events for the CPU's: start against perf stat, and an
interval.

The interval's cost is measured with 512 simulated CPUs of 8 events, which are
sets opened again and again on the CPUs there are.  On real ones each reading
also interrupts the CPU that it is for.  Needs root and linux-perf.  Prints
Markdown.
"""

import os
import statistics
import subprocess
import sys

import harness

RUNS = 15
PYTHON = "/usr/bin/python3"
SOFT = [PYTHON, "-IS", os.path.join(harness.ROOT, "tests/softpmu.py")]
EVENTS = {
    "pmcarch": "cpu-clock,task-clock,page-faults,alignment-faults,context-switches,cpu-migrations",
    "cpucache": "cpu-clock,task-clock,minor-faults,alignment-faults,emulation-faults,dummy,"
    "context-switches,cpu-migrations",
}


def run(command, seconds=0, **environment):
    """(milliseconds beyond `seconds`, milliseconds of CPU time)."""
    found = harness.run(command, seconds, environment)
    return found.wall, found.cpu


def start():
    print("\n| start: whole process less the interval | median (range) ms | CPU ms | ÷ perf stat |")
    print("|---|---|---|---|")
    for name, events in EVENTS.items():
        commands = {
            name: [*SOFT, name, ".2", ".2"],
            "perf stat, the same events": [
                "perf",
                "stat",
                "-a",
                "-e",
                events,
                "-I",
                "200",
                "sleep",
                ".2",
            ],
        }
        times = {label: [] for label in commands}
        for _ in range(RUNS):
            for label, command in commands.items():
                times[label].append(run(command, 0.2))
        base = statistics.median(t[0] for t in times["perf stat, the same events"])
        for label, figures in times.items():
            wall, cpu = zip(*figures)
            print(
                f"| {label} | {harness.spread(wall)} | {statistics.median(cpu):.1f} | "
                f"{statistics.median(wall) / base:.2f} |"
            )
        ours, theirs = ([wall for wall, _ in times[label]] for label in commands)
        harness.ratio_row(f"{name}: start", "perf stat", ours, theirs)


def interval():
    few, many, spacing = 2, 22, 0.1
    costs, starts = [], []
    for _ in range(7):
        used = [
            run([*SOFT, "cpucache", str(spacing), str(spacing * n)], SOFTPMU_TARGETS="512")[1]
            for n in (few, many)
        ]
        costs.append((used[1] - used[0]) / (many - few))
        starts.append(
            run([*SOFT, "cpucache", str(spacing), str(spacing)], spacing, SOFTPMU_TARGETS="512")[0]
        )
    print("\n| 512 simulated CPUs of 8 events | median (range) ms |\n|---|---|")
    print(f"| CPU time of an interval | {harness.spread(costs)} |")
    print(f"| the same at 1 s, % of one CPU | {statistics.median(costs) / 10:.2f} |")
    print(f"| start and end, 4096 counters opened and closed | {harness.spread(starts)} |")


if __name__ == "__main__":
    if subprocess.call(
        ["perf", "stat", "-a", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        sys.exit("perf stat does not run here: install linux-perf and be root")
    print(f"{harness.machine()}, {RUNS} interleaved runs")
    start()
    interval()
