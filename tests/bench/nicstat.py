#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat with hundreds of interfaces, against nicstat 1.95 and sar: CPU time, start and memory.

Needs root, pyroute2, and of nicstat and sysstat what is installed.
"""

import shutil
import subprocess
import time

import harness

LINKS = (76, 150, 300)
NAMESPACE = "crisis-bench"


def main():
    print(harness.machine())
    inside = ["ip", "netns", "exec", NAMESPACE]
    commands = {"ours": [harness.tool("nicstat"), "1"]}
    for name, command in ("nicstat 1.95", ["nicstat", "1"]), ("sar", ["sar", "-n", "DEV", "1"]):
        if shutil.which(command[0]):
            commands[name] = [shutil.which(command[0]), *command[1:]]
        else:
            harness.left_out(name, "not installed")
    print(f"\n| links | {' | '.join(f'{name}, % of a CPU' for name in commands)} |")
    print("|---" * (len(commands) + 1) + "|")
    subprocess.check_call(["ip", "netns", "add", NAMESPACE])
    try:
        made = 0
        for number in LINKS:
            # Pairs, since not every kernel has dummy links.
            batch = "".join(
                f"link add va{i} type veth peer name vb{i}\nlink set va{i} up\nlink set vb{i} up\n"
                for i in range(made // 2, number // 2)
            )
            subprocess.run(
                ["ip", "-n", NAMESPACE, "-batch", "-"], input=batch, text=True, check=True
            )
            made = number
            time.sleep(2)  # until each has announced itself: the others are not shown
            runs = {name: [] for name in commands}
            for _ in range(3):
                for name, command in commands.items():
                    # ip(8) executes the command: its process is measured.
                    runs[name].append(harness.share_of_cpu(inside + command, 4))
            cells = [harness.spread([share for share, _ in values], 2) for values in runs.values()]
            print(f"| {number} | {' | '.join(cells)} |", flush=True)
        share = harness.median([share for share, _ in runs["ours"]])
        harness.row(f"nicstat: {LINKS[-1]} links, % of a CPU", "-", f"{share:.2f}", "2")
        once = {
            name: (lambda command=command: harness.run(inside + [*command[:1], "1", "1"]))
            for name, command in commands.items()
            if name != "sar"
        }
        found = harness.interleaved(once, 12)
    finally:
        subprocess.check_call(["ip", "netns", "del", NAMESPACE])
    base = "nicstat 1.95" if "nicstat 1.95" in found else "ours"
    harness.table(
        "one report", "ms", {name: [run.wall for run in runs] for name, runs in found.items()}, base
    )
    harness.table(
        "peak RSS", "MB", {name: [run.rss for run in runs] for name, runs in found.items()}, base
    )


if __name__ == "__main__":
    main()
