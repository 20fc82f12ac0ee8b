# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a helper program on untrusted input: with limits, a fixed environment and directory."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Collection, Sequence
    from typing import IO, Any

__all__ = ["ENVIRONMENT", "run", "die_with_parent"]

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int) -> None:
    """Have the kernel send a signal to the calling process when its parent ends.

    PR_SET_PDEATHSIG of prctl(2), for a child between fork and execve; an execve that changes
    credentials clears it.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)


def _start(
    argv: Sequence[str],
    data: bytes,
    limits: dict[int, int],
    keep: Collection[int],
    owner: tuple[int, int] | None,
) -> subprocess.Popen[bytes]:
    """The program with its limits, {RLIMIT_...: value}, and data on its standard input."""
    import resource
    import subprocess

    def prepare() -> None:
        for limit, value in limits.items():
            resource.setrlimit(limit, (value, value))
        die_with_parent(signal.SIGKILL)

    credentials: dict[str, Any] = {}
    if owner is not None and os.geteuid() == 0 and owner[0]:
        credentials = {"user": owner[0], "group": owner[1], "extra_groups": []}
    # The input is a file, not a pipe, so that nobody has to write while the program writes.
    source = os.memfd_create("input")
    try:
        os.write(source, data)
        os.lseek(source, 0, os.SEEK_SET)
        return subprocess.Popen(
            argv,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=keep,
            env=ENVIRONMENT,
            cwd="/",
            preexec_fn=prepare,
            start_new_session=True,  # Ctrl-C at the terminal does not reach it
            **credentials,
        )
    except subprocess.SubprocessError as exc:  # raised for a limit or a user that cannot be set
        raise OSError(1, str(exc)) from None
    finally:
        os.close(source)


def _read(output: IO[bytes], seconds: float, most: int) -> bytes:
    """What a pipe delivers within `seconds`, at most `most` bytes."""
    import select
    import time

    deadline, parts = time.monotonic() + seconds, []
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while most > 0 and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        block = os.read(output.fileno(), min(most, 1 << 16))
        if not block:
            break
        parts.append(block)
        most -= len(block)
    return b"".join(parts)


def run(
    argv: Sequence[str],
    data: bytes,
    seconds: float,
    most: int,
    memory: int,
    keep: Collection[int] = (),
    owner: tuple[int, int] | None = None,
) -> bytes:
    """What a program has printed within `seconds`, at most `most` bytes.

    It is killed at its limits, so that the output may be cut short.

    argv: the program, by its absolute path, and its arguments.
    data: its standard input.
    memory: its RLIMIT_AS, in bytes.
    keep: descriptors that it inherits.
    owner: (uid, gid) to run it as, when the caller is root and the UID is not 0.
    Raises OSError when it cannot be started.
    """
    import resource

    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    child = _start(argv, data, limits, keep, owner)
    assert child.stdout is not None
    try:
        return _read(child.stdout, seconds, most)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
