#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tsa against runqlat in one run, interleaved: the cost of an event, and of a report.

And `perf bench sched pipe` with and without tsa.  Needs root, bpftool and linux-perf.  Prints
Markdown tables.
"""

import os
import subprocess
import sys
import tempfile

import harness
import runqlat

ROUNDS = 7
TSA, RUNQLAT = harness.tool("tsa"), harness.tool("runqlat")
MESSAGES = 50000
PIPE = ["taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", str(MESSAGES)]


def pipe():
    """CPU time of a message of `perf bench sched pipe`, in us, pinned to one CPU."""
    return harness.run(PIPE).cpu * 1e3 / MESSAGES


def pipe_while(command):
    """The same while a command runs, from when it has attached."""
    child = subprocess.Popen(
        [*command, "-v"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        if not any("attached to" in line for line in child.stderr):
            raise RuntimeError(f"{command[0]} did not attach")
        return pipe()
    finally:
        child.kill()
        child.wait()


def main():
    print(f"{harness.machine()}, {ROUNDS} interleaved rounds")
    costs = {"tsa": [TSA], "tsa -j": [TSA, "-j"], "runqlat": [RUNQLAT]}
    spent = {name: [] for name in costs}
    with harness.bpf_statistics():
        for _ in range(ROUNDS):
            for name, command in costs.items():
                spent[name].append(runqlat.event_cost(command))
    harness.table("in the kernel, per event", "ns", spent, "runqlat")
    what = "tsa: cost of an event in the kernel"
    harness.ratio_row(what, "runqlat", spent["tsa"], spent["runqlat"], "1.5")
    times = {"none": [], "tsa": [], "runqlat": []}
    for _ in range(ROUNDS):
        times["none"].append(pipe())
        times["tsa"].append(pipe_while([TSA]))
        times["runqlat"].append(pipe_while([RUNQLAT]))
    harness.table("perf bench sched pipe", "us of CPU time a message", times, "none", 2)
    what = "tsa: perf bench sched pipe"
    harness.ratio_row(what, "without", times["tsa"], times["none"], "1.15")
    with tempfile.TemporaryDirectory() as directory:
        tools = {"tsa -H": [TSA, "-H"], "runqlat -L": [RUNQLAT, "-L"]}
        runqlat.reports(directory, tools, "runqlat -L", ratio=False)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("only root can load BPF programs")
    main()
