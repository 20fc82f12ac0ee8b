# SPDX-License-Identifier: GPL-2.0-or-later
"""drsnoop against reclaim that is provoked, by a cgroup's limit and, in a guest, by using up the
memory.  Needs root.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from crisis.kernel import cgroup, sysfs
from crisis.memory.reclaim import Reclaim
from crisis.memory.reclaim_tracer import SOURCES
from helpers import (
    GUEST,
    ROOT,
    SLOW,
    as_nobody,
    fails_to_write,
    memory_cgroup,
    remove_cgroup,
    run,
    tracing,
    until,
)

PEER = "/usr/sbin/drsnoop"  # of libbpf-tools
LIMIT = 32 << 20
# Reads a file that is not cached, in the cgroup: NAME DIRECTORY FILE [ROUNDS [UID]]
READER = """
import ctypes, os, sys
name, directory, path, rounds, uid = sys.argv[1:6]
open(directory + "/cgroup.procs", "w").write(str(os.getpid()))
ctypes.CDLL(None).prctl(15, name.encode("utf-8", "surrogateescape"))
fd = os.open(path, os.O_RDONLY)
os.setuid(int(uid))
for _ in range(int(rounds)):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 0, 0)
    while os.read(fd, 1 << 20): pass
"""


def reader(name, directory, path, rounds=1, uid=0, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", READER, name, directory, path, str(rounds), str(uid)], **kwargs
    )


def make(path):
    """64 MB on disk, twice what the cgroup may have."""
    with open(path, "wb") as f:
        for _ in range(64):
            f.write(os.urandom(1 << 20))
        f.flush()
        os.fsync(f.fileno())
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("drsnoop") / "data"))


@pytest.fixture(scope="module")
def second_file(tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("drsnoop") / "data"))


@contextlib.contextmanager
def captured(tmp_path, *kinds):
    """The kernel's own trace of these tracepoints: after the block, [(kind, tid, seconds, order,
    gfp, reclaimed)].
    """
    mount = str(tmp_path / "tracefs")
    os.mkdir(mount)
    subprocess.check_call(["mount", "-t", "tracefs", "tracefs", mount])
    instance = f"{mount}/instances/crisis-{os.getpid()}"

    def write(name, text):
        with open(os.path.join(instance, name), "w") as f:
            f.write(text)

    found = []
    try:
        if not os.path.isdir(mount + "/instances"):
            pytest.skip("this kernel's tracefs has no instances")
        os.mkdir(instance)
        try:
            write("buffer_size_kb", "8192")
            write("trace_clock", "mono")
            for kind in kinds:
                for edge in "begin", "end":
                    write(f"events/vmscan/mm_vmscan_{kind}_reclaim_{edge}/enable", "1")
            yield found
            write("tracing_on", "0")
            begun = {}
            for line in open(instance + "/trace", errors="replace"):
                match = re.match(
                    r".*-(\d+) +\[\d+\] \S+ +([\d.]+): mm_vmscan_(\w+)_reclaim_(begin|end): (.*)",
                    line,
                )
                if not match:
                    assert line.startswith("#") or "LOST" not in line
                    continue
                tid, stamp, kind, edge, fields = match.groups()
                if edge == "begin":
                    order, gfp = re.search(r"order=(\d+) gfp_flags=(\S+)", fields).groups()
                    begun[tid] = float(stamp), order, gfp
                elif tid in begun:
                    since, order, gfp = begun.pop(tid)
                    found.append(
                        (
                            "global" if kind == "direct" else kind,
                            int(tid),
                            float(stamp) - since,
                            int(order),
                            gfp,
                            int(fields.split("=")[1].split()[0]),
                        )
                    )
        finally:
            write("tracing_on", "0")
            os.rmdir(instance)
    finally:
        subprocess.check_call(["umount", mount])


def counters(directory):
    """pgscan_direct and such of a v2 cgroup's memory.stat; {} for v1, which has none."""
    return numbers(directory + "/memory.stat") if os.path.exists(directory + "/memory.max") else {}


def numbers(path):
    """A file with a name and a number on each line."""
    return {name: int(value) for name, value in map(str.split, open(path))}


