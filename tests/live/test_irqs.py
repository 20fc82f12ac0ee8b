# SPDX-License-Identifier: GPL-2.0-or-later
"""hardirqs and softirqs on the running kernel, against its counts and beside libbpf-tools.

Needs root.  The engine is irqtime's: see test_irqtime.py.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time

import pytest
from test_irqtime import FLOOD, kernel_counts, one_cpu_under_emulation  # noqa: F401

from crisis.kernel import interrupts, sysfs
from helpers import (
    SLOW,
    as_nobody,
    attached,
    fails_to_write,
    run,
    stop,
    tool,
    until,
    usable,
    workload,
)

# Writes that wait for the disk: an interrupt each, of a line.
SYNC = """import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.pwrite(fd, os.urandom(4096), 0)
    os.fdatasync(fd)
"""
HARD_TITLE, SOFT_TITLE = (
    f"Tracing {kind} irq event time... Hit Ctrl-C to end." for kind in ("hard", "soft")
)


def records_of(text):
    """{name: record} of the JSON lines of one interval; the last one is the "total" record."""
    return {
        r["name"] if r["record"] == "irq" else "total": r
        for r in map(json.loads, text.splitlines())
    }


def by_handlers(counts):
    """Counts of /proc/interrupts by what hardirqs calls its rows."""
    found = {}
    for row, count in counts.items():
        if row.isdigit():
            name = interrupts.name(int(row))
            found[name] = found.get(name, 0) + count
    return found


@pytest.mark.guest
@pytest.mark.parametrize("command", ["softirqs", "hardirqs"])
def test_counts_are_the_kernels(command, tmp_path):
    """Between the counts of a moment inside the trace and those of one around it."""
    usable(command, "lines", "0.01", "1")

    def counts():
        if command == "softirqs":
            return {n.lower(): c for n, c in kernel_counts().items() if n in interrupts.softirqs()}
        return by_handlers(kernel_counts())

    outer = counts()
    child = attached(command, "-j", "--source", "lines")
    with workload(FLOOD), workload(SYNC, str(tmp_path / "x")):
        inner = counts()
        time.sleep(2 * SLOW)
        inner_end = counts()
    ours = records_of(stop(child))
    outer_end, cpus = counts(), os.cpu_count()
    total = ours.pop("total")
    assert set(ours) <= set(outer_end) and ours
    if command == "softirqs":
        assert ours["net_rx"]["count"] > 100
    for name, record in ours.items():
        low, high = inner_end[name] - inner[name], outer_end[name] - outer[name] + cpus
        assert low - 2 * cpus <= record["count"] <= high, name
    for key in "count", "total_ns", "unseen":
        assert total[key] == sum(record[key] or 0 for record in ours.values())


@pytest.mark.guest
def test_one_cpu_and_all_of_them():
    """-s, -c and -P show the same rows of a CPU: the load runs on the first one."""
    usable("softirqs", "lines", "0.01", "1")
    cpu = sysfs.online_cpus()[0]
    with workload(FLOOD, cpu=cpu):
        tracers = [
            attached("softirqs", "-j", *more)
            for more in (("-P",), ("-s", str(cpu)), ("-c", str(cpu)), ("-P", "--cpu", str(cpu)))
        ]
        time.sleep(1 * SLOW)
        each, *chosen = (
            [r for r in map(json.loads, stop(t).splitlines()) if r.get("name") == "net_rx"]
            for t in tracers
        )
    (mine,) = (r for r in each if r["cpu"] == cpu)
    for (record,) in chosen:
        assert record.get("cpu") in (None, cpu)
        assert record["count"] / record["seconds"] == pytest.approx(
            mine["count"] / mine["seconds"], rel=0.2
        )


# The peers' documented command lines, of bcc's help, examples and man pages and of libbpf-tools'
# help.  Those without an interval end by SIGINT.  (command, arguments, first line of the report)
LINES = [
    ("softirqs", "", "SOFTIRQ          TOTAL_usecs"),
    ("softirqs", "-C", "SOFTIRQ          TOTAL_count"),
    ("softirqs", "--events", "SOFTIRQ          TOTAL_count"),
    ("softirqs", "--count", "SOFTIRQ          TOTAL_count"),
    ("softirqs", "-d", ""),
    ("softirqs", "--distributed", ""),
    ("softirqs", "1 2", "SOFTIRQ          TOTAL_usecs"),
    ("softirqs", "-T 1 1", "SOFTIRQ          TOTAL_usecs"),
    ("softirqs", "-NT 1 1", "SOFTIRQ          TOTAL_nsecs"),
    ("softirqs", "-c 0", "SOFTIRQ          TOTAL_usecs"),
    ("softirqs", "--cpu 0 1 1", "SOFTIRQ          TOTAL_usecs"),
    ("hardirqs", "", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "-C", "HARDIRQ                    TOTAL_count"),
    ("hardirqs", "-d", ""),
    ("hardirqs", "--dist", ""),
    ("hardirqs", "1 2", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "-T 1 1", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "-NT 1 1", "HARDIRQ                    TOTAL_nsecs"),
    ("hardirqs", "-c 0", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "-c CGROUP", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "--cpu 0", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "-s 0 1 1", "HARDIRQ                    TOTAL_usecs"),
    ("hardirqs", "--CPU 1 1", "HARDIRQ                    TOTAL_usecs"),
]


@pytest.mark.parametrize("command, line, header", LINES, ids=lambda value: str(value).strip())
def test_documented_command_lines(command, line, header):
    usable(command, "lines", "0.01", "1")
    words = line.replace("CGROUP", "/").split()
    child = attached(command, *words)
    with workload(FLOOD, cpu=0):
        if not words or not words[-1].isdigit() or words[-2:-1] in (["-c"], ["--cpu"]):
            time.sleep(1)
            text = stop(child)
        else:
            text, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    title, empty, *lines = text.splitlines()
    what = "events" if header.endswith("_count") else "event time"
    assert title == f"Tracing {command[:4]} irq {what}... Hit Ctrl-C to end." and empty == ""
    if "T" in line:
        assert re.fullmatch(r"\d\d:\d\d:\d\d", lines.pop(0))
    if not header:
        assert lines[0] == "" and re.fullmatch(f"{command[:-1]} = [\\w.,:-]+", lines[1])
        unit, first = lines[2:4]
        assert unit == "     usecs               : count     distribution"
        assert re.fullmatch(r" {9}0 -> 1 {10}: \d+ +\|[* ]{40}\|", first)
        return
    assert lines[0].startswith(header)
    reports = [part.splitlines() for part in "\n".join(lines).split("\n\n")]
    assert len(reports) == (2 if line == "1 2" else 1)
    for report in reports:
        values = [int(row.split()[1]) for row in report[1:]]
        assert values and values == sorted(values, reverse=True)
        assert all(len(row) == len(report[0]) for row in report[1:])


def peer(command):
    """libbpf-tools' command, which Debian 13 renames.  Skips the test where it does not run."""
    found = shutil.which(f"{command}-libbpf", path="/usr/sbin") or shutil.which(
        command, path="/usr/sbin"
    )
    if not found:
        pytest.skip(f"libbpf-tools' {command} is not installed")
    result = subprocess.run([found, "1", "1"], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"libbpf-tools' {command} does not run here: {result.stderr.strip()}")
    return found


