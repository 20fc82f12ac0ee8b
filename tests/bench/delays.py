#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""delays with thousands of tasks, against top: CPU time at intervals of a second.  Needs root."""

import os
import signal
import subprocess
import sys

import harness

TASKS = (2500, 5000, 10000)
SLEEPERS = """
import os, signal, sys
children = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        signal.pause()
    children.append(pid)
print("ready", flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


def sleepers(number):
    """A process with so many children that sleep; they end with its standard input."""
    child = subprocess.Popen(
        [sys.executable, "-IS", "-c", SLEEPERS, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"ready\n"
    return child


def main():
    print(harness.machine())
    commands = {"delays": [harness.tool("delays"), "1"], "top": ["top", "-b", "-d", "1"]}
    print(f"\n| tasks | {' | '.join(f'{name}, % of a CPU' for name in commands)} |")
    print("|---" * (len(commands) + 1) + "|")
    costs = {}
    for number in TASKS:
        child = sleepers(number)
        try:
            tasks = sum(name.isdigit() for name in os.listdir("/proc"))
            runs = {name: [] for name in commands}
            for _ in range(3):
                for name, command in commands.items():
                    runs[name].append(harness.share_of_cpu(command, 5)[0])
        finally:
            child.stdin.close()
            child.wait()
        costs[number] = {name: harness.median(values) for name, values in runs.items()}
        cells = " | ".join(harness.spread(values) for values in runs.values())
        print(f"| {tasks} | {cells} |", flush=True)
    most = costs[TASKS[-1]]
    harness.row(
        f"delays: CPU time with {TASKS[-1]} tasks",
        "top",
        f"{most['delays'] / most['top']:.2f}",
        "1",
    )


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    main()
