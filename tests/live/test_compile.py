# SPDX-License-Identifier: GPL-2.0-or-later
"""How programs are compiled, in a child process, and what crisis-warm reports of them.

Needs root.
"""

import fcntl
import glob
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import helpers
from crisis import __version__, bpf
from crisis.bpf import cache, compiler, object
from crisis.errors import Error

ROOT = helpers.ROOT

# The digests of three programs that read kernel and user memory.
DIGESTS = r"""
import hashlib, sys
sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[1] + "/lib", sys.argv[1] + "/tests"
import helpers
from crisis.bpf import compiler
for command, variant in ("memleak", "perf"), ("runqlat", "raw"), ("cachesnoop", "raw"):
    source = helpers.load(command).SOURCES[variant]
    print(hashlib.sha256(compiler.compiled(source, "auto")).hexdigest())
"""


def edit(directory, path, old, new):
    with open(os.path.join(directory, path)) as f:
        text = f.read()
    assert old in text
    with open(os.path.join(directory, path), "w") as f:
        f.write(text.replace(old, new))


@pytest.fixture()
def checkout():
    """A copy of the checkout that every user can read, with an empty cache of its own."""
    directory = tempfile.mkdtemp(prefix="crisis-checkout-")
    os.chmod(directory, 0o755)
    for name in "bin", "lib", "tests/helpers.py":
        copy = shutil.copytree if os.path.isdir(os.path.join(ROOT, name)) else shutil.copy
        os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
        copy(os.path.join(ROOT, name), os.path.join(directory, name))
    edit(directory, "lib/crisis/bpf/cache.py", '"/var/cache/crisis-tools"', f'"{directory}/cache"')
    subprocess.check_call(["chmod", "-R", "a+rX", directory])
    yield directory
    shutil.rmtree(directory)


def digests(checkout, *wrap):
    return subprocess.check_output(
        [*wrap, sys.executable, "-I", "-c", DIGESTS, checkout], text=True, cwd="/"
    ).split()


def test_the_object_does_not_depend_on_kptr_restrict_or_the_user(checkout, tmp_path):
    """bcc chooses the helpers that read memory by the addresses in /proc/kallsyms, and looks there
    only as root.
    """
    hidden = str(tmp_path / "kallsyms")
    with open("/proc/kallsyms") as symbols, open(hidden, "w") as out:
        out.writelines(
            "0" * len(line.split()[0]) + line[len(line.split()[0]) :] for line in symbols
        )
    expected = digests(checkout)
    assert len(set(expected)) == 3
    assert (
        digests(
            checkout,
            "unshare",
            "-m",
            "--propagation",
            "unchanged",
            "sh",
            "-c",
            'mount --make-rprivate /proc && mount --bind "$0" /proc/kallsyms && exec "$@"',
            hidden,
        )
        == expected
    )
    assert (
        digests(
            checkout,
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps",
            "+bpf,+perfmon",
            "--ambient-caps",
            "+bpf,+perfmon",
        )
        == expected
    )


def children(pid):
    """The compilers that a command has started: processes whose last argument is its PID."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = open(path, "rb").read().split(b"\0")[:-1]
        except OSError:
            continue
        if words[-1:] == [b"%d" % pid] and words[2:3] and words[2].endswith(b"/builder.py"):
            found.append(int(path.split("/")[2]))
    return found


def scratch(pid):
    """The directories of header files that a command's compilers have made."""
    return [
        path
        for parent in compiler.SCRATCH
        for path in glob.glob(f"{parent}/{compiler.SCRATCH_PREFIX}{pid}-*")
    ]


COMMANDS = [
    ["runqlat"],
    ["cachestat", "1"],
    ["drsnoop"],
    ["memleak", "--no-cache"],
    ["crisis-warm"],
]
UNPRIVILEGED = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-all,+bpf,+perfmon"]


