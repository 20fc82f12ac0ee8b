# SPDX-License-Identifier: GPL-2.0-or-later
"""tsa on the running kernel, against the kernel's own accounts and workloads of known states.

Needs root.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest

from crisis.kernel import cgroup as cgroups
from crisis.net import taskstats
from crisis.sched.states import STATES
from helpers import (
    HOG,
    SLOW,
    as_nobody,
    attached,
    fails_to_write,
    needs_quiet_machine,
    refuses,
    remove_cgroup,
    run,
    tool,
    tracing,
    until,
    usable,
    workload,
)

SOURCES = "tracing", "sample"
# Threads, each of which names itself and then stays in one state.
THREADS = r"""
import ctypes, fcntl, os, queue, select, socket, sys, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.c_int(2)

def futex(value):                      # a mutex of glibc that is held: its word is 2
    while True:
        libc.syscall(202 if os.uname().machine == "x86_64" else 98, ctypes.byref(word), 128,
                     value, None, None, 0)

def flock():
    with tempfile.NamedTemporaryFile() as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        fcntl.flock(open(f.name), fcntl.LOCK_EX)

def condition():                       # an idle loop, with a timeout
    c = threading.Condition()
    with c:
        while True:
            c.wait(.05)

ours, theirs = socket.socketpair()
pair = os.pipe()
full = os.pipe()
JOBS = {
    "mutex": lambda: futex(2),
    "flock": flock,
    "queue": queue.Queue().get,        # a semaphore: a pool without work
    "periodic": condition,
    "sleep": lambda: time.sleep(1000),
    "poll": lambda: select.select([pair[0]], [], []),
    "accept": lambda: (lambda s: (s.listen(), s.accept()))(socket.socket()),
    "recv": lambda: ours.recv(1),
    "read": lambda: os.read(ours.fileno(), 1),
    "pipe": lambda: os.read(pair[0], 1),
    "full": lambda: [os.write(full[1], bytes(4096)) for _ in range(1000)],
    "wait": lambda: os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}), 0),
}

def named(name, job):
    open("/proc/thread-self/comm", "w").write(name)
    job()

for name, job in JOBS.items():
    threading.Thread(target=named, args=(name, job), daemon=True).start()
time.sleep(1000)
"""
STATE_OF = {
    "mutex": "lock",
    "flock": "lock",
    "queue": "idle",
    "periodic": "idle",
    "sleep": "sleep",
    "poll": "idle",
    "accept": "idle",
    "recv": "net",
    "read": "net",
    "pipe": "idle",
    "full": "other",
    "wait": "idle",
}
# A thread waits for a lock (a semaphore) that another one holds for 30 of 31 ms.
CONTENDED = """
import threading, time
lock = threading.Lock()
def waits():
    open("/proc/thread-self/comm", "w").write("waits")
    while True:
        with lock: pass
        time.sleep(.002)
threading.Thread(target=waits, daemon=True).start()
while True:
    with lock: time.sleep(.03)
    time.sleep(.001)
"""
READER = """
import mmap, os, sys
fd, memory, block = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 20), 0
while True:
    os.preadv(fd, [memory], block % 64 << 20)
    block += 7