def same_as_trace(records, truth):
    """Every reclaim the kernel traced, and no other, with the same fields; the same time, but for
    the probes' own.
    """
    key = sorted((r["kind"], r["tid"], r["order"], r["gfp_flags"], r["pages"]) for r in records)
    assert key == sorted(
        (kind, tid, order, gfp, pages) for kind, tid, _, order, gfp, pages in truth
    )
    ours, theirs = {}, {}
    for r in records:
        ours.setdefault(r["tid"], []).append(r["lat_ns"] / 1e9)
    for _, tid, seconds, *_ in truth:
        theirs.setdefault(tid, []).append(seconds)
    # A preemption between the two clock readings is rare: so the median, and the sum.
    differences = sorted(abs(a - b) for tid in ours for a, b in zip(ours[tid], theirs[tid]))
    assert differences[len(differences) // 2] < 50e-6 * SLOW
    assert sum(map(sum, ours.values())) == pytest.approx(
        sum(map(sum, theirs.values())), rel=0.2, abs=0.005 * SLOW
    )


@pytest.mark.guest
@pytest.mark.parametrize("source", tuple(SOURCES))
def test_memcg_reclaim_is_exactly_what_the_kernel_traces(source, file, tmp_path):
    with memory_cgroup(LIMIT) as directory:
        before = numbers("/proc/vmstat")
        with captured(tmp_path, "memcg") as truth:
            with tracing("drsnoop", "-j", "--kind", "memcg", "--source", source) as child:
                process = reader("drs-exact", directory, file)
                assert process.wait() == 0
        stat, after = counters(directory), numbers("/proc/vmstat")
    mine = [r for r in child.records if r["tid"] == process.pid]
    assert len(mine) >= 5
    same_as_trace(child.records, truth)
    assert all(r["comm"] == "drs-exact" and r["pid"] == process.pid and r["uid"] == 0 for r in mine)
    assert all(r["cgroup"] == "/" + os.path.basename(directory) for r in mine)
    assert all(not any(r["lost"].values()) for r in mine)
    # What was reclaimed was scanned before; half of the file had to go, all of it page cache.
    assert sum(r["pages"] for r in mine) >= (64 - 32 - 8) << 8
    if None not in [r["scanned_pages"] for r in mine]:
        assert sum(r["scanned_pages"] for r in mine) >= (64 - 32 - 8) << 8
        if "pgscan_direct" in stat:
            # A global reclaim scans the pages of cgroups, too; vmstat has its scans only.
            others = after["pgscan_direct"] - before["pgscan_direct"]
            scanned = sum(r["scanned_pages"] for r in mine)
            assert scanned <= stat["pgscan_direct"] <= scanned + others
    else:
        assert sysfs.lru_gen()
    for r in mine:
        assert r["kswapd"] is None or re.fullmatch("[RSD?]+", r["kswapd"])
        assert r["free_kb"] > 0


def test_free_memory_is_the_kernels(file):
    """As /proc/vmstat has it, within what comes and goes meanwhile."""
    with memory_cgroup(LIMIT) as directory, tracing("drsnoop", "-j") as child:
        assert reader("drs-free", directory, file).wait() == 0
        vmstat = numbers("/proc/vmstat")
    free = [r["free_kb"] for r in child.records if r["comm"] == "drs-free"][-1]
    total = int(re.search(r"MemTotal: +(\d+)", open("/proc/meminfo").read()).group(1))
    assert abs(free - vmstat["nr_free_pages"] * os.sysconf("SC_PAGE_SIZE") // 1024) < max(
        100 << 10, total / 20
    )


def test_filters_take_theirs_and_nothing_else(file, second_file):
    with memory_cgroup(LIMIT, "a") as one, memory_cgroup(LIMIT, "b") as other:
        with contextlib.ExitStack() as stack:
            everything = stack.enter_context(tracing("drsnoop", "-j"))
            filtered = {
                "uid": (
                    stack.enter_context(tracing("drsnoop", "-j", "-u", "65534")),
                    lambda r: r["uid"] == 65534,
                ),
                "root": (
                    stack.enter_context(tracing("drsnoop", "-j", "-u", "0")),
                    lambda r: r["uid"] == 0,
                ),
                "name": (
                    stack.enter_context(tracing("drsnoop", "-j", "-n", "s-left")),
                    lambda r: "s-left" in r["comm"],
                ),
                "long": (
                    stack.enter_context(tracing("drsnoop", "-j", "-n", "drs-right-hand")),
                    lambda r: "drs-right-hand" in r["comm"],
                ),
                "none": (
                    stack.enter_context(tracing("drsnoop", "-j", "-n", "drs-lefty")),
                    lambda r: False,
                ),
                "cgroup": (
                    stack.enter_context(tracing("drsnoop", "-j", "-c", one)),
                    lambda r: r["cgroup"] == "/" + os.path.basename(one),
                ),
                "kind": (
                    stack.enter_context(tracing("drsnoop", "-j", "--kind", "global")),
                    lambda r: r["kind"] == "global",
                ),
            }
            summary = stack.enter_context(tracing("drsnoop", "-j", "--summary"))
            children = [
                reader("drs-left", one, file),
                reader("drs-right-hand", other, second_file, uid=65534),
            ]
            assert [c.wait() for c in children] == [0, 0]
    assert {c.pid for c in children} <= {r["pid"] for r in everything.records}

    def key(records):
        return sorted((r["tid"], r["kind"], r["order"], r["gfp"], r["pages"]) for r in records)

    for name, (child, test) in filtered.items():
        assert key(child.records) == key(filter(test, everything.records)), name
    totals = {(r["pid"], r["kind"]): r for r in summary.records if r["record"] == "process"}
    for child in children:
        mine = [r for r in everything.records if r["pid"] == child.pid and r["kind"] == "memcg"]
        total = totals[child.pid, "memcg"]
        assert (total["count"], total["pages"]) == (len(mine), sum(r["pages"] for r in mine))
        assert total["scanned_pages"] in (sum(r["scanned_pages"] or 0 for r in mine), None)
        assert total["total_ns"] == pytest.approx(
            sum(r["lat_ns"] for r in mine), rel=0.3, abs=5e6 * SLOW
        )
        assert total["max_ns"] <= total["total_ns"]
    histogram = [r for r in summary.records if r["record"] == "histogram" and r["kind"] == "memcg"][
        0
    ]
    assert (
        histogram["count"]
        == sum(b["count"] for b in histogram["buckets"])
        == sum(t["count"] for key, t in totals.items() if key[1] == "memcg")
    )
    assert histogram["total_ns"] == sum(
        t["total_ns"] for key, t in totals.items() if key[1] == "memcg"
    )


def test_a_cgroup_of_a_v1_hierarchy_without_the_memory_controller(file, second_file):
    mounts = [
        point
        for point, _, controllers in cgroup.mounts()
        if controllers and not controllers & {"memory", "cpuset"}
    ]
    if not mounts:
        pytest.skip("no such hierarchy is mounted")
    other = f"{mounts[-1]}/crisis-drsnoop-{os.getpid()}"
    os.mkdir(other)

    def join():
        with open(other + "/cgroup.procs", "w") as f:
            f.write(str(os.getpid()))

    try:
        with (
            memory_cgroup(LIMIT) as directory,
            tracing("drsnoop", "-j") as everything,
            tracing("drsnoop", "-j", "-c", other) as filtered,
        ):
            inside = reader("drs-inside", directory, file, preexec_fn=join)
            outside = reader("drs-outside", directory, second_file)
            assert [inside.wait(), outside.wait()] == [0, 0]
    finally:
        remove_cgroup(other)
    counts = {
        child.pid: sum(r["pid"] == child.pid for r in everything.records)
        for child in (inside, outside)
    }
    assert min(counts.values()) > 0
    assert len(filtered.records) == counts[inside.pid]
    assert {r["pid"] for r in filtered.records} == {inside.pid}


def test_process_and_thread_filters(file, second_file):
    with memory_cgroup(LIMIT) as directory:
        children = [
            reader(f"drs-{i}", directory, path, rounds=100000)
            for i, path in enumerate((file, second_file))
        ]
        pid = str(children[0].pid)
        try:
            for option in "-p", "-t":
                found = until(
                    lambda: run("drsnoop", "-j", option, pid, "-d", "1").stdout.splitlines()
                )
                assert {json.loads(line)["tid"] for line in found} == {children[0].pid}
            text = until(
                lambda: run("drsnoop", "-t", pid, "-d", "1", "-TU").stdout.partition("\n")[2]
            )
            header = run("drsnoop", "-t", pid, "-d", ".1", "-TU").stdout.splitlines()[0]
        finally:
            for c in children:
                c.kill()
                c.wait()
    assert header.split() == ["TIME", "UID", "COMM", "TID", "LAT(ms)", "PAGES", "KIND"]
    assert re.match(rf"\d\d:\d\d:\d\d 0 +drs-0 +{pid} +[\d.]+ +\d+ memcg\n", text)


def test_text_is_bccs(file):
    with memory_cgroup(LIMIT) as directory:
        with tracing("drsnoop", "-e", "-K") as extended, tracing("drsnoop") as plain:
            assert reader("drs text", directory, file).wait() == 0
    # -v of both adds bcc's column.
    lines = plain.out.splitlines()
    assert lines[0].split() == ["COMM", "PID", "LAT(ms)", "PAGES", "FREE(KB)", "KIND"]
    assert re.fullmatch(
        r"drs text {8}\d+ +\d+\.\d\d +\d+ +\d+ memcg", [x for x in lines if "drs text" in x][0]
    )
    lines = extended.out.splitlines()
    assert lines[0].split() == [
        "COMM",
        "PID",
        "LAT(ms)",
        "PAGES",
        "FREE(KB)",
        "KIND",
        "ORDER",
        "SCANNED",
        "KSWAPD",
        "CGROUP",
        "GFP_FLAGS",
    ]
    at = [i for i, line in enumerate(lines) if "drs text" in line][0]
    assert re.fullmatch(
        r"drs text +\d+ +[\d.]+ +\d+ +\d+ memcg +\d+ +(\d+|-) [RSD?-]+ +/crisis-memory-\d+ "
        r"+GFP_\S+",
        lines[at],
    )
    frames = [line for line in lines[at + 1 :] if line.startswith("    ")]
    assert any(
        "try_to_free_mem_cgroup_pages+0x" in line for line in frames[:3]
    ) and "vfs_read" in " ".join(frames)


def test_a_cgroups_limit_is_not_the_systems(file):
    """libbpf-tools' drsnoop, which traces only global reclaim, prints nothing in the same seconds
    of a task whose reclaim ours marks as its cgroup's.
    """
    if not os.access(PEER, os.X_OK):
        pytest.skip("drsnoop of libbpf-tools is not installed")
    theirs = subprocess.Popen([PEER, "-d", "4"], stdout=subprocess.PIPE, text=True)
    time.sleep(1 * SLOW)
    with memory_cgroup(LIMIT) as directory, tracing("drsnoop") as ours:
        process = reader("drs-limit", directory, file)
        assert process.wait() == 0
    out = theirs.communicate(timeout=60 * SLOW)[0]
    if theirs.returncode or "LAT(ms)" not in out:
        pytest.skip(f"drsnoop of libbpf-tools does not work here: {out}")
    kinds = {}
    for line in ours.out.splitlines()[1:]:
        kinds.setdefault(line.split()[-1], []).append(line)
    mine = [line for line in kinds["memcg"] if f" {process.pid} " in line]
    assert len(mine) >= 5 and set(kinds) <= {"memcg", "global"}
    assert f" {process.pid} " not in out
    assert max(map(len, ours.out.splitlines())) <= 80


def test_interval_and_count(file):
    """`drsnoop 1 3` ends after three seconds; its totals are those of its lines."""
    with memory_cgroup(LIMIT) as directory:
        process = reader("drs-totals", directory, file, rounds=1000)
        try:
            start = time.monotonic()
            result = run("drsnoop", "-j", "-p", str(process.pid), "1", "3")
            seconds = time.monotonic() - start
        finally:
            process.kill()
            process.wait()
    assert result.returncode == 0 and 3 <= seconds < 3 + 3 * SLOW
    records = [json.loads(line) for line in result.stdout.splitlines()]
    totals = [r for r in records if r["record"] == "total"]
    assert len(totals) == 3 and records[-1] is totals[-1]
    assert sum(r["seconds"] for r in totals) == pytest.approx(3, abs=0.2 * SLOW)
    events = [r for r in records if r["record"] == "reclaim"]
    assert len(events) >= 5
    for total, event in ("reclaims", None), ("lat_ns", "lat_ns"), ("pages", "pages"):
        assert sum(r[total] for r in totals) == sum(r[event] if event else 1 for r in events)


def test_hostile_comm(file):
    name = b'\x1b[31m\n"\\\xff'.decode("utf-8", "surrogateescape")
    with memory_cgroup(LIMIT) as directory:
        with (
            tracing("drsnoop") as text,
            tracing("drsnoop", "-j") as records,
            tracing("drsnoop", "--summary") as summary,
        ):
            assert reader(name, directory, file).wait() == 0
    for shown in text.out, summary.out:
        assert "\x1b" not in shown and r'\x1b[31m\x0a"\\\xff' in shown
    assert any(r["comm"] == '\x1b[31m\n"\\\\xff' for r in records.records)


@pytest.mark.guest
def test_a_full_ring_is_counted_and_said(file, tmp_path):
    code = (
        "from helpers import load; m = load('drsnoop'); from crisis.memory import reclaim_tracer; "
        "reclaim_tracer.RING = 4096; m.cli.run(m.main, m.get_parser)"
    )
    with memory_cgroup(LIMIT) as directory, captured(tmp_path, "memcg") as truth:
        child = subprocess.Popen(
            [sys.executable, "-c", code, "-v", "--kind", "memcg"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            env=dict(os.environ, PYTHONPATH=os.path.join(ROOT, "tests")),
        )
        while "attached to" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGSTOP)
        assert reader("drs-full", directory, file, rounds=6).wait() == 0
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60 * SLOW)
    lost = re.search(r"(\d+) reclaims not printed: the ring buffer was full", err)
    assert lost, err
    assert len(out.splitlines()) - 1 + int(lost.group(1)) == len(truth)


