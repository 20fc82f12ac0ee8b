# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands run inside a container's PID namespace.  Needs root."""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers import SLOW, tool
from crisis import pid_namespace, proc

# One process sleeps 1 ms at a time and reads a file, another one only waits.  Runs the rest of the line with "PID" as theirs.
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
child = subprocess.run([str({"busy": busy, "idle": idle}[kind].pid) if word == "PID" else word for word in command])
busy.kill()
idle.kill()
print("pids", busy.pid, idle.pid, child.returncode)
"""


def inside(kind, *command):
    """(stdout, stderr) of a command run in a new PID namespace; its status is checked."""
    result = subprocess.run(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", INSIDE,
                             kind, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            timeout=60 * SLOW)
    if "unshare failed" in result.stderr or "mount" in result.stderr:
        pytest.skip(result.stderr.strip())
    lines = result.stdout.splitlines(True)
    assert lines[-1].split()[-1] in ("0", "69"), result.stderr
    if lines[-1].split()[-1] == "69":
        pytest.skip(result.stderr.strip())
    return "".join(lines[:-1]), result.stderr


def test_numbers_are_the_kernels():
    """In the initial namespace they are the same; in a new one /proc/1's own host PID is another."""
    known = pid_namespace.kernel_tids()
    assert known[os.getpid()] == os.getpid() and all(here == kernel for here, kernel in known.items())
    code = ("import os, sys\nsys.path[:0] = %r\nfrom crisis import pid_namespace\n"
            "print(os.getpid(), *sorted(pid_namespace.kernel_tids().items()), sep=';', flush=True)\nsys.stdin.read()")
    child = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c",
                              code % [path for path in sys.path if path.endswith("lib")]],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        found = child.stdout.readline().strip()
        host = int(open("/proc/%d/task/%d/children" % (child.pid, child.pid)).read().split()[0])
        assert found == "1;(1, %d)" % host
        child.stdin.close()


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
