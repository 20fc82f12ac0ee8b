#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""drsnoop and oomkill: warm start and memory beside runqlat and the peers, and the cost of a traced
reclaim.

Needs root, bpftool, and a memory cgroup.  A peer that is not installed, or
ends with an error on this kernel, is left out, with a note.  Prints Markdown tables.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

import harness

from helpers import memory_cgroup, tool

RUNS = 15
SECONDS = 0.3
PEER = "libbpf-tools drsnoop"
READER = (
    "import os,sys\nopen(sys.argv[1]+'/cgroup.procs','w').write(str(os.getpid()))\n"
    "fd=os.open(sys.argv[2],os.O_RDONLY)\n"
    "for _ in range(40):\n os.posix_fadvise(fd,0,0,4)\n os.lseek(fd,0,0)\n while "
    "os.read(fd,1<<20): pass"
)


def timed(command, seconds):
    """The harness.Run of a command.  RuntimeError when it fails.

    bcc's drsnoop fails with status 0, but not after its interval.
    """
    run = harness.run(command, seconds)
    if run.wall < 0:
        raise RuntimeError("it ended before its time")
    return run


def reclaim_cost(arguments, path):
    """(nanoseconds of BPF a reclaim, reclaims, their nanoseconds a reclaim as measured)."""
    before = set(harness.programs())
    child = subprocess.Popen(
        [tool("drsnoop"), "-v", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "attached to" not in child.stderr.readline():
        if child.poll() is not None:
            raise RuntimeError("drsnoop ended")
    with memory_cgroup(32 << 20, "bench") as directory:
        subprocess.check_call([sys.executable, "-c", READER, directory, path])
    names = ("on_global_", "on_memcg_", "on_node_", "on_isolate")
    mine = {
        i: p
        for i, p in harness.programs().items()
        if i not in before and p.get("name", "").startswith(names)
    }
    spent = sum(p.get("run_time_ns", 0) for p in mine.values())
    count = sum(p.get("run_cnt", 0) for p in mine.values() if p["name"].endswith("memcg_end"))
    child.send_signal(signal.SIGINT)
    child.communicate()
    return spent / count, count


def seen(commands, path):
    """({name: reclaims of one process that each tool printed in 8 s}, how often that process met
    its cgroup's limit).
    """
    children = {
        name: subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for name, command in commands.items()
    }
    time.sleep(3)
    with memory_cgroup(32 << 20, "bench") as directory:
        reader = subprocess.Popen([sys.executable, "-c", READER, directory, path])
        reader.wait()
        if os.path.exists(directory + "/memory.failcnt"):
            truth = int(open(directory + "/memory.failcnt").read())
        else:
            truth = int(dict(line.split() for line in open(directory + "/memory.events"))["max"])
    return {
        name: len(
            [
                line
                for line in child.communicate()[0].splitlines()
                if str(reader.pid) in line.split()
            ]
        )
        for name, child in children.items()
    }, truth


def main():
    ours = {
        "runqlat": [tool("runqlat"), str(SECONDS), "1"],
        "drsnoop": [tool("drsnoop"), "-d", str(SECONDS)],
        "drsnoop -e": [tool("drsnoop"), "-e", "-d", str(SECONDS)],
        "drsnoop --summary": [tool("drsnoop"), "--summary", str(SECONDS), "1"],
        "oomkill": [tool("oomkill"), "-d", str(SECONDS)],
    }
    peers = {
        "bcc drsnoop": ["/usr/sbin/drsnoop-bpfcc", "-d", "1"],
        PEER: ["/usr/sbin/drsnoop", "-d", "1"],
        "libbpf-tools drsnoop -e": ["/usr/sbin/drsnoop", "-e", "-d", "1"],
    }
    commands = {name: (command, SECONDS) for name, command in ours.items()}
    commands.update({name: (command, 1) for name, command in peers.items()})
    jobs = {
        name: (lambda command=command, seconds=seconds: timed(command, seconds))
        for name, (command, seconds) in commands.items()
        if os.access(command[0], os.X_OK) or harness.left_out(name, "not installed")
    }
    print(f"{harness.machine()}, {RUNS} interleaved runs")
    found = harness.interleaved(jobs, RUNS)
    for unit, title, field in (
        ("ms", "warm start: whole process less the interval", "wall"),
        ("ms", "CPU time", "cpu"),
        ("MB", "peak RSS", "rss"),
    ):
        figures = {name: [getattr(run, field) for run in runs] for name, runs in found.items()}
        harness.table(title, unit, figures, "runqlat")
    if PEER in found:
        cpu = {name: [run.cpu for run in runs] for name, runs in found.items()}
        harness.ratio_row(
            "drsnoop: CPU time of a start", "libbpf-tools", cpu["drsnoop"], cpu[PEER], "1.2"
        )
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as f, harness.bpf_statistics():
        for _ in range(64):
            f.write(os.urandom(1 << 20))
        f.flush()
        os.fsync(f.fileno())
        print("\n| drsnoop | ns of BPF a reclaim | reclaims |\n|---|---|---|")
        for arguments in (
            [],
            ["-e"],
            ["-K"],
            ["-e", "--source", "format"],
            ["--summary"],
            ["-p", "1"],
        ):
            cost, count = reclaim_cost(arguments, f.name)
            print(f"| {' '.join(arguments) or '(lines)'} | {cost:.0f} | {count} |")
        lines = {"drsnoop": [tool("drsnoop"), "-d", "8"]}
        lines.update(
            {name: command[:-1] + ["8"] for name, command in peers.items() if name in found}
        )
        counts, truth = seen(lines, f.name)
        print(f"\n| tool | reclaims at a cgroup's limit, of {truth} |\n|---|---|")
        for name, count in counts.items():
            print(f"| {name} | {count} |")


if __name__ == "__main__":
    main()
