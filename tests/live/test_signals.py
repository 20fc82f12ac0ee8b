# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGINT and SIGTERM end every command at once, quietly, with status 0; so does the end of the
process of -p.
"""

import contextlib
import fcntl
import glob
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from helpers import SLOW, tool, until, workload

TRIES = int(os.environ.get("CRISIS_TRIES", "30"))
SEED = os.environ.get("CRISIS_SEED", "1")
LIMIT = 0.3 * SLOW  # seconds from the signal to the end, on a machine that is not busy
SLEEPER = "import time; time.sleep(1000)"


def limit():
    """Seconds that a command may go on after a signal: more where others use the CPUs, too."""
    return LIMIT * max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def caught(pid):
    """(whether SIGINT, whether SIGTERM has a handler in the process)."""
    with open(f"/proc/{pid}/status") as f:
        mask = int(re.search(r"SigCgt:\s*(\w+)", f.read()).group(1), 16)
    return bool(mask >> signal.SIGINT - 1 & 1), bool(mask >> signal.SIGTERM - 1 & 1)


def in_poll(pid):
    """True when the process sleeps in poll(2), its handlers set."""
    try:
        with open(f"/proc/{pid}/wchan") as f:
            return caught(pid)[1] and "poll" in f.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


def family(session):
    """The PIDs of a session's processes that have not ended."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, "rb") as f:
                fields = f.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in b"ZX":
            found.append(int(path.split("/")[2]))
    return found


def by_python_itself(name, errors):
    """True for the traceback of a KeyboardInterrupt that came before the command's first statements
    had run.
    """
    with open(tool(name)) as f:
        head = f.read().split("\nimport os\n")[0].count("\n") + 1
    lines = [int(number) for number in re.findall(r'/bin/[a-z-]+", line (\d+), in', errors)]
    return (
        "KeyboardInterrupt" in errors
        and "/lib/crisis/" not in errors
        and all(number <= head for number in lines)
    )


def interrupt(name, arguments, moment):
    """(seconds until the end, status, stderr, whether Python's own handler was set) of SIGINT after
    `moment` seconds.
    """
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            [tool(name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            start_new_session=True,
        )
        try:
            time.sleep(moment)
            assert child.poll() is None, (
                f"{name} {arguments} ended by itself: {child.stderr.read()}"
            )
            states = [caught(child.pid)]
            child.send_signal(signal.SIGINT)
            begin = time.monotonic()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, AttributeError):
                states.append(caught(child.pid))
            python = (True, False) in states
            try:
                child.wait(2 * SLOW)
            except subprocess.TimeoutExpired:
                # What Python runs before the script may swallow the exception.
                if python:
                    child.send_signal(signal.SIGINT)
            errors = child.communicate(timeout=20 * SLOW)[1]
            seconds = time.monotonic() - begin
            assert not family(child.pid), f"children of {name} are left"
            return seconds, child.returncode, errors, states, python
        finally:
            for pid in family(child.pid):
                os.kill(pid, signal.SIGKILL)
            child.wait()


@pytest.fixture(scope="module")
def sleeper():
    with workload(SLEEPER) as child:
        yield child


def calls(pid):
    """Commands that go on until they are ended."""
    found = [
        ["runqlat", ".05"],
        ["runqlat", "-P", "--top", "5", ".1"],
        ["cachestat", ".05"],
        ["drsnoop"],
        ["cachestat", "--by", "file", ".1"],
        ["cachesnoop"],
        ["cachesnoop", "--summary", ".1"],
        ["irqtime", ".05"],
        ["oomkill"],
        ["memleak", ".1"],
        ["memleak", "-p", str(pid), ".1"],
        ["delays", ".05"],
        ["psi", ".02"],
        ["psi", "--by-cgroup", ".05"],
        ["nicstat", ".05"],
        ["fincore", "--watch", ".05", "/usr/bin"],
        ["wss", "-s", "0", str(pid), ".05"],
        ["wss", str(pid)],
        ["runqlat", "--no-cache", ".1"],
        ["cachestat", "--no-cache", ".1"],
        ["irqtime", "--no-cache", ".1"],
        ["pmcarch", ".1"],
        ["tiptop", ".1"],
        ["showboost", ".1"],
        ["cpuhot", ".1"],
        ["cputemp", ".1"],
    ]
    usable = []
    for name, *arguments in found:
        child = subprocess.Popen(
            [tool(name), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
        if child.poll() is None:
            stop_quietly(child)
            usable.append([name, *arguments])
        else:
            assert child.returncode in (69, 77), child.stderr.read()
    return usable


def stop_quietly(child):
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20 * SLOW)


def test_sigint_at_any_moment(sleeper):
    chance, found, slow, own = random.Random(SEED), calls(sleeper.pid), [], 0
    assert len(found) > 8
    directories = set(glob.glob("/run/crisis-tools-*"))
    for number in range(TRIES):
        name, *arguments = found[number % len(found)]
        # The start, of 0.05 to 0.3 s, and the intervals.
        moment = chance.uniform(0, 0.2) if number // len(found) % 2 else chance.uniform(0.05, 1)
        what = f"{name} {' '.join(arguments)}, SIGINT after {moment:.4f} s"
        for _ in range(3):  # the machine may be busy
            seconds, status, errors, states, python = interrupt(name, arguments, moment)
            if python and (by_python_itself(name, errors) or not errors):
                own += 1
                break
            assert "Traceback" not in errors and "rror" not in errors and "cannot" not in errors, (
                what,
                states,
                errors,
            )
            assert (
                status == 0 or status == -signal.SIGINT and states[0][1] is False and not errors
            ), (what, errors)
            if seconds < limit():
                break
        else:
            slow.append(f"{what}: ended after {seconds:.2f} s")
    print(f"{own} of {TRIES} signals came before the script's first statement")
    assert not slow
    assert own <= TRIES / 5
    assert set(glob.glob("/run/crisis-tools-*")) <= directories


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])


