# SPDX-License-Identifier: GPL-2.0-or-later
"""tiptop: without a PMU, and with software events in place of the CPU's.

cpu-clock stands for cycles and task-clock for instructions: both count ns on a CPU.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import test_pmc
from test_pmc import records

from crisis.pmu.plan import core_pmus
from helpers import HOG, NOBODY, SLOW, needs_quiet_machine, readable_root, run, workload

SOFT = [*test_pmc.SOFT, "tiptop"]
soft = functools.partial(test_pmc.soft, "tiptop")
SLEEP = "import time\ntime.sleep(1000)"
PARANOID = "/proc/sys/kernel/perf_event_paranoid"


def of(pid, found):
    return [record for record in found if record.get("pid") == pid]


class Reports:
    """tiptop -j while a test does other things: its records so far."""

    def __init__(self, *arguments, **environment):
        self.child = subprocess.Popen(
            [*SOFT, "-j", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, **environment),
        )
        self.records = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        for line in self.child.stdout:
            self.records.append(json.loads(line))

    def wait(self, more=1):
        """Until as many further intervals have ended."""
        wanted, deadline = self.intervals() + more, time.monotonic() + 60 * SLOW
        while self.intervals() < wanted:
            assert time.monotonic() < deadline and self.child.poll() is None
            time.sleep(0.01)

    def intervals(self):
        return sum(record["record"] == "total" for record in self.records)

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        assert self.child.wait(60 * SLOW) == 0
        self._thread.join()
        self.err = self.child.stderr.read()
        return self.records

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self._thread.join()
        self.child.stdout.close()
        self.child.stderr.close()


def until(true):
    """Wait until a function returns something true."""
    deadline = time.monotonic() + 60 * SLOW
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def burns(seconds, before="", after=""):
    """Python code that uses `seconds` of CPU time in user mode."""
    return (
        f"import time\n{before}\nbegin = time.thread_time()\n"
        f"while time.thread_time() < begin + {seconds}: sum(range(1000))\n{after}"
    )


@pytest.mark.guest
def test_without_a_pmu_one_line_names_what_is_missing():
    if core_pmus():
        pytest.skip("this machine has a PMU")
    for arguments in ["1", "1"], ["-j"], ["-p", str(os.getpid())], ["-H"], ["-u", "root"]:
        result = run("tiptop", *arguments)
        assert result.returncode == 69 and result.stdout == ""
        assert result.stderr.count("\n") == 1 and "no hardware PMU" in result.stderr
        assert "tsa" in result.stderr


def test_with_a_pmu_it_counts():
    if not core_pmus():
        pytest.skip("this machine has no PMU")
    with workload(HOG) as child:
        result = run("tiptop", "-j", "-p", str(child.pid), ".5", "1")
    if result.returncode == 69:
        pytest.skip(result.stderr.strip())
    (record,) = of(child.pid, records(result))
    assert record["cycles"] > 1e6 and record["ipc"] > 0.1


@pytest.mark.guest
def test_a_hog_against_the_scheduler():
    with workload(HOG) as child:
        with Reports("-p", str(child.pid), str(0.5 * min(SLOW, 6))) as reports:
            reports.wait()
            path = f"/proc/{child.pid}/schedstat"
            before = int(open(path).read().split()[0])
            reports.wait(3)
            used = int(open(path).read().split()[0]) - before
            found = of(child.pid, reports.stop())[1:4]
    # An interval's end and the reading of the file are some milliseconds apart.
    assert sum(r["cpu_ns"] for r in found) == pytest.approx(used, rel=0.02, abs=30e6 * SLOW)
    for record in found:
        assert record["cycles"] == pytest.approx(record["cpu_ns"], rel=0.02, abs=10e6 * SLOW)
        assert record["instr"] == pytest.approx(record["cycles"], rel=0.02, abs=5e6 * SLOW)
        assert record["run_ratio"] == 1 and record["threads"] == 1 and not record["ended"]
        assert record["system_ns"] <= record["cpu_ns"]


def test_a_process_that_begins_and_ends_meanwhile():
    with Reports("-i", "-u", str(os.geteuid()), ".3") as reports:
        reports.wait()
        code = burns(0.4, "time.sleep(.8)")
        child = subprocess.Popen([sys.executable, "-c", code])
        child.wait()
        reports.wait(2)
        found = of(child.pid, reports.stop())
    # Of the interpreter's start, a part is counted; of its end all, up to the last instruction.
    for key in "cpu_ns", "instr":
        assert 0.4e9 <= sum(r[key] for r in found) <= 0.5e9
    assert [r["ended"] for r in found] == [False] * (len(found) - 1) + [True]
    assert found[-1]["system_ns"] is None


def test_threads_that_begin_and_end_meanwhile():
    code = (
        "import threading, time\n"
        "def work():\n time.sleep(.7)\n"
        + "".join(f" {line}\n" for line in burns(0.2).splitlines()[1:])
        + "time.sleep(.5)\nthreads = [threading.Thread(target=work) for _ in range(3)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()\n"
        "time.sleep(1000)\n"
    )
    for options in ["-H"], []:
        with workload(code) as child, Reports("-p", str(child.pid), ".3", *options) as reports:
            for number in 4, 1:
                until(lambda number=number: len(os.listdir(f"/proc/{child.pid}/task")) == number)
            reports.wait(2)
            found = of(child.pid, reports.stop())
        assert sum(r["instr"] for r in found) == pytest.approx(0.6e9, rel=0.1)
        assert max(r["threads"] for r in found) == 4
        if options:
            ended = {r["tid"] for r in found if r["tid"] != child.pid}
            assert len(ended) == 3 and child.pid not in ended
            for tid in ended:
                used = sum(r["cpu_ns"] for r in found if r["tid"] == tid)
                assert used == pytest.approx(0.2e9, rel=0.15)
        else:
            assert not any(r["ended"] for r in found)


@pytest.mark.guest
def test_page_faults_are_those_of_the_process(tmp_path):
    """20,000 pages are touched for the first time, in user mode; by another process none."""
    begin, done = tmp_path / "begin", tmp_path / "done"
    code = (
        "import ctypes, mmap, os, sys, time\nlibc = ctypes.CDLL(None)\n"
        "m = mmap.mmap(-1, 20000 * 4096)\nm.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(.05)\n"
        "for i in range(20000): ctypes.c_char.from_address(a + 4096 * i).value = 1\n"
        "open(sys.argv[2], 'w')\ntime.sleep(1000)\n"
    )
    with (
        workload(code, str(begin), str(done)) as child,
        Reports("-p", str(child.pid), ".3", SOFTPMU_FAULTS="1") as reports,
    ):
        reports.wait()
        begin.touch()
        until(done.exists)
        reports.wait(2)
        found = of(child.pid, reports.stop())
    faults = sum(r["branch_misses"] for r in found)
    assert 20000 <= faults <= 21000  # and of the interpreter


def test_tasks_that_are_not_seen():
    with Reports(".5") as reports:
        reports.wait()
        for _ in range(50):
            subprocess.check_call("true", shell=True)
        reports.wait()
        found = reports.stop()
    totals = [r for r in found if r["record"] == "total"]
    seen = {r["pid"] for r in found if r["record"] == "process" and r["command"] == "true"}
    assert sum(r["lost"]["unseen"] for r in totals) >= 50 - len(seen)
    for total in totals:
        assert total["counted_ns"] > 0 and total["used_ns"] is not None


@needs_quiet_machine
def test_the_rows_have_the_cpu_time_of_the_system():
    with workload(HOG):
        found = records(soft("-j", "-i", "1", "2"))
    totals = [r for r in found if r["record"] == "total"]
    if all(total["lost"]["unseen"] > 5 for total in totals):
        pytest.skip("tasks that are not the test's start and end all the time")
    for total in totals:
        if total["lost"]["unseen"] <= 5:
            assert total["counted_ns"] == pytest.approx(total["used_ns"], rel=0.1)
    rows = sum(r["cpu_ns"] for r in found if r["record"] == "process")
    assert rows == sum(r["counted_ns"] for r in found if r["record"] == "total")


def test_idle_tasks_are_shown_with_i_only():
    with workload(SLEEP) as child:
        time.sleep(0.3 * SLOW)
        name = os.path.basename(open(f"/proc/{child.pid}/comm").read().strip())
        assert not of(child.pid, records(soft("-j", "-p", str(child.pid), ".2", "1")))
        (row,) = of(child.pid, records(soft("-j", "-i", "-p", str(child.pid), ".2", "1")))
        assert row["cpu_ns"] == row["cycles"] == 0 and row["ipc"] is None
        assert of(child.pid, records(soft("-j", "-i", "-p", name, ".2", "1")))
        assert not of(child.pid, records(soft("-j", "-i", "-p", name + "x", ".2", "1")))
        assert not of(child.pid, records(soft("-j", "-i", "-u", "4242", ".2", "1")))


def test_a_set_user_id_program_is_counted_anew():
    """The kernel removes the counters of the one that executes it."""
    if os.geteuid():
        pytest.skip("only root can make a program of another user")
    path = f"/var/tmp/tiptop-suid-{os.getpid()}"
    shutil.copy(os.path.realpath(sys.executable), path)
    try:
        os.chown(path, 65534, 65534)
        os.chmod(path, 0o4755)
        command = ["sh", "-c", f'sleep .6; exec {path} -ISc "while True: pass"']
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            with Reports("-i", "-p", str(child.pid), ".2") as reports:
                reports.wait(24)
                found = of(child.pid, reports.stop())
        finally:
            child.kill()
            child.wait()
    finally:
        os.unlink(path)
    assert found[0]["cpu_ns"] < 20e6 * SLOW
    ran, counted = (sum(r[key] for r in found[-8:]) for key in ("cpu_ns", "instr"))
    assert counted == pytest.approx(ran, rel=0.1) and counted > 20e6


def test_a_hostile_name():
    code = "import ctypes\nctypes.CDLL(None).prctl(15, b'\\x1b[2J\\n) R 1 (')\nwhile True: pass\n"
    with workload(code) as child:
        time.sleep(0.3 * SLOW)
        result = soft("-p", str(child.pid), ".3", "1")
        (record,) = of(child.pid, records(soft("-j", "-p", str(child.pid), ".3", "1")))
    assert "\x1b" not in result.stdout and result.stdout.count("\n") == 3
    assert result.stdout.splitlines()[1].endswith("\\x1b[2J\\x0a) R 1 (")
    assert record["comm"] == "\x1b[2J\n) R 1 ("


def test_an_unprivileged_user_counts_its_own():
    if os.geteuid() or int(open(PARANOID).read()) > 2:
        pytest.skip("needs root, and perf_event_paranoid of at most 2")
    as_other = {
        "wrap": NOBODY,
        "program": [*SOFT[:2], os.path.join(readable_root(), "tests/softpmu.py")],
    }
    result = soft("-j", ".3", "1", **as_other)
    found = records(result)
    rows = [r for r in found if r["record"] == "process"]
    assert rows and {r["uid"] for r in rows if not r["ended"]} == {65534}
    assert found[-1]["lost"]["refused"] > 10 and found[-1]["lost"]["full"] == 0
    text = soft(".3", "2", **as_other)
    assert text.returncode == 0 and text.stderr.count("threads are not counted: not permitted") == 1
    refused = soft("-p", "1", ".3", "1", **as_other)
    assert refused.returncode == 77 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert "perf_event_paranoid" in refused.stderr and "CAP_PERFMON" in refused.stderr
    if int(open(PARANOID).read()) == 2:
        kernel = soft("-K", ".3", "1", **as_other)
        assert kernel.returncode == 0 and "user mode only" in kernel.stderr


def test_the_limit_of_open_files():
    limit = ["prlimit", "--nofile=100:100"]
    limit += ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    result = soft("-j", "-i", ".3", "1", wrap=limit)
    total = records(result)[-1]
    assert 5 < total["threads"] <= 20 and total["lost"]["full"] > 10
    text = soft(".3", "2", wrap=limit)
    assert text.returncode == 0
    assert text.stderr.count("the limit of open files is 100. Raise it with ulimit -Hn") == 1


def test_multiplexing_is_shown():
    """Two groups of software events do not take turns: the share is 100 %, and is not shown."""
    with workload(HOG) as child:
        result = soft("-p", str(child.pid), ".3", "1", SOFTPMU_GROUPS="2")
        (row,) = of(
            child.pid, records(soft("-j", "-p", str(child.pid), ".3", "1", SOFTPMU_GROUPS="2"))
        )
    assert result.returncode == 0 and "%RUN" not in result.stdout and row["run_ratio"] == 1
    assert row["instr"] == pytest.approx(row["cycles"], rel=0.05)


def test_a_process_ends_the_command():
    child = subprocess.Popen([sys.executable, "-c", "import time\ntime.sleep(1)"])
    with Reports("-i", "-p", str(child.pid), "60") as reports:
        child.wait()
        found = of(child.pid, reports.end())
    assert reports.err == f"tiptop: process {child.pid} has ended\n"
    assert found[-1]["ended"]
    for pid in str(child.pid), "9" * 30:
        result = soft("-p", pid, "1", "1")
        assert result.returncode == 1 and "no such process" in result.stderr


def test_lines_of_the_classic():
    """awk on the columns of tiptop -b: a heading, rows, an empty line after each report."""
    with workload(HOG) as child:
        result = soft("-b", "-d", ".2", "-n", "2", "-p", str(child.pid), "-w", str(child.pid))
    lines = result.stdout.split("\n")
    titles = "PID %CPU %SYS P Mcycle Minstr IPC %MISS %BMIS %BUS COMMAND".split()
    assert result.returncode == 0 and lines[0].split() == titles
    assert [bool(line) for line in lines] == [True, True, False, True, False, False]
    cells = lines[1].split()
    assert cells[0] == str(child.pid) and cells[-1] == "<---" and len(cells) == len(titles) + 1
    assert float(cells[4]) > 0 and all(len(line) <= 80 for line in lines)


def test_pipes_and_signals():
    text = " ".join(SOFT)
    result = subprocess.run(
        f"{text} -i .1 | head -2; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=30 * SLOW,
    )
    assert result.returncode in (0, 141, -signal.SIGPIPE) and result.stdout.count(b"\n") == 2
    with open("/dev/full", "w") as full:
        failed = subprocess.run([*SOFT, ".1", "3"], stdout=full, stderr=subprocess.PIPE)
    assert failed.returncode == 1 and failed.stderr.count(b"write error") == 1
    child = subprocess.Popen(SOFT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: len(os.listdir(f"/proc/{child.pid}/fd")) > 50)  # while it opens counters
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20 * SLOW)
    assert child.returncode == 0 and out.startswith(b"  PID") and b"Traceback" not in err
    with Reports("-i", "60") as reports:  # the setup is over when all threads are counted
        time.sleep(1.5 * SLOW)
        assert [r["record"] for r in reports.stop()][-1] == "total"


def test_usage_errors():
    for arguments in (
        ["-p", "0"],
        ["-w", "0"],
        ["-u", "no-such-user"],
        ["-d", "1", "2"],
        ["-n", "1", "1", "2"],
        ["--sort", "x"],
        ["--cpu-min", "-1"],
        ["--cpu-min", "nan"],
        ["1", "2", "3"],
    ):
        result = soft(*arguments)
        assert result.returncode == 2 and result.stdout == "", arguments
        assert result.stderr.count("\n") == 1, arguments