"""
SYSTEM = "import os\nwhile True:\n os.stat('/proc/self/stat')\n for _ in range(200): pass"


@contextlib.contextmanager
def measured(*args, seconds=2):
    """A tsa of that many seconds beside the block: its records, once the block has ended."""
    words = ["-j", *map(str, args), str(seconds), "1"]
    if "sample" in args:  # it attaches to nothing
        child = subprocess.Popen(
            [tool("tsa"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    else:
        child = attached("tsa", *words)
    try:
        time.sleep(0.5)  # it reads the threads for the first time
        records = []
        yield records
        out, err = child.communicate(timeout=60 * SLOW)
        assert child.returncode == 0, err
        records += [json.loads(line) for line in out.splitlines()]
    finally:
        child.kill()
        child.wait()


def records_of(*args):
    result = run("tsa", "-j", *map(str, args))
    if result.returncode == 69:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def shares(record):
    """{state: percent of the record's time}."""
    return {state: 100 * (record[f"{state}_ns"] or 0) / record["total_ns"] for state in STATES}


def stat(pid):
    """Seconds that a process has run in user mode and in the kernel, by /proc/PID/stat."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13]]


def schedstat(pid):
    """(seconds that a process of one thread has run, and waited for a CPU)."""
    return [int(word) / 1e9 for word in open(f"/proc/{pid}/schedstat").read().split()[:2]]


def named(process):
    """Wait until all threads of THREADS have their names, and are where they stay."""
    tasks = f"/proc/{process.pid}/task"

    def names():
        return {open(f"{tasks}/{tid}/comm").read().strip() for tid in os.listdir(tasks)}

    until(lambda: set(STATE_OF) <= names())
    time.sleep(0.3)


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_threads_that_stay_in_a_state(source):
    """Also those that never switch while they are traced, whose state is that of the iterator."""
    usable("tsa", source, "-p", str(os.getpid()), ".1", "1")
    with workload(THREADS) as process:
        named(process)
        found = records_of("--source", source, "-H", "-p", process.pid, 1, 1)
    threads = {record["comm"]: record for record in found if record["record"] == "thread"}
    for name, state in STATE_OF.items():
        record = threads[name]
        # The sampler sees this loop in its waits, which are too short to be timed by it.
        if (name, source) == ("periodic", "sample"):
            continue
        assert shares(record)[state] > 93, (name, shares(record))
        assert abs(record["total_ns"] / 1e9 / record["seconds"] - 1) < 0.05, name


# poll(0, 0, -1), as a program for i386 calls it: in the table of x86-64, 168 is swapoff.
COMPAT = """
int main(void)
{
	int result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(168), "b"(0), "c"(0), "d"(-1) : "memory");
	return result != 0;
}
"""


def test_a_system_call_of_a_32_bit_program(tmp_path):
    if os.uname().machine != "x86_64" or not shutil.which("gcc"):
        pytest.skip("needs x86-64 and gcc")
    (tmp_path / "compat.c").write_text(COMPAT)
    subprocess.check_call(["gcc", "-o", tmp_path / "compat", tmp_path / "compat.c"])
    process = subprocess.Popen([tmp_path / "compat"])
    try:
        time.sleep(0.3)
        if process.poll() is not None:
            pytest.skip("this kernel runs no 32-bit programs")
        (record,) = records_of("-p", process.pid, 1, 1)
        assert shares(record)["idle"] > 99, record
    finally:
        process.kill()
        process.wait()


@pytest.mark.guest
@needs_quiet_machine
def test_a_contended_lock():
    """Of 33 ms, the waiter waits for 29 and sleeps for 2; longer waits are IDLE on request."""
    with workload(CONTENDED) as process:
        time.sleep(0.5 * min(SLOW, 4))
        thread = [r for r in records_of("-H", "-p", process.pid, 2, 1) if r["comm"] == "waits"][0]
        idle = records_of("-H", "-p", process.pid, "--idle-after", 10, 1, 1)
    share = shares(thread)
    waits = 100 - share["runq"] - share["user"] - share["sys"]
    assert share["lock"] > 0.85 * waits and share["idle"] < 1, share
    calls = {(call["call"], call["state"]): call for call in thread["calls"]}
    assert calls["futex", "lock"]["ns"] > 0.95 * thread["lock_ns"]
    assert calls["clock_nanosleep", "sleep"]["count"] > 20
    share = shares(next(record for record in idle if record["comm"] == "waits"))
    waits = 100 - share["runq"] - share["user"] - share["sys"]
    assert share["idle"] > 0.8 * waits and share["lock"] < 5, share


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_cpu_and_run_queue_are_the_kernels(source):
    """USER and SYS of /proc/PID/stat, and RUNQ of schedstat, of two programs on one CPU."""
    usable("tsa", source, "-p", str(os.getpid()), ".1", "1")
    with workload(HOG, cpu=0) as hog, workload(SYSTEM, cpu=0) as other:
        for process in hog, other:
            time.sleep(0.2)
            with measured("-p", process.pid, "--source", source, seconds=3) as found:
                before, begin = stat(process.pid) + schedstat(process.pid), time.monotonic()
                time.sleep(2)
                after, end = stat(process.pid) + schedstat(process.pid), time.monotonic()
            assert found[0]["pid"] == process.pid
            expected = [100 * (b - a) / (end - begin) for a, b in zip(before, after)]
            share = shares(found[0])
            total = share["user"] + share["sys"]
            # Of a part of the interval: two hogs have the same share all the time.
            assert abs(total - expected[2]) < 3, (share, expected)
            assert abs(share["runq"] - expected[3]) < 3, (share, expected)
            user = expected[0] / (expected[0] + expected[1])
            assert abs(share["user"] / total - user) < 0.05, (share, expected)
            assert abs(sum(share.values()) - 100) < 1


def totals_of(pid):
    """ns that a process of one thread has waited for a CPU and for block I/O, and run as user and
    in the kernel.
    """
    source = taskstats.Taskstats()
    counters = source.read([pid])[pid]
    blocked = taskstats.accounts(source.names, counters)["blkio"][1] or 0
    return [schedstat(pid)[1] * 1e9, blocked, *(1e9 * seconds for seconds in stat(pid))]


@needs_quiet_machine
def test_all_times_of_a_process_that_rests_before_and_after():
    """Within a point: those of schedstat and /proc/PID/stat, of runqlat, and of delay accounting.

    The kernel takes the time between a wakeup that preempts, or ends idleness, and the switch for
    CPU time, not for a wait: wakeup_preempt() keeps the run queue's clock as it was
    (rq_clock_skip_update()).  On an idle virtual CPU that was 22 us for each wakeup.
    """
    switch = "/proc/sys/kernel/task_delayacct"
    before = open(switch).read() if os.path.exists(switch) else None
    path = f"/var/tmp/crisis-tsa-{os.getpid()}"
    with open(path, "wb") as f:
        f.write(bytes(64 << 20))
        os.fsync(f.fileno())
    if before:
        open(switch, "w").write("1")
    reader = subprocess.Popen(
        [sys.executable, "-c", "input()\n" + READER, path],
        stdin=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    try:
        until(lambda: "pipe" in open(f"/proc/{reader.pid}/wchan").read())
        begin = totals_of(reader.pid)
        with (
            tracing("runqlat", "-j", "-p", str(reader.pid)) as queued,
            measured("-p", reader.pid, seconds=3) as found,
        ):
            start = time.monotonic_ns()
            reader.stdin.write(b"go\n")
            reader.stdin.flush()
            time.sleep(2)
            os.kill(reader.pid, signal.SIGSTOP)
            until(lambda: open(f"/proc/{reader.pid}/stat").read().rpartition(")")[2][1] == "T")
            window = time.monotonic_ns() - start
            expected = [after - then for after, then in zip(totals_of(reader.pid), begin)]
    finally:
        reader.kill()  # not before: its end takes time, too
        reader.communicate()
        os.unlink(path)
        if before:
            open(switch, "w").write(before)
    (record,) = found
    queue, blocked, user, system = expected
    point, ticks = 0.01 * record["total_ns"], 20e6  # of user and system, cut off
    ours = record["total_ns"] - record["idle_ns"] - record["other_ns"]
    assert window - 2 * point < ours < window + point, (window, ours)
    # Since Linux 6.12 a sleeping task may be dequeued late, by another one, and
    # delayacct_blkio_start() of __block_task() begins the wait of that one.  Then the end of the
    # wait adds the time since an earlier one, or since boot.
    busy = queue + user + system
    if busy + blocked > window + point:
        warnings.warn(f"delay accounting has {blocked} ns of {window - busy}", stacklevel=1)
        blocked = window - busy
    assert blocked > 10 * point, f"it read for {blocked} ns only"
    figures = record, expected, queued.records
    assert abs(record["disk_ns"] - blocked) < point + ticks, figures
    assert abs(record["user_ns"] - user) < point + ticks / 2, figures
    found = record["runq_ns"] + record["user_ns"] + record["sys_ns"]
    assert abs(found - busy) < point + ticks, figures
    assert queue - point < record["runq_ns"] < queued.records[0]["total_ns"] + point, figures
    assert sum(record[f"{state}_ns"] for state in STATES) == record["total_ns"]


def test_a_task_that_leaves_the_cgroup_is_not_counted_further():
    hierarchy = cgroups.task_hierarchy()
    if hierarchy is None:
        pytest.skip("no cgroup file system is mounted")
    cgroup = f"{hierarchy[0]}/crisis-tsa-left-{os.getpid()}"
    os.mkdir(cgroup)
    try:
        with workload(HOG, cpu=0) as hog, workload("import time; time.sleep(60)") as sleeper:
            home = next(
                line.split(":", 2)[2].strip()
                for line in open(f"/proc/{hog.pid}/cgroup")
                if hierarchy[1] is None or set(line.split(":")[1].split(",")) & hierarchy[1]
            )
            for process in hog, sleeper:
                with open(cgroup + "/cgroup.procs", "w") as f:
                    f.write(str(process.pid))
            with tracing("tsa", "-aj", "-c", cgroup, "1") as ours:
                time.sleep(1.5)
                with open(f"{hierarchy[0]}{home}/cgroup.procs", "w") as f:
                    f.write(str(hog.pid))
                time.sleep(2.2)
            records = [json.loads(line) for line in ours.out.splitlines()]
            first = {one["pid"] for one in records if one["time"] == records[0]["time"]}
            last = {one["pid"] for one in records if one["time"] == records[-1]["time"]}
            assert first == {hog.pid, sleeper.pid} and last == {sleeper.pid}
    finally:
        remove_cgroup(cgroup)


@pytest.mark.guest
def test_a_thread_that_executes_a_program_is_one_task():
    """It takes the number of its process: nothing is left over that seems to run."""
    code = """