def table(text):
    """{name: {column: number}} of a report of one interval, from both kinds of commands."""
    title, _, header, *rows = text.splitlines()
    columns = header.split()[1:]
    return {
        words[0]: dict(zip(columns, map(int, words[1:]))) for words in map(str.split, rows) if words
    }


@contextlib.contextmanager
def running(*command):
    """A command of libbpf-tools that has attached its programs; its `out` after the block."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    links = f"/proc/{child.pid}/fd"
    try:
        until(lambda: sum(_is_link(f"{links}/{fd}") for fd in os.listdir(links)) >= 2)
        yield child
        child.out, _ = child.communicate(timeout=60 * SLOW)
        assert child.returncode == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _is_link(path):
    try:
        return "bpf" in os.readlink(path)
    except FileNotFoundError:
        return False


def beside(command, options, seconds, *load):
    """(our table, our seconds, their table) while a load runs; our interval is within theirs."""
    theirs = peer(command)
    with workload(*load, cpu=sysfs.online_cpus()[-1], nice=-20):
        time.sleep(0.5)
        with running(theirs, *options, str(seconds), "1") as other:
            result = run(command, *options, "--source", "lines", str(seconds - 1), "1")
    assert result.returncode == 0, result.stderr
    return table(result.stdout), seconds - 1, table(other.out)


def agree(command, column, options, seconds, share, *load):
    """(name, our row, their row) of the busiest one, when the rates agree: in one of five tries.

    share: how far the rates may differ.
    """
    if len(sysfs.online_cpus()) < 2:
        pytest.skip("the load wants a CPU to itself")
    seen = []
    for _ in range(5):
        ours, elapsed, theirs = beside(command, options, seconds, *load)
        assert set(ours) <= set(theirs)
        busy = max(theirs, key=lambda name: theirs[name][column])
        mine, other = ours[busy][column] / elapsed, theirs[busy][column] / seconds
        seen.append((busy, mine, other))
        if mine == pytest.approx(other, rel=share):
            return busy, ours[busy], theirs[busy]
    raise AssertionError(seen)


def test_softirq_times_beside_libbpf_tools():
    busy, _, _ = agree("softirqs", "TOTAL_nsecs", ["-N"], 5, 0.15, FLOOD)
    assert busy == "net_rx"


def test_hardirq_times_beside_libbpf_tools(tmp_path):
    busy, ours, _ = agree("hardirqs", "TOTAL_nsecs", ["-N"], 5, 0.15, SYNC, str(tmp_path / "x"))
    assert 0 < ours["MAX_nsecs"] <= ours["TOTAL_nsecs"] and ours["TOTAL_count"] > 100, busy


def test_hardirq_counts_beside_libbpf_tools(tmp_path):
    """Our interval is within theirs, so that we count no more than they do."""
    help_text = subprocess.run([peer("hardirqs"), "--help"], capture_output=True, text=True).stdout
    if "--count" not in help_text:
        pytest.skip("this libbpf-tools' hardirqs has no --count (it is of 0.35 or newer)")
    busy, ours, theirs = agree(
        "hardirqs", "TOTAL_count", ["-C"], 5, 0.15, SYNC, str(tmp_path / "x")
    )
    assert ours["TOTAL_count"] <= theirs["TOTAL_count"] + os.cpu_count(), busy


def histograms(text):
    """{name: {lowest value: count}} of -d's report."""
    found = {}
    for line in text.splitlines():
        name = re.match(r"(?:hard|soft)irq = (\S+)", line)
        row = re.match(r" *(\d+) -> \d+ +: (\d+) ", line)
        if name:
            found[name.group(1)] = {}
        elif row:
            list(found.values())[-1][int(row.group(1))] = int(row.group(2))
    return found


