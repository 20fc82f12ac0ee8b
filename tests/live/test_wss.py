# SPDX-License-Identifier: GPL-2.0-or-later
"""wss on the running kernel, against targets that touch a known set.  Needs root for some."""

import contextlib
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from crisis.memory.process import HUGE, Process, flush_is_free
from helpers import (
    SLOW,
    as_nobody,
    become_nobody,
    needs_quiet_machine,
    readable_root,
    remove_cgroup,
    run,
    tool,
)

PAGE = mmap.PAGESIZE
MB = 1 << 20
HUGE_PAGE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

# A private mapping of argv[1] MB, all of it present; argv[2] MB of it are touched again and again,
# one byte in every argv[3] bytes.  Its bounds go to stdout.
TOUCH = r"""
import ctypes, mmap, sys
total, hot, step, huge = (int(word) for word in sys.argv[1:5])
area = mmap.mmap(-1, (total << 20) + (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
area.madvise(mmap.MADV_DONTDUMP)        # keeps the kernel from merging it with a neighbour
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
skip = -start % (2 << 20)
view = memoryview(area)[skip:skip + (total << 20)]
ctypes.memset(start + skip, 1, total << 20)
hot = view[:hot << 20]
print(start, start + len(area), flush=True)
while True:
    bytes(hot[::step])
"""


@contextlib.contextmanager
def target(code, *args, python="/usr/bin/python3", prefix=(), **kwargs):
    """A child whose first line of output has come; (Popen, that line)."""
    child = subprocess.Popen(
        [
            *prefix,
            python if os.path.exists(python) else sys.executable,
            "-IS",
            "-c",
            code,
            *map(str, args),
        ],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        **kwargs,
    )
    try:
        yield child, child.stdout.readline()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def records(*args, code=0):
    result = run("wss", "-j", *map(str, args))
    assert result.returncode == code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def within(found, line):
    """Bytes referenced in the mappings inside of the bounds that the target printed."""
    start, end = map(int, line.split())
    return sum(
        r["ref_bytes"]
        for r in found
        if r["record"] == "mapping" and start <= int(r["start"], 16) and int(r["end"], 16) <= end
    )


@pytest.mark.guest
@needs_quiet_machine
def test_truth_of_small_pages():
    with target(TOUCH, 288, 256, PAGE, 0) as (child, line):
        time.sleep(0.1)
        whole, *maps = records("--flush-tlb", "-m", "--top", 1000, child.pid, SLOW)
        assert within(maps, line) == 256 * MB
        assert whole["ref_bytes"] == pytest.approx(256 * MB, rel=0.03)
        # The interpreter's own heap may be in huge pages.
        huge = sum(Process(child.pid).rollup()[0][name] for name in HUGE)
        assert whole["tlb_flushed"] and whole["huge_bytes"] == huge <= 8 * MB
        (again,) = records("--flush-tlb", child.pid, SLOW)
        assert again["ref_bytes"] == pytest.approx(256 * MB, rel=0.03)
        assert again["rss_bytes"] >= again["pss_bytes"] > 288 * MB


@pytest.mark.parametrize("pages", [16, 256, 1536])
@needs_quiet_machine
def test_a_small_set_in_a_short_interval_is_exact_once_tlbs_are_flushed(pages):
    # 256 pages stay in a TLB: without the flush, most attempts miss half of them or all.  On a busy
    # machine the target may not run for long enough now and then.
    code = TOUCH.replace("hot << 20", f"hot * {PAGE}")
    with target(code, 64, pages, PAGE, 0) as (child, line):
        found = [
            within(records("--flush-tlb", "-m", "--top", 1000, child.pid, 0.1 * min(SLOW, 5)), line)
            for _ in range(8)
        ]
        assert max(found) == pages * PAGE and found.count(pages * PAGE) >= 6


