# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands run inside a container's PID namespace.  Needs root."""

import json
import os
import re
import subprocess
import sys

import pytest

from crisis.bpf import pid_namespace
from crisis.kernel import proc
from helpers import SLOW, tool

# One process sleeps 1 ms at a time and reads a file, another one only waits.  Runs the rest of the
# line with "PID" as theirs.
INSIDE = r"""
import os, subprocess, sys, time
busy = subprocess.Popen([sys.executable, "-c", '''
import os, time
fd = os.open("/usr/bin/env", os.O_RDONLY)
while True:
    os.pread(fd, 4096, 0)
    time.sleep(.001)
'''])
idle = subprocess.Popen(["sleep", "1000"])
time.sleep(.2)
kind, *command = sys.argv[1:]
pid = str({"busy": busy, "idle": idle}[kind].pid)
child = subprocess.run([pid if word == "PID" else word for word in command])
busy.kill()
idle.kill()
print("pids", busy.pid, idle.pid, child.returncode)
"""


def unshared(code, *args):
    """The finished process of Python code that has run in a new PID namespace."""
    result = subprocess.run(
        "unshare --pid --fork --kill-child --mount-proc".split()
        + [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=120 * SLOW,
    )
    if "unshare failed" in result.stderr or "mount" in result.stderr:
        pytest.skip(result.stderr.strip())
    return result


def inside(kind, *command):
    """(stdout, stderr) of a command run in a new PID namespace; its status is checked."""
    result = unshared(INSIDE, kind, *command)
    lines = result.stdout.splitlines(True)
    assert lines[-1].split()[-1] in ("0", "69"), result.stderr
    if lines[-1].split()[-1] == "69":
        pytest.skip(result.stderr.strip())
    return "".join(lines[:-1]), result.stderr


def test_numbers_are_the_kernels():
    """In the initial namespace they are the same; in a new one /proc/1 has another PID outside."""
    known = pid_namespace.kernel_tids()
    assert known[os.getpid()] == os.getpid() and all(
        here == kernel for here, kernel in known.items()
    )
    code = (
        "import os, sys\nsys.path[:0] = %r\nfrom crisis.bpf import pid_namespace\n"
        "print(os.getpid(), *sorted(pid_namespace.kernel_tids().items()), sep=';', "
        "flush=True)\nsys.stdin.read()"
    )
    child = subprocess.Popen(
        [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            "-c",
            code % [path for path in sys.path if path.endswith("lib")],
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        found = child.stdout.readline().strip()
        host = int(open(f"/proc/{child.pid}/task/{child.pid}/children").read().split()[0])
        assert found == f"1;(1, {host})"
        child.stdin.close()


def test_our_own_place():
    """(level, inode): none in the initial namespace; one below it in a new one."""
    assert pid_namespace.place() == (0, 0)
    code = (
        "import os, sys\nsys.path[:0] = %r\nfrom crisis.bpf import pid_namespace\n"
        "print(pid_namespace.place() == (1, os.stat('/proc/self/ns/pid').st_ino))"
    )
    result = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--mount-proc",
            sys.executable,
            "-c",
            code % [path for path in sys.path if path.endswith("lib")],
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert result.stdout == "True\n"


@pytest.mark.parametrize("option", ["-p", "-t"])
def test_runqlat(option):
    for kind, most in ("busy", None), ("idle", 2):
        out, err = inside(kind, tool("runqlat"), "-j", option, "PID", "1", "1")
        count = sum(json.loads(line)["count"] for line in out.splitlines())
        assert count <= most if most is not None else count > 50
        assert err == ""


def test_cachestat():
    for kind in "busy", "idle":
        out, err = inside(kind, tool("cachestat"), "-j", "-p", "PID", "1", "1")
        record = json.loads(out.splitlines()[0])
        assert (record["hits"] + record["misses"] > 50) == (kind == "busy"), record


def test_output_of_host_pids_says_so():
    out, err = inside("busy", tool("runqlat"), "-L", "-p", "PID", "1", "1")
    assert re.search(r"^tid = \d+ python", out, re.M)
    assert "PIDs and TIDs in the output are those of the host" in err
    assert proc.in_initial_pid_namespace()


# A process that leaks 1000 bytes in itself, then 3000 in a child, when it gets a line, and says who
# both are.
LEAKING = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
print(os.getpid(), flush=True)
sys.stdin.readline()
libc.malloc(ctypes.c_size_t(1000003))
reading, writing = os.pipe()
child = os.fork()
if not child:
    libc.malloc(ctypes.c_size_t(3000003))
    os.write(writing, b"x")
    sys.stdin.readline()
    os._exit(0)
os.read(reading, 1)
print(child, flush=True)
sys.stdin.readline()
"""
# Runs it and memleak, and prints their PIDs, and what memleak did.
MEMLEAK_INSIDE = r"""
import json, os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)            # unshare(1) of util-linux 2.36 ignores it
leaking, tool, *more = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", leaking], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
assert int(child.stdout.readline()) == child.pid
more = [str(child.pid) if word == "PID" else word for word in more]
traced = subprocess.Popen([tool, "-v", "-j", "-o", "0", "-z", "1000003", *more, "100"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
notes = []
for line in traced.stderr:
    notes.append(line)
    if "the tracing has begun" in line:
        break
child.stdin.write("\n")
child.stdin.flush()
second = child.stdout.readline()
if "-c" not in more:
    traced.send_signal(signal.SIGINT)
out, err = traced.communicate()
child.kill()
print(json.dumps([traced.returncode, child.pid, int(second or 0), out, "".join(notes) + err]))
"""


def leaking_inside(*options):
    """(PID of the process, PID of its child, [(pid, bytes, comm)]) of memleak in a PID namespace,
    in its numbers.
    """
    result = unshared(MEMLEAK_INSIDE, LEAKING, tool("memleak"), *options)
    status, pid, child, out, err = json.loads(result.stdout)
    if status == 69:
        pytest.skip(err.strip())
    assert status == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    rows = [(r["pid"], r["bytes"], r["comm"]) for r in records if r["record"] == "stack"]
    assert all(r["stack"] for r in records if r["record"] == "stack")
    assert pid < 10 and records[-1]["lost"]["untracked"] == 0
    return pid, child, sorted(rows)


@pytest.mark.guest
@pytest.mark.parametrize("source", ["session", "multi", "perf", "functions"])
def test_memleak(source):
    pid, child, rows = leaking_inside("--source", source, "-p", "PID")
    assert [(who, nbytes) for who, nbytes, _ in rows] == [(pid, 1000003)] and rows[0][2].startswith(
        "python"
    )
    pid, child, rows = leaking_inside("--source", source, "--follow", "-p", "PID")
    assert [(who, nbytes) for who, nbytes, _ in rows] == [(pid, 1000003), (child, 3000003)]


def test_memleak_that_unwinds():
    """The copies of the stacks have the namespace's numbers, too."""
    pid, child, rows = leaking_inside("--unwind", "-s", "1", "--follow", "-p", "PID")
    assert [(who, nbytes) for who, nbytes, _ in rows] == [(pid, 1000003), (child, 3000003)]


def test_memleak_of_a_command():
    pid, child, rows = leaking_inside(
        "-c",
        f"{sys.executable} -c 'import ctypes; f = ctypes.CDLL(None).malloc; "
        "f(ctypes.c_size_t(5000003))'",
    )
    assert 5000003 in [nbytes for _, nbytes, _ in rows]


def test_the_remedy_where_pids_cannot_be_translated():
    """Where the kernel cannot translate."""
    from crisis.errors import Unavailable

    def refuse(source):
        raise Unavailable("the kernel has no iterator")

    with pytest.raises(Unavailable, match=r"--pid=host, hostPID: true in Kubernetes"):
        pid_namespace.kernel_tids(refuse)