def test_histogram_beside_libbpf_tools():
    """The same buckets, and most of net_rx in the same one."""
    theirs = peer("softirqs")
    seen = []
    for _ in range(5):
        with workload(FLOOD, cpu=sysfs.online_cpus()[-1], nice=-20):
            time.sleep(0.5)
            with running(theirs, "-d", "4", "1") as other:
                result = run("softirqs", "-d", "3", "1")
        found = [histograms(text)["net_rx"] for text in (result.stdout, other.out)]
        shares = [{low: n / sum(rows.values()) for low, n in rows.items()} for rows in found]
        seen.append(shares)
        same = sum(min(shares[0].get(low, 0), shares[1].get(low, 0)) for low in shares[0])
        if same > 0.8:
            assert set(found[0]) <= {0, *(2**n for n in range(1, 40))}
            return
    raise AssertionError(seen)


@pytest.mark.parametrize("command", ["hardirqs", "softirqs"])
def test_nobody(command):
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    result = as_nobody(command, "1", "1")
    assert result.returncode == 77 and result.stdout == "" and result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["hardirqs", "softirqs"])
@pytest.mark.parametrize(
    "arguments, status",
    [
        (["abc"], 2),
        (["1", "0"], 2),
        (["-s", "x"], 2),
        (["-C", "-d"], 2),
        (["-C", "-N"], 2),
        (["-s", "99999", "1", "1"], 1),
        (["-c", "/no/such/cgroup", "1", "1"], 1),
        (["--cgroup", "99999", "1", "1"], 1),
    ],
)
def test_wrong_arguments(command, arguments, status):
    result = run(command, *arguments)
    assert result.returncode == status and result.stdout == "" and result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["hardirqs", "softirqs"])
def test_closed_reader_and_full_disk(command):
    usable(command, "lines", "0.01", "1")
    head = fails_to_write(command, ".1 1", ".1")
    assert head.startswith((HARD_TITLE if command == "hardirqs" else SOFT_TITLE).encode())


def test_the_title_comes_through_a_pipe_when_tracing_has_begun():
    child = subprocess.Popen(
        [tool("softirqs"), "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == SOFT_TITLE + "\n"
        links = f"/proc/{child.pid}/fd"
        assert any(_is_link(f"{links}/{fd}") for fd in os.listdir(links))
    finally:
        child.kill()
        child.communicate()
