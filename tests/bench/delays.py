#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""delays with thousands of tasks, against top: CPU time at intervals of a second.  Needs root."""

import os
import signal

import harness

TASKS = (2500, 5000, 10000)


def main():
    print(harness.machine())
    commands = {"delays": [harness.tool("delays"), "1"], "top": ["top", "-b", "-d", "1"]}
    print(f"\n| tasks | {' | '.join(f'{name}, % of a CPU' for name in commands)} |")
    print("|---" * (len(commands) + 1) + "|")
    costs = {}
    for number in TASKS:
        child = harness.sleepers(number)
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
