# SPDX-License-Identifier: GPL-2.0-or-later
"""showboost's timed loop, on the CPUs of this machine.

The clock of a CPU changes from one millisecond to the next, so that runs agree only with what is
measured in the same moment.  The truth is a chain of another operation: whatever the clock is, a
multiplication of two 64-bit registers takes three cycles (Intel since Nehalem, AMD since Zen), one
of 32-bit registers two (Arm Cortex-A76 to A78, Neoverse N1, N2, V1, V2).
"""

import ctypes
import json
import mmap
import os
import re
import resource
import subprocess
import sys
import time

import pytest

from crisis.cpu import info, loop
from crisis.kernel import sysfs
from helpers import NOBODY, ROOT, SLOW, readable_root, run, tool, workload

LIB = os.path.join(ROOT, "lib")
BUSY = "while True: pass"
NEOVERSE = 0xD0B, 0xD0C, 0xD0D, 0xD40, 0xD41, 0xD49, 0xD4F  # MIDR_EL1's part numbers
REFUSED = "memory must not become executable"


@pytest.fixture(scope="module")
def timer():
    if SLOW != 1:
        pytest.skip("an emulated CPU has no clock")
    return loop.Timer()


def multiplications():
    """Machine code as loop.additions() has it, and its cycles for each round."""
    code, cpu = loop.additions(), info.identify()
    if cpu.family is not None and (
        cpu.vendor == "GenuineIntel" and cpu.family == 6 or cpu.family >= 0x17
    ):
        # imul rax, rdx has a byte more than add rax, rdx: three of four are left out
        count = loop.CHAIN // 4
        body = b"\x48\x0f\xaf\xc2" * count + b"\x48\xff\xcf"
        back = (-(len(body) + 6)).to_bytes(4, "little", signed=True)
        return code[:7] + body + b"\x0f\x85" + back + b"\xc3", 3 * count
    if cpu.vendor != "0x41" or cpu.model not in NEOVERSE:
        pytest.skip("it is not known how many cycles a multiplication takes on this CPU")
    words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)]
    words = [0x1B027C21 if word == 0x8B020021 else word for word in words]  # mul w1, w1, w2
    return b"".join(word.to_bytes(4, "little") for word in words), 2 * loop.CHAIN


def steady(runs):
    """Whether the clock was the same in both halves of the runs: else it has changed meanwhile,
    and what was measured in the same milliseconds is not comparable.
    """
    half = len(runs) // 2
    clocks = [loop.rate(runs[:half]), loop.rate(runs[half:]), loop.rate(runs)]
    return None not in clocks and max(clocks) / min(clocks) < 1.01


def compared(timer, cpu, times=20):
    """[(MHz by additions, MHz by multiplications)] of a CPU."""
    code, cycles = multiplications()
    other, found = loop.Routine(code), []
    # The same number of cycles, so that both kinds of runs are interrupted alike.
    short, long = (round(n * loop.CHAIN / cycles) for n in (loop.SHORT, loop.LONG))
    scale = cycles * (long - short) / (loop.CHAIN * (loop.LONG - loop.SHORT))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        deadline = time.monotonic() + 30
        while len(found) < times and time.monotonic() < deadline:
            adds, multiplies = [], []
            for _ in range(48):  # in turn, so that a clock that changes does so for both
                adds.append((timer.chain.time(loop.SHORT), timer.chain.time(loop.LONG)))
                multiplies.append((other.time(short), other.time(long)))
            if steady(adds) and steady(multiplies):
                found.append((loop.rate(adds), loop.rate(multiplies) * scale))
            time.sleep(0.01)
    finally:
        os.sched_setaffinity(0, before)
    assert len(found) == times, f"the clock was steady in {len(found)} of {times} measurements only"
    return found


@pytest.mark.parametrize("load", ["idle", "the other CPUs loaded", "loaded"])
def test_twenty_runs_are_the_truth_within_one_percent(timer, load):
    cpus = sysfs.online_cpus()
    cpu, others = cpus[0], cpus[1:]
    if load == "the other CPUs loaded" and not others:
        pytest.skip("there is one CPU only")
    busy = {"idle": [], "the other CPUs loaded": others, "loaded": cpus}[load]
    loads = [workload(BUSY, cpu=one) for one in busy]
    for one in loads:
        one.__enter__()
    try:
        found = compared(timer, cpu)
    finally:
        for one in loads:
            one.__exit__(None, None, None)
    errors = sorted(abs(first / second - 1) for first, second in found)
    print(load, [round(first) for first, _ in found], [f"{error:.4f}" for error in errors])
    assert errors[-1] < 0.01, found


@pytest.mark.guest
def test_number_of_additions():
    """The loop does what its length says."""
    timer = loop.Timer()
    assert timer.chain.call(1) == loop.CHAIN and timer.chain.call(7) == 7 * loop.CHAIN


