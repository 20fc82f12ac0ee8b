# SPDX-License-Identifier: GPL-2.0-or-later
"""oomkill against real kills, each field checked against what the kernel itself logs.

Needs root.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

from helpers import GUEST, ROOT, SLOW, as_nobody, load, memory_cgroup, run, tool, tracing, until

# kprobe and log are the source stack, held to that way of learning the limit.
SOURCES = ("stack", "kprobe", "log", "format")
HELD = """
import sys
from helpers import load
m = load("oomkill")
s = m.SOURCES["stack"]
s.points = tuple(p for p in (tuple(c for c in p if c.startswith((%r, "tp_btf", "tracepoint")))
                             for p in s.points) if p)
m.cli.run(m.main, m.get_parser)
"""
LIMIT = 48 << 20
# Takes BYTES in the cgroup, says so and stays: NAME DIRECTORY BYTES SCORE UID
TAKER = """
import ctypes, os, sys, time
name, directory, size, score, uid = sys.argv[1:6]
open(directory + "/cgroup.procs", "w").write(str(os.getpid()))
open("/proc/self/oom_score_adj", "w").write(score)
ctypes.CDLL(None).prctl(15, name.encode("utf-8", "surrogateescape"))
os.setuid(int(uid))
data = b"x" * int(size)
print("ready", flush=True)
time.sleep(3600)
"""


def taker(name, directory, size, score=0, uid=0):
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, name, directory, str(size), str(score), str(uid)],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )


class KernelLog:
    """The lines that the kernel logs from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.lines = []

    def read(self):
        while True:
            try:
                self.lines.append(
                    os.read(self.fd, 8192)
                    .decode("utf-8", "replace")
                    .partition(";")[2]
                    .split("\n")[0]
                )
            except BlockingIOError:
                return self.lines
            except BrokenPipeError:
                pass

    def killed(self, pid):
        """The fields of the line about that victim."""

        def found():
            return [line for line in self.read() if f"Killed process {pid} (" in line]

        line = until(found)[0]
        fields = dict(re.findall(r"([\w-]+):(-?\d+)", line.rpartition(")")[2]))
        fields["comm"] = (
            line[line.index("(") + 1 : line.rindex(") total-vm")] if "(" in line else None
        )
        return fields, line

    def report(self, pid):
        """{name: text} of the killer's report that chose that victim."""
        number = [
            i
            for i, line in enumerate(self.lines)
            if line.startswith("oom-kill:") and f",pid={pid}," in line
        ][-1]
        found = dict(
            part.partition("=")[::2] for part in self.lines[number][len("oom-kill:") :].split(",")
        )
        for line in reversed(self.lines[:number]):
            match = re.match(r"memory: usage (\d+)kB, limit (\d+)kB", line)
            if match:
                found["usage"], found["limit"] = match.groups()
            match = re.search(
                r"^(.*) invoked oom-killer: gfp_mask=0x(\w+)\((.*)\), order=(-?\d+)", line
            )
            if match:
                found["invoker"], found["gfp"], found["gfp_flags"], found["order"] = match.groups()
                return found
        raise AssertionError("no report")


def killing(*args):
    """A helpers.tracing of oomkill."""
    command = None
    if args[-2:] == ("--source", "kprobe") or args[-2:] == ("--source", "log"):
        command = [
            sys.executable,
            "-c",
            HELD % ("k" if args[-1] == "kprobe" else "nothing"),
            "--no-cache",
        ]
        args = args[:-1] + ("stack",)
    return tracing(
        "oomkill",
        *args,
        command=command,
        settle=0.2,
        env=dict(os.environ, PYTHONPATH=os.path.join(ROOT, "tests")),
    )


# Until Linux 6.2 each thread kept what it had changed since its last 64 faults to itself
# (TASK_RSS_EVENTS_THRESH in mm/memory.c), and a victim hands it in as it dies, which may be between
# the tracepoint and the line in the log.
UNCOUNTED = (
    64 * os.sysconf("SC_PAGE_SIZE")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 2)
    else 0
)


