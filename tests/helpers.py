# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a command as a person would, and workloads whose truth is known."""

import atexit
import contextlib
import errno
import functools
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# in a guest of tests/vm, where a test may use up all the memory
GUEST = os.path.isdir("/run/crisis-vm")
# These guests are emulated, some twenty times slower: limits on time grow, tolerances do not.  Set
# CRISIS_SLOW for other slow machines, such as those that build packages.
SLOW = 20 if GUEST or os.environ.get("CRISIS_SLOW") or "TCG" in open("/proc/cpuinfo").read() else 1


def tool(name):
    return os.path.join(ROOT, "bin", name)


def load(name):
    """The command as a module."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    sys.dont_write_bytecode = True
    loader = SourceFileLoader("command_" + name.replace("-", "_"), tool(name))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def run(name, *args, **kwargs):
    kwargs.setdefault("timeout", 60 * SLOW)
    return subprocess.run(
        [tool(name), *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, **kwargs
    )


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # in front of a command


def become_nobody():
    """For preexec_fn: a user who owns nothing."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@functools.lru_cache(None)
def readable_root():
    """The directory of a checkout that every user can read: this one, or else a copy of what the
    tests run.

    The home directory of root, for example, is closed to others.  The copy is removed when the
    tests end.
    """
    parts = [os.path.join(ROOT, part) for part in ("bin", "lib", "tests/softpmu.py")]
    hidden = subprocess.run(
        ["find", *parts, "!", "-readable"],
        preexec_fn=become_nobody,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if not hidden.stdout:
        return ROOT
    copy = tempfile.mkdtemp(prefix="crisis-tools-", dir="/var/tmp")
    atexit.register(shutil.rmtree, copy)
    os.mkdir(os.path.join(copy, "tests"))
    for part in "bin", "lib":
        shutil.copytree(os.path.join(ROOT, part), os.path.join(copy, part))
    shutil.copy(os.path.join(ROOT, "tests/softpmu.py"), os.path.join(copy, "tests"))
    subprocess.check_call(["chmod", "-R", "u+w,a+rX", copy])
    return copy


def as_nobody(name, *args, before=None, **kwargs):
    """The command, run by a user who owns nothing; before: called first, with the privileges of the
    tests.

    Skips the test where the tests do not run as root.
    """
    import pytest

    if os.geteuid():
        pytest.skip("only root can become another user")

    def change():
        if before:
            before()
        become_nobody()

    return run(
        os.path.join(readable_root(), "bin", name), *args, preexec_fn=change, cwd="/", **kwargs
    )


def needs_quiet_machine(test):
    """A decorator for a test whose truth other load on the machine disturbs: it measures up to
    three times.

    What failed before a success is a warning; when all three fail, the failure shows them.
    """

    @functools.wraps(test)
    def measured(*args, **kwargs):
        failures = []
        for number in range(1, 4):
            try:
                return test(*args, **kwargs)
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                failures.append(f"measurement {number}: {type(exc).__name__}: {exc}")
                warnings.warn(f"{test.__name__}: {failures[-1]}", stacklevel=2)
        raise AssertionError("\n".join(failures))

    return measured


def usable(name, source, *args):
    """Skip the test, and say why, where a command's way to measure is not to be had; args: make the
    run a short one.
    """
    import pytest

    result = run(name, "--source", source, *args)
    if result.returncode == 69:
        pytest.skip(f"{name} --source {source}: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr


def attached(name, *args, command=None, **kwargs):
    """A tracing command that has attached: its `-v` line, `taken`, has been read.  command: run in
    its place.
    """
    import pytest

    child = subprocess.Popen(
        (command or [tool(name)]) + ["-v", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **kwargs,
    )
    early = []
    for line in child.stderr:
        early.append(line)
        if "attached to" in line:
            child.taken = line
            return child
    if child.wait() == 69:
        pytest.skip("".join(early).strip())
    raise AssertionError(f"{name} did not attach: {''.join(early)}")


def stop(child):
    """What a command has printed when SIGINT ends it; `err` has its notes."""
    child.send_signal(signal.SIGINT)
    text, child.err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 0, child.err
    return text


@contextlib.contextmanager
def tracing(name, *args, settle=0, **kwargs):
    """A command that has attached; after the block its `out`, `err` and with -j its `records` until
    SIGINT.
    """
    child = attached(name, *args, **kwargs)
    try:
        yield child
        time.sleep(settle)
        child.out = stop(child)
        child.records = (
            [json.loads(line) for line in child.out.splitlines()] if "-j" in args else None
        )
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def peak_memory(pid):
    """Bytes that a process has had at most so far."""
    with open(f"/proc/{pid}/status") as f:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1))


def refuses(name, wrong, *short):
    """Statuses 2 for each list of wrong arguments and 1 for a PID or cgroup that is not there, each
    with one line.

    short: arguments that would make the run of a missing one end.
    """
    for arguments in wrong:
        result = run(name, *arguments)
        assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    for arguments in ["-p", "999999999"], ["-c", "/no/such/cgroup"]:
        result = run(name, *arguments, *short)
        assert result.returncode == 1 and result.stdout == "" and "no such" in result.stderr


def fails_to_write(name, short, endless, reader="head -1"):
    """Status 1 and a line for a full disk and a closed output; status 0, or the signal's, when the
    reader has gone.

    short, endless: arguments of a run that prints one report, and of one that goes on.
    Returns what the reader printed.
    """

    def shell(text):
        return subprocess.run(
            ["bash", "-c", f"{tool(name)} {text}; echo status ${{PIPESTATUS[0]}}"],
            stdout=subprocess.PIPE,
            timeout=20 * SLOW,
        ).stdout

    head = shell(f"{endless} | {reader} 2>&1")
    assert head.split()[-1] in (b"0", b"141")
    assert b"write error: No space left on device\nstatus 1" in shell(short + " 2>&1 >/dev/full")
    closed = shell(short + " 2>&1 >&-")
    assert b"write error" in closed and b"status 1" in closed
    return head


@contextlib.contextmanager
def workload(code, *args, cpu=None, nice=0, wrap=()):
    """A Python child running `code`; killed at the end."""

    def before():
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        os.nice(nice)

    child = subprocess.Popen(
        [*wrap, sys.executable, "-c", code, *args], preexec_fn=before, stdout=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


HOG = "while True: pass"
SLEEPER = "import time\nwhile True:\n    time.sleep(.001)\n    for _ in range(50000): pass"


def run_delay(pid):
    """Nanoseconds that the threads of a process have waited, by the kernel's account."""
    return sum(
        int(open(path).read().split()[1]) for path in glob.glob(f"/proc/{pid}/task/*/schedstat")
    )


def until(condition, seconds=20):
    """The first true value of a condition that is evaluated again and again.

    AssertionError when it has none within the time.
    """
    deadline = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"still not so after {seconds * SLOW} seconds"
        time.sleep(0.05)


def cpu_time(pid):
    """Nanoseconds that the threads of a process have run."""
    return sum(
        int(open(path).read().split()[0]) for path in glob.glob(f"/proc/{pid}/task/*/schedstat")
    )


def enable_controllers(mount):
    """In a guest without systemd, at the root of cgroup v2: before that new cgroups lack
    perf_event's state too.
    """
    if not GUEST:
        return
    try:
        with open(mount + "/cgroup.controllers") as f:
            controllers = f.read().split()
        with open(mount + "/cgroup.subtree_control") as f:
            enabled = f.read().split()
    except FileNotFoundError:  # v1
        return
    if controllers and not enabled:
        with open(mount + "/cgroup.subtree_control", "w") as f:
            f.write("+" + controllers[0])


def remove_cgroup(directory):
    """A killed task leaves its cgroup a little later."""

    def gone():
        try:
            os.rmdir(directory)
        except OSError as exc:
            return exc.errno == errno.ENOENT
        return True

    until(gone)


@functools.lru_cache(None)
def fixture_instants(name):
    """[(seconds, [(path, content, or None for what is removed, True for a symbolic link)])] of
    tests/fixtures/NAME.tree.

    A line is "path: content" (\\n, \\t and \\xNN are escapes), "path -> target of a symbolic link",
    or "path -" for what is removed.  A line "@2.5" begins what has changed 2.5 seconds later.
    """
    instants = [(0, [])]
    for line in open(os.path.join(ROOT, "tests/fixtures", name + ".tree"), encoding="utf-8"):
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        entries = instants[-1][1]
        if line.startswith("@"):
            instants.append((float(line[1:]), []))
        elif line.endswith(" -"):
            entries.append((line[:-2], None, False))
        elif " -> " in line:
            path, _, target = line.partition(" -> ")
            entries.append((path, target, True))
        else:
            path, _, content = line.partition(": ")
            entries.append((path, content + "\n", False))
    return [
        (
            seconds,
            [
                tuple(
                    re.sub(r"\\(n|t|x[0-9a-f]{2}|\\)", _unescaped, field)
                    if isinstance(field, str)
                    else field
                    for field in entry
                )
                for entry in entries
            ],
        )
        for seconds, entries in instants
    ]


def _unescaped(match):
    """A character for an escape of a tree; a byte that is not ASCII as surrogateescape has it."""
    if match.group(1)[0] != "x":
        return {"n": "\n", "t": "\t", "\\": "\\"}[match.group(1)]
    return bytes.fromhex(match.group(1)[1:]).decode("ascii", "surrogateescape")


def put(entries, directory):
    """Write, link or remove the entries of an instant below the directory."""
    for path, content, link in entries:
        path = os.path.join(str(directory), path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if content is None and os.path.isdir(path):
            shutil.rmtree(path)
        elif content is None:
            os.remove(path)
        elif link:
            os.symlink(content, path)
        else:
            with open(path, "wb") as f:
                f.write(content.encode("utf-8", "surrogateescape"))


def fixture_tree(name, directory):
    """The first instant of tests/fixtures/NAME.tree as files below the directory; returns its path
    with a slash.
    """
    put(fixture_instants(name)[0][1], directory)
    return str(directory) + "/"


def write_tree(directory, files):
    """{path: content} as files below the directory; returns its path."""
    for name, content in files.items():
        path = os.path.join(str(directory), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)
    return str(directory)


@contextlib.contextmanager
def memory_cgroup(limit, name="memory"):
    """A new cgroup with that many bytes of memory, below the root of the memory controller's
    hierarchy: its directory.

    Skips the test where there is no memory controller.
    """
    import pytest

    from crisis.kernel import cgroup

    mount = cgroup.controller_mount("memory")
    if mount is None:
        pytest.skip("no cgroup hierarchy is mounted")
    point, v2 = mount[0], mount[1] is None
    if v2:
        if "memory" not in open(point + "/cgroup.controllers").read().split():
            pytest.skip("cgroup v2 has no memory controller here")
        with open(point + "/cgroup.subtree_control", "w") as f:
            f.write("+memory")
    directory = f"{point}/crisis-{name}-{os.getpid()}"
    os.mkdir(directory)
    try:
        with open(directory + ("/memory.max" if v2 else "/memory.limit_in_bytes"), "w") as f:
            f.write(str(limit))
        yield directory
    finally:
        remove_cgroup(directory)