@pytest.mark.guest
@needs_quiet_machine
def test_truth_of_huge_pages():
    if not os.path.exists(HUGE_PAGE):
        pytest.skip("no transparent huge pages on this kernel")
    size = int(open(HUGE_PAGE).read())
    with target(TOUCH, 192, 128, size, 1) as (child, line):
        result = run("wss", "--flush-tlb", str(child.pid), str(0.5 * min(SLOW, 4)))
        found = records("--flush-tlb", "-m", "--top", 1000, child.pid, 0.5 * min(SLOW, 4))
        if found[0]["huge_bytes"] < 192 * MB:
            pytest.skip(f"the kernel gave {found[0]['huge_bytes'] // MB} MB of huge pages, not 192")
        assert within(found, line) == 128 * MB  # 64 bytes were touched
        # the interpreter itself: 5 MB
        assert found[0]["ref_bytes"] == pytest.approx(128 * MB, rel=0.06)
        assert "192.00 MB are huge pages" in result.stderr


def test_rss_and_pss_agree_with_smaps():
    with target(TOUCH, 40, 1, PAGE, 0) as (child, _):
        text = open(f"/proc/{child.pid}/smaps").read()
        (found,) = records(child.pid, 0.1)
        statm = int(open(f"/proc/{child.pid}/statm").read().split()[1]) * PAGE
    for field in "Rss", "Pss":
        truth = 1024 * sum(map(int, re.findall(rf"^{field}: +(\d+) kB", text, re.M)))
        # PSS falls whenever another process maps the same libraries.
        assert found[field.lower() + "_bytes"] == pytest.approx(
            truth, rel=0.01, abs=2 * MB if field == "Pss" else 0
        )
    assert found["rss_bytes"] == pytest.approx(statm, rel=0.02)


def test_columns_are_the_classic_ones():
    with target("import time; print(1, flush=True); time.sleep(1000)") as (child, _):
        lines = run("wss", "-t", str(child.pid), ".1").stdout.splitlines()
        assert lines[0] == f"Watching PID {child.pid} page references during 0.1 seconds..."
        assert lines[1].split() == [
            "Slp(s)",
            "Dur(s)",
            "Est(s)",
            "RSS(MB)",
            "PSS(MB)",
            "Ref(MB)",
            "Err(s)",
            "Clear(ms)",
            "Read(ms)",
        ]
        plain = run("wss", str(child.pid), ".1")
        assert plain.stdout.splitlines()[1].startswith("Est(s)     RSS(MB)    PSS(MB)    Ref(MB)")
        assert all(len(line) <= 80 for line in (plain.stdout + plain.stderr).splitlines())
        # Nothing else, but for what weakens the result.
        assert not re.sub(
            r"wss: (the TLBs were not|[\d.]+ MB|reclaim scanned).*\n", "", plain.stderr
        )
        (found,) = records(child.pid, 0.1)
        assert (
            found["slp_ns"] <= found["est_ns"] <= found["dur_ns"]
            and found["clear_ns"] > 0 < found["read_ns"]
        )
        assert found["err_ns"] == pytest.approx((found["clear_ns"] + found["read_ns"]) / 2, abs=2)
        stated = run("wss", "-v", "-C", str(child.pid), ".1", "3").stderr
        assert stated.count("referenced bits that reclaim uses\n") == 1
        assert (
            len(re.findall(r"mmap lock was held for [\d.]+ ms to clear, [\d.]+ ms to read", stated))
            == 1
        )


CLASSIC = [  # arguments of wss.pl's README in shorter times, its first line, the rows at least
    ("PID 0.01", "during 0.01 seconds", 1),
    ("PID 0.3", "during 0.3 seconds", 1),
    ("-t PID 0.1", "during 0.1 seconds", 1),
    ("-C -d 0.5 PID 0.1", "grow, output every 0.1 seconds", 5),
    ("-s 0.1 -d 0.5 PID 0.01", "for 0.01 seconds, repeating after 0.1 second pauses", 3),
    ("-s 0 -d 0.5 PID 0.1", "for every 0.1 seconds", 3),
    ("-P 5 PID 0.01", "grow, profile beginning with 0.01 seconds, 5 steps", 5),
]


