#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""fincore against vmtouch and util-linux's fincore in one run, interleaved: time, and memory for
large trees.

Needs vmtouch and util-linux's fincore, 10 GB of memory and 6 GB of disk, or
less with --small.  --million measures a tree of 1,000,000 files and nothing
else.  Prints Markdown tables; a peer that is not installed is left out, with a note.
"""

import ctypes
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import harness

OURS = harness.tool("fincore")
THEIRS = "/usr/bin/fincore"
LAUNCH = (
    "import os,sys\npid=os.posix_spawn(sys.argv[1],sys.argv[1:],dict(os.environ),file_actions="
    "[(os.POSIX_SPAWN_OPEN,fd,'/dev/null',os.O_RDWR,0) for fd in (0,1,2)])\n_,s,u=os.wait4(pid,0)\n"
    "print(s,u.ru_maxrss,u.ru_utime+u.ru_stime)"
)


def timed(command):
    """Milliseconds of one run, its output thrown away."""
    command = [shutil.which(command[0]) or command[0], *command[1:]]
    begin = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.monotonic() - begin) * 1e3


def usage(command):
    """(peak RSS in MB, CPU time in ms) of one run and its children."""
    out = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCH, shutil.which(command[0]) or command[0], *command[1:]],
        stdout=subprocess.PIPE,
        text=True,
    )
    _, kilobytes, seconds = out.stdout.split()
    return int(kilobytes) / 1024, float(seconds) * 1e3


def compare(title, commands, base, runs, what="", goal="1"):
    """Print a table.  what: the README's row, of the first command's wall time against the base."""
    commands = {name: command for name, command in commands.items() if shutil.which(command[0])}
    if base not in commands:
        harness.left_out(title, f"{base} is not installed")
        return
    times, costs = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(timed(command))
            costs[name].append(usage(command))
    middle = statistics.median(times[base])
    print(
        f"\n| {title} | median (range) of {runs}, ms | ÷ {base} | CPU, ms | peak RSS, MB "
        "|\n|---|---|---|---|---|"
    )
    for name in commands:
        values = times[name]
        median = statistics.median(values)
        cpu = statistics.median(cost for _, cost in costs[name])
        memory = max(memory for memory, _ in costs[name])
        print(
            f"| {name} | {median:.1f} ({min(values):.1f}–{max(values):.1f}) | "
            f"{median / middle:.3f} | {cpu:.1f} | {memory:.1f} |",
            flush=True,
        )
    if what:
        ratio = statistics.median(times[next(iter(commands))]) / middle
        harness.row(f"fincore: {what}", base, f"{ratio:.3f}", goal)


def pinned(path, size, command):
    """Run the command while the file is kept in memory, in single pages and not in large folios."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    address = ctypes.c_void_p(
        libc.mmap(
            None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, fd, ctypes.c_long(0)
        )
    )
    libc.madvise(address, ctypes.c_size_t(size), 1)  # MADV_RANDOM: no readahead
    if libc.mlock(address, ctypes.c_size_t(size)):
        print(f"not pinned: {os.strerror(ctypes.get_errno())}")
    command()
    libc.munmap(address, ctypes.c_size_t(size))
    os.close(fd)


def make_tree(top, files):
    for i in range(files):
        if i % 1000 == 0:
            directory = f"{top}/{i // 1000}"
            os.makedirs(directory)
        with open(f"{directory}/{i}", "wb") as f:
            f.write(b"x" * 4096)
    return top


def main():
    directory = tempfile.mkdtemp(dir="/var/tmp")
    try:
        print(harness.machine())
        if "--million" in sys.argv:
            million(directory)
        else:
            usual(directory, "--small" in sys.argv)
            growth(directory, "--small" in sys.argv)
    finally:
        shutil.rmtree(directory)


def usual(directory, small):
    size = (256 << 20) if small else 4 << 30
    big, sparse = directory + "/big", directory + "/sparse"
    with open(big, "wb") as f:
        for _ in range(size >> 20):
            f.write(bytes(1 << 20))
        os.fsync(f.fileno())
    whole = {
        "ours": [OURS, big],
        "ours, --map": [OURS, "--map", big],
        "vmtouch": ["vmtouch", big],
        "util-linux": [THEIRS, big],
    }
    written, single = (f"{size >> 20} MB {how}" for how in ("as written", "in single pages"))
    compare(written, whole, "vmtouch", 15, written)
    pinned(big, size, lambda: compare(single, whole, "vmtouch", 15, single))
    with open(sparse, "wb") as f:
        f.truncate(1 << 40)
    compare(
        "1 TB sparse file",
        {"ours": [OURS, sparse], "vmtouch": ["vmtouch", sparse], "util-linux": [THEIRS, sparse]},
        "vmtouch",
        3,
        "a sparse file of 1 TB",
    )
    files = 10000 if small else 100000
    tree = make_tree(directory + "/tree", files)
    os.sync()
    compare(
        f"sum of {files} files",
        {
            "ours, 2 processes": [OURS, "-s", "--jobs", "2", tree],
            "ours, 1 process": [OURS, "-s", "--jobs", "1", tree],
            "vmtouch": ["vmtouch", tree],
        },
        "vmtouch",
        9,
        f"{files} files, by two processes",
    )
    compare(
        f"a line for each of {files} files",
        {
            "ours, 2 processes": [OURS, "--jobs", "2", tree],
            "ours, 1 process": [OURS, "--jobs", "1", tree],
            "ours, -j, 2 processes": [OURS, "-j", "--jobs", "2", tree],
            "find, xargs, util-linux": [
                "sh",
                "-c",
                f"find '{tree}' -type f -print0 | xargs -0 {THEIRS}",
            ],
        },
        "find, xargs, util-linux",
        5,
    )


def growth(directory, small):
    """CPU time by the number of files, of one process."""
    steps = [2500, 5000, 10000] if small else [25000, 50000, 100000]
    rows = {}
    for files in steps:
        tree = make_tree(f"{directory}/grow{files}", files)
        rows[f"{files} files"] = [usage([OURS, "-s", "--jobs", "1", tree])[1] for _ in range(9)]
        shutil.rmtree(tree)
    base = f"{steps[0]} files"
    harness.table("sum, one process: CPU time", "ms", rows, base)
    ratio = harness.median(rows[f"{steps[-1]} files"]) / harness.median(rows[base])
    harness.row(f"fincore: {steps[-1]} files", base, f"{ratio:.2f}", "4")


def million(directory):
    tree = make_tree(directory + "/tree", 1000000)
    compare(
        "1,000,000 files",
        {
            "ours, sum": [OURS, "-s", tree],
            "ours, lines": [OURS, tree],
            "ours, --top 10": [OURS, "--top", "10", tree],
            "vmtouch, sum": ["vmtouch", tree],
        },
        "vmtouch, sum",
        3,
    )


if __name__ == "__main__":
    main()
