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
GROWTH = 15000, 30000, 60000  # mappings
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
    """(CPU ms, wall ms, Ref(MB) of the first row) of one run."""
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
        float(text.splitlines()[2].split()[3]),
    )


def described(values, digits=1):
    """The median and the range."""
    found = (statistics.median(values), min(values), max(values))
    middle, low, high = (f"{value:.{digits}f}" for value in found)
    return f"{middle} ({low}–{high})"


def table(title, rows, base):
    print(f"\n| {title} | median (range) | ÷ {base} |\n|---|---|---|")
    for name, values in rows.items():
        ratio = "-"
        if base in rows:
            ratio = f"{statistics.median(values) / statistics.median(rows[base]):.3f}"
        print(f"| {name} | {described(values)} | {ratio} |")


def compare(commands, title, pid, interval):
    cpu, wall = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            spent, took, _ = measured([*command, str(pid), str(interval)])
            cpu[name].append(spent)
            wall[name].append(took - interval * 1e3)
    table(f"{title}, {interval:g} s: CPU, ms", cpu, "wss.pl")
    table(f"{title}, {interval:g} s: wall beyond the interval, ms", wall, "wss.pl")


def growth(commands):
    """CPU time by the number of mappings.  Less than 2 for each doubling is less than linear."""
    for name, command in commands.items():
        rows = {}
        for mappings in GROWTH:
            with Target(MANY, PAGE, mappings) as pid:
                runs = [measured([*command, str(pid), "0.01"])[0] for _ in range(RUNS)]
                rows[f"{mappings:,} mappings"] = runs
        table(f"{name}: CPU, ms", rows, f"{GROWTH[0]:,} mappings")


def truth(commands):
    """How far Ref is from the memory that the target touches."""
    names = " | ".join(f"{name}: Ref − truth, MB" for name in commands)
    print(f"\n| truth, interval | {names} |")
    print("|---" * (len(commands) + 1) + "|")
    for pages, interval in (256, 0.01), (1536, 0.01), (256, 0.1), (16384, 0.1), (131072, 1):
        size = pages * PAGE / (1 << 20)
        cells = []
        with Target(TOUCH, PAGE, pages) as pid:
            for command in commands.values():
                runs = [measured([*command, str(pid), str(interval)])[2] for _ in range(5)]
                cells.append(described([found - size for found in runs], 2))
        print(f"| {size:.1f} MB, {interval:g} s | {' | '.join(cells)} |")


def main():
    commands = {"wss": [OURS]}
    mapped = {"wss --map": [OURS, "--map"]}
    peer = {}
    if os.environ.get("WSS_PL") and shutil.which("perl"):
        peer["wss.pl"] = [shutil.which("perl"), os.environ["WSS_PL"]]
    else:
        why = "no perl" if os.environ.get("WSS_PL") else "WSS_PL does not name it"
        print(f"left out: wss.pl ({why})")
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, {RUNS} paired runs")
    measured([*commands["wss"], str(os.getpid()), "0.01"])
    with Target(MANY, PAGE, 60000) as pid:
        for interval in 0.01, 1:
            compare({**commands, **mapped, **peer}, "60,000 mappings", pid, interval)
    with Target(FEW) as pid:
        compare({**commands, **mapped, **peer}, "few mappings", pid, 0.1)
    growth({**mapped, **peer})
    truth({**commands, **peer})


if __name__ == "__main__":
    main()