@pytest.mark.parametrize("arguments, first, rows", CLASSIC, ids=[call[0] for call in CLASSIC])
def test_scripts_for_the_classic(arguments, first, rows):
    """WSS_PL, if it is set, names wss.pl to compare with."""
    with target("import time; print(1, flush=True); time.sleep(1000)") as (child, _):
        words = arguments.replace("PID", str(child.pid)).split()
        result = run("wss", *words)
        peer = os.environ.get("WSS_PL")
        if peer:
            theirs = subprocess.run(["perl", peer, *words], stdout=subprocess.PIPE, text=True)
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[0] == f"Watching PID {child.pid} page references {first}..."
    before = 2 if "-t" in words else 0
    assert lines[1].split()[before : before + 4] == ["Est(s)", "RSS(MB)", "PSS(MB)", "Ref(MB)"]
    data = [list(map(float, line.split()[before : before + 4])) for line in lines[2:]]
    assert len(data) >= rows and all(rss >= pss > 0 for _, rss, pss, _ in data)
    if peer:
        titles = theirs.stdout.splitlines()[:2]
        assert titles[0] == lines[0] and lines[1].startswith(titles[1])


GROW = r"""
import mmap, time
area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 64 << 20, 4096): area[at] = 1
print(flush=True)
while True:
    for part in range(0, 64 << 20, 1 << 20):
        for at in range(part, part + (1 << 20), 4096): area[at]
        time.sleep(.02)
"""


def test_growth_is_monotonic_and_reaches_the_set():
    with target(GROW) as (child, _):
        found = records("-C", "--plot", "-d", 3 * min(SLOW, 5), child.pid, 0.25 * min(SLOW, 5))
        *found, last = found
        assert (
            {r["record"] for r in found} == {"process"}
            and last["record"] == "knee"
            and 2 <= len(found) <= 12
        )
        growth = [r["ref_bytes"] for r in found]
        assert (
            growth == sorted(growth) and growth[0] < growth[-1] and 64 * MB <= growth[-1] < 76 * MB
        )


def test_profile_finds_the_knee_of_a_cycle():
    with target(GROW) as (child, _):
        text = run("wss", "-P", "8", "--plot", str(child.pid), ".05")
        assert text.returncode == 0 and len(re.findall(r"^\d+\.\d{3} ", text.stdout, re.M)) == 8
        size, when = map(
            float, re.search(r"^knee: ([\d.]+) MB in ([\d.]+) s", text.stdout, re.M).groups()
        )
        assert 40 < size < 76 and 0.4 < when < 6.5  # one turn takes 1.3 s and more
        assert re.search(r"\|.*K", text.stdout)


SHARED = r"""
import mmap, os
area = mmap.mmap(-1, 64 << 20)
for at in range(0, 64 << 20, 4096): area[at] = 1
os.fork()
view = memoryview(area)
bytes(view[::4096])
print(flush=True)
while True: bytes(view[::4096])
"""


@pytest.mark.guest
def test_shared_pages_count_once_in_the_total_of_a_tree():
    with target(SHARED) as (child, _):
        assert child.stdout.readline() == "\n"
        try:
            *rows, total = records("--tree", "--flush-tlb", child.pid, SLOW)
            assert [r["record"] for r in rows] == ["process"] * 2 and total["record"] == "total"
            assert all(r["ref_bytes"] >= 64 * MB for r in rows)
            assert (
                64 * MB
                <= total["ref_min_bytes"]
                <= total["ref_bytes"]
                <= total["ref_max_bytes"]
                < 74 * MB
            )
            assert total["ref_unweighted_bytes"] >= 128 * MB
            assert total["rss_bytes"] == sum(r["rss_bytes"] for r in rows)
            assert total["pss_bytes"] == sum(r["pss_bytes"] for r in rows)
            pids = ",".join(str(r["pid"]) for r in rows)
            both = records(pids, 0.2 * SLOW)
            assert [r.get("pid") for r in both] == [int(p) for p in pids.split(",")] + [None]
        finally:
            for row in rows:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], signal.SIGKILL)