def sizes_as_logged(record, fields):
    return {
        "total-vm": record["total_vm_bytes"] // 1024,
        "anon-rss": record["anon_rss_bytes"] // 1024,
        "file-rss": record["file_rss_bytes"] // 1024,
        "shmem-rss": record["shmem_rss_bytes"] // 1024,
        "pgtables": record["pgtables_bytes"] // 1024,
    } == {
        name: int(fields[name])
        for name in ("total-vm", "anon-rss", "file-rss", "shmem-rss", "pgtables")
    }


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_memcg_kill_is_what_the_kernel_logged(source):
    """One process sits there and is to die; another one, elsewhere below the limit, needs the
    memory.
    """
    for attempt in range(3):
        log = KernelLog()
        with memory_cgroup(LIMIT, "oom") as directory:
            for name in "victim", "needy":
                os.mkdir(f"{directory}/{name}")
            try:
                with killing("-j", "-K", "--source", source) as child:
                    victim = taker("oom victim (a)", directory + "/victim", 24 << 20, 700, 65534)
                    assert victim.stdout.readline() == "ready\n"
                    needy = taker("oom-needy", directory + "/needy", 30 << 20)
                    assert victim.wait() == -signal.SIGKILL
                    fields, line = log.killed(victim.pid)
                    # or it was killed too, before the victim's memory was free
                    needy.stdout.readline()
                needy.kill()
                needy.wait()
            finally:
                for name in "victim", "needy":
                    until(lambda: not open(f"{directory}/{name}/cgroup.procs").read())
                    os.rmdir(f"{directory}/{name}")
        found = [r for r in child.records if r["pid"] == victim.pid]
        assert len(found) == 1
        record = found[0]
        # The victim may already be giving back memory while the kernel formats its line.
        if sizes_as_logged(record, fields) or attempt == 2:
            break
    report = log.report(victim.pid)
    assert line.startswith("Memory cgroup out of memory") and report["invoker"] == "oom-needy"
    assert report["constraint"] == "CONSTRAINT_MEMCG" and report["oom_memcg"].startswith(
        "/crisis-oom-"
    )
    truth = {
        "comm": "oom victim (a)",
        "pid": victim.pid,
        "tid": victim.pid,
        "killed": True,
        "trigger_pid": needy.pid,
        "trigger_tid": needy.pid,
        "trigger_comm": "oom-needy",
        "uid": int(fields["UID"]),
        "oom_score_adj": int(fields["oom_score_adj"]),
        "total_vm_bytes": int(fields["total-vm"]) * 1024,
        "anon_rss_bytes": int(fields["anon-rss"]) * 1024,
        "file_rss_bytes": int(fields["file-rss"]) * 1024,
        "shmem_rss_bytes": int(fields["shmem-rss"]) * 1024,
        "pgtables_bytes": int(fields["pgtables"]) * 1024,
        "limit": "memcg",
        "limit_cgroup": report["oom_memcg"],
        "cgroup": report["task_memcg"],
        "limit_bytes": int(report["limit"]) * 1024,
        "order": int(report["order"]),
        "gfp": int(report["gfp"], 16),
        "gfp_flags": report["gfp_flags"],
    }
    wrong = {
        name: (record[name], value)
        for name, value in truth.items()
        if record[name] != value
        and not (name.endswith("_rss_bytes") and abs(record[name] - value) <= UNCOUNTED)
    }
    assert not wrong, (child.taken, line)
    assert truth["uid"] == 65534 and truth["oom_score_adj"] == 700 and truth["limit_bytes"] == LIMIT
    assert (
        record["rss_bytes"]
        == record["anon_rss_bytes"] + record["file_rss_bytes"] + record["shmem_rss_bytes"]
    )
    assert record["pages"] * os.sysconf("SC_PAGE_SIZE") == record["rss_bytes"] > 24 << 20
    # The counter moves between our reading and the kernel's, by what other CPUs charge and give
    # back.
    assert record["usage_bytes"] == pytest.approx(int(report["usage"]) * 1024, abs=2 << 20)
    assert any("oom_kill_process" in frame for frame in record["stack"])
    assert not [frame for frame in record["stack"] if "bpf" in frame]
    print(f"oomkill --source {source}: {child.taken.strip()}")


def test_text_begins_as_bccs():
    with memory_cgroup(LIMIT, "oom") as directory, killing("-n", "1") as child:
        victim = taker("oom text", directory, 100 << 20)
        assert victim.wait() == -signal.SIGKILL
    first, second, third, fourth, fifth, sixth = child.out.splitlines()[:6]
    assert re.fullmatch(
        rf'\d\d:\d\d:\d\d Triggered by PID {victim.pid} \("oom text"\), OOM kill of PID '
        rf'{victim.pid} \("oom text"\), '
        r"(?:\d+|-) pages, loadavg: [\d.]+ [\d.]+ [\d.]+ \d+/\d+ \d+",
        first,
    )
    if re.search(r"^SwapTotal: +0 kB", open("/proc/meminfo").read(), re.M):
        # oc->totalpages, as bcc prints it: mem_cgroup_get_max(), where nothing can be swapped.
        assert f" {LIMIT // os.sysconf('SC_PAGE_SIZE')} pages, " in first
    match = re.fullmatch(r" {4}RSS (\d+) kB: anon (\d+), file (\d+), shmem (\d+)", second)
    total, *kinds = map(int, match.groups())
    assert total == sum(kinds)
    assert re.fullmatch(r" {4}swap (?:\d+|-) kB, page tables \d+ kB, total VM \d+ kB", third)
    assert re.fullmatch(r" {4}limit: memcg /crisis-oom-\d+, \d+ of 49152 kB", fourth)
    assert re.fullmatch(r" {4}victim in /crisis-oom-\d+; UID 0, oom_score_adj 0", fifth)
    assert re.fullmatch(r" {4}order 0, GFP_\S+", sixth)


