#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tiptop with thousands of threads, against the classic tiptop and top, and what counting costs.

Software events stand in for the CPU's, in both tiptops.  CPU time at intervals of a second.
Needs root, gcc, and for the classic the package tiptop.
"""

import os
import re
import resource
import shutil
import subprocess
import tempfile
import time

import harness

THREADS = (750, 1500, 3000)  # with five events each, within the usual limit of open files
CLASSIC = "/usr/bin/tiptop"
OURS = ["/usr/bin/python3", "-IS", os.path.join(harness.ROOT, "tests/softpmu.py"), "tiptop"]
PER_PROCESS = 10  # threads


def classic(directory):
    """The classic's command, with software events; None, with a note, where it does not run."""
    if not shutil.which("gcc") or not os.access(CLASSIC, os.X_OK):
        harness.left_out("the classic tiptop", "gcc or the package tiptop is not installed")
        return None
    library = os.path.join(directory, "soft_events.so")
    source = os.path.join(harness.ROOT, "tests/cases/soft_events.c")
    subprocess.check_call(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"])
    command = ["env", f"LD_PRELOAD={library}", CLASSIC]
    version = subprocess.run([*command, "--version"], stdout=subprocess.PIPE, text=True).stdout
    if "tiptop 2.3" not in version:
        harness.left_out("the classic tiptop", f"{CLASSIC} is another one")
        return None
    return [*command, "-b", "-d", "1"]


def many_threads(commands):
    print(f"\n| threads | {' | '.join(f'{name}, % of a CPU' for name in commands)} |")
    print("|---" * (len(commands) + 1) + "|")
    costs = {}
    for number in THREADS:
        child = harness.sleepers(number, PER_PROCESS)
        try:
            with open("/proc/loadavg") as f:
                threads = f.read().split()[3].partition("/")[2]
            runs = {name: [] for name in commands}
            for _ in range(3):
                for name, command in commands.items():
                    runs[name].append(harness.share_of_cpu(command, 6)[0])
        finally:
            child.stdin.close()
            child.wait()
        costs[number] = {name: harness.median(values) for name, values in runs.items()}
        cells = " | ".join(harness.spread(values) for values in runs.values())
        print(f"| {threads} | {cells} |", flush=True)
    ours = [cost["tiptop"] for cost in costs.values()]
    for name in list(commands)[1:]:
        figure = f"{ours[-1] / costs[THREADS[-1]][name]:.2f}"
        goal = "1" if "2.3" in name else ""  # top counts nothing
        harness.row(f"tiptop: CPU time with {THREADS[-1]} threads", name, figure, goal)
    figure = f"{ours[-1] / ours[-2]:.2f}"
    harness.row(f"tiptop: {THREADS[-1]} threads", f"{THREADS[-2]} threads", figure, "2")


def switches():
    """A round trip of two tasks through a pipe, alone and counted."""
    if not shutil.which("perf"):
        harness.left_out("the cost of a context switch", "perf is not installed")
        return
    found = {"alone": [], "counted": []}
    for _ in range(7):
        for name, times in found.items():
            counter = None
            if name == "counted":  # with a short interval, so that it finds them
                counter = subprocess.Popen(
                    [*OURS, "-p", "sched-pipe", ".05"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                time.sleep(1)
            shown = subprocess.run(
                ["perf", "bench", "sched", "pipe", "-l", "100000"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ).stdout
            times.append(float(re.search(r"([\d.]+) usecs/op", shown).group(1)))
            if counter:
                counter.kill()
                counter.wait()
    harness.table("round trip through a pipe", "us", found, "alone", 2)


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the classic does not raise it
    print(harness.machine())
    with tempfile.TemporaryDirectory() as directory:
        commands = {"tiptop": [*OURS, "1"]}
        theirs = classic(directory)
        if theirs:
            commands["tiptop 2.3.1"] = theirs
        commands["top -H"] = ["top", "-b", "-H", "-d", "1"]
        many_threads(commands)
    switches()


if __name__ == "__main__":
    main()