def test_the_tsc_and_the_time_are_read_together(timer):
    if not timer.has_tsc:
        pytest.skip("this architecture has no TSC")
    rates = []
    for _ in range(5):
        begin = timer.instant()
        time.sleep(0.1)
        end = timer.instant()
        rates.append((end[1] - begin[1]) * 1e3 / (end[0] - begin[0]))
    assert max(rates) / min(rates) < 1.001 and 500 < rates[0] < 8000


@pytest.mark.guest
def test_memory_is_never_writable_and_executable():
    timer = loop.Timer()
    address = ctypes.cast(timer.chain.call, ctypes.c_void_p).value
    with open("/proc/self/maps") as f:
        maps = [line.split()[:2] for line in f]
    assert not [flags for _, flags in maps if "w" in flags and "x" in flags]
    (mine,) = [
        flags
        for area, flags in maps
        if int(area.split("-")[0], 16) <= address < int(area.split("-")[1], 16)
    ]
    assert mine == "r-xp" and address % mmap.PAGESIZE == 0


def child(code):
    """The output of a Python child in which executable memory may be refused."""
    before = (
        "import ctypes, sys\nfrom crisis.cpu import clock, loop\nfrom crisis.errors import "
        "Unavailable\n"
    )
    return subprocess.run(
        [sys.executable, "-c", before + code],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=LIB, PYTHONDONTWRITEBYTECODE="1"),
    )


@pytest.mark.guest
def test_where_memory_must_not_become_executable():
    """PR_SET_MDWE (65) with PR_MDWE_REFUSE_EXEC_GAIN (1) of Linux 6.3, as systemd sets it."""
    result = child(
        "if ctypes.CDLL(None).prctl(65, ctypes.c_ulong(1), 0, 0, 0):\n    sys.exit(3)\n"
        "try:\n    clock.choose([0], 'loop')\nexcept Unavailable as exc:\n    print(exc)"
    )
    if result.returncode == 3:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"cannot measure the clock: {REFUSED} (Permission denied)")


def test_showboost_says_so_in_one_line():
    code = (
        "import ctypes, os, sys\n"
        "if ctypes.CDLL(None).prctl(65, ctypes.c_ulong(1), 0, 0, 0): sys.exit(3)\n"
        "os.execv(sys.argv[1], ['showboost', '--source', 'loop', '.1', '1'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tool("showboost")], capture_output=True, text=True
    )
    if result.returncode == 3:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert result.returncode == 69 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and REFUSED in result.stderr


def loop_records(*arguments):
    result = run("showboost", "-j", "--source", "loop", *arguments)
    assert result.returncode == 0, result.stderr
    machine, *rows = (json.loads(line) for line in result.stdout.splitlines())
    assert machine["source"] == "loop"
    return machine, rows


def test_showboost_measures_every_cpu(timer):
    machine, rows = loop_records("--all", ".2", "10")
    cpus = sysfs.online_cpus()
    assert [row["cpu"] for row in rows] == cpus * 10
    known = [row["mhz"] for row in rows if row["mhz"] is not None]
    assert len(known) >= 0.8 * len(rows)
    assert all(200 <= mhz <= 8000 for mhz in known)
    for row in rows:
        assert row["util_ratio"] is row["c0_mcyc"] is row["c0_acyc"] is None
        if timer.has_tsc and row["mhz"] is not None:
            assert row["ratio"] == pytest.approx(row["mhz"] / machine["base_mhz"], abs=1e-5)
    if timer.has_tsc:
        assert machine["base_source"] is not None


def test_anybody_may_measure(timer):
    """No privileges are needed, and the affinity of the command is that which it had."""
    command = [os.path.join(readable_root(), "bin/showboost"), "--source", "loop", ".2", "3"]
    result = subprocess.run([*NOBODY, *command], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[4].endswith("clock of a busy core...") and len(lines) == 10
    assert any(re.search(r" \d{3,4}$", line) for line in lines[7:])
    before = os.sched_getaffinity(0)
    timer.measure(sysfs.online_cpus()[-1], 3)
    assert os.sched_getaffinity(0) == before
    assert timer.measure(8191, 3) is None and os.sched_getaffinity(0) == before


def test_the_cost_of_an_interval(timer):
    """Below 1 % of a CPU, at intervals of a second; the rest of the command is in it."""
    cpu = sysfs.online_cpus()[0]
    timer.measure(cpu, 32)
    before, number = resource.getrusage(resource.RUSAGE_SELF), 50
    for _ in range(number):
        timer.measure(cpu, 32)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{1e3 * spent / number:.2f} ms for each measurement")
    assert spent / number < 0.01


@pytest.mark.guest
def test_no_clock_of_an_emulated_cpu():
    """The loop of an emulated CPU can look like that of a real one, so it is not timed at all."""
    if SLOW == 1:
        pytest.skip("this machine is not emulated")
    assert loop.Timer().translated
    machine, rows = loop_records("--all", ".5", "2")
    assert rows and all(row["mhz"] is row["ratio"] is None for row in rows)
    result = run("showboost", "--source", "loop", ".5", "1")
    assert result.returncode == 0 and result.stdout.splitlines()[-1].split()[1:] == ["-"] * 5
    assert "emulated" in result.stderr