def ends(child, number, more=0):
    """The seconds that a command, which must then end with status 0, goes on after a signal; its
    stderr.
    """
    begin = time.monotonic()
    child.send_signal(number)
    status = child.wait(20 * SLOW)
    seconds = time.monotonic() - begin
    errors = child.stderr.read()
    assert status == 0, errors
    assert "Traceback" not in errors and "rror" not in errors
    assert seconds < limit() + more, seconds
    return errors


@SIGNALS
@pytest.mark.parametrize(
    "command",
    [
        ["fincore", "-c", "--files-from"],
        ["pagecache", "touch", "--files-from"],
        ["pagecache", "evict", "-0", "--files-from"],
        ["pagecache", "lock", "--files-from"],
        ["pagecache", "restore"],
    ],
)
@pytest.mark.parametrize("source", ["stdin", "fifo", "open fifo"])
def test_a_stop_while_waiting_for_input(command, source, number, tmp_path):
    path, other = "-", None
    if source != "stdin":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        if source == "open fifo":
            other = os.open(path, os.O_RDWR)
    child = subprocess.Popen(
        [tool(command[0]), *command[1:], path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        until(lambda: in_poll(child.pid))
        if source == "stdin" and command[-1] == "--files-from" and command[1] != "lock":
            with open(tmp_path / "named", "w") as f:
                f.write("x" * 100)
            child.stdin.write(f.name + ("\0" if "-0" in command else "\n") + "half a na")
            child.stdin.flush()
            until(lambda: in_poll(child.pid))
            time.sleep(0.2)
        errors = ends(child, number)
        text = child.stdout.read()
        assert "half" not in text + errors
        if source == "stdin" and command[0] == "fincore":
            assert "named" in text and "TOTAL" in text and "interrupted" in errors
        elif command[0] == "pagecache":
            assert errors == ""
    finally:
        child.kill()
        child.communicate()
        if other is not None:
            os.close(other)


def fill(fd):
    """Write to a pipe or terminal until it takes no more."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.set_blocking(fd, True)


FULL = [
    ["runqlat", "-P", ".1"],
    ["cachestat", ".1"],
    ["cachesnoop"],
    ["nicstat", ".1"],
    ["psi", ".1"],
    ["irqtime", ".1"],
    ["delays", ".1"],
    ["memleak", ".1"],
    ["drsnoop", "--summary", ".1"],
    ["fincore", "-r", "/usr/bin"],
    ["fincore", "-r", "--jobs", "4", "/usr"],
    ["pagecache", "save", "/usr/bin"],
]


@SIGNALS
@pytest.mark.parametrize("command", FULL, ids=" ".join)
def test_a_stop_while_nobody_reads(command, number):
    """A pipe that is full, then a terminal of which nobody reads the other side."""
    for make in os.pipe, pty.openpty:
        reader, writer = make()
        fill(writer)
        child = subprocess.Popen(
            [tool(command[0]), *command[1:]],
            stdout=writer,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            start_new_session=True,
        )
        try:
            # Of several processes one writes, the others wait for it.
            until(lambda: any(map(in_poll, family(child.pid))) or child.poll() is not None)
            time.sleep(0.5)
            assert child.poll() is None, child.stderr.read()
            # 0.2 s are left to the reader, 0.5 s to a walk's processes
            ends(child, number, 0.5 * SLOW)
            assert not family(child.pid)
        finally:
            for pid in family(child.pid):
                os.kill(pid, signal.SIGKILL)
            child.wait()
            child.stderr.close()
            os.close(reader)
            os.close(writer)


def test_a_slow_reader_gets_the_last_report():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ if hasattr(fcntl, "F_SETPIPE_SZ") else 1031, 4096)
    child = subprocess.Popen(
        [tool("fincore"), "-j", "/usr/bin"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    try:
        until(lambda: in_poll(child.pid))
        child.send_signal(signal.SIGINT)
        text = b""
        for block in iter(lambda: os.read(reader, 4096), b""):
            text += block
            time.sleep(0.002)
        assert child.wait(20) == 0
        assert all(json.loads(line) for line in text.splitlines()) and text.endswith(b"\n")
    finally:
        child.kill()
        child.communicate()
        os.close(reader)


@pytest.mark.parametrize(
    "command",
    [
        ["psi", "1e9"],
        ["delays", "2147484"],
        ["nicstat", "1e9"],
        ["runqlat", "1e9"],
        ["cachestat", "3e6"],
        ["irqtime", "1e9"],
        ["memleak", "1e9"],
        ["oomkill", "-d", "1e9"],
        ["drsnoop", "-d", "1e9"],
        ["drsnoop", "--summary", "1e9"],
        ["cachesnoop", "-d", "1e9"],
        ["cachesnoop", "--summary", "1e9"],
        ["fincore", "--watch", "1e9", "/etc"],
        ["wss", "self", "1e9"],
        ["wss", "-s", "1e9", "self", ".1"],
    ],
    ids=" ".join,
)
def test_an_interval_longer_than_poll_takes(command, sleeper):
    words = [str(sleeper.pid) if word == "self" else word for word in command[1:]]
    child = subprocess.Popen(
        [tool(command[0]), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        until(lambda: child.poll() is not None or in_poll(child.pid))
        time.sleep(0.3)
        if child.poll() in (69, 77):
            pytest.skip(child.stderr.read())
        assert child.poll() is None, child.stderr.read()
        ends(child, signal.SIGINT)
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    "command",
    [
        ["runqlat"],
        ["runqlat", "100"],
        ["cachestat", "100"],
        ["drsnoop"],
        ["drsnoop", "--summary"],
        ["cachesnoop"],
        ["cachesnoop", "--summary", "100"],
        ["delays", "100"],
        ["fincore", "--watch", "100"],
    ],
    ids=" ".join,
)
def test_the_process_of_p_ends(command):
    with workload(SLEEPER) as one, workload(SLEEPER) as other:
        several = command[0] in ("delays", "fincore")
        pids = ["-p", str(one.pid)]
        if several:
            pids = (
                ["-p", f"{one.pid},{other.pid}"]
                if command[0] == "delays"
                else pids + ["-p", str(other.pid)]
            )
        child = subprocess.Popen(
            [tool(command[0]), *command[1:], *pids],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        try:
            until(lambda: in_poll(child.pid) or child.poll() is not None)
            one.kill()
            one.wait()
            if several:
                time.sleep(0.3)
                assert child.poll() is None
                other.kill()
                other.wait()
            text, errors = child.communicate(timeout=5 * SLOW)
            assert child.returncode == 0
            what = "the 2 processes have ended" if several else f"process {one.pid} has ended"
            note = f"{command[0]}: {what}\n"
            assert errors.count(note) == 1 and errors.endswith(note)
            assert text or command[0] == "delays"
        finally:
            child.kill()
            child.communicate()


def test_the_thread_of_t_ends():
    """Where threads have no pidfd, before Linux 6.9, the end of the process counts."""
    code = (
        "import sys, threading\nstop = threading.Event()\nthread = "
        "threading.Thread(target=stop.wait)\n"
        "thread.start()\nprint(thread.native_id, flush=True)\nsys.stdin.readline()\nstop.set()\n"
        "sys.stdin.readline()"
    )
    target = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        tid = int(target.stdout.readline())
        try:
            os.close(os.pidfd_open(tid, os.O_EXCL))
            name = f"thread {tid}"
        except OSError:
            name = f"the process of thread {tid}"
        with subprocess.Popen(
            [tool("runqlat"), "-t", str(tid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        ) as child:
            until(lambda: in_poll(child.pid))
            target.stdin.write("\n")
            target.stdin.flush()
            if not name.startswith("thread"):
                target.kill()
            text, errors = child.communicate(timeout=5 * SLOW)
            assert child.returncode == 0 and "count:" in text
            assert errors.endswith(f"runqlat: {name} has ended\n")
    finally:
        target.kill()
        target.communicate()
