# SPDX-License-Identifier: GPL-2.0-or-later
"""runqslower on the running kernel, against perf-sched(1) and the kernel's own account of waits.

Needs root.
"""

import re
import shutil
import subprocess

import pytest

from helpers import needs_quiet_machine, run, run_delay, tracing, usable, workload

HOG = "while True: pass"
SLEEPER = "import time\nwhile True: time.sleep(.003)"
SOURCES = "storage", "hash", "raw"
_LINE = re.compile(
    r" *(?P<at>\d+\.\d+) \[(?P<cpu>\d+)\] +(?P<name>.*)\[(?P<tid>\d+)[/\d]*\]"
    r" +(?P<off>[\d.]+) +(?P<delay>[\d.]+) +(?P<run>[\d.]+)"
)


@pytest.fixture
def tasks():
    """{TID} of two programs that compete for CPU 0, and of a third that sleeps in between."""
    with workload(HOG, cpu=0) as one, workload(HOG, cpu=0) as two:
        with workload(SLEEPER, cpu=0) as three:
            yield {one.pid, two.pid, three.pid}


def lines_of(text, tids):
    """{TID: [(seconds, off, delay, run in milliseconds)]} of a list by task."""
    found = {tid: [] for tid in tids}
    for match in map(_LINE.match, text.splitlines()):
        if match and int(match["tid"]) in tids:
            times = tuple(float(match[name]) for name in ("at", "off", "delay", "run"))
            found[int(match["tid"])].append(times)
    return found


@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_timehist_is_that_of_perf(source, tasks, tmp_path):
    """Line by line: the same switches, with the same times."""
    usable("runqslower", source, "-d", ".1")
    if not shutil.which("perf"):
        pytest.skip("perf is not installed")
    data = str(tmp_path / "perf.data")
    with tracing("runqslower", "--timehist", "--source", source) as ours:
        record = ["perf", "sched", "record", "-k", "mono", "-o", data, "sleep", ".5"]
        result = subprocess.run(record, capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"perf cannot record: {result.stderr.strip()[-200:]}")
    theirs = subprocess.run(
        ["perf", "sched", "timehist", "-i", data], capture_output=True, text=True, check=True
    )
    mine, expected = lines_of(ours.out, tasks), lines_of(theirs.stdout, tasks)
    for tid, lines in expected.items():
        # perf does not know what was before its first line of a task.
        assert len(lines) > 20, f"perf has {len(lines)} lines of {tid}"
        same = 0
        for line in lines[2:]:
            near = min(mine[tid], key=lambda other: abs(other[0] - line[0]))
            same += all(abs(a - b) < 0.05 for a, b in zip(near[1:], line[1:]))
            assert abs(near[0] - line[0]) < 0.001, (tid, line, near)
        # An LRU hash evicts the times of a task now and then.
        most = 0.97 if source == "storage" else 0.9
        assert same >= most * len(lines[2:]), (tid, same, len(lines))


@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_all_waits_of_a_process_are_its_run_delay(source, tasks):
    usable("runqslower", source, "-d", ".1")
    hog = min(tasks)
    with tracing("runqslower", "0", "-j", "-p", str(hog), "--source", source) as ours:
        before = run_delay(hog)
        subprocess.check_call(["sleep", "1.5"])
        expected = run_delay(hog) - before
    assert {record["pid"] for record in ours.records} == {hog}
    assert ours.records[-1]["lost"] == {"dropped": 0, "untracked": 0}
    total = sum(record["wait_ns"] for record in ours.records)
    # What waits at the two ends, a turn of the other task, is in one of them only.
    assert abs(total - expected) < 0.02 * expected + 10e6


def test_only_longer_waits_and_who_ran_before(tasks):
    hog = min(tasks)
    with tracing("runqslower", "2000", "-j", "-p", str(hog)) as ours:
        subprocess.check_call(["sleep", "1"])
    assert ours.records, "two programs on a CPU never waited 2 ms"
    assert all(record["wait_ns"] > 2e6 and record["cpu"] == 0 for record in ours.records)
    others = {record["prev_tid"] for record in ours.records}
    assert others & (tasks - {hog}) and hog not in others
    assert all(0 < record["prev_run_ns"] < 1e9 for record in ours.records)


def test_every_switch_is_printed_or_lost():
    """As counted by the programs themselves: each message is two switches between them."""
    if not shutil.which("perf"):
        pytest.skip("perf is not installed")
    messages = 30000
    with tracing("runqslower", "--timehist", "-j") as ours:
        subprocess.check_call(
            ["taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", str(messages)],
            stdout=subprocess.DEVNULL,
        )
    printed = sum(record["comm"] == "sched-pipe" for record in ours.records)
    lost = ours.records[-1]["lost"]["dropped"]
    assert 2 * messages <= printed + lost
    assert printed <= 2 * messages * 1.2 + 1000


def test_lines(tasks):
    """The classic's columns, and with -P those of who ran before."""
    plain = run("runqslower", "1000", "-d", "1").stdout.splitlines()
    assert plain[0] == "Tracing run queue latency higher than 1000 us"
    assert plain[1].split() == ["TIME", "COMM", "TID", "LAT(us)"]
    assert len(plain) > 2 and all(
        re.fullmatch(r"\d\d:\d\d:\d\d .{16} \d+ +\d+", line) for line in plain[2:]
    )
    wide = run("runqslower", "1000", "-P", "-d", "1").stdout.splitlines()
    assert wide[1].startswith(plain[1] + " PREV COMM        PREV TID")
    assert any(int(line[70:].split()[-1]) == 0 for line in wide[2:])
