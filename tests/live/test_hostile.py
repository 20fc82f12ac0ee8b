# SPDX-License-Identifier: GPL-2.0-or-later
"""What an unprivileged process can do to root's memleak: each attack is made as uid 1234 for real,
and must fail.

Needs root, gcc and setpriv.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from crisis.kernel import cgroup
from helpers import ROOT, SLOW, remove_cgroup, run, tool, until

CASES = os.path.join(ROOT, "tests/cases")
AS_USER = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"]
ALLOCATES = """#include <stdlib.h>
#include <unistd.h>
int main(void) { for (;;) { if (!malloc(100)) return 1; usleep(2000); } }"""


@pytest.fixture(scope="module")
def place():
    """A directory that user 1234 owns."""
    directory = tempfile.mkdtemp(dir="/tmp")
    os.chmod(directory, 0o755)
    os.chown(directory, 1234, 1234)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def build(place):
    def build(name, text, *flags):
        path = os.path.join(place, name)
        if not os.path.exists(path):
            if not shutil.which("gcc"):
                pytest.skip("gcc is not installed")
            subprocess.run(
                ["gcc", "-O0", "-fno-omit-frame-pointer", *flags, "-x", "c", "-o", path, "-"],
                input=text.encode(),
                check=True,
            )
        return path

    return build


@pytest.fixture(scope="module")
def leak(build):
    return build("leak", ALLOCATES)


@pytest.fixture(scope="module")
def mapper(build):
    with open(os.path.join(CASES, "mapper.c")) as f:
        return build("mapper", f.read())


@contextlib.contextmanager
def target(*command, wrap=AS_USER):
    """A process of user 1234 that has begun to allocate."""
    child = subprocess.Popen([*wrap, *command], stdin=subprocess.DEVNULL)
    try:
        until(lambda: open(f"/proc/{child.pid}/cmdline").read().startswith(command[0] + "\0"))
        time.sleep(0.2)
        yield child
    finally:
        child.kill()
        child.wait()


class Result:
    """What memleak printed, and what it took."""

    def __init__(self, *args):
        begin = time.monotonic()
        child = subprocess.Popen(
            [tool("memleak"), "-o", "0", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.out, self.err = (text.decode() for text in child.communicate(timeout=60 * SLOW))
        self.status, self.seconds = child.returncode, time.monotonic() - begin
        self.notes = [line for line in self.err.splitlines() if line.startswith("memleak:")]
        self.records = (
            [json.loads(line) for line in self.out.splitlines()] if "-j" in args else None
        )


MEASURE = """
import json, resource, sys
sys.path[:0] = %r
from test_hostile import Result
r = Result(*sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([r.out, r.err, r.status, r.seconds, peak]))
"""


def measured(*args):
    """(Result, peak memory in KB of memleak and each of its children, alone in a process that
    starts it).
    """
    code = MEASURE % [os.path.join(ROOT, part) for part in ("lib", "tests", "tests/live")]
    text = subprocess.run(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    result = Result.__new__(Result)
    result.out, result.err, result.status, result.seconds, peak = json.loads(text)
    result.notes = [line for line in result.err.splitlines() if line.startswith("memleak:")]
    return result, peak


# Demangling


def test_a_name_that_demangles_to_gigabytes(build):
    source = subprocess.run(
        [sys.executable, os.path.join(CASES, "demangler_bomb.py"), "30"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    mangled = re.search(r'asm\("(\w+)"\)', source).group(1)
    with target(build("bomb", source)) as child:
        result, peak = measured("-p", str(child.pid), "1", "1")
        assert result.status == 0 and result.notes == [] and mangled + "+0x" in result.out
        assert "main+0x" in result.out
        assert peak < 300 << 10 and result.seconds < 4 * SLOW
        # Ctrl-C while it is at it.
        tracing = subprocess.Popen(
            [tool("memleak"), "-o", "0", "-p", str(child.pid), "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        tracing.stderr.readline()
        time.sleep(0.5)
        begin = time.monotonic()
        tracing.send_signal(signal.SIGINT)
        out, _ = tracing.communicate(timeout=20 * SLOW)
        assert (
            tracing.returncode == 0
            and mangled.encode() in out
            and time.monotonic() - begin < 2 * SLOW
        )


# ELF files


@pytest.fixture(scope="module")
def hostile(place):
    def hostile(kind):
        path = os.path.join(place, kind + ".elf")
        if not os.path.exists(path):
            subprocess.run(
                [*AS_USER, "/usr/bin/python3", "-", kind, path],
                check=True,
                stdin=open(os.path.join(CASES, "hostile_elf.py")),
            )
        return path

    return hostile


@pytest.mark.parametrize(
    "kind, noted", [("symtabs", True), ("headers", True), ("names", False), ("offset", False)]
)
def test_an_executable_mapping_of_a_hostile_file(hostile, mapper, kind, noted):
    """Right: that file is left out, with one note when it is at fault, and the rest is traced."""
    path = hostile(kind)
    with target(mapper, path) as child:
        begin = Result("-p", str(os.getpid()), ".1", "1").seconds
        result, peak = measured("-p", str(child.pid), "1", "1")
    assert result.status == 0 and "main+0x" in result.out and "[mapper]" in result.out
    assert [line for line in result.notes if f"skipped {path}: " in line] == result.notes
    assert len(result.notes) == (1 if noted else 0), result.err
    assert peak < 256 << 10 and result.seconds < begin + 1 + 1.5 * SLOW


def test_hostile_processes_in_a_cgroup_do_not_end_the_run_for_the_others(hostile, mapper, leak):
    points = [point for point, _, _ in cgroup.mounts()]
    if not points:
        pytest.skip("no cgroup file system is mounted")
    directory = f"{points[-1]}/crisis-hostile-{os.getpid()}"
    os.mkdir(directory)
    try:
        with (
            target(leak) as first,
            target(mapper, hostile("offset")) as bad,
            target(mapper, hostile("symtabs")) as worse,
            target(leak) as last,
        ):
            with open(directory + "/cgroup.procs", "w") as f:
                for child in first, bad, worse, last:
                    f.write(f"{child.pid}\n")
                    f.flush()
            result = Result("-j", "--cgroup", directory, "1", "2")
            pids = {first.pid, bad.pid, worse.pid, last.pid}
        assert result.status == 0, result.err
        assert {
            r["pid"] for r in result.records if r["record"] == "stack" and r["allocations"] > 50
        } == pids
        assert (
            len(result.notes) == 1
            and "skipped" in result.notes[0]
            and "symtabs.elf" in result.notes[0]
        )
        assert [r["record"] for r in result.records].count("total") == 2
    finally:
        remove_cgroup(directory)


# Files of the target


@pytest.mark.parametrize("kind", ["fifo", "huge", "link", "device"])
def test_a_perf_map_that_is_a_trap(build, kind):
    """A function without a name is looked for there."""
    with target(build("stripped", ALLOCATES, "-s")) as child:
        path = f"/tmp/perf-{child.pid}.map"
        try:
            if kind == "fifo":
                subprocess.check_call([*AS_USER, "mkfifo", path])
                writer = os.open(path, os.O_RDWR)
            elif kind == "huge":
                with open(path, "wb") as f:
                    f.write(b"1 1 a\n" * ((32 << 20) // 6))
                os.chown(path, 1234, 1234)
            elif kind == "link":
                subprocess.check_call([*AS_USER, "ln", "-s", "/etc/shadow", path])
            else:
                subprocess.check_call([*AS_USER, "ln", "-s", "/dev/zero", path])
            result, peak = measured("-p", str(child.pid), "1", "1")
            if kind == "fifo":
                os.close(writer)
        finally:
            os.unlink(path)
    assert (
        result.status == 0
        and "[stripped+0x" in result.out
        and peak < 100 << 10
        and result.seconds < 4 * SLOW
    )
    assert len(result.notes) == (kind == "huge") and all(
        "perf map" in line for line in result.notes
    ), result.err


JIT = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	/* push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret: a frame in code that no file has */
	static const unsigned char code[] = {
		0x55, 0x48, 0x89, 0xe5, 0xbf, 100, 0, 0, 0, 0xff, 0xd0, 0x5d, 0xc3
	};
	void *area = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(area, code, sizeof(code));
	for (;;) {
		void *p = malloc;
		asm volatile("call *%1" : "+a"(p) : "r"(area)
			: "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11", "memory");
		usleep(2000);
	}
}"""
needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the code is x86-64's")