def oom_kills():
    return int(re.search(r"^oom_kill (\d+)", open("/proc/vmstat").read(), re.M).group(1))


@pytest.mark.guest
def test_past_kills_are_those_of_dmesg():
    with memory_cgroup(LIMIT, "oom") as directory:
        os.mkdir(directory + "/below")
        try:
            victim = taker('oom past "\\', directory + "/below", 100 << 20, 300, 65534)
            begin = time.time()
            assert victim.wait() == -signal.SIGKILL
            end = time.time()
        finally:
            until(lambda: not open(f"{directory}/below/cgroup.procs").read())
            os.rmdir(directory + "/below")
        place = "/" + os.path.basename(directory)
    until(lambda: f"Killed process {victim.pid} " in dmesg())
    for _ in range(5):  # others may be killed, or log, at the same time
        pids = re.findall(r"Killed process (\d+) \(", dmesg())
        number = oom_kills()
        result = run("oomkill", "-j", "--past")
        if pids == re.findall(r"Killed process (\d+) \(", dmesg()) and number == oom_kills():
            break
    assert result.returncode == 0 and result.stderr == ""
    *kills, total = [json.loads(line) for line in result.stdout.splitlines()]
    assert [str(kill["pid"]) for kill in kills] == pids
    assert (total["record"], total["kills"], total["kills_in_log"]) == (
        "since_boot",
        number,
        len(pids),
    )
    (found,) = [kill for kill in kills if kill["pid"] == victim.pid and place in kill["cgroup"]]
    fields = dict(re.findall(r"([\w-]+):(-?\d+)", dmesg(victim.pid).rpartition(")")[2]))
    assert found["past"] is True and found["comm"] == 'oom past "\\'
    assert (found["uid"], found["oom_score_adj"]) == (65534, 300)
    assert found["anon_rss_bytes"] // 1024 == int(fields["anon-rss"])
    assert found["total_vm_bytes"] // 1024 == int(fields["total-vm"])
    when = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
    assert begin - 1 < when < end + 1
    if found["limit"] is not None:  # the report is rate-limited
        assert (found["limit"], found["limit_cgroup"]) == ("memcg", place)
        assert found["cgroup"] == place + "/below" and found["limit_bytes"] == LIMIT
        assert found["trigger_tid"] == victim.pid and found["trigger_comm"] == found["comm"]

    text = run("oomkill", "--past", "-c", place + "/below")
    lines = text.stdout.splitlines()
    assert len(lines) == 6 and f"OOM kill of PID {victim.pid} (" in lines[0]
    assert re.search(r"\[past: \d{4}-\d\d-\d\d\]$", lines[0])
    assert text.stderr.startswith("oomkill: ") and " kills since boot, " in text.stderr
    assert ("wrapped" in text.stderr) == (number > len(pids))


