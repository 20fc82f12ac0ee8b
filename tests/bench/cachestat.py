#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""cachestat beside its peers, with the truth: pages, start, memory, cost of an event in the kernel.

Needs root; bpfcc-tools and libbpf-tools where this kernel lets them run.  A
peer that does not run is left out aloud.  Prints Markdown tables.  The
system's other I/O is in all the figures, so run it on a quiet one.
"""

import json
import os
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))
from helpers import SLOW  # noqa: E402
from pagefiles import PAGE, evict, read, rewrite, touch  # noqa: E402

PAGES = 4096
INTERVAL = 2 * min(SLOW, 4)
OURS = os.path.join(ROOT, "bin/cachestat")
TOOLS = {
    "ours": [OURS],
    "libbpf-tools": ["/usr/sbin/cachestat"],
    "bcc": ["/usr/sbin/cachestat-bpfcc"],
}
LAUNCH = (
    "import os,sys\npid=os.posix_spawn(sys.argv[1],sys.argv[1:],dict(os.environ),file_actions="
    "[(os.POSIX_SPAWN_OPEN,fd,'/dev/null',os.O_RDWR,0) for fd in (0,1,2)])\n_,s,u=os.wait4(pid,0)\n"
    "print(s,u.ru_maxrss)"
)


class Running:
    """A tool on a terminal of its own, so that it flushes each line."""

    def __init__(self, command):
        self.master, slave = pty.openpty()
        self.child = subprocess.Popen(
            command + [str(INTERVAL)],
            stdout=slave,
            stderr=slave,
            stdin=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.rest = ""

    def line(self, limit):
        """The next line that begins with numbers, as a list;

        None when the tool ends or prints none in time.
        """
        deadline = time.monotonic() + limit
        while True:
            while "\n" in self.rest:
                line, self.rest = self.rest.split("\n", 1)
                fields = line.split()
                if len(fields) >= 6 and re.fullmatch(r"-?\d+", fields[0]):
                    return fields
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                return None
            try:
                self.rest += (
                    os.read(self.master, 65536).decode("utf-8", "replace").replace("\r", "")
                )
            except OSError:
                return None

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.master)


# (what, before, action, truth: HITS, MISSES, DIRTIES of read(2) and page faults)
CASES = (
    ("read, cold", evict, read, (0, PAGES, 0)),
    ("read, warm", None, read, (PAGES, 0, 0)),
    ("pread of 4 KiB, warm", None, lambda path: read(path, PAGE), (PAGES, 0, 0)),
    ("mmap, cold", evict, touch, (0, PAGES, 0)),
    ("mmap, warm", None, touch, ("faults", 0, 0)),
    ("rewrite in place", None, rewrite, (0, 0, PAGES)),
    ("read after it", None, read, (PAGES, 0, 0)),
)


def cells(fields, what):
    """HITS / MISSES / DIRTIES of a tool's line; ours has columns of its own for page faults, peers
    none.
    """
    if what.startswith("mmap") and len(fields) > 7:
        return " / ".join((fields[6], fields[7], fields[2]))
    return " / ".join(fields[:3])


def truth_table(directory, kind):
    path = os.path.join(directory, "file")
    with open(path, "wb") as f:
        f.write(b"x" * (PAGE * PAGES))
    results = {}
    for name, command in TOOLS.items():
        if not os.access(command[0], os.X_OK):
            print(f"left out: {command[0]} is not installed")
            continue
        tool = Running(command)
        if tool.line(INTERVAL + 20 * SLOW) is None:
            why = "".join(": " + row for row in tool.rest.strip().splitlines()[-1:])
            print(f"left out: {command[0]} prints nothing here{why}")
            tool.close()
            continue
        results[name] = []
        for _, before, action, _ in CASES:
            if before:
                before(path)
            tool.line(INTERVAL * 4)  # what went before has been printed
            action(path)
            results[name].append(tool.line(INTERVAL * 4))
        tool.close()
    print(
        f"\n| hits / misses / dirties, {PAGES} pages on {kind}, Linux {os.uname().release} | "
        f"truth | {' | '.join(results)} |"
    )
    print("|---|---|" + "---|" * len(results))
    for i, (what, _, _, truth) in enumerate(CASES):
        found = [cells(rows[i], what) if rows[i] else "-" for rows in results.values()]
        print(f"| {what} | {' / '.join(map(str, truth))} | {' | '.join(found)} |")


def timed(command):
    """(milliseconds beyond the 1 s interval, peak RSS in MB) of one run."""
    begin = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True
    )
    status, rss = out.stdout.split()
    if int(status):
        raise RuntimeError(f"{command[0]} ended with status {status}")
    return (time.monotonic() - begin - 1) * 1e3, int(rss) / 1024


def starts(commands, base, runs=12):
    found = {}
    for name, command in list(commands.items()):
        try:
            timed(command)
            found[name] = []
        except (RuntimeError, OSError) as exc:
            print(f"left out: {exc}")
    for _ in range(runs):
        for name in found:
            found[name].append(timed(commands[name]))
    print(
        f"\n| warm start, peak RSS | ms, median (range) | ÷ {base} | MB | ÷ {base} "
        "|\n|---|---|---|---|---|"
    )
    for name, values in found.items():
        ms, mb = ([v[i] for v in values] for i in (0, 1))
        base_ms, base_mb = (statistics.median(v[i] for v in found[base]) for i in (0, 1))
        print(
            f"| {name} | {statistics.median(ms):.1f} ({min(ms):.1f}–{max(ms):.1f}) | "
            f"{statistics.median(ms) / base_ms:.2f} | {statistics.median(mb):.1f} | "
            f"{statistics.median(mb) / base_mb:.2f} |"
        )


def programs():
    return {
        p["id"]: p for p in json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show"]))
    }


# (what, before, action, the programs whose runs are that)
EVENTS = (
    ("warm pread of 4 KiB", read, lambda path: read(path, PAGE), ("on_get_pages", "on_read")),
    ("cold pread of 4 KiB", evict, lambda path: read(path, PAGE), ("on_get_pages", "on_read")),
    ("warm pread of 1 MiB", read, lambda path: read(path, 1 << 20), ("on_get_pages", "on_read")),
    ("warm fault-around", read, touch, ("on_mapped", "on_map_pages")),
    ("page or folio added for a read", evict, read, ("on_added",)),
    ("page or folio removed", read, evict, ("on_removed",)),
    ("new page added for a write", evict, rewrite, ("on_added",)),
    ("new page dirtied", evict, rewrite, ("on_dirtied",)),
)


def costs(path):
    """Nanoseconds for each program run, by the kernel's own statistics."""
    switch = "/proc/sys/kernel/bpf_stats_enabled"
    before = open(switch).read()
    options = [], ["--by", "file"], ["--by", "process"], ["-p", str(os.getpid())]
    columns = []
    try:
        open(switch, "w").write("1")
        for arguments in options:
            old = set(programs())
            child = subprocess.Popen(
                [OURS, "600", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(2 * min(SLOW, 5))
            columns.append([])
            for _, prepare, action, functions in EVENTS:
                count = spent = 0
                for _ in range(4):
                    prepare(path)
                    start = programs()
                    action(path)
                    end = programs()
                    for i, program in end.items():
                        if i in start and i not in old and program.get("name") in functions:
                            count += program.get("run_cnt", 0) - start[i].get("run_cnt", 0)
                            spent += program.get("run_time_ns", 0) - start[i].get("run_time_ns", 0)
                columns[-1].append(f"{spent / count:.0f} ({count})" if count else "-")
            child.terminate()
            child.wait()
    finally:
        open(switch, "w").write(before)
    titles = [
        " ".join(["cachestat"] + arguments[: 2 if arguments[:1] != ["-p"] else 1])
        for arguments in options
    ]
    print(f"\n| in the kernel, ns an event (events) | {' | '.join(titles)} |")
    print("|---|" + "---|" * len(options))
    for event, row in zip(EVENTS, zip(*columns)):
        print(f"| {event[0]} | {' | '.join(row)} |")


def main():
    with tempfile.TemporaryDirectory(prefix="crisis-bench-") as directory:
        truth_table(directory, "/tmp's file system")
        if "--truth" in sys.argv:
            return
        costs(os.path.join(directory, "file"))
    commands = {
        "runqlat": [os.path.join(ROOT, "bin/runqlat"), "1", "1"],
        "cachestat": [OURS, "1", "1"],
        "cachestat --by file": [OURS, "--by", "file", "1", "1"],
        "cachesnoop": [os.path.join(ROOT, "bin/cachesnoop"), "-d", "1"],
        "cachesnoop --summary": [os.path.join(ROOT, "bin/cachesnoop"), "--summary", "1", "1"],
    }
    commands["libbpf-tools' cachestat"] = TOOLS["libbpf-tools"] + ["1", "1"]
    starts(commands, "runqlat")


if __name__ == "__main__":
    main()
