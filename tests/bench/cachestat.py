#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""cachestat beside its peers, with the truth: pages, start, memory, cost of an event in the kernel.

Needs root; bpfcc-tools and libbpf-tools where this kernel lets them run.  A
peer that does not run is left out, with a note.  Prints Markdown tables.  The
system's other I/O is in all the figures, so run it on a quiet one.
"""

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

import harness

from helpers import SLOW
from pagefiles import PAGE, evict, read, rewrite, touch

PAGES = 4096
INTERVAL = 2 * min(SLOW, 4)
OURS = harness.tool("cachestat")
TOOLS = {
    "ours": [OURS],
    "libbpf-tools": ["/usr/sbin/cachestat"],
    "bcc": ["/usr/sbin/cachestat-bpfcc"],
}


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
        """The numbers at the beginning of the next line that has some.

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
            harness.left_out(command[0], "not installed")
            continue
        tool = Running(command)
        if tool.line(INTERVAL + 20 * SLOW) is None:
            why = "".join(": " + row for row in tool.rest.strip().splitlines()[-1:])
            harness.left_out(command[0], f"prints nothing here{why}")
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


def starts(commands, base, peer):
    """Whole processes with an interval of 1 s."""
    jobs = {name: lambda command=command: harness.run(command, 1) for name, command in commands}
    found = harness.interleaved(jobs, 12)
    walls = {name: [run.wall for run in runs] for name, runs in found.items()}
    memory = {name: [run.rss for run in runs] for name, runs in found.items()}
    harness.table("warm start", "ms", walls, base)
    harness.table("peak RSS", "MB", memory, base)
    against = peer if peer in found else base
    harness.ratio_row("cachestat: start", against, walls["cachestat"], walls[against])
    harness.ratio_row("cachestat: memory", against, memory["cachestat"], memory[against])


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
GOALS = {  # ns, of the default
    "warm pread of 4 KiB": "150",
    "warm fault-around": "300",
    "new page added for a write": "",
    "new page dirtied": "",
}


def costs(path):
    """Nanoseconds for each program run, by the kernel's own statistics."""
    options = [], ["--by", "file"], ["--by", "process"], ["-p", str(os.getpid())]
    with harness.bpf_statistics():
        columns = [events(path, arguments) for arguments in options]
    titles = [
        " ".join(["cachestat"] + arguments[: 2 if arguments[:1] != ["-p"] else 1])
        for arguments in options
    ]
    print(f"\n| in the kernel, ns an event (events) | {' | '.join(titles)} |")
    print("|---|" + "---|" * len(options))
    for event, cells_ in zip(EVENTS, zip(*columns)):
        print(f"| {event[0]} | {' | '.join(shown(*cell) for cell in cells_)} |")
    plain = dict(zip((event[0] for event in EVENTS), columns[0]))
    for what, goal in GOALS.items():
        count, spent = plain[what]
        figure = f"{spent / count:.0f}" if count else "-"
        harness.row(f"cachestat: {what}, ns in the kernel", "-", figure, goal)


def shown(count, spent):
    return f"{spent / count:.0f} ({count})" if count else "-"


def events(path, arguments):
    """[(runs, ns)] of cachestat's programs for each of EVENTS."""
    old = set(harness.programs())
    child = subprocess.Popen(
        [OURS, "600", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(2 * min(SLOW, 5))
    found = []
    for _, prepare, action, functions in EVENTS:
        count = spent = 0
        for _ in range(4):
            prepare(path)
            start = harness.programs()
            action(path)
            for i, program in harness.programs().items():
                if i in start and i not in old and program.get("name") in functions:
                    count += program.get("run_cnt", 0) - start[i].get("run_cnt", 0)
                    spent += program.get("run_time_ns", 0) - start[i].get("run_time_ns", 0)
        found.append((count, spent))
    child.terminate()
    child.wait()
    return found


def main():
    print(harness.machine())
    with tempfile.TemporaryDirectory(prefix="crisis-bench-") as directory:
        truth_table(directory, "/tmp's file system")
        if "--truth" in sys.argv:
            return
        costs(os.path.join(directory, "file"))
    peer = "libbpf-tools' cachestat"
    commands = {
        "runqlat": [harness.tool("runqlat"), "1", "1"],
        "cachestat": [OURS, "1", "1"],
        "cachestat --by file": [OURS, "--by", "file", "1", "1"],
        "cachesnoop": [harness.tool("cachesnoop"), "-d", "1"],
        "cachesnoop --summary": [harness.tool("cachesnoop"), "--summary", "1", "1"],
        peer: TOOLS["libbpf-tools"] + ["1", "1"],
    }
    starts(commands.items(), "runqlat", peer)


if __name__ == "__main__":
    main()
