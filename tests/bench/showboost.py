#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""showboost, cputemp and cpuhot against the originals on simulated registers; the cost of many
CPUs, and of the timed loop.

Needs root and python3-fusepy.  For the originals put the directory of
msr-cloud-tools in MSR_CLOUD_TOOLS and install msr-tools; they are left out,
with a note, otherwise.  Prints Markdown tables.
"""

import json
import os
import resource
import subprocess
import sys

import harness

ROOT = harness.ROOT
RUNS = 12
TRUTH = {"UTIL": 50, "RATIO": 128, "MHz": 3200}


def simulated():
    """Run this file again where the registers are."""
    import test_msr

    spec = test_msr.INTEL
    spec["binds"]["/sbin/modprobe"] = "#!/bin/sh\nexit 0\n"
    os.execv(
        os.path.join(ROOT, "tests/tools/with-msr"),
        ["with-msr", json.dumps(spec), sys.executable, os.path.abspath(__file__), "inside"],
    )


def commands():
    """{name: (command, seconds that it sleeps)}."""
    found = {
        name + ", ours": ([harness.tool(name), *args], sleeps)
        for name, args, sleeps in (
            ("showboost", ["1", "1"], 1),
            ("cputemp", [], 0),
            ("cpuhot", [], 0),
        )
    }
    originals = os.environ.get("MSR_CLOUD_TOOLS")
    if not originals or subprocess.call(["sh", "-c", "command -v rdmsr >/dev/null"]):
        harness.left_out("the originals", "MSR_CLOUD_TOOLS or rdmsr is missing")
        return found
    for name, args, sleeps in ("showboost", ["1", "1"], 1), ("cputemp", [], 0), ("cpuhot", [], 0):
        found[name + ", original"] = ["bash", os.path.join(originals, name), *args], sleeps
    return found


def compare():
    found = commands()
    jobs = {
        name: lambda command=command, sleeps=sleeps: harness.run(command, sleeps, {"USER": "root"})
        for name, (command, sleeps) in found.items()
    }
    runs = harness.interleaved(jobs, RUNS)
    walls = {name: [run.wall for run in results] for name, results in runs.items()}
    harness.table("whole process less its sleep", "ms", walls, "showboost, ours")
    for name in "showboost", "cputemp", "cpuhot":
        original = walls.get(f"{name}, original")
        if original:
            harness.ratio_row(f"{name}: start", "the original", walls[f"{name}, ours"], original)
    truth = ", ".join(f"{key} {value}" for key, value in TRUTH.items())
    print(f"\n| simulated: {truth} | {' | '.join(TRUTH)} |\n|---|{'---|' * len(TRUTH)}")
    for name, (command, _) in found.items():
        if name.startswith("showboost"):
            rows = [figures(command) for _ in range(RUNS)]
            cells = [harness.spread([row[key] for row in rows], 0) for key in TRUTH]
            print(f"| {name} | {' | '.join(cells)} |")


def figures(command):
    """{column: number} of showboost's last line."""
    output = subprocess.run(
        command,
        env=dict(os.environ, USER="root"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    words = output.splitlines()[-1].split()
    return dict(zip(TRUTH, (int(word.rstrip("%")) for word in words[3:])))


def timed_loop():
    """CPU time of the whole command with the timed loop, less that of its start."""
    from crisis.kernel import sysfs

    command = [os.path.join(ROOT, "bin/showboost"), "--source", "loop"]

    def used(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    print("\n| timed loop | ms of CPU time an interval | % of a CPU |\n|---|---|---|")
    cpus = len(sysfs.online_cpus())
    for what, options in ("one CPU", []), (f"{cpus} CPUs", ["--all"]):
        for interval in 1, 0.2:
            costs = [
                (used(*options, str(interval), "11") - used(*options, str(interval), "1")) * 100
                for _ in range(3)
            ]
            cost = harness.median(costs)
            print(f"| {what}, {interval} s | {cost:.2f} | {cost / interval / 10:.2f} |")
            if options and interval == 1:
                harness.row(
                    f"showboost --all: timed loop on {what}, % of a CPU", "-", f"{cost / 10:.2f}"
                )


def many_cpus(sets=512):
    """CPU time to read that many groups of three counters: perf's TSC event stands in for all
    three.
    """
    from crisis.kernel import rlimit, sysfs
    from crisis.perf import event_source
    from crisis.perf.group import Group

    event = event_source.named_event("msr", "tsc")
    cpus = sysfs.online_cpus()
    rlimit.raise_open_files(3 * sets, "counters")
    groups = [Group([event] * 3, cpu=cpus[i % len(cpus)]) for i in range(sets)]
    for group in groups:
        group.enable()
    costs = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_SELF)
        for group in groups:
            group.read()
        after = resource.getrusage(resource.RUSAGE_SELF)
        costs.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    harness.table(
        f"{sets} CPUs (perf source)", "ms of CPU time an interval", {"read": costs}, "read", 2
    )
    harness.row(
        f"showboost: {sets} CPUs, ms of CPU time an interval", "-", f"{harness.median(costs):.2f}"
    )


def main():
    if sys.argv[1:] != ["inside"]:
        simulated()
    print(f"{harness.machine()}, {RUNS} interleaved runs")
    compare()
    many_cpus()
    timed_loop()


if __name__ == "__main__":
    main()
