#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A first start, which compiles: runqlat against bcc's, and crisis-warm with an empty cache.

Needs root, bpfcc-tools and bpftool.
"""

import os
import shutil
import tempfile

import harness

RUNS = 9
BCC = "/usr/sbin/runqlat-bpfcc"


def main():
    print(harness.machine())
    ours = [harness.tool("runqlat"), "--no-cache", "1", "1"]
    jobs = {"ours, cold": lambda: harness.run(ours, 1)}
    directory = tempfile.mkdtemp(prefix="crisis-bench-")
    try:
        if os.access(BCC, os.X_OK) and shutil.which("bpftool"):
            source = harness.bcc_headers(directory, BCC)
            jobs["bcc, full header"] = lambda: harness.run([BCC, "1", "1"], 1, source)
        else:
            harness.left_out("bcc", f"{BCC} or bpftool is not installed")
        found = harness.interleaved(jobs, RUNS)
    finally:
        shutil.rmtree(directory)
    walls = {name: [run.wall for run in runs] for name, runs in found.items()}
    harness.table("cold start", "ms", walls, "bcc, full header")
    if len(walls) == 2:
        harness.ratio_row("runqlat: cold start", "bcc", *walls.values(), "0.45")
    # An empty cache in a mount namespace of its own.
    empty = (
        "mkdir -p /var/cache/crisis-tools && mount -t tmpfs -o mode=700 tmpfs "
        '/var/cache/crisis-tools && exec "$0"'
    )
    warm = ["unshare", "-m", "sh", "-c", empty, harness.tool("crisis-warm")]
    times = [harness.run(warm).wall / 1e3 for _ in range(3)]
    print(f"\ncrisis-warm with an empty cache: {harness.spread(times)} s")
    harness.row("crisis-warm: all programs, seconds", "-", f"{harness.median(times):.1f}", "3")


if __name__ == "__main__":
    main()