# Processes forked around an area of argv[1]: MB, processes, file ("": shared memory, None:
# private), MB that each writes (a range), MB that each touches.
TOGETHER = r"""
import json, mmap, os, sys
size, number, path, write, touch = json.loads(sys.argv[1])
if path is None:
    area = mmap.mmap(-1, size << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
else:
    area = mmap.mmap(os.open(path, os.O_RDWR) if path else -1, size << 20)
area.madvise(mmap.MADV_NOHUGEPAGE)
view = memoryview(area)
for at in range(0, size << 20, 4096): view[at] = 1
for me in range(number - 1, -1, -1):
    if me == 0 or not os.fork(): break
for at in range(write[me][0] << 20, write[me][1] << 20, 4096): view[at] = 2
bytes(view[::4096])
part = view[touch[me][0] << 20:touch[me][1] << 20]
os.write(1, b"\n")
while True: bytes(part[::4096])
"""


@contextlib.contextmanager
def together(size, number, path, write, touch):
    """The PID of the first of such processes."""
    spec = json.dumps([size, number, path, write, touch])
    with target(TOGETHER, spec, start_new_session=True) as (child, _):
        try:
            for _ in range(number - 1):
                assert child.stdout.readline() == "\n"
            yield child.pid
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.guest
@pytest.mark.parametrize(
    "kind, size, number, write, touch, truth, exact",
    [
        ("private", 64, 2, [[0, 0]] * 2, [[0, 64]] * 2, 64, True),
        # the same pages, 40 others copied
        ("private", 64, 2, [[0, 0], [0, 40]], [[40, 64]] * 2, 24, False),
        ("private", 64, 2, [[0, 0], [0, 40]], [[0, 40]] * 2, 80, False),  # each its own copy
        ("private", 64, 2, [[0, 0], [0, 64]], [[0, 50]] * 2, 100, True),  # nothing shared any more
        ("shared", 60, 5, [[0, 0]] * 5, [[at, at + 12] for at in range(0, 60, 12)], 60, False),
        ("shared", 60, 5, [[0, 0]] * 5, [[0, 20]] * 5, 20, False),
        ("file", 60, 3, [[0, 0]] * 3, [[at, at + 20] for at in range(0, 60, 20)], 60, False),
        ("file", 60, 3, [[0, 0]] * 3, [[0, 21]] * 3, 21, False),
        ("file", 60, 4, [[0, 0]] * 4, [[0, 60]] * 4, 60, True),
    ],
)
def test_the_truth_of_processes_that_share_is_within_the_range(
    tmp_path, kind, size, number, write, touch, truth, exact
):
    path = {"private": None, "shared": ""}.get(kind, str(tmp_path / "file"))
    if path:
        with open(path, "wb") as f:
            f.write(bytes(size * MB))
    own = 3 * number + 2  # MB that the interpreters touch, at most
    with together(size, number, path, write, touch) as first:
        total = records("--tree", "--flush-tlb", first, max(SLOW, number * 0.7))[-1]
        least, middle, most = (total[f"ref_{name}bytes"] / MB for name in ("min_", "", "max_"))
        assert least <= truth + own and most >= truth and least <= middle <= most, (
            least,
            middle,
            most,
        )
        if exact:
            assert truth <= least + 1 and most <= truth + own, (least, most)
        else:
            assert (
                middle / (truth + own) <= (most / least) ** 0.5
                and truth / middle <= (most / least) ** 0.5
            )
        text = run("wss", "--tree", "--flush-tlb", str(first), ".1").stdout.splitlines()
    assert (
        re.search(r" - total( \(\d+\.\d\d-\d+\.\d\d\))?$", text[-1]) and max(map(len, text)) <= 80
    )