import os, sys, threading, time
threading.Thread(target=lambda: (time.sleep(1.5), os.execv("/bin/sleep", ["sleep", "60"]))).start()
time.sleep(60)
"""
    with workload(code) as process:
        time.sleep(0.5)
        child = subprocess.Popen(
            [tool("tsa"), "-jH", "-p", str(process.pid), "1", str(4 * min(SLOW, 4))],
            stdout=subprocess.PIPE,
            text=True,
        )
        out, _ = child.communicate(timeout=60 * SLOW)
    records = [json.loads(line) for line in out.splitlines()]
    last = [record for record in records if record["time"] == records[-1]["time"]]
    assert [(record["tid"], record["comm"]) for record in last] == [(process.pid, "sleep")]
    assert shares(last[0])["sleep"] > 99


@pytest.mark.guest
def test_processes_that_come_and_go_are_added_up():
    """100 programs that sleep for 5 ms each, one after the other."""
    code = "import subprocess, time\ntime.sleep(1)\nfor _ in range(40): "
    code += "subprocess.call(['sleep', '.005'])\ntime.sleep(60)"
    with workload(code):
        found = records_of("-a", 4 * min(SLOW, 4), 1)
    sleeps = [r for r in found if r.get("comm") == "sleep" and r["seconds"] > r["total_ns"] / 1e9]
    assert len([r for r in sleeps if 4e6 < r["sleep_ns"] < 60e6 * SLOW]) >= 30, len(sleeps)
    assert found[-1]["lost"] == {"threads_full": 0, "calls_full": 0, "stacks_full": 0}


@pytest.mark.guest
@needs_quiet_machine
def test_stacks_of_a_state_add_up_to_it():
    """In folded lines, of functions that are known, in microseconds."""
    code = "import time\nwhile True: time.sleep(.01)"
    with workload(code) as process:
        time.sleep(0.3)
        result = run("tsa", "--stacks=sleep", "-p", str(process.pid), "2", "1")
        objects = records_of("--stacks=sleep", "-p", process.pid, 1, 1)
    if result.returncode == 69:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    lines = [line.rpartition(" ") for line in result.stdout.splitlines()]
    assert all(re.fullmatch(r"\d+", number) for _, _, number in lines)
    assert sum(int(number) for _, _, number in lines) > 1.5e6, result.stdout
    slept = sum(one["ns"] for one in objects) / 1e9
    assert 0.75 * objects[0]["seconds"] < slept < 1.1 * objects[0]["seconds"], objects
    stack = max(lines, key=lambda line: int(line[2]))[0].split(";")
    assert {(one["record"], one["state"], one["pid"]) for one in objects} == {
        ("stack", "sleep", process.pid)
    }
    assert any("nanosleep" in frame for frame in objects[0]["frames"]), objects[0]
    assert stack[0].startswith("python3") and any("nanosleep" in frame for frame in stack), stack


def test_idle_tasks_are_left_out_and_added_up():
    """Not 100 idle kernel threads: one row has what they are."""
    lines = run("tsa", "1", "1").stdout.splitlines()
    assert len(lines) <= 23
    assert re.search(r"\(\d+ others\)$", lines[-1])
    everything = run("tsa", "-a", "1", "1").stdout
    assert "[kthreadd]" in everything and "others" not in everything


def test_rows_fit_a_terminal_and_add_up():
    for line in run("tsa", "-H", "--top", "50", "1", "1").stdout.splitlines()[2:]:
        *numbers, _ = line.split(None, 12)
        assert len(line) <= 100 and abs(sum(map(float, numbers[2:])) - 100) < 1, line


def test_without_privileges_only_the_own_processes():
    result = as_nobody("tsa", "--source", "sample", "1", "1")
    assert result.returncode == 0 and "threads, which are left out" in result.stderr
    refused = as_nobody("tsa", "1", "1")
    assert refused.returncode == 77 and refused.stdout == ""


def test_errors():
    refuses(
        "tsa", [["--stacks", "walking"], ["--top", "0"], ["-H", "0"], ["1", "1", "1"]], "1", "1"
    )
    result = run("tsa", "--stacks", "--source", "sample", "1", "1")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    fails_to_write("tsa", ".1 1", ".1")


def test_the_process_ends():
    with workload("import time; time.sleep(1.5)") as process:
        result = run("tsa", "-p", str(process.pid), "1")
    assert result.returncode == 0 and f"process {process.pid} has ended" in result.stderr