FILL = """
import mmap, os, sys, time
path, files, share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
info = dict((l.split()[0], int(l.split()[1])) for l in open("/proc/meminfo"))
for i in range(files):                          # page cache, clean, that direct reclaim can take
    with open(path, "rb") as f:
        while f.read(1 << 20): pass
want = int((info["MemFree:"] + info["Cached:"]) * 1024 * share) // os.cpu_count()
pids = []
for i in range(os.cpu_count()):
    pid = os.fork()
    if not pid:
        m = mmap.mmap(-1, want)
        for at in range(0, want, 4096): m[at] = 1
        os._exit(0)
    pids.append(pid)
sys.exit(max(os.waitpid(p, 0)[1] for p in pids))
"""


@contextlib.contextmanager
def sysctl(**values):
    old = {}
    try:
        for name, value in values.items():
            path = "/proc/sys/vm/" + name
            with open(path) as f:
                old[path] = f.read()
            with open(path, "w") as f:
                f.write(str(value))
        yield
    finally:
        for path, value in old.items():
            with open(path, "w") as f:
                f.write(value)


@contextlib.contextmanager
def idle_kswapd():
    """Let kswapd run only on a CPU that has nothing else to do, so that tasks must reclaim
    themselves.
    """
    threads = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and comm_of(name).startswith("kswapd")
    ]
    assert threads
    try:
        for pid in threads:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        yield
    finally:
        for pid in threads:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def comm_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextlib.contextmanager