@pytest.mark.guest
def test_without_frame_numbers_the_range_is_wider_and_holds_the_truth():
    if os.getuid():
        pytest.skip("needs root, to become nobody")
    with target(SHARED, preexec_fn=become_nobody) as (child, _):
        assert child.stdout.readline() == "\n"
        wss = os.path.join(readable_root(), "bin/wss")
        result = subprocess.run(
            [wss, "-j", "--tree", "--flush-tlb", str(child.pid), str(SLOW)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=become_nobody,
            cwd="/",
        )
        *rows, total = [json.loads(line) for line in result.stdout.splitlines()]
        for row in rows[1:]:
            os.kill(row["pid"], signal.SIGKILL)
    assert 64 * MB <= total["ref_min_bytes"] <= 72 * MB and total["ref_max_bytes"] >= 128 * MB
    assert (
        total["ref_max_bytes"] == total["ref_unweighted_bytes"] or total["ref_max_bytes"] < 144 * MB
    )


def about_to_clear(wss):
    """Return when wss -v is about to clear."""
    while "referenced bits" not in wss.stderr.readline():
        assert wss.poll() is None


def test_a_child_born_during_the_interval_counts_from_its_birth():
    code = (
        "import os, sys, time\nprint(flush=True)\nsys.stdin.readline()\n"
        "if not os.fork():\n    part = b'x' * (48 << 20)\n    print(flush=True)\ntime.sleep(1000)"
    )
    with target(code, stdin=subprocess.PIPE) as (child, _):
        wss = subprocess.Popen(
            [tool("wss"), "-j", "-v", "--tree", str(child.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        about_to_clear(wss)
        time.sleep(0.3 * SLOW)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "\n"
        wss.send_signal(signal.SIGINT)
        found = [json.loads(line) for line in wss.communicate()[0].splitlines()]
        try:
            (newborn,) = [r for r in found if r.get("pid") not in (child.pid, None)]
            assert newborn["ref_bytes"] >= 48 * MB
            assert newborn["est_ns"] < found[0]["est_ns"] and newborn["lost"]["joined"] == 0
        finally:
            os.kill(newborn["pid"], signal.SIGKILL)


def cgroups():
    from crisis.kernel import cgroup

    for point, _, controllers in sorted(cgroup.mounts(), key=lambda m: m[2] is not None):
        if controllers is None or "memory" in controllers:
            yield point


@pytest.mark.guest
def test_cgroup():
    points = list(cgroups())
    if not points:
        pytest.skip("no cgroup file system is mounted")
    for point in points:
        directory = f"{point}/crisis-wss-{os.getpid()}"
        try:
            os.makedirs(directory + "/below")
        except OSError as exc:
            pytest.skip(f"cannot make a cgroup: {exc}")
        try:
            with target(TOUCH, 32, 16, PAGE, 0) as (child, _):
                result = run("wss", "-c", directory, ".1")
                assert result.returncode == 1 and "no process in this cgroup" in result.stderr
                with open(directory + "/below/cgroup.procs", "w") as f:
                    f.write(str(child.pid))
                only, total = records("--flush-tlb", "-c", directory, 0.2 * SLOW)
                assert (
                    only["pid"] == child.pid
                    and total["record"] == "total"
                    and only["ref_bytes"] >= 16 * MB
                )
                assert records("-c", f"/crisis-wss-{os.getpid()}/below", 0.1)[0]["pid"] == child.pid
        finally:
            deadline = time.monotonic() + 10
            for part in directory + "/below", directory:
                while time.monotonic() < deadline:
                    with contextlib.suppress(OSError):
                        os.rmdir(part)
                        break
                    time.sleep(0.05)


@pytest.mark.guest
def test_idle_pages_of_a_cgroup_include_the_page_cache(tmp_path):
    if not os.path.exists("/sys/kernel/mm/page_idle"):
        pytest.skip("this kernel was built without CONFIG_IDLE_PAGE_TRACKING")
    point = (
        next(
            (p for p in cgroups() if "memory" in open(p + "/cgroup.controllers").read().split()),
            None,
        )
        if all(os.path.exists(p + "/cgroup.controllers") for p in cgroups())
        else None
    )
    if point is None:
        pytest.skip("cgroup v2 has no memory controller here")
    with open(point + "/cgroup.subtree_control", "w") as f:
        f.write("+memory")
    directory = f"{point}/crisis-idle-{os.getpid()}"
    os.mkdir(directory)
    try:
        code = (
            "import os, sys, time\nsys.stdin.readline()\nwith open(%r, 'wb') as f: "
            "f.write(bytes(48 << 20))\n"
            "fd = os.open(%r, os.O_RDONLY)\nos.fsync(fd)\nprint(flush=True)\n"
            "while True: os.pread(fd, 16 << 20, 0); time.sleep(.01)"
            % ((str(tmp_path / "file"),) * 2)
        )
        child = subprocess.Popen(
            ["/usr/bin/python3", "-IS", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        try:
            with open(directory + "/cgroup.procs", "w") as f:
                f.write(str(child.pid))
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "\n"
            found = records("--source", "idle", "-c", directory, SLOW)
        finally:
            child.kill()
            child.wait()
        (pages,) = [r for r in found if r["record"] == "cgroup"]
        assert pages["pss_bytes"] is None and 48 * MB <= pages["rss_bytes"] < 100 * MB
        assert 16 * MB <= pages["ref_bytes"] < 40 * MB
        (process,) = [r for r in found if r["record"] == "process"]
        assert process["ref_bytes"] < 36 * MB
    finally:
        remove_cgroup(directory)


@pytest.mark.guest
def test_one_s_own_process_needs_no_privilege_and_another_s_does():
    if os.getuid():
        pytest.skip("needs root, to become nobody")
    code = "import time; print(1, flush=True); time.sleep(1000)"
    with target(code) as (of_root, _), target(code, preexec_fn=become_nobody) as (own, _):
        assert as_nobody("wss", str(own.pid), ".05").returncode == 0
        assert as_nobody("wss", "-m", str(own.pid), ".05").returncode == 0
        for extra in [], ["-m"], ["--tree"]:
            refused = as_nobody("wss", *extra, str(of_root.pid), ".05")
            assert refused.returncode == 77 and refused.stdout == ""
            assert refused.stderr.count("\n") == 1
            assert (
                "the process belongs to root" in refused.stderr
                and "CAP_SYS_PTRACE" in refused.stderr
            )


def test_targets_that_are_not_there():
    gone = run("wss", "999999999", ".1")
    assert (
        gone.returncode == 1 and gone.stderr.count("\n") == 1 and "no such process" in gone.stderr
    )
    if (
        open("/proc/2/stat").read().split()[1] == "(kthreadd)"
        if os.path.exists("/proc/2/stat")
        else False
    ):
        kernel = run("wss", "2", ".1")
        assert (
            kernel.returncode == 1
            and "kernel thread" in kernel.stderr
            and kernel.stderr.count("\n") == 1
        )
    with target(
        "import os, time\nprint(os.posix_spawn('/bin/true', ['true'], {}), "
        "flush=True)\ntime.sleep(1000)"
    ) as (_, line):
        deadline = time.monotonic() + 20 * SLOW
        while (
            open(f"/proc/{line.strip()}/stat").read().split()[2] != "Z"
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        zombie = run("wss", line.strip(), ".1")
        assert zombie.returncode == 1 and "is a zombie" in zombie.stderr


@pytest.mark.guest
def test_a_target_that_ends_under_way():
    code = "import time; print(1, flush=True); time.sleep(1000)"
    for arguments, status, shown in ([["600"], 1, 0], [["-C", "-t", ".2"], 0, 1]):
        with target(code) as (child, _):
            wss = subprocess.Popen(
                [tool("wss"), *arguments[:-1], str(child.pid), arguments[-1]],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                universal_newlines=True,
            )
            if shown:
                assert wss.stdout.readline() and wss.stdout.readline() and wss.stdout.readline()
            else:
                assert f"Watching PID {child.pid}" in wss.stdout.readline()
            child.kill()
            child.wait()
            text, errors = wss.communicate(timeout=30 * SLOW)  # long before the 600 s
            assert wss.returncode == status and f"{child.pid}" in errors.splitlines()[-1]
    with target(code) as (one, _), target(code) as (two, _):
        wss = subprocess.Popen(
            [tool("wss"), "-j", "-v", f"{one.pid},{two.pid}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        about_to_clear(wss)
        one.kill()
        one.wait()
        time.sleep(0.2)
        wss.send_signal(signal.SIGINT)
        text, errors = wss.communicate(timeout=30 * SLOW)
        found = [json.loads(line) for line in text.splitlines()]
        assert wss.returncode == 0 and [r.get("pid") for r in found] == [two.pid, None]
        assert found[0]["lost"]["ended"] == 1 and f"process {one.pid} has ended" in errors


@pytest.mark.guest
def test_hostile_names(tmp_path):
    name = b'\x1b[31m\n"\\\xff'
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as f:
        f.write(bytes(MB))
    code = (
        f"import ctypes, mmap, sys, os\nctypes.CDLL(None).prctl(15, {name!r})\n"
        f"area = mmap.mmap(os.open({path!r}, os.O_RDWR), 0)\nprint(flush=True)\n"
        "while True: bytes(memoryview(area)[::4096])"
    )
    with target(code) as (child, _), target(code) as (two, _):
        text = run("wss", "-m", f"{child.pid},{two.pid}", str(0.2 * SLOW)).stdout
        # The kernel itself writes a newline in a file's name as \012.
        assert "\x1b" not in text and r'\x1b[31m\x0a"\\\xff' in text and r"\x1b[31m\\012" in text
        found = records("-m", "--flush-tlb", child.pid, 0.2 * SLOW)
        assert any(
            (r.get("mapping") or "").endswith('\x1b[31m\\012"\\\\xff') and r["ref_bytes"] == MB
            for r in found
        )
        assert found[0]["comm"] == '\x1b[31m\n"\\\\xff'


@pytest.mark.parametrize(
    "arguments",
    [
        [".05"],
        [".05", "3"],
        ["-s", "0", "-d", ".3", "--", "PID", ".1"],
        ["-s", ".05", "PID", ".05", "3"],
        ["-C", "PID", ".05", "4"],
        ["-T", "-t", "-m", "--top", "3", "PID", ".05"],
    ],
)
def test_every_mode_prints(arguments):
    with target(TOUCH, 8, 4, PAGE, 0) as (child, _):
        words = [str(child.pid) if word == "PID" else word for word in arguments]
        if str(child.pid) not in words:
            words.insert(0, str(child.pid))
        result, found = run("wss", *words), records(*words)
    assert result.returncode == 0
    processes = [r for r in found if r["record"] == "process"]
    rows = re.findall(
        r"^(?:[\d:]{8} )?[\d. ]*\d+\.\d{3} +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d ", result.stdout, re.M
    )
    # -d counts time, not reports
    assert rows and processes and (len(rows) == len(processes) or "-d" in arguments)
    for record in processes:
        assert {
            "time",
            "record",
            "pid",
            "comm",
            "est_ns",
            "err_ns",
            "rss_bytes",
            "pss_bytes",
            "ref_bytes",
            "huge_bytes",
            "hugetlb_bytes",
            "slp_ns",
            "dur_ns",
            "clear_ns",
            "read_ns",
            "source",
            "tlb_flushed",
            "lost",
        } == set(record)
        assert set(record["lost"]) == {"ended", "denied", "joined", "reclaim_scanned_pages"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_print_what_was_collected(number):
    with target(TOUCH, 8, 4, PAGE, 0) as (child, _):
        wss = subprocess.Popen(
            [tool("wss"), str(child.pid), "600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        assert "Watching PID" in wss.stdout.readline()
        time.sleep(0.3 * SLOW)
        wss.send_signal(number)
        text, _ = wss.communicate(timeout=20 * SLOW)
    assert wss.returncode == 0 and len(text.splitlines()) == 2


def test_exits():
    with target(TOUCH, 8, 4, PAGE, 0) as (child, _):
        shell = f"{tool('wss')} -C {child.pid} %s; echo status ${{PIPESTATUS[0]}}"
        head = subprocess.run(
            ["bash", "-c", shell % ".05 | head -2 2>&1"], stdout=subprocess.PIPE, timeout=30 * SLOW
        )
        assert head.stdout.split()[-1] in (b"0", b"141")
        for where in "/dev/full", "&-":
            full = subprocess.run(
                ["bash", "-c", shell % (".05 1 2>&1 >" + where)],
                stdout=subprocess.PIPE,
                timeout=30 * SLOW,
            )
            assert b"write error" in full.stdout and full.stdout.endswith(b"status 1\n")


@pytest.mark.guest
def test_the_tlb_flush_is_free_just_where_there_are_no_soft_dirty_bits():
    config = None
    for path in "/proc/config.gz", "/boot/config-" + os.uname().release:
        if os.path.exists(path):
            import gzip

            config = gzip.open(path).read() if path.endswith("gz") else open(path, "rb").read()
    if config is None:
        flags = re.findall("^VmFlags:(.*)$", open("/proc/self/smaps").read(), re.M)
        soft_dirty = any(" sd" in line for line in flags)  # a young mapping has it
    else:
        soft_dirty = b"CONFIG_MEM_SOFT_DIRTY=y" in config
    assert flush_is_free() == (not soft_dirty)


@pytest.mark.guest
def test_damon_against_a_known_set():
    with target(TOUCH, 96, 48, PAGE, 0) as (child, _):
        result = run("wss", "-j", "--source", "damon", str(child.pid), str(1 * min(SLOW, 3)))
        if result.returncode in (69, 77):
            pytest.skip(result.stderr.strip())
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        print(found)
        assert (
            found["source"] == "damon"
            and found["err_ns"] is None
            and 0 < found["ref_error_bytes"] < 3 * MB
        )
        assert found["ref_bytes"] == pytest.approx(
            48 * MB, rel=0.03, abs=4 * found["ref_error_bytes"]
        )
        assert open("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds").read().strip() == "0"
    # What stays in a TLB is not seen; taking these pages away flushes it.
    small = (
        "import mmap, time\nprint(flush=True)\nwhile True:\n area = mmap.mmap(-1, 1 << 19)\n"
        " for at in range(0, 1 << 19, 4096): area[at] = 1\n area.close()\n time.sleep(.001)"
    )
    with target(small) as (child, _):
        twice = [
            json.loads(line)
            for line in run(
                "wss", "-j", "--source", "damon", "-s", "0", str(child.pid), ".3", "2"
            ).stdout.splitlines()
        ]
        assert len(twice) == 2
        for exact in twice:
            assert exact["ref_error_bytes"] == 0 and 0 < exact["ref_bytes"] <= exact["rss_bytes"]
        wss = subprocess.Popen(
            [tool("wss"), "--source", "damon", str(child.pid), "600"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        assert "Watching PID" in wss.stdout.readline()
        deadline = time.monotonic() + 20 * SLOW
        while "on" not in _damon_state() and time.monotonic() < deadline:
            time.sleep(0.05)
        busy = run("wss", "--source", "damon", str(child.pid), ".1")
        assert busy.returncode == 1 and "somebody has set it up" in busy.stderr
        wss.send_signal(signal.SIGINT)
        wss.communicate(timeout=60 * SLOW)
        assert wss.returncode == 0
        assert open("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds").read().strip() == "0"


def _damon_state():
    try:
        return open("/sys/kernel/mm/damon/admin/kdamonds/0/state").read()
    except OSError:
        return ""


@pytest.mark.guest
def test_idle_pages_against_a_known_set():
    with target(TOUCH, 96, 48, PAGE, 0) as (child, line):
        result = run(
            "wss",
            "-j",
            "-m",
            "--top",
            "1000",
            "--flush-tlb",
            "--source",
            "idle",
            str(child.pid),
            str(min(SLOW, 3)),
        )
        if result.returncode in (69, 77):
            pytest.skip(result.stderr.strip())
        assert result.returncode == 0, result.stderr
        found = [json.loads(text) for text in result.stdout.splitlines()]
        assert found[0]["source"] == "idle"
        assert within(found, line) == pytest.approx(48 * MB, rel=0.03)
        assert found[0]["ref_bytes"] == pytest.approx(48 * MB, rel=0.2)
    if not os.path.exists(HUGE_PAGE):
        return
    with target(TOUCH, 96, 48, int(open(HUGE_PAGE).read()), 1) as (child, line):
        found = records(
            "-m", "--top", 1000, "--flush-tlb", "--source", "idle", child.pid, min(SLOW, 3)
        )
        if found[0]["huge_bytes"] == 96 * MB:
            assert within(found, line) == 48 * MB
