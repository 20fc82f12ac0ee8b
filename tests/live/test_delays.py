# SPDX-License-Identifier: GPL-2.0-or-later
"""delays on the running kernel, against schedstat and /proc/PID/stat.  Needs root."""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import time

import pytest

from crisis.kernel import cgroup as cgroups
from helpers import (
    HOG,
    SLOW,
    as_nobody,
    needs_quiet_machine,
    remove_cgroup,
    run,
    run_delay,
    tool,
    workload,
)

SWITCH = "/proc/sys/kernel/task_delayacct"


@contextlib.contextmanager
def accounting():
    """Delay accounting switched on, for processes that begin inside."""
    before = None
    if os.path.exists(SWITCH):
        before = open(SWITCH).read()
        try:
            open(SWITCH, "w").write("1")
        except OSError as exc:
            pytest.skip(f"cannot switch delay accounting on: {exc}")
    try:
        yield
    finally:
        if before is not None:
            open(SWITCH, "w").write(before)


def records(*args):
    result = run("delays", "-j", *map(str, args))
    if result.returncode == 69:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.guest
@needs_quiet_machine
def test_cpu_delay_is_that_of_schedstat():
    with workload(HOG, cpu=0) as one, workload(HOG, cpu=0) as two:
        time.sleep(0.5 * min(SLOW, 4))
        low = run_delay(one.pid)
        found, other = records("--since-boot", "-p", f"{one.pid},{two.pid}")
        high = run_delay(one.pid)
        assert (
            low <= found["cpu_total_ns"] <= high
            and found["cpu_count"] > 5
            and found["seconds"] is None
        )
        assert (found["pid"], other["pid"]) == (one.pid, two.pid) and found["comm"].startswith(
            "python"
        )
        child = subprocess.Popen(
            [tool("delays"), "-j", "-p", str(one.pid), str(2 * min(SLOW, 3)), "2"],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        child.stdout.readline()
        low, begin = run_delay(one.pid), time.monotonic()
        interval = json.loads(child.stdout.readline())
        waited, seconds = run_delay(one.pid) - low, time.monotonic() - begin
        # By the second: on a busy machine this reads some time after the tool.
        assert child.wait() == 0
        assert interval["cpu_total_ns"] / interval["seconds"] == pytest.approx(
            waited / seconds, rel=0.1
        )


IO = r"""
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
while True:
    os.lseek(fd, 0, os.SEEK_SET)
    while os.readv(fd, [buffer]): pass
"""


@pytest.mark.guest
def test_block_io_delay_is_that_of_proc_stat(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * 64)
    os.sync()
    try:
        os.close(os.open(str(path), os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")

    def ticks(pid):
        return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[39])

    with accounting(), workload(IO, str(path)) as child:
        deadline = time.monotonic() + 8 * min(SLOW, 4)
        while ticks(child.pid) < 50 and time.monotonic() < deadline:
            time.sleep(0.1)
        low = ticks(child.pid)
        (found,) = records("--since-boot", "-p", child.pid)
        high = ticks(child.pid)
    if high < 20:
        pytest.skip(f"the disk is too fast: {high} ticks of waiting")
    second = os.sysconf("SC_CLK_TCK")
    assert low - 2 <= found["blkio_total_ns"] / 1e9 * second <= high + 2
    assert found["blkio_count"] > 10 and found["wpcopy_count"] is None or found["wpcopy_count"] > 0


def test_copies_on_write_are_counted():
    code = (
        "import mmap, os, time\narea = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | "
        "mmap.MAP_ANONYMOUS)\n"
        "area.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "for at in range(0, 16 << 20, 4096): area[at] = 1\n"
        "if not os.fork(): time.sleep(1000)\n"
        "for at in range(0, 16 << 20, 4096): area[at] = 2\n"
        "print(flush=True)\ntime.sleep(1000)"
    )
    with accounting():
        child = subprocess.Popen(
            ["/usr/bin/python3", "-IS", "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            child.stdout.readline()
            (found,) = records("--since-boot", "-p", child.pid)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if found["wpcopy_count"] is None:
        pytest.skip("this kernel does not count copies on write")
    assert found["wpcopy_count"] >= (16 << 20) / mmap.PAGESIZE and found["wpcopy_total_ns"] > 0


@pytest.mark.guest
def test_without_accounting_only_the_cpu_is_known():
    if not os.path.exists(SWITCH) or open(SWITCH).read().strip() != "0":
        pytest.skip("delay accounting is on")
    with workload(HOG, cpu=0) as child:
        time.sleep(0.3 * min(SLOW, 4))
        (found,) = records("--since-boot", "-p", child.pid)
        assert (
            found["cpu_count"] > 0
            and found["blkio_total_ns"] is None
            and found["wpcopy_count"] is None
        )
        text = run("delays", "--since-boot", "-p", str(child.pid))
        assert "delay accounting is off" in text.stderr and text.stderr.count("\n") == 1
        head, line = text.stdout.splitlines()  # no column that nothing can fill
        assert head.split()[:3] == ["CPU", "PID", "COMM"] and len(line.split()) == 3
        with accounting():
            (found,) = records("--since-boot", "-p", child.pid)  # it began before
            assert found["blkio_total_ns"] is None and found["cpu_count"] > 0


@pytest.mark.guest
def test_all_processes_and_exits():
    with workload(HOG, cpu=0) as one, workload(HOG, cpu=0):
        found = records("--top", 500, 0.5 * min(SLOW, 4), 1)
        assert one.pid in [r["pid"] for r in found]
        users = [r for r in found if not r["kernel_thread"]]
        for group in users, found[len(users) :]:
            totals = [sum(v or 0 for k, v in r.items() if k.endswith("_total_ns")) for r in group]
            assert totals == sorted(totals, reverse=True) and all(totals)
        assert not any(r["kernel_thread"] for r in found[: len(users)])
    shell = f"{tool('delays')} %s; echo status ${{PIPESTATUS[0]}}"
    head = subprocess.run(
        ["bash", "-c", shell % ".1 | head -2 2>&1"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert head.stdout.split()[-1] in (b"0", b"141")
    full = subprocess.run(
        ["bash", "-c", shell % "2>&1 >/dev/full"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert (
        b"write error: No space left on device\nstatus 1" in full.stdout
        or b"status 1" in full.stdout
    )


@pytest.mark.guest
def test_since_boot_is_schedstat_of_all():
    """And of kernel threads, which are those of kthreadd and come last."""
    found = {r["pid"]: r for r in records("--since-boot", "--top", "100000")}
    for pid, record in found.items():
        try:
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            assert record["kernel_thread"] == (pid == 2 or fields[1] == "2")
            threads = os.listdir(f"/proc/{pid}/task")
            if threads == [str(pid)] and record["kernel_thread"]:
                assert record["cpu_total_ns"] <= run_delay(pid)
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            pass
    assert (
        os.getpid() in found and found[os.getpid()]["comm"] == open("/proc/self/comm").read()[:-1]
    )
    order = [record["kernel_thread"] for record in found.values()]
    assert order == sorted(order)


@pytest.mark.guest
@needs_quiet_machine
def test_a_thread():
    code = (
        "import threading, time\n"
        "def spin():\n"
        "    while True: pass\n"
        "threading.Thread(target=spin).start()\nprint(flush=True)\ntime.sleep(1000)"
    )
    with workload(HOG, cpu=0):
        child = subprocess.Popen(
            ["/usr/bin/taskset", "-c", "0", "/usr/bin/python3", "-IS", "-c", code],
            stdout=subprocess.PIPE,
        )
        try:
            child.stdout.readline()
            (thread,) = set(os.listdir(f"/proc/{child.pid}/task")) - {str(child.pid)}
            time.sleep(0.5 * min(SLOW, 4))

            def waited(tid):
                return int(open(f"/proc/{child.pid}/task/{tid}/schedstat").read().split()[1])

            low = waited(thread)
            (found,) = records("--since-boot", "-t", thread)
            high = waited(thread)
            (main,) = records("--since-boot", "-t", child.pid)
            assert low <= found["cpu_total_ns"] <= high and low > 10**8
            assert main["cpu_total_ns"] == waited(child.pid) < low
            assert (found["record"], found["pid"], found["tid"]) == (
                "thread",
                child.pid,
                int(thread),
            )
            text = run("delays", "-t", thread, ".2", "1").stdout
            assert text.splitlines()[0].split()[:3] == ["CPU", "TID", "COMM"]
            assert text.splitlines()[1].split()[1] == thread
        finally:
            child.kill()
            child.wait()


@pytest.mark.guest
def test_a_cgroup():
    mounts = [point for point, _, controllers in cgroups.mounts() if controllers is None]
    if not mounts:
        pytest.skip("no cgroup v2 file system is mounted")
    directory = f"{mounts[0]}/crisis-delays-{os.getpid()}"
    os.makedirs(directory + "/below")
    try:
        with workload(HOG, cpu=0) as inside, workload(HOG, cpu=0) as below, workload(HOG, cpu=0):
            for child, path in (inside, directory), (below, directory + "/below"):
                with open(path + "/cgroup.procs", "w") as f:
                    f.write(str(child.pid))
            found = records("-c", directory, 0.5 * min(SLOW, 4), 1)
            assert {record["pid"] for record in found} == {inside.pid, below.pid}
    finally:
        remove_cgroup(directory + "/below")
        remove_cgroup(directory)


@pytest.mark.guest
def test_targets_and_permission():
    gone = run("delays", "-p", "999999999")
    assert gone.returncode == 1 and gone.stderr == "delays: no such process: 999999999\n"
    code = (
        "import threading, time\nthreading.Thread(target=time.sleep, "
        "args=(1000,)).start()\nprint(flush=True)"
    )
    child = subprocess.Popen(["/usr/bin/python3", "-IS", "-c", code], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        (thread,) = set(os.listdir(f"/proc/{child.pid}/task")) - {str(child.pid)}
        one = run("delays", "-p", thread)
        assert (
            one.returncode == 1
            and one.stderr
            == f"delays: {thread} is a thread of process {child.pid}, not a process\n"
        )
    finally:
        child.kill()
        child.wait()
    with workload("import time; time.sleep(1000)") as child:
        tool_run = subprocess.Popen(
            [tool("delays"), "-p", str(child.pid), ".2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        assert tool_run.stdout.readline()
        child.kill()
        child.wait()
        _, errors = tool_run.communicate(timeout=20 * SLOW)
        assert tool_run.returncode == 0 and errors.endswith(
            f"delays: process {child.pid} has ended\n"
        )
    if os.getuid() == 0:
        user = as_nobody("delays")
        assert (
            user.returncode == 77
            and "CAP_NET_ADMIN" in user.stderr
            and user.stderr.count("\n") == 1
        )
