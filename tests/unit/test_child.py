# SPDX-License-Identifier: GPL-2.0-or-later
"""Helper programs end at their limits, and have nothing of ours that they need not have."""

import os
import signal
import subprocess
import sys
import time

import pytest

from crisis import child
from helpers import ROOT, SLOW, until


def shell(text, data=b"", seconds=5, most=1000, memory=1 << 30, **more):
    return child.run(["/bin/sh", "-c", text], data, seconds, most, memory, **more)


def test_input_and_output():
    assert shell("cat", b"some text\n") == b"some text\n"
    assert shell("exit 3") == b""
    with pytest.raises(OSError):
        child.run(["/no/such/program"], b"", 1, 1, 1 << 30)


def test_it_is_killed_at_its_limits():
    begin = time.monotonic()
    assert shell("echo before; exec sleep 60", seconds=0.5) == b"before\n"
    assert time.monotonic() - begin < 2 * SLOW
    assert shell("yes", most=5000) == (b"y\n" * 2500)
    assert shell("trap '' TERM INT HUP; echo x; while :; do :; done", seconds=0.5) == b"x\n"
    assert shell("cat >/dev/null; ulimit -v; ulimit -c", b"x", memory=256 << 20) == b"262144\n0\n"
    assert (
        shell("exec dd if=/dev/zero of=/dev/null bs=600M count=1 && echo done", memory=256 << 20)
        == b""
    )


def test_its_environment_and_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    variables = dict(row.split("=", 1) for row in shell("/usr/bin/env").decode().splitlines())
    assert (
        variables.pop("PATH") == "/usr/sbin:/usr/bin:/sbin:/bin"
        and variables.pop("LC_ALL") == "C.UTF-8"
    )
    assert set(variables) <= {"PWD", "SHLVL", "_", "OLDPWD"} and variables.get("PWD", "/") == "/"
    assert shell("ls /proc/self/fd").split() == [b"0", b"1", b"2", b"3"]  # 3: of ls itself
    read, write = os.pipe()
    try:
        os.set_blocking(read, False)
        assert (
            shell(f"echo kept >/dev/fd/{write}", keep=[write]) == b""
            and os.read(read, 10) == b"kept\n"
        )
    finally:
        os.close(read)
        os.close(write)


def test_its_user():
    if os.geteuid():
        pytest.skip("only root can start it as another user")
    assert shell("id -u; id -g; id -G", owner=(1234, 1235)) == b"1234\n1235\n1235\n"
    assert shell("id -u", owner=(0, 0)) == b"0\n"


def test_it_ends_with_us():
    code = (
        f"import sys; sys.path.insert(0, {os.path.join(ROOT, 'lib')!r}); from crisis import child\n"
        "child.run(['/bin/sleep', '60'], b'', 60, 1, 1 << 30)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    children = f"/proc/{parent.pid}/task/{parent.pid}/children"
    pid = until(lambda: [int(word) for word in open(children).read().split()])[0]
    until(lambda: open(f"/proc/{pid}/cmdline").read().startswith("/bin/sleep"))
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone():
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    until(gone)
