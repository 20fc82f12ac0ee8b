#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""psi --by-cgroup with thousands of cgroups: CPU time at intervals of a second.  Needs root."""

import os
import sys

import harness

# isort: split
from crisis.kernel import cgroup

CGROUPS = (500, 1000, 2000)


def main():
    print(harness.machine())
    found = cgroup.task_hierarchy(2)
    if found is None:
        sys.exit("no cgroup v2 hierarchy is mounted")
    top = os.path.join(found[0], "crisis-bench")
    os.mkdir(top)
    made = []
    print("\n| cgroups | psi --by-cgroup, % of a CPU |\n|---|---|")
    try:
        for number in CGROUPS:
            while len(made) < number:
                made.append(os.path.join(top, f"c{len(made)}"))
                os.mkdir(made[-1])
            command = [harness.tool("psi"), "--by-cgroup", "1"]
            shares = [harness.share_of_cpu(command, 4)[0] for _ in range(3)]
            print(f"| {number} | {harness.spread(shares, 2)} |", flush=True)
    finally:
        for path in reversed(made):
            os.rmdir(path)
        os.rmdir(top)
    what = f"psi --by-cgroup: {CGROUPS[-1]} cgroups, % of a CPU"
    harness.row(what, "-", f"{harness.median(shares):.1f}", "8")


if __name__ == "__main__":
    main()
