#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""use beside vmstat, iostat and sar -A: CPU time of a report, and of each interval.  Needs root."""

import os

import harness

# isort: split
from crisis.kernel import cgroup

CGROUPS = 1000
RUNS = 7


def report():
    """One report of a second: CPU time with the start, by the classic tools' sum."""
    jobs = {
        "use": lambda: harness.run([harness.tool("use")], 1),
        "vmstat 1 2": lambda: harness.run(["vmstat", "1", "2"], 1),
        "iostat -xz 1 2": lambda: harness.run(["iostat", "-xz", "1", "2"], 1),
        "sar -A 1 1": lambda: harness.run(["sar", "-A", "1", "1"], 1),
    }
    found = harness.interleaved(jobs, RUNS)
    for title, unit, of in (
        ("a report, CPU time", "ms", lambda run: run.cpu),
        ("a report, wall time beyond the interval", "ms", lambda run: run.wall),
        ("a report, memory", "MB", lambda run: run.rss),
    ):
        rows = {name: list(map(of, runs)) for name, runs in found.items()}
        harness.table(title, unit, rows, "sar -A 1 1")
    if "sar -A 1 1" in found:
        ours, theirs = ([run.cpu for run in found[name]] for name in ("use", "sar -A 1 1"))
        harness.ratio_row("use: CPU time of a report", "sar -A", ours, theirs)


def intervals(title):
    """Percent of a CPU at intervals of a second: the medians' row, and ours."""
    commands = {"use 1": [harness.tool("use"), "1"], "sar -A 1": ["sar", "-A", "1"]}
    rows = {}
    for _ in range(3):
        for name, command in commands.items():
            try:
                rows.setdefault(name, []).append(harness.share_of_cpu(command, 5)[0])
            except OSError as exc:
                harness.left_out(name, exc)
    harness.table(title, "% of a CPU", rows, "sar -A 1", 2)
    return harness.median(rows["use 1"])


def with_cgroups():
    """The cost of many cgroups with a limit."""
    mount = cgroup.controller_mount("cpu")
    if mount is None:
        harness.left_out("cgroups", "no hierarchy with cpu is mounted")
        return
    file, value = ("cpu.cfs_quota_us", "50000")
    if mount[1] is None:
        file, value = "cpu.max", "50000 100000"
    made = []
    try:
        for number in range(CGROUPS):
            made.append(f"{mount[0]}/crisis-bench-{number}")
            os.mkdir(made[-1])
            with open(f"{made[-1]}/{file}", "w") as f:
                f.write(value)
        share = intervals(f"intervals of a second, {CGROUPS} cgroups with a limit")
    finally:
        for directory in made:
            os.rmdir(directory)
    harness.row(f"use 1: {CGROUPS} cgroups, % of a CPU", "-", f"{share:.1f}")


def main():
    print(harness.machine())
    report()
    share = intervals("intervals of a second")
    harness.row("use 1: % of a CPU", "-", f"{share:.1f}")
    with_cgroups()


if __name__ == "__main__":
    main()