def beside_libbpf_tools(path):
    """libbpf-tools' drsnoop, where it is installed and runs; its output goes to a file.

    It has attached its programs before the block, and prints all of the block.
    """
    if not os.access(PEER, os.X_OK):
        yield
        return
    command = ["stdbuf", "-oL", PEER]  # which would buffer what it prints into a file
    with open(path, "w") as f, subprocess.Popen(command, stdout=f) as theirs:
        try:
            until(lambda: theirs.poll() is not None or "LAT(ms)" in open(path).read())
            yield
            time.sleep(1 * SLOW)
        finally:
            theirs.send_signal(signal.SIGINT)


def filled(tmp_path, **values):
    """Fill the guest's memory; (records, the kernel's trace, growth of /proc/vmstat)."""
    if not GUEST:
        pytest.skip("it uses up the memory: only in the guest of tests/vm")
    path = str(tmp_path / "big")
    with open(path, "wb") as f:
        for _ in range(400):
            f.write(b"x" * (1 << 20))
        os.fsync(f.fileno())

    def vmstat():
        return {name: int(value) for name, value in map(str.split, open("/proc/vmstat"))}

    try:
        # Small watermarks, near to each other, and fillers on all CPUs leave kswapd no time.
        with sysctl(min_free_kbytes=2048, watermark_scale_factor=1, **values), idle_kswapd():
            with (
                captured(tmp_path, "direct", "memcg", "node") as truth,
                beside_libbpf_tools(tmp_path / "theirs"),
                tracing("drsnoop", "-j") as child,
            ):
                before = vmstat()
                for share in ".85", ".9", ".92":
                    assert (
                        subprocess.run([sys.executable, "-c", FILL, path, "1", share]).returncode
                        == 0
                    )
                    after = vmstat()
                    if (
                        sum(
                            after[name] - before[name]
                            for name in after
                            if name.startswith("allocstall_")
                        )
                        >= 10
                    ):
                        break
    finally:
        os.unlink(path)
    return (
        child.records,
        truth,
        {name: after[name] - before[name] for name in after if name in before},
    )