@needs_x86
def test_a_perf_map_of_its_own_is_used(build):
    with target(build("jit", JIT)) as child:
        path = f"/tmp/perf-{child.pid}.map"
        with open(path, "w") as f:
            f.write("0 ffffffffffffff compiled_code\n")
        os.chown(path, 1234, 1234)
        try:
            owned = Result("-p", str(child.pid), "1", "1")
            os.chown(path, 4321, 4321)
            foreign = Result("-p", str(child.pid), "1", "1")
        finally:
            os.unlink(path)
    assert (
        "compiled_code+0x" in owned.out
        and "compiled_code" not in foreign.out
        and "[unknown]" in foreign.out
    )


@needs_x86
@pytest.mark.parametrize("kind", ["secret", "kmsg"])
def test_a_root_only_file_bound_over_the_perf_map(build, place, kind):
    """In a user namespace a process may bind any file over a name; root must neither read nor open
    it.
    """
    jit = build("jit", JIT)
    secret = os.path.join(place, "secret")
    with open(secret, "w") as f:
        f.write("0 ffffffffffffff ROOT-ONLY\n")
    os.chmod(secret, 0o600)
    bound = secret if kind == "secret" else "/dev/kmsg"
    script = (
        f"'{jit}' & touch /tmp/perf-$!.map; mount --bind {bound} /tmp/perf-$!.map && echo $! "
        "&& wait"
    )
    shell = subprocess.Popen(
        [*AS_USER, "unshare", "-Urm", "bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
    )
    pid = None
    try:
        line = shell.stdout.readline()
        if not line:
            pytest.skip(f"no user namespace for an ordinary user: {shell.communicate()[1].strip()}")
        pid = int(line)
        time.sleep(0.2)
        traced = ["strace", "-f", "-e", "trace=open,openat,openat2", "-o", place + "/strace"]
        if not shutil.which("strace"):
            traced = []
        result = subprocess.run(
            [*traced, tool("memleak"), "-o", "0", "-p", str(pid), "1", "1"],
            capture_output=True,
            text=True,
            timeout=60 * SLOW,
        )
        assert (
            result.returncode == 0
            and "main+0x" in result.stdout
            and "ROOT-ONLY" not in result.stdout
        )
        if traced:
            opened = [row for row in open(place + "/strace") if f"perf-{pid}.map" in row]
            assert opened and all("O_PATH" in row for row in opened), opened
    finally:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        shell.communicate()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/tmp/perf-{pid}.map")


LIBRARIES = """
import ctypes, sys, time
for path in sys.argv[1:]:
    ctypes.CDLL(path)
libc = ctypes.CDLL(None)
print(flush=True)
while True:
    libc.malloc(ctypes.c_size_t(100))
    time.sleep(.002)
"""


@pytest.mark.parametrize("limit, status", [(100, None), (60, 1)])
def test_more_files_than_may_be_opened(build, tmp_path, limit, status):
    library = build("library.so", "int nothing;", "-shared", "-fPIC")
    copies = [shutil.copy(library, str(tmp_path / (f"{number}.so"))) for number in range(60)]
    child = subprocess.Popen([sys.executable, "-c", LIBRARIES, *copies], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        result = run(
            "memleak",
            "-o",
            "0",
            "-p",
            str(child.pid),
            ".5",
            "1",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )
    finally:
        child.kill()
        child.communicate()
    notes = [line for line in result.stderr.splitlines() if line.startswith("memleak:")]
    assert (
        "not all files of process" in notes[0] and f"the limit of open files is {limit}" in notes[0]
    )
    assert len(notes) == 1 + result.returncode and result.returncode in (0, 1)
    assert all(
        f"the limit of open files is {limit}. Raise it with ulimit -n" in line for line in notes
    )
    assert status is None or result.returncode == status


def test_a_debug_link_to_a_device_is_not_opened(build, place):
    """Neither by a link beside the program, nor by a FIFO."""
    if not shutil.which("objcopy") or not shutil.which("strace"):
        pytest.skip("objcopy or strace is not installed")
    program = os.path.join(place, "linked")
    shutil.copy(build("leak", ALLOCATES), program)
    os.symlink("/dev/kmsg", os.path.join(place, "linked.debug"))
    os.mkdir(os.path.join(place, ".debug"))
    os.mkfifo(os.path.join(place, ".debug/linked.debug"))
    subprocess.check_call(["objcopy", "--strip-all", program])
    # A debug link by hand: a name, padding, and a checksum.
    with open(place + "/section", "wb") as f:
        f.write(b"linked.debug\0\0\0\0" + bytes(4))
    subprocess.check_call(
        ["objcopy", "--add-section", ".gnu_debuglink=" + place + "/section", program]
    )
    with target(program) as child:
        result = subprocess.run(
            [
                "strace",
                "-f",
                "-e",
                "trace=open,openat",
                "-o",
                place + "/strace",
                tool("memleak"),
                "-o",
                "0",
                "-p",
                str(child.pid),
                "1",
                "1",
            ],
            capture_output=True,
            text=True,
            timeout=60 * SLOW,
        )
    assert result.returncode == 0 and "[linked+0x" in result.stdout
    opened = [row for row in open(place + "/strace") if "linked.debug" in row]
    assert len(opened) >= 3 and all("O_PATH" in row for row in opened), opened


def test_addr2line_is_the_systems_and_ends(build, place):
    """Neither $PATH nor the current directory matter to --inlines, and what addr2line may open does
    not hang it.
    """
    if not os.path.exists("/usr/bin/addr2line"):
        pytest.skip("addr2line is not installed")
    evil = os.path.join(place, "bin")
    os.mkdir(evil)
    with open(evil + "/addr2line", "w") as f:
        f.write(f"#!/bin/sh\nid -u >{place}/pwned\n")
    os.chmod(evil + "/addr2line", 0o755)
    notes = subprocess.run(
        ["readelf", "-n", build("leak", ALLOCATES)], stdout=subprocess.PIPE, text=True
    ).stdout
    build_id = re.search(r"Build ID: (\w+)", notes).group(1)
    os.makedirs(f"{place}/.build-id/{build_id[:2]}")
    os.mkfifo(f"{place}/.build-id/{build_id[:2]}/{build_id[2:]}.debug")
    with target(build("leak", ALLOCATES)) as child:
        result = run(
            "memleak",
            "--inlines",
            "-o",
            "0",
            "-p",
            str(child.pid),
            "1",
            "1",
            cwd=place,
            env=dict(os.environ, PATH=evil + ":" + os.environ["PATH"]),
        )
    assert (
        result.returncode == 0
        and "main+0x" in result.stdout
        and not os.path.exists(place + "/pwned")
    )


# Privileges


def without_capabilities(*names):
    """setpriv(1) arguments for root without some capabilities."""
    return ["setpriv", "--bounding-set", ",".join("-" + name for name in names)]


def test_without_cap_sys_ptrace(leak):
    """One line that names the capability, and status 77; with --cgroup the others are traced."""
    with target(leak, wrap=[]) as child:
        drop = without_capabilities("sys_ptrace", "sys_admin", "checkpoint_restore")
        result = subprocess.run(
            [*drop, tool("memleak"), "-p", str(child.pid), ".2", "1"],
            capture_output=True,
            text=True,
            timeout=60 * SLOW,
        )
        assert result.returncode == 77 and result.stdout == "", result
        assert (
            result.stderr.count("\n") == 1
            and "CAP_SYS_PTRACE" in result.stderr
            and str(child.pid) in result.stderr
        )
        assert re.search("Permission denied|Operation not permitted", result.stderr)


def test_a_cgroup_some_of_whose_processes_may_not_be_looked_into(leak, place):
    points = [point for point, _, _ in cgroup.mounts()]
    if not points:
        pytest.skip("no cgroup file system is mounted")
    directory = f"{points[-1]}/crisis-denied-{os.getpid()}"
    os.mkdir(directory)
    drop = without_capabilities("sys_ptrace", "checkpoint_restore", "sys_admin")
    try:
        # The first has as few capabilities as memleak; the others have more, or another user, and
        # own programs.
        own = [shutil.copy(leak, os.path.join(place, name)) for name in ("closed", "foreign")]
        with (
            target(leak, wrap=drop) as open_one,
            target(own[0], wrap=[]) as closed,
            target(own[1]) as foreign,
        ):
            with open(directory + "/cgroup.procs", "w") as f:
                for child in closed, open_one, foreign:
                    f.write(f"{child.pid}\n")
                    f.flush()
            result = subprocess.run(
                [*drop, tool("memleak"), "-j", "-o", "0", "--cgroup", directory, "1", "1"],
                capture_output=True,
                text=True,
                timeout=60 * SLOW,
            )
            pid = open_one.pid
        assert result.returncode == 0, result
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert pid in {r["pid"] for r in records if r["record"] == "stack"}
        notes = [line for line in result.stderr.splitlines() if "not traced" in line]
        assert (
            len(notes) == 1
            and "2 processes are not traced" in notes[0]
            and "CAP_SYS_PTRACE" in notes[0]
        )
    finally:
        remove_cgroup(directory)


# PIDs

REUSED = 777 * 50


@pytest.mark.parametrize("mode", [[], ["--combined-only"], ["-s", "100"]])
def test_a_pid_that_another_process_takes_over_inherits_nothing(mode):
    child = subprocess.Popen(
        [sys.executable, os.path.join(CASES, "pid_reuse.py")],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        result = subprocess.Popen(
            [
                tool("memleak"),
                "-j",
                "-o",
                "0",
                "--follow",
                "-T",
                "1000",
                *mode,
                "-p",
                str(child.pid),
                "3",
                "3",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        words = child.stdout.readline().split()
        out, err = result.communicate(timeout=60 * SLOW)
        assert result.returncode == 0, err
    finally:
        child.kill()
        child.communicate()
    if words[1:2] != words[3:4]:
        pytest.skip(f"the PID could not be had again: {words}")
    pid, reports, found = int(words[1]), 1, []
    for record in map(json.loads, out.splitlines()):
        if record["record"] == "total":
            reports += 1
        elif record["pid"] == pid and record["bytes"] >= REUSED / 2:
            found.append(reports)
    assert reports == 4 and found in ([], [1])


FORKS = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char c;
	long count = atol(argv[1]);
	if (read(0, &c, 1) < 0) return 1;
	while (count--) {
		if (!fork()) { void *volatile p = malloc(100); (void)p; _exit(0); }
		wait(0);
	}
	if (write(1, "x", 1) < 0 || read(0, &c, 1) < 0) return 1;
}"""


def test_what_follow_keeps_of_processes_that_have_ended(build):
    """Memory does not grow by the number of PIDs ever seen."""

    def peak(count):
        child = subprocess.Popen(
            [build("forks", FORKS), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        traced = subprocess.Popen(
            [tool("memleak"), "-v", "-j", "--follow", "-p", str(child.pid), ".2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            for line in traced.stderr:
                if b"the tracing has begun" in line:
                    break
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.read(1)
            time.sleep(1)
            text = open(f"/proc/{traced.pid}/status").read()
            return int(re.search(r"VmRSS:\s+(\d+)", text).group(1))
        finally:
            traced.kill()
            traced.communicate()
            child.kill()
            child.communicate()

    # The buffers of the first thousands stay.
    few, many = peak(4000), peak(12000)
    assert many - few < 4000  # KB; 1.2 for each would be 9,600


# The command of -c


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_ends_with_memleak(leak, number):
    traced = subprocess.Popen(
        [tool("memleak"), "-v", "-c", leak, "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    for line in traced.stderr:
        if "the tracing has begun" in line:
            break
    children = open(f"/proc/{traced.pid}/task/{traced.pid}/children").read().split()
    assert len(children) == 1
    pid = int(children[0])
    until(lambda: open(f"/proc/{pid}/stat").read().split()[2] == "S")
    traced.send_signal(number)
    # Until its end of file on the output, which the command holds, too.
    traced.communicate(timeout=20 * SLOW)
    assert traced.returncode == (0 if number != signal.SIGKILL else -9)

    def gone():
        try:
            return open(f"/proc/{pid}/stat").read().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    until(gone)


def test_the_command_ends_when_the_reports_are_over(leak):
    begin = time.monotonic()
    result = run("memleak", "-o", "0", "-c", leak, ".5", "2")
    assert (
        result.returncode == 0
        and time.monotonic() - begin < 20 * SLOW
        and result.stdout.count("Top 10") == 2
    )