def dmesg(pid=None):
    """The kernel's log by dmesg(1), or the last line about a victim in it."""
    text = subprocess.run(["dmesg", "-k"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if pid is None:
        return text
    return [line for line in text.splitlines() if f"Killed process {pid} (" in line][-1]


@pytest.mark.guest
@pytest.mark.parametrize("source", ["typed", "stack", "format"])
def test_a_cgroup(source):
    """Victims below it are printed, others are not."""
    for _ in range(3):
        with memory_cgroup(LIMIT, "oom-a") as one, memory_cgroup(LIMIT, "oom-b") as other:
            os.mkdir(one + "/below")
            try:
                with killing("-j", "-c", one, "--source", source) as child:
                    victims = [
                        taker("oom-cgroup", directory, 100 << 20)
                        for directory in (one, one + "/below", other)
                    ]
                    assert [victim.wait() for victim in victims] == [-signal.SIGKILL] * 3
            finally:
                until(lambda: not open(f"{one}/below/cgroup.procs").read())
                os.rmdir(one + "/below")
        found = {record["pid"] for record in child.records}
        assert victims[2].pid not in found
        if len(found) == 2:
            break
        # The kernel limits the rate of its reports: then this source does not know the cgroup.
        assert source == "format" and "cgroup is not known" in child.err
        time.sleep(5)
    assert found == {victims[0].pid, victims[1].pid}


def test_intervals():
    begin = time.monotonic()
    result = run("oomkill", "-j", ".5", "4")
    seconds = time.monotonic() - begin
    assert result.returncode == 0 and 2 <= seconds < 2 + 8 * SLOW
    totals = [r for r in map(json.loads, result.stdout.splitlines()) if r["record"] == "total"]
    assert [round(r["seconds"], 1) for r in totals] == [0.5] * 4


@pytest.mark.guest
def test_a_group_dies_together():
    log = KernelLog()
    with memory_cgroup(LIMIT, "oom") as directory:
        if not os.path.exists(directory + "/memory.oom.group"):
            pytest.skip("cgroup v1 has no memory.oom.group")
        with open(directory + "/memory.oom.group", "w") as f:
            f.write("1")
        with killing("-j") as child:
            one = taker("oom-one", directory, 10 << 20)
            assert one.stdout.readline() == "ready\n"
            other = taker("oom-other", directory, 100 << 20)
            assert [one.wait(), other.wait()] == [-signal.SIGKILL] * 2
            log.killed(one.pid), log.killed(other.pid)
    assert {r["pid"] for r in child.records} == {one.pid, other.pid}
    assert {(r["limit"], r["limit_bytes"], r["trigger_pid"]) for r in child.records} == {
        ("memcg", LIMIT, other.pid)
    }


def test_hostile_comm():
    name = b'\x1b[31m\n"\\\xff'.decode("utf-8", "surrogateescape")
    with memory_cgroup(LIMIT, "oom") as directory, killing() as text, killing("-j") as records:
        assert taker(name, directory, 100 << 20).wait() == -signal.SIGKILL
    assert "\x1b" not in text.out and r'("\x1b[31m\x0a"\\\xff")' in text.out
    assert len(text.out.splitlines()) == 6
    assert [r["comm"] for r in records.records] == ['\x1b[31m\n"\\\\xff']


@pytest.mark.guest
def test_a_global_kill(tmp_path):
    if not GUEST:
        pytest.skip("it uses up the memory: only in the guest of tests/vm")
    log = KernelLog()
    code = """
import mmap
open("/proc/self/oom_score_adj", "w").write("1000")
size = 8 << 30
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
m = mmap.mmap(-1, size, flags=flags)
if hasattr(m, "madvise"): m.madvise(14)         # MADV_HUGEPAGE: 512 faults fewer for each
for at in range(0, size, 4096): m[at] = 1
"""
    with killing("-j") as child:
        hog = subprocess.Popen([sys.executable, "-c", code])
        assert hog.wait() == -signal.SIGKILL
        fields, line = log.killed(hog.pid)
    record = [r for r in child.records if r["pid"] == hog.pid][0]
    report = log.report(hog.pid)
    assert line.startswith("Out of memory: ") and report["constraint"] == "CONSTRAINT_NONE"
    assert (
        record["limit"] == "global"
        and record["limit_cgroup"] is None
        and record["limit_bytes"] is None
    )
    assert record["oom_score_adj"] == 1000 and record["rss_bytes"] > 1 << 30
    assert (record["order"], record["gfp"]) == (int(report["order"]), int(report["gfp"], 16))
    assert record["anon_rss_bytes"] // 1024 == pytest.approx(int(fields["anon-rss"]), rel=0.01)
    if record["domain_pages"] is not None:  # fentry or kprobe
        total = int(re.search(r"MemTotal: +(\d+)", open("/proc/meminfo").read()).group(1))
        assert record["domain_pages"] * os.sysconf("SC_PAGE_SIZE") // 1024 == pytest.approx(
            total, rel=0.05
        )


def test_kernel_headers_serve_where_there_is_no_btf():
    from crisis.bpf import cache

    if not os.path.isdir(f"/lib/modules/{os.uname().release}/build"):
        pytest.skip(f"no headers of kernel {os.uname().release} are installed")
    oomkill = load("oomkill")
    assert cache.build(oomkill.SOURCES["format"], cache=False, headers="kernel").functions
    assert cache.build(oomkill.SOURCES["typed"], cache=False, headers="kernel").unusable.startswith(
        "this kernel has no BTF in "
    )


def test_without_root():
    result = as_nobody("oomkill", "-d", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_exits():
    assert run("oomkill", "-d", ".3").returncode == 0
    shell = f"{tool('oomkill')} %s; echo status ${{PIPESTATUS[0]}}"
    head = subprocess.run(
        ["bash", "-c", shell % "-d 60 | head -0"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert head.stdout.split()[-1] in (b"0", b"141")
    with memory_cgroup(LIMIT, "oom") as directory:
        full = open("/dev/full", "w")
        child = subprocess.Popen(
            [tool("oomkill"), "-v"], stdout=full, stderr=subprocess.PIPE, universal_newlines=True
        )
        while "attached to" not in child.stderr.readline():
            assert child.poll() is None
        taker("oom-full", directory, 100 << 20).wait()
        _, errors = child.communicate(timeout=20 * SLOW)
    assert child.returncode == 1 and "write error: No space left on device" in errors
