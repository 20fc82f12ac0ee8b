#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""wss against wss.pl in one run, interleaved: CPU and wall time, and how close they come to a known
set.

WSS_PL names the peer, https://github.com/brendangregg/wss; it is left out,
with a note, where that is not set.  Needs Perl for it.  Prints Markdown tables.
"""

import mmap
import os
import shutil
import subprocess
import sys
import time

import harness

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


def compare(commands, title, pid, interval):
    """({command: CPU times}, {command: wall times beyond the interval}) in ms."""
    cpu, wall = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            spent, took, _ = measured([*command, str(pid), str(interval)])
            cpu[name].append(spent)
            wall[name].append(took - interval * 1e3)
    harness.table(f"{title}, {interval:g} s: CPU time", "ms", cpu, "wss.pl")
    harness.table(f"{title}, {interval:g} s: wall time beyond it", "ms", wall, "wss.pl")
    return cpu, wall


def report(what, cpu, wall, name, goal):
    """The README's row of a command against wss.pl."""
    ratios = [
        harness.median(values[name]) / harness.median(values["wss.pl"]) for values in (cpu, wall)
    ]
    figure = " / ".join(f"{ratio:.2f}" for ratio in ratios)
    harness.row(f"{what}: CPU / wall time", "wss.pl", figure, goal)


def growth(commands):
    """CPU time by the number of mappings.  Less than 2 for each doubling is less than linear."""
    for name, command in commands.items():
        rows = {}
        for mappings in GROWTH:
            with Target(MANY, PAGE, mappings) as pid:
                runs = [measured([*command, str(pid), "0.01"])[0] for _ in range(RUNS)]
                rows[f"{mappings:,} mappings"] = runs
        base = f"{GROWTH[0]:,} mappings"
        harness.table(f"{name}: CPU time", "ms", rows, base, 2)
        if name == "wss --map":
            ratio = harness.median(runs) / harness.median(rows[base])
            harness.row(f"{name}: {GROWTH[-1]:,} mappings", base, f"{ratio:.2f}", "4")


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
                cells.append(harness.spread([found - size for found in runs], 2))
        print(f"| {size:.1f} MB, {interval:g} s | {' | '.join(cells)} |")


def main():
    commands = {"wss": [harness.tool("wss")]}
    mapped = {"wss --map": [harness.tool("wss"), "--map"]}
    peer = {}
    if os.environ.get("WSS_PL") and shutil.which("perl"):
        peer["wss.pl"] = [shutil.which("perl"), os.environ["WSS_PL"]]
    else:
        why = "no perl" if os.environ.get("WSS_PL") else "WSS_PL does not name it"
        harness.left_out("wss.pl", why)
    print(f"{harness.machine()}, {RUNS} paired runs")
    measured([*commands["wss"], str(os.getpid()), "0.01"])
    found = {}
    with Target(MANY, PAGE, 60000) as pid:
        for interval in 0.01, 1:
            found = compare({**commands, **mapped, **peer}, "60,000 mappings", pid, interval)
    with Target(FEW) as pid:
        few = compare({**commands, **mapped, **peer}, "few mappings", pid, 0.1)
    if peer:
        report("wss: 60,000 mappings", *found, "wss", "0.2")
        report("wss --map: 60,000 mappings", *found, "wss --map", "0.8")
        report("wss: few mappings, Python's start", *few, "wss", "2")
    growth({**mapped, **peer})
    truth({**commands, **peer})


if __name__ == "__main__":
    main()