@pytest.mark.parametrize("wrap", [[], UNPRIVILEGED], ids=["root", "capabilities"])
@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name
)
def test_a_signal_ends_a_cold_start_and_leaves_nothing(checkout, signum, wrap):
    """To the whole process group, as from a terminal or timeout(1), at a random moment of the
    compilation.
    """
    took = []
    for command in COMMANDS:
        child = subprocess.Popen(
            [*wrap, f"{checkout}/bin/{command[0]}", *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        helpers.until(lambda: children(child.pid))
        time.sleep(random.uniform(0, 0.3 * helpers.SLOW))
        start = time.monotonic()
        os.killpg(child.pid, signum)
        out, err = child.communicate(timeout=20 * helpers.SLOW)
        took.append(time.monotonic() - start)
        if signum == signal.SIGKILL:
            helpers.until(lambda: not children(child.pid), 5)
            if wrap:  # without CAP_SYS_ADMIN the next compilation removes what this one left
                # its lock goes a little later
                helpers.until(lambda: compiler.sweep() or not scratch(child.pid), 5)
        else:
            assert child.returncode == 0, err
            assert "signal" not in err and "cannot" not in err and "Traceback" not in err
        assert not children(child.pid)
        assert not scratch(child.pid)
    assert sorted(took)[len(took) // 2] < 0.3 * helpers.SLOW, took


def test_the_compiler_dies_with_a_command_that_is_killed():
    child = subprocess.Popen([helpers.tool("memleak"), "--no-cache"], stdout=subprocess.DEVNULL)
    helpers.until(lambda: children(child.pid))
    child.kill()
    child.wait()
    helpers.until(lambda: not children(child.pid), 5)


SMALL = bpf.Source("test.small", text="int on_switch(void *ctx) { return 0; }")


def test_a_compiler_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(compiler, "_TIME_LIMIT", 0.001)
    with pytest.raises(Error) as caught:
        cache.build(SMALL, cache=False)
    assert str(caught.value).startswith(
        "cannot compile test.small: the compiler had not ended after"
    )
    assert not children(os.getpid()) and not scratch(os.getpid())


def test_a_compiler_that_is_killed():
    """As the kernel does when there is no memory."""
    child = compiler.Compiler([SMALL])
    os.kill(child._child.pid, signal.SIGKILL)
    [(source, error)] = child.outcomes()
    assert source is SMALL
    assert str(error) == "cannot compile test.small: the compiler was ended by signal 9"
    assert not children(os.getpid()) and not scratch(os.getpid())


def test_several_sources_in_one_compiler():
    """What is wrong with one harms no other."""
    sources = [
        bpf.Source("test.one", text="int one(void *ctx) { return 1; }"),
        bpf.Source("test.wrong", text="int wrong(void *ctx) { return nonsense; }"),
        bpf.Source("test.absent", requires=("no_such_struct",), text="int absent(void *ctx) {"),
        bpf.Source("test.two", text="int two(void *ctx) { return 2; }"),
    ]
    compilers = compiler.Compiler(sources, jobs=3)
    found = {source.name: outcome for source, outcome in compilers.outcomes()}
    assert found.keys() == {source.name for source in sources} and not compilers.left
    assert str(found.pop("test.wrong")).startswith("cannot compile test.wrong: ")
    assert {name: sorted(object.unpack(data).functions) for name, data in found.items()} == {
        "test.one": ["one"],
        "test.absent": [],
        "test.two": ["two"],
    }
    assert found["test.one"] == compiler.compiled(sources[0], "auto")
    assert not children(os.getpid())


def test_sources_of_the_same_text():
    """They are compiled once; each has its own object, or its own error."""

    def same(name, line, **members):
        text = f'#include "hist.bpf.h"\nint f(void *ctx) {{ {line} }}'
        found = bpf.Source(name, text=text, points=((f"raw_tp/{name}:f",),), **members)
        request = found.request()
        request["text"] = request["text"].replace(name, "same")
        found.request = lambda: request
        return found

    sources = [
        same("test.a", "return 1;", requires=("no_such_struct",)),
        same("test.b", "return 1;"),
        same("test.c", "return 1;"),
        same("test.d", "return nonsense;", requires=("no_such_struct",)),
        same("test.e", "return nonsense;"),
        same("test.f", "return nonsense;"),
    ]
    found = {one.name: outcome for one, outcome in compiler.Compiler(sources, jobs=2).outcomes()}
    objects = {name: object.unpack(data) for name, data in found.items() if isinstance(data, bytes)}
    assert set(objects) == {"test.a", "test.b", "test.c", "test.d"}
    assert all(obj.name == name for name, obj in objects.items())
    assert "no_such_struct" in objects["test.a"].unusable and not objects["test.a"].functions
    assert objects["test.b"].functions == objects["test.c"].functions != {}
    assert objects["test.c"].points == [["raw_tp/test.c:f"]]
    for name in "test.e", "test.f":
        assert str(found[name]).startswith(f"cannot compile {name}: ") and "nonsense" in str(
            found[name]
        )
    assert not children(os.getpid())


def test_one_of_several_that_is_killed(monkeypatch):
    """By the OOM killer, say: the others are compiled."""
    slow = bpf.Source("test.slow", text='#include "crisis.bpf.h"\n' + SMALL.text)
    at_work = compiler.Compiler([slow, SMALL], jobs=1)
    worker = at_work._child.pid
    forks = f"/proc/{worker}/task/{worker}/children"
    deadline, pids = time.monotonic() + 20 * helpers.SLOW, []
    while not pids and time.monotonic() < deadline:  # at once, since it takes a tenth of a second
        pids = open(forks).read().split()
    os.kill(int(pids[0]), signal.SIGKILL)
    (_, first), (_, second) = at_work.outcomes()
    assert str(first) == "cannot compile test.slow: the compiler was ended by signal 9"
    assert isinstance(second, bytes)


def test_only_directories_without_a_lock_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "SCRATCH", (str(tmp_path), "/no/such/directory"))
    names = [compiler.SCRATCH_PREFIX + name for name in ("dead", "alive", "foreign", "link")] + [
        "crisis-tools-0.1.0"
    ]
    for name in names[:3] + names[4:]:
        (tmp_path / name / "include").mkdir(parents=True)
    (tmp_path / names[3]).symlink_to(tmp_path / names[4])
    os.chown(tmp_path / names[2], 65534, 65534)
    lock = os.open(tmp_path / names[1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    compiler.sweep()
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
    assert all((tmp_path / name / "include").exists() for name in names[1:])
    os.close(lock)
    compiler.sweep()
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])


def test_the_environment_chooses_no_program(tmp_path):
    """$PYTHONEXECUTABLE sets sys.executable in spite of -I."""
    evil, mark = tmp_path / "evil", tmp_path / "mark"
    evil.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    evil.chmod(0o755)
    for name in "python3", "cc", "clang", "llc", "uname":
        (tmp_path / name).symlink_to(evil)
    result = helpers.run(
        "runqlat",
        "--no-cache",
        ".1",
        "1",
        cwd=str(tmp_path),
        env=dict(
            os.environ,
            PYTHONEXECUTABLE=str(evil),
            PATH=f"{tmp_path}:{os.environ['PATH']}",
            PYTHONPATH=str(tmp_path),
            BCC_KERNEL_SOURCE=str(tmp_path),
            TMPDIR=str(tmp_path),
            LD_LIBRARY_PATH="",
        ),
    )
    assert result.returncode == 0 and "count:" in result.stdout
    assert not mark.exists()


def warm(checkout, *arguments, wrap=()):
    return subprocess.run(
        [*wrap, checkout + "/bin/crisis-warm", *arguments],
        capture_output=True,
        text=True,
        timeout=120 * helpers.SLOW,
    )


def test_warm(checkout):
    result = warm(checkout)
    assert result.returncode == 0 and not result.stderr
    states = dict(line.split(None, 1) for line in result.stdout.splitlines())
    names = {
        source.name
        for command in os.listdir(checkout + "/bin")
        if command != "crisis-warm"
        for source in getattr(helpers.load(command), "SOURCES", {}).values()
    }
    assert set(states) == names | {"pid_namespace.task"}
    assert all(
        state == "ready" or state.startswith("not for this kernel: ") for state in states.values()
    )
    assert states["runqlat.raw"] == "ready"
    compiled = {name.rpartition("-")[0] for name in os.listdir(checkout + "/cache")}
    assert {name for name, state in states.items() if state == "ready"} <= compiled
    before = os.stat(checkout + "/cache").st_mtime_ns
    assert sorted(warm(checkout).stdout.splitlines()) == sorted(result.stdout.splitlines())
    assert os.stat(checkout + "/cache").st_mtime_ns == before


def test_warm_reports_what_the_verifier_refuses(checkout):
    edit(
        checkout,
        "lib/crisis/progs/irqtime.bpf.c",
        "BOUND_SLOT(slot, slots, 63)",
        'asm volatile("%0 &= 0xffffff" : "+r"(slot))',
    )
    for _ in range(2):  # also when it is in the cache
        result = warm(checkout, "-j", "irqtime", "runqlat")
        assert result.returncode == 1 and not result.stderr
        states = {
            record["program"]: record for record in map(json.loads, result.stdout.splitlines())
        }
        for name in "irqtime.vectors", "irqtime.lines":
            assert states[name]["state"] == "failed"
            assert "tp_btf/" in states[name]["reason"] and "(verifier: " in states[name]["reason"]
        assert states["runqlat.raw"].pop("compiler").startswith("bcc ")
        assert states["runqlat.raw"] == {"program": "runqlat.raw", "state": "ready", "reason": None}


def test_warm_reports_what_does_not_compile(checkout):
    edit(
        checkout,
        "lib/crisis/progs/runqlat.bpf.c",
        "int on_switch(",
        "int on_switch(struct nonsense x, ",
    )
    result = warm(checkout, "runqlat")
    assert result.returncode == 1
    assert all(
        line.split()[1] == "failed:" and "error:" in line for line in result.stdout.splitlines()
    )


def test_warm_reports_a_cache_that_cannot_be_written(checkout):
    open(checkout + "/cache", "w").close()
    result = warm(checkout, "irqtime")
    assert result.returncode == 1
    assert f"failed: program not cached: {checkout}/cache: Not a directory" in result.stdout


def test_warm_without_rights_compiles_nothing(checkout):
    result = warm(
        checkout, wrap=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    )
    assert result.returncode == 77 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "CAP_BPF" in result.stderr
    assert not os.path.exists(checkout + "/cache")


@pytest.fixture()
def hide():
    """The start of a command line that hides bcc from the rest of it."""
    words = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"']
    words.append(compiler.bcc_directory())
    if subprocess.call(words + ["true"]):
        pytest.skip("bcc cannot be hidden by a mount here")
    return words


def tracing_commands():
    commands = (name for name in os.listdir(ROOT + "/bin") if name != "crisis-warm")
    return sorted(name for name in commands if getattr(helpers.load(name), "SOURCES", None))


def traced(checkout, hide, name, *arguments):
    """The finished process of a command for a tenth of a second, without bcc."""
    short = ["-d", ".1"] if name == "runqslower" else [".1", "1"]
    return subprocess.run(
        [*hide, f"{checkout}/bin/{name}", "-v", *arguments, *short],
        capture_output=True,
        text=True,
        timeout=60 * helpers.SLOW,
    )


def test_without_bcc(checkout, hide):
    """One line with the remedy."""
    result = warm(checkout, wrap=hide)
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "bcc's Python module is not installed. Install python3-" in result.stderr
    for name in tracing_commands():
        if name == "tsa":  # which then samples /proc
            continue
        result = traced(checkout, hide, name)
        assert result.returncode == 69, name
        assert "bcc's Python module is not installed. " in result.stderr.splitlines()[-1]
        assert "crisis-warm --import" in result.stderr


def test_an_import_replaces_the_compiler(checkout, hide, tmp_path):
    """Every command traces, nothing is compiled, what an earlier release has left is removed."""
    path = str(tmp_path / "archive")
    exported = warm(checkout, "--export", path)
    assert exported.returncode == 0 and not exported.stderr
    # All entries become those of an earlier release.
    version = f"{len(__version__)}:{__version__}".encode()
    for entry in os.scandir(checkout + "/cache"):
        with open(entry.path, "rb+") as f:
            data = f.read().replace(version, b"3:0.0", 1)
            f.seek(0)
            f.truncate()
            f.write(data)
        os.rename(entry.path, entry.path + ".old")
    result = warm(checkout, "-j", "--import", path, wrap=hide)
    assert result.returncode == 0 and not result.stderr
    entries = os.listdir(checkout + "/cache")
    assert entries and not any(name.endswith(".old") for name in entries)
    states = [json.loads(line) for line in result.stdout.splitlines()]
    expected = dict(line.split(None, 1) for line in exported.stdout.splitlines())
    assert {entry["program"] for entry in states} == set(expected)
    for entry in states:
        assert expected[entry["program"]].startswith(entry["state"])
        assert entry["state"] != "ready" or entry["compiler"].startswith("bcc ")
    names = tracing_commands()
    assert {"memleak", "runqlat", "cachestat"} <= set(names)
    for name, *arguments in [*([name] for name in names), ["memleak", "-p", str(os.getpid())]]:
        result = traced(checkout, hide, name, *arguments)
        assert result.returncode == 0 and "attached to" in result.stderr, (name, result.stderr)


def test_what_was_compiled_is_used_without_bcc(checkout, hide):
    """So an upgrade of bcc, or its removal, costs nothing."""
    assert warm(checkout, "runqlat").returncode == 0
    before = sorted(os.listdir(checkout + "/cache"))
    result = traced(checkout, hide, "runqlat")
    assert result.returncode == 0 and "attached to" in result.stderr
    assert sorted(os.listdir(checkout + "/cache")) == before


def test_an_archive_goes_through_a_pipe(checkout, hide):
    """The report of the export goes to standard error."""
    source = warm(checkout, "--export", "-", "irqtime")
    assert source.returncode == 0 and source.stdout.startswith("{") and "ready" in source.stderr
    shutil.rmtree(checkout + "/cache")
    result = subprocess.run(
        [*hide, checkout + "/bin/crisis-warm", "--import", "-", "irqtime"],
        input=source.stdout,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout == source.stderr
    assert traced(checkout, hide, "irqtime").returncode == 0


def test_refused_archives(checkout, tmp_path):
    """One line, and the cache is as it was."""
    path = str(tmp_path / "archive")
    assert warm(checkout, "--export", path, "irqtime").returncode == 0
    with open(path) as f:
        lines = f.readlines()
    shutil.rmtree(checkout + "/cache")
    release = os.uname().release
    for text, why in (
        ("".join(lines).replace(f'"{release}"', '"6.99.1-x"'), f"6.99.1-x, this one is {release}."),
        (lines[0] + lines[1][:-100], "line 2 is not a program"),
        (lines[0] + lines[1][:-2000] + "A" * 16 + lines[1][-1984:], "the checksum is wrong"),
    ):
        with open(path, "w") as f:
            f.write(text)
        result = warm(checkout, "--import", path, "irqtime")
        assert result.returncode == 1 and not result.stdout
        assert result.stderr.count("\n") == 1 and why in result.stderr
        assert not os.path.exists(checkout + "/cache")
    with open(path, "w") as f:
        f.write(lines[0])
    result = warm(checkout, "--import", path, "irqtime")
    assert result.returncode == 1
    first, second = sorted(result.stdout.splitlines(), key=lambda line: "failed" in line)
    assert first.split()[1] == "ready" and "failed: it is not in the archive. " in second


def test_warm_accepts_installed_names(tmp_path):
    subprocess.check_call(
        [
            "make",
            "-s",
            "-C",
            ROOT,
            "install",
            f"DESTDIR={tmp_path}",
            "PREFIX=/usr",
            "PROGRAM_PREFIX=x-",
            "PROGRAM_SUFFIX=-y",
        ]
    )
    command = str(tmp_path / "usr/sbin/crisis-warm")
    for name in "x-irqtime-y", "irqtime":
        result = subprocess.run([command, name], stdout=subprocess.PIPE, text=True)
        assert result.returncode == 0 and "irqtime.lines" in result.stdout
    for name, why in (
        ("x-psi-y", "loads no BPF program"),
        ("../bin/irqtime", "no such command"),
        ("sh", "no such"),
    ):
        result = subprocess.run([command, name], stderr=subprocess.PIPE, text=True)
        assert result.returncode == 1 and why in result.stderr and result.stderr.count("\n") == 1


def test_warm_shows_its_progress_on_a_terminal(checkout):
    master, slave = pty.openpty()
    result = subprocess.run(
        [checkout + "/bin/crisis-warm", "irqtime"], stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert result.returncode == 0 and "\033" not in result.stdout
    assert "compiling irqtime.vectors" in shown and shown.endswith("\r\033[K") and "\n" not in shown