@pytest.mark.guest
def test_global_reclaim_is_exactly_what_the_kernel_counts(tmp_path):
    records, truth, grown = filled(tmp_path)
    assert len([r for r in records if r["kind"] == "global"]) >= 10
    same_as_trace(records, truth)
    stalls = sum(value for name, value in grown.items() if name.startswith("allocstall_"))
    count = len([r for r in records if r["kind"] == "global"])
    scanned = sum(r["scanned_pages"] or 0 for r in records if r["kind"] != "memcg")
    reclaimed = sum(r["pages"] for r in records)
    print(
        f"global reclaims: {count}, allocstall: {stalls}; scanned: {scanned}, pgscan_direct: "
        f"{grown['pgscan_direct']}; reclaimed: {reclaimed}, pgsteal_direct: "
        f"{grown['pgsteal_direct']}"
    )
    theirs = tmp_path / "theirs"
    if theirs.exists() and "LAT(ms)" in theirs.read_text():
        lines = theirs.read_text().splitlines()
        print(f"libbpf-tools: {len(lines) - 2} reclaims")
        pages = [int(line.split()[-1]) for line in lines[2:]]
        assert sorted(pages) == sorted(r["pages"] for r in records if r["kind"] == "global")
    # The kernel counts a stall once more when a reclaim starts over, having spared pages in vain.
    assert count <= stalls <= count * 1.1 + 3
    if None not in [r["scanned_pages"] for r in records]:
        assert scanned == grown["pgscan_direct"]
    # Slab pages are reclaimed too, but not stolen from a list.
    assert sum(r["pages"] for r in records if r["kind"] != "memcg") >= grown["pgsteal_direct"]
    # What brought them here has woken kswapd before.
    assert any("R" in r["kswapd"] for r in records if r["kind"] == "global")


