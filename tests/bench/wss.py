#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""wss against wss.pl in one run, interleaved: CPU and wall time, and how close they come to a known
set.

WSS_PL names the peer, https://github.com/brendangregg/wss; it is left out
aloud where that is not set.  Needs Perl for it.  Prints Markdown tables.
"""

import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = os.path.join(ROOT, "bin/wss")
RUNS = 9
PAGE = mmap.PAGESIZE

MANY = r"""
import ctypes, sys, time
page, count = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
start = libc.mmap(None, page * count, 3, 0x22, -1, 0)
ctypes.memset(start, 1, page * count)
for index in range(0, count, 2):                # every other page read-only: a mapping each
    libc.mprotect(start + index * page, page, 1)
print(flush=True)
time.sleep(10000)
"""
FEW = "import time\nprint(flush=True)\ntime.sleep(10000)"
TOUCH = r"""
import mmap, sys
page, hot = int(sys.argv[1]), int(sys.argv[2])
area = mmap.mmap(-1, page * 131072, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
view = memoryview(area)
for at in range(0, len(view), page): view[at] = 1
view = view[:hot * page]
print(flush=True)
while True: bytes(view[::page])
"""


class Target:
    def __init__(self, code, *args):
        self.child = subprocess.Popen(
            ["/usr/bin/python3", "-IS", "-c", code, *map(str, args)], stdout=subprocess.PIPE
        )
        self.child.stdout.readline()
        time.sleep(0.2)

    def __enter__(self):
        return self.child.pid

    def __exit__(self, *exc):
        self.child.kill()
        self.child.wait()


def measured(command):
    """(CPU ms, wall ms, the last Ref(MB) printed) of one run."""
    begin = time.monotonic()
    read, write = os.pipe()
    pid = os.posix_spawn(
        command[0],
        command,
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, write, 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    os.close(write)
    with open(read) as f:
        text = f.read()
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - begin
    if status:
        sys.exit(f"{command[0]} failed")
    return (
        (usage.ru_utime + usage.ru_stime) * 1e3,
        wall * 1e3,
        float(text.splitlines()[-1].split()[3]),
    )


def table(title, rows, base):
    print(f"\n| {title} | median (range) | ÷ wss.pl |\n|---|---|---|")
    for name, values in rows.items():
        ratio = (
            "%.3f" % (statistics.median(values) / statistics.median(rows[base]))
            if base in rows
            else "-"
        )
        print(
            f"| {name} | {statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f}) "
            f"| {ratio} |"
        )


def compare(commands, title, pid, interval):
    cpu, wall = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            spent, took, _ = measured(command + [str(pid), str(interval)])
            cpu[name].append(spent)
            wall[name].append(took - interval * 1e3)
    table(f"{title}, {interval:g} s: CPU, ms", cpu, "wss.pl")
    table(f"{title}, {interval:g} s: wall beyond the interval, ms", wall, "wss.pl")


def main():
    commands, peer = {"wss": [OURS]}, os.environ.get("WSS_PL")
    if peer and shutil.which("perl"):
        commands["wss.pl"] = [shutil.which("perl"), peer]
    else:
        print("left out: wss.pl (%s)" % ("no perl" if peer else "WSS_PL does not name it"))
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, {RUNS} paired runs")
    measured(commands["wss"] + [str(os.getpid()), "0.01"])
    with Target(MANY, PAGE, 60000) as pid:
        for interval in 0.01, 1:
            compare(commands, "60,000 mappings", pid, interval)
    with Target(FEW) as pid:
        compare(commands, "few mappings", pid, 0.1)
    print(
        "\n| truth, interval | "
        + " | ".join(f"{name}: Ref − truth, MB" for name in commands)
        + " |"
    )
    print("|---" * (len(commands) + 1) + "|")
    for pages, interval in (256, 0.01), (1536, 0.01), (256, 0.1), (16384, 0.1), (131072, 1):
        with Target(TOUCH, PAGE, pages) as pid:
            found = {
                name: [measured(command + [str(pid), str(interval)])[2] for _ in range(5)]
                for name, command in commands.items()
            }
        truth = pages * PAGE / (1 << 20)
        cells = []
        for values in found.values():
            median, low, high = (f(values) - truth for f in (statistics.median, min, max))
            cells.append(f"{median:+.2f} ({low:+.2f}–{high:+.2f})")
        print(f"| {truth:.1f} MB, {interval:g} s | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
