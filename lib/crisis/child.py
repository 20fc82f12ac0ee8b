# SPDX-License-Identifier: GPL-2.0-or-later
"""A helper program that reads what others wrote: with limits, a fixed environment and directory, never for long."""

import os
import signal

__all__ = ["ENVIRONMENT", "run", "die_with_parent"]

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_PR_SET_PDEATHSIG = 1


def die_with_parent(number):
    """Have the kernel send this signal to the calling process when its parent ends: PR_SET_PDEATHSIG of prctl(2).

    For a child between fork and execve; an execve that changes credentials clears it.
    """
    import ctypes
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)


def run(argv, data, seconds, most, memory, keep=(), owner=None):
    """The output of a program, as bytes: at most `most` of them, and what it has printed within `seconds`.

    argv: the program by its path; data: its standard input; memory: its
    RLIMIT_AS, in bytes; keep: descriptors that it inherits; owner: (uid, gid) to
    run it as, for root.  It is killed at its limits, so that output may be cut.
    Raises OSError when it cannot be started.
    """
    import resource
    import select
    import subprocess
    import time

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        die_with_parent(signal.SIGKILL)
    options = {}
    if owner is not None and os.geteuid() == 0 and owner[0]:
        options = {"user": owner[0], "group": owner[1], "extra_groups": []}
    deadline, parts = time.monotonic() + seconds, []
    # A file as its input, not a pipe: nobody has to write while it writes.
    source = os.memfd_create("input")
    try:
        os.write(source, data)
        os.lseek(source, 0, os.SEEK_SET)
        # A session of its own, so that Ctrl-C at the terminal is not for it.
        child = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=keep,
                                 env=ENVIRONMENT, cwd="/", preexec_fn=limit, start_new_session=True, **options)
    except subprocess.SubprocessError as exc:           # raised for a limit or a user that cannot be set
        raise OSError(1, str(exc)) from None
    finally:
        os.close(source)
    try:
        poll = select.poll()
        poll.register(child.stdout, select.POLLIN)
        while most > 0 and poll.poll(max(0, deadline - time.monotonic()) * 1000):
            block = os.read(child.stdout.fileno(), min(most, 1 << 16))
            if not block:
                break
            parts.append(block)
            most -= len(block)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return b"".join(parts)
