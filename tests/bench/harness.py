# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benches share: interleaved runs of commands, tables of medians, and rows for the README.

A figure is a ratio to a peer's in the same interleaved run, on a machine that does nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[1:1] = [os.path.join(ROOT, path) for path in ("lib", "tests", "tests/live")]
ROWS = "BENCH_ROWS"  # the environment variable that names the file of rows, which `make bench` sets

# In a small process: a child's peak RSS begins with that of the process that has started it.
_LAUNCH = """
import os, sys, time
files = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
begin = time.monotonic()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], dict(os.environ), file_actions=files)
_, status, usage = os.wait4(pid, 0)
print(status, time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""

_SLEEPERS = """
import os, signal, sys, threading
threading.stack_size(65536)
children = []
for _ in range(int(sys.argv[1]) // int(sys.argv[2])):
    pid = os.fork()
    if not pid:
        for _ in range(int(sys.argv[2]) - 1):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pause()
    children.append(pid)
print("ready", flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


class Run(NamedTuple):
    """A finished command: wall time beyond its sleep (ms), CPU time (ms), peak RSS (MB)."""

    wall: float
    cpu: float
    rss: float


def tool(name: str) -> str:
    """The path of a command of the suite."""
    return os.path.join(ROOT, "bin", name)


def run(command: list[str], seconds: float = 0, env: dict[str, str] | None = None) -> Run:
    """Run a command to its end, its output to /dev/null.  RuntimeError when it fails.

    seconds: how long it sleeps by its arguments.
    """
    path = shutil.which(command[0]) or command[0]
    done = subprocess.run(
        [sys.executable, "-IS", "-c", _LAUNCH, path, *command[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        check=True,
    )
    status, wall, cpu, rss = done.stdout.split()
    if int(status):
        raise RuntimeError(f"{command[0]} ended with status {status}")
    return Run((float(wall) - seconds) * 1e3, float(cpu) * 1e3, int(rss) / 1024)


def left_out(what: str, why: object) -> None:
    """Report a peer that cannot be compared with here."""
    print(f"left out: {what}: {why}", flush=True)


def interleaved(jobs: dict[str, Callable[[], Run]], runs: int) -> dict[str, list[Run]]:
    """Each job in turn, `runs` times, after one to fill caches.  One that fails is left out."""
    found: dict[str, list[Run]] = {}
    for name, job in jobs.items():
        try:
            job()
            found[name] = []
        except (OSError, RuntimeError, subprocess.CalledProcessError) as exc:
            left_out(name, exc)
    for _ in range(runs):
        for name, results in found.items():
            results.append(jobs[name]())
    return found


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float], digits: int = 1) -> str:
    """A median and its range, as a table shows them."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def machine() -> str:
    """A line on the machine, for above a table."""
    return f"{os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


def table(title: str, unit: str, rows: dict[str, list[float]], base: str, digits: int = 1) -> None:
    """Print a Markdown table of medians, ranges and ratios to the row `base`."""
    print(f"\n| {title} | median (range) {unit} | ÷ {base} |\n|---|---|---|")
    for name, values in rows.items():
        ratio = f"{median(values) / median(rows[base]):.2f}" if base in rows else "-"
        print(f"| {name} | {spread(values, digits)} | {ratio} |")
    sys.stdout.flush()


def row(what: str, baseline: str, figure: str, goal: str = "") -> None:
    """A row of the README's table: what was measured, against what, the ratio or figure, and the
    goal."""
    print(f"\n| {what} | {baseline} | {figure} | {goal} |", flush=True)
    path = os.environ.get(ROWS)
    if path:
        with open(path, "a") as f:
            f.write(json.dumps([what, baseline, figure, goal]) + "\n")


def ratio_row(
    what: str, baseline: str, ours: list[float], theirs: list[float], goal: str = ""
) -> None:
    """The row of a ratio of medians."""
    row(what, baseline, f"{median(ours) / median(theirs):.2f}", goal)


def bcc_headers(directory: str, command: str) -> dict[str, str]:
    """The environment for one of bcc's commands on a machine without kernel headers.

    directory: gets headers that are not pruned: the whole of bpftool's dump of BTF.
    """
    from crisis.bpf import btf, header

    dump = subprocess.check_output(
        ["bpftool", "btf", "dump", "file", btf.VMLINUX, "format", "c"], text=True
    )
    dump = re.sub(
        r"#pragma clang attribute.*|#ifndef BPF_NO_PRESERVE_ACCESS_INDEX|#endif", "", dump
    )
    dump = dump.replace("#ifndef __VMLINUX_H__", "").replace("#define __VMLINUX_H__", "")
    prune, header.prune = header.prune, lambda btf, text: "#define _UAPI__LINUX_BPF_H__\n" + dump
    try:
        with open(command) as f:
            header.write_tree(directory, f.read(), None)
    finally:
        header.prune = prune
    return {"BCC_KERNEL_SOURCE": directory}


def programs() -> dict[int, dict[str, Any]]:
    """{id: what bpftool knows of it} of all loaded BPF programs."""
    found = json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show"]))
    return {program["id"]: program for program in found}


@contextlib.contextmanager
def bpf_statistics() -> Iterator[None]:
    """Let the kernel count runs and times of BPF programs (kernel.bpf_stats_enabled)."""
    switch = "/proc/sys/kernel/bpf_stats_enabled"
    with open(switch) as f:
        before = f.read()
    try:
        with open(switch, "w") as f:
            f.write("1")
        yield
    finally:
        with open(switch, "w") as f:
            f.write(before)


def share_of_cpu(command: list[str], seconds: float) -> tuple[float, float]:
    """(CPU time in percent of one CPU, peak RSS in MB) of a command that is killed after that time.

    What it has used in its first two seconds, its start, does not count.
    """
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        before, begin = _cpu_seconds(child.pid), time.monotonic()
        time.sleep(seconds)
        spent, took = _cpu_seconds(child.pid) - before, time.monotonic() - begin
        with open(f"/proc/{child.pid}/status") as f:
            peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
        return 100 * spent / took, peak / 1024
    finally:
        child.kill()
        child.wait()


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0]) / 1e9


def readme(rows: str, path: str) -> None:
    """Put the rows of a file into the table of README.md, and print it."""
    lines = ["| what | baseline | figure | goal |", "|---|---|---|---|"]
    with open(rows) as f:
        lines += [f"| {' | '.join(json.loads(line))} |" for line in f]
    with open(path) as f:
        before, begin, rest = f.read().partition("<!-- make bench -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
    assert begin and end, f"{path} has no place for the table"
    table = f"{machine()}:\n\n" + "\n".join(lines) + "\n"
    with open(path, "w") as f:
        f.write(before + begin + table + end + after)
    print(table)


def sleepers(number: int, per_process: int = 1) -> subprocess.Popen[bytes]:
    """A process whose children have `number` threads that sleep; they end with its input."""
    child = subprocess.Popen(
        [sys.executable, "-IS", "-c", _SLEEPERS, str(number), str(per_process)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"ready\n"
    time.sleep(2)  # until all threads have started
    return child


if __name__ == "__main__":
    readme(*sys.argv[1:])
