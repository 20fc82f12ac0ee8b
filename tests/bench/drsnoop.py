#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""drsnoop and oomkill: warm start and memory beside runqlat and the peers, and the cost of a traced
reclaim.

Needs root, bpftool, and a memory cgroup.  A peer that is not installed, or
ends with an error on this kernel, is left out aloud.  Prints Markdown tables.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "lib"), os.path.join(ROOT, "tests")]
from helpers import memory_cgroup, tool  # noqa: E402

RUNS = 15
SECONDS = 0.3
# The child of a small process, so that the peak RSS is its own.
LAUNCH = (
    "import "
    "os,sys,time\nb=time.monotonic()\npid=os.posix_spawn(sys.argv[1],sys.argv[1:],dict(os.environ),"
    "file_actions=[(os.POSIX_SPAWN_OPEN,fd,'/dev/null',os.O_RDWR,0) for fd in "
    "(0,1,2)])\n_,s,u=os.wait4(pid,0)\n"
    "print(s,(time.monotonic()-b)*1e3,(u.ru_utime+u.ru_stime)*1e3,u.ru_maxrss/1024)"
)
READER = (
    "import os,sys\nopen(sys.argv[1]+'/cgroup.procs','w').write(str(os.getpid()))\n"
    "fd=os.open(sys.argv[2],os.O_RDONLY)\n"
    "for _ in range(40):\n os.posix_fadvise(fd,0,0,4)\n os.lseek(fd,0,0)\n while "
    "os.read(fd,1<<20): pass"
)


def timed(command, seconds):
    """(milliseconds beyond the interval, CPU milliseconds, peak RSS in MB) of one run, or None when
    it fails.

    bcc's drsnoop fails with status 0, but not after its interval.
    """
    out = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True
    )
    status, wall, cpu, rss = out.stdout.split()
    return (
        None
        if int(status) or float(wall) < seconds * 1e3
        else (float(wall) - seconds * 1e3, float(cpu), float(rss))
    )


def programs():
    return {
        p["id"]: p for p in json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show"]))
    }


@contextlib.contextmanager
def statistics_of_programs():
    switch = "/proc/sys/kernel/bpf_stats_enabled"
    before = open(switch).read()
    try:
        open(switch, "w").write("1")
        yield
    finally:
        open(switch, "w").write(before)


def reclaim_cost(arguments, path):
    """(nanoseconds of BPF a reclaim, reclaims, their nanoseconds a reclaim as measured)."""
    before = set(programs())
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
        for i, p in programs().items()
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


def summary(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


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
        "libbpf-tools drsnoop": ["/usr/sbin/drsnoop", "-d", "1"],
        "libbpf-tools drsnoop -e": ["/usr/sbin/drsnoop", "-e", "-d", "1"],
    }
    commands = {name: (command, SECONDS) for name, command in ours.items()}
    commands.update({name: (command, 1) for name, command in peers.items()})
    for name, (command, seconds) in list(commands.items()):
        if not os.access(command[0], os.X_OK):
            print(f"left out: {name} is not installed")
            del commands[name]
        elif timed(command, seconds) is None:
            last = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ).stdout
            print(
                f"left out: {name} ends with an error here: "
                f"{(last.strip().splitlines() or ['-'])[-1]}"
            )
            del commands[name]
    found = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, (command, seconds) in commands.items():
            found[name].append(timed(command, seconds))
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, {RUNS} interleaved runs")
    print(
        "\n| warm start | ms less the interval | ÷ runqlat | CPU ms | ÷ runqlat | peak RSS MB "
        "| ÷ runqlat |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, values in found.items():
        cells = []
        for i in range(3):
            base = statistics.median(v[i] for v in found["runqlat"])
            cells += [
                summary([v[i] for v in values]),
                "%.2f" % (statistics.median(v[i] for v in values) / base),
            ]
        print(f"| {name} | {' | '.join(cells)} |")
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as f, statistics_of_programs():
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
            {name: command[:-1] + ["8"] for name, command in peers.items() if name in commands}
        )
        counts, truth = seen(lines, f.name)
        print(f"\n| tool | reclaims at a cgroup's limit, of {truth} |\n|---|---|")
        for name, count in counts.items():
            print(f"| {name} | {count} |")


if __name__ == "__main__":
    main()
