#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""cachesnoop in a storm of single pages, beside bpftrace: what is printed and lost, and its cost.

    cachesnoop.py [RUNS]

Needs root.  bpftrace is left out, with a note, where it is not installed or does not run.  Each row
is the median of RUNS (1) runs by the events shown; the rows of a rate are of the same minutes.
A run takes five minutes.  Prints Markdown tables.
"""

import os
import shutil
import subprocess
import sys
import tempfile

import harness

import storm

MODES = ((), ("-j",), ("-e",), ("--summary",))
RATES = (20000, 60000, 100000, 300000)
COUNTS = (120000, 600000)
FILES, FILE_RATE = 50000, 15000


def row(name, rate, results):
    """A row of the table, of the median by what was shown; whether all add up, of all runs."""
    result = sorted(results, key=lambda one: one.shown)[len(results) // 2]
    share = 100 * result.cpu / result.seconds
    exact = "yes" if all(one.all for one in results) else "no"
    print(
        f"| {name} | {result.events} | {rate} | {result.events / result.seconds:.0f} "
        f"| {result.shown} | {result.lost} | {exact} | {share:.0f} | {result.peak / 1e6:.0f} |",
        flush=True,
    )


def main(runs):
    subprocess.run([storm.tool("cachesnoop"), "-d", ".01"], stdout=subprocess.DEVNULL, check=True)
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, {runs} interleaved runs")
    print("\n| tool | events | rate | reached | shown | lost | sum is all | CPU % | RSS MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    peer = shutil.which("bpftrace") is not None
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        for count in COUNTS:
            for rate in RATES:
                found = {}
                for _ in range(runs):
                    for mode in MODES:
                        name = " ".join(("cachesnoop", *mode))
                        result = storm.cachesnoop(directory, count, rate, *mode)
                        found.setdefault(name, []).append(result)
                    if peer:
                        try:
                            result = storm.bpftrace(directory, count, rate)
                        except AssertionError as exc:
                            print(f"left out: bpftrace ends with an error here: {exc}")
                            peer = False
                        else:
                            found.setdefault("bpftrace", []).append(result)
                for name, results in found.items():
                    row(name, rate, results)
                if count == COUNTS[-1] and rate == 100000:
                    lost = [
                        str(max(r.lost for r in found[name]))
                        for name in ("cachesnoop", "cachesnoop -e")
                    ]
                    theirs = str(max(r.lost for r in found["bpftrace"])) if peer else "-"
                    what = "cachesnoop: lost of 600,000 pages at 100,000/s, lines / -e"
                    harness.row(what, f"bpftrace: {theirs}", " / ".join(lost), "0 / 0")
        if not peer:
            print("left out: bpftrace")
        print("\n| cachesnoop --summary | files | files/s | named | lost | CPU % | RSS MB |")
        print("|---|---|---|---|---|---|---|")
        for args in (), ("--top", "20"), ("1",), ("--top", "20", "1"):
            one = storm.cachesnoop(directory, FILES, FILE_RATE, "--summary", *args, files=True)
            named = "-" if "--top" in args else one.shown
            print(
                f"| {' '.join(args) or '(one report)'} | {FILES} | {FILE_RATE} | {named} "
                f"| {one.lost} | {100 * one.cpu / one.seconds:.0f} | {one.peak / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
