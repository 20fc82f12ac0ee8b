# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that are started stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest

from crisis.errors import Error, Unavailable
from crisis.kernel.maps import mappings
from crisis.kernel.ptrace import Command, check
from helpers import ROOT, SLOW, write_tree


def status_of(command):
    """The wait status of a Command that runs to its end."""
    deadline = time.monotonic() + 20 * SLOW
    while command.ended() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return command.ended()


def libraries(command):
    return {path for *_, path in mappings(command.pid) if ".so" in path}


def test_a_command_stands_still_until_it_may_go(tmp_path):
    made = tmp_path / "made"
    command = Command(["touch", str(made)])
    time.sleep(0.2)
    assert command.ended() is None and not made.exists()
    command.go()
    assert status_of(command) == 0 and made.exists()


def test_libraries_are_mapped_before_any_of_them_runs(tmp_path):
    made = tmp_path / "made"
    command = Command(["touch", str(made)])
    assert not any("libc" in path for path in libraries(command))
    seen = []

    def inspect():
        seen.append(libraries(command))
        return False

    assert command.load(inspect)
    assert not made.exists() and any("libc" in path for path in seen[-1]) and len(seen) > 2
    command.go()
    assert status_of(command) == 0 and made.exists()


def test_who_inspects_may_have_seen_enough():
    command = Command(["true"])
    calls = []
    assert command.load(lambda: bool(calls.append(libraries(command))) or len(calls) == 2)
    assert len(calls) == 2
    command.go()
    assert status_of(command) == 0


def test_statuses():
    for words, status in (["false"], 1 << 8), (["sh", "-c", "kill -9 $$"], signal.SIGKILL):
        command = Command(words)
        command.go()
        assert status_of(command) == status
    command = Command(["sleep", "100"])
    command.go()
    command.end()
    assert status_of(command) == signal.SIGTERM
    command.end()  # it has ended: nothing is sent


@pytest.mark.parametrize("words", [["/no/such/program"], ["no-such-program-at-all"], ["/"]])
def test_what_cannot_be_run(words):
    with pytest.raises(Error) as caught:
        Command(words)
    assert str(caught.value).startswith(f"cannot run {words[0]}: ")
    with pytest.raises(ChildProcessError):  # nothing is left
        os.waitpid(-1, os.WNOHANG)


PARENT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from crisis.kernel.ptrace import Command
command = Command(["sleep", "1000"])
print(command.pid, flush=True)
if sys.argv[2] == "running":
    command.go()
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_a_command_ends_with_its_parent(state):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, os.path.join(ROOT, "lib"), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        pid = int(parent.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        parent.communicate(b"x", timeout=20 * SLOW)
    deadline = time.monotonic() + 10 * SLOW
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    """False too for a zombie, which init may not have reaped yet."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_only_the_strictest_scope_forbids_to_trace_a_child(tmp_path):
    assert check(str(tmp_path)) == ""
    for level in "0", "1", "2":
        assert check(write_tree(tmp_path, {"proc/sys/kernel/yama/ptrace_scope": level})) == level
    with pytest.raises(Unavailable, match="yama.ptrace_scope is 3"):
        check(write_tree(tmp_path, {"proc/sys/kernel/yama/ptrace_scope": "3"}))