def test_node_reclaim(tmp_path):
    if not os.path.exists("/proc/sys/vm/zone_reclaim_mode"):
        pytest.skip("this kernel has no NUMA")
    records, truth, grown = filled(tmp_path, zone_reclaim_mode=1, min_unmapped_ratio=0)
    if not [kind for kind, *_ in truth if kind == "node"]:
        assert not [r for r in records if r["kind"] == "node"]
        growth = {
            name: value
            for name, value in grown.items()
            if value and name.startswith(("zone_rec", "allocstall"))
        }
        pytest.skip(
            f"the kernel itself traced no node reclaim, of {len(sysfs.online_nodes())} nodes: "
            f"{growth}"
        )
    same_as_trace(records, truth)


def test_kernel_headers_serve_where_there_is_no_btf(file):
    from crisis import bpf
    from crisis.bpf import cache

    if not os.path.isdir(f"/lib/modules/{os.uname().release}/build"):
        pytest.skip(f"no headers of kernel {os.uname().release} are installed")
    source = SOURCES["format"]
    obj = cache.build(source, cache=False, headers="kernel")
    params = dict.fromkeys(source.params, 0)
    params.update(bpf.field_places(source), kinds=7, around=1, nodes=1, online=1)
    program = bpf.Program(
        obj, params, {"starts": {"max_entries": 4096}, "events": {"max_entries": 1 << 20}}
    )
    program.attach()
    ring = bpf.RingBuffer(program.maps["events"], program.layouts["event"])
    with memory_cgroup(LIMIT) as directory:
        process = reader("drs-headers", directory, file)
        assert process.wait() == 0
    found = [r for r in map(Reclaim, ring.records()) if r.tid == process.pid]
    program.close()
    assert len(found) >= 5 and {(r.kind, r.comm) for r in found} == {("memcg", "drs-headers")}
    assert all(r.free > 0 and re.fullmatch("[RSD?]", r.kswapd) for r in found)
    assert cache.build(SOURCES["typed"], cache=False, headers="kernel").unusable.startswith(
        "this kernel has no BTF in "
    )


def test_without_root():
    result = as_nobody("drsnoop", "-d", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_exits(file):
    begin = time.monotonic()
    assert run("drsnoop", "-d", ".5").returncode == 0
    assert run("drsnoop", "--summary", ".2", "2").stdout.count("no direct reclaim") <= 2
    assert time.monotonic() - begin < 20 * SLOW
    head = fails_to_write("drsnoop", "-d .1", "-d 60")
    assert head.startswith(b"COMM")
