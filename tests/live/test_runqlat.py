# SPDX-License-Identifier: GPL-2.0-or-later
"""runqlat on the running kernel, against workloads whose truth is known.  Needs root."""

import datetime
import json
import os
import re
import signal
import subprocess
import time

import pytest

from helpers import (
    HOG,
    ROOT,
    SLEEPER,
    SLOW,
    as_nobody,
    attached,
    cpu_time,
    fails_to_write,
    load,
    needs_quiet_machine,
    peak_memory,
    remove_cgroup,
    run,
    run_delay,
    tool,
    tracing,
    until,
    usable,
    workload,
)

SOURCES = ("storage", "hash", "raw")


def records(*args):
    result = run("runqlat", "-j", *args)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def freeze(pid):
    os.kill(pid, signal.SIGSTOP)
    until(lambda: open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "T")


def measured_against_kernel(pid, *args, seconds=4):
    """The records of a process, and its delay by the kernel's account; it is stopped while either
    is not looking.
    """
    freeze(pid)
    child = attached("runqlat", "-j", "-p", str(pid), *args)
    before = run_delay(pid)
    os.kill(pid, signal.SIGCONT)
    time.sleep(seconds * min(SLOW, 2))
    freeze(pid)
    truth = run_delay(pid) - before
    child.send_signal(signal.SIGINT)
    text, _ = child.communicate()
    assert child.returncode == 0
    return [json.loads(line) for line in text.splitlines()], truth


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_truth_of_cpu_hogs(source):
    usable("runqlat", source, "0.01", "1")
    with workload(HOG, cpu=0), workload(HOG, cpu=0) as hog, workload(HOG, cpu=0):
        until(lambda: cpu_time(hog.pid) > 1e8)
        (record,), truth = measured_against_kernel(hog.pid, "--source", source)
    assert record["count"] > 50 and truth > 1e9
    assert record["total_ns"] == pytest.approx(truth, rel=0.01)
    assert (
        record["max_ns"] <= record["total_ns"]
        and sum(b["count"] for b in record["buckets"]) == record["count"]
    )


@pytest.mark.parametrize("source", SOURCES)
@needs_quiet_machine
def test_truth_of_a_sleeper_under_load(source):
    usable("runqlat", source, "0.01", "1")
    with workload(HOG, cpu=0), workload(HOG, cpu=0), workload(SLEEPER, cpu=0) as sleeper:
        until(lambda: cpu_time(sleeper.pid) > 1e8)
        (record,), truth = measured_against_kernel(sleeper.pid, "--source", source)
    assert record["count"] > 20 and truth > 3e8
    assert record["total_ns"] == pytest.approx(truth, rel=0.01)


@needs_quiet_machine
def test_total_agrees_with_histogram_and_thread_table():
    with workload(HOG, cpu=0) as one, workload(HOG, cpu=0) as two:
        until(lambda: cpu_time(one.pid) > 1e8 and cpu_time(two.pid) > 1e8)
        found = records("-L", "--top", "50", "--steps", "16", "2", "1")
    by_tid = {r["tid"]: r for r in found if r["record"] == "histogram"}
    for thread in (r for r in found if r["record"] == "thread"):
        same = by_tid[thread["tid"]]
        assert (same["count"], same["total_ns"], same["max_ns"]) == (
            thread["count"],
            thread["total_ns"],
            thread["max_ns"],
        )
    top = [r for r in found if r["record"] == "thread"]
    assert top == sorted(top, key=lambda r: -r["total_ns"])
    hogs = [r for r in top if r["tid"] in (one.pid, two.pid)]
    assert len(hogs) == 2
    for row in hogs:
        estimate = sum(
            b["count"] * (b["lo_us"] + b["hi_us"]) / 2 for b in by_tid[row["tid"]]["buckets"]
        )
        assert estimate == pytest.approx(row["total_ns"] / 1e3, rel=0.05)


@needs_quiet_machine
def test_intervals_lose_nothing():
    with workload(HOG, cpu=0), workload(HOG, cpu=0) as hog:
        until(lambda: cpu_time(hog.pid) > 1e8)
        found, truth = measured_against_kernel(hog.pid, ".1")
    assert len(found) > 10
    assert sum(r["total_ns"] for r in found) == pytest.approx(truth, rel=0.01)
    assert sum(r["lost"]["unseen"] for r in found) <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-m"],
        ["-P"],
        ["-L"],
        ["--pidnss"],
        ["--cpu"],
        ["--by", "comm"],
        ["--by", "cgroup"],
        ["--top", "3"],
        ["--steps", "8"],
        ["-T"],
    ],
)
def test_every_mode_prints(arguments):
    with workload(SLEEPER):
        text, found = run("runqlat", *arguments, ".3", "2"), records(*arguments, ".3", "1")
    assert text.returncode == 0
    assert re.search(r"^ {5}[mu]secs {15}: count {5}distribution$", text.stdout, re.M)
    assert re.search(r"^ *\d+ -> \d+ +: \d+ +\|\*", text.stdout, re.M)
    unit = "ms" if "-m" in arguments else "us"
    for record in (r for r in found if r["record"] == "histogram"):
        assert {
            "time",
            "seconds",
            "count",
            "total_ns",
            "max_ns",
            "avg_" + unit,
            "p50_" + unit,
            "p90_" + unit,
            "p99_" + unit,
            "p999_" + unit,
            "steps",
            "buckets",
            "lost",
        } <= set(record)
        assert (
            record["p50_" + unit]
            <= record["p999_" + unit]
            <= record["max_ns"] / (1e6 if unit == "ms" else 1e3) + 1e-6
        )


@needs_quiet_machine
def test_top_has_the_time_run_and_the_time_of_the_longest_wait():
    with workload(HOG, cpu=0), workload(HOG, cpu=0) as hog:
        time.sleep(0.2)
        before, begin = cpu_time(hog.pid), time.time()
        (thread,) = (
            r
            for r in records("--top", "1", "-p", str(hog.pid), "3", "1")
            if r["record"] == "thread"
        )
        ran, end = cpu_time(hog.pid) - before, time.time()
    assert thread["run_ns"] / thread["seconds"] == pytest.approx(ran / (end - begin), rel=0.1)
    at = datetime.datetime.fromisoformat(thread["max_time"][:23]).timestamp()
    assert begin < at <= end


@needs_quiet_machine
def test_percentiles_are_the_same_in_every_unit():
    """A sleeper that mostly waits well below a millisecond: -m must not show 0."""
    with workload(SLEEPER) as child:
        tools = [
            subprocess.Popen(
                [tool("runqlat"), "-j", *unit, "-p", str(child.pid), "2", "1"],
                stdout=subprocess.PIPE,
            )
            for unit in ([], ["-m"])
        ]
        us, ms = (json.loads(run.communicate()[0]) for run in tools)
    for label in "p50", "p90":
        assert ms[label + "_ms"] * 1000 == pytest.approx(us[label + "_us"], rel=0.3)
    assert ms["p50_ms"] > 0


@pytest.mark.parametrize("key", ["-P", "-L"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_process_has_the_name_of_its_last_program(source, key):
    usable("runqlat", source, ".1", "1")
    with tracing("runqlat", "-j", key, "--source", source, settle=0.2) as tool:
        child = subprocess.Popen(
            ["bash", "-c", "sleep .1; exec top -b -d .05 -n 8"], stdout=subprocess.DEVNULL
        )
        child.wait()
    names = {record["pid" if key == "-P" else "tid"]: record["comm"] for record in tool.records}
    assert names[child.pid] == "top"


def test_nothing_is_measured_from_before_the_start():
    """While the tool attaches, tasks are woken and run: their next wait must not begin there."""
    code = "import time\nwhile True: time.sleep(.0002)"
    with workload(code) as one, workload(code) as two:
        until(lambda: cpu_time(one.pid) > 5e7 and cpu_time(two.pid) > 5e7)
        for _ in range(10 if SLOW == 1 else 3):
            for record in records("-P", ".3", "1"):
                if record["pid"] in (one.pid, two.pid):
                    assert record["total_ns"] < record["seconds"] * 1e9
                    assert record["max_ns"] < 100e6
    source = load("runqlat").SOURCES
    assert all(
        s.points[0][0].partition("/")[2] == "sched_switch:on_switch" for s in source.values()
    )


def cgroup_mount():
    from crisis.kernel import cgroup

    for point, _, controllers in sorted(cgroup.mounts(), key=lambda m: m[2] is not None):
        if controllers is None or "cpu" in controllers:
            yield point


@pytest.mark.guest
def test_cgroup_filter_sees_only_its_tasks():
    points = list(cgroup_mount())
    if not points:
        pytest.skip("no cgroup file system is mounted")
    for point in points:
        directory = f"{point}/crisis-test-{os.getpid()}"
        os.makedirs(directory + "/below")
        try:
            with workload(HOG, cpu=0) as inside, workload(HOG, cpu=0) as other:
                with open(directory + "/below/cgroup.procs", "w") as f:
                    f.write(str(inside.pid))
                found = records("-c", directory, "-P", "1", "1")
                assert [r["pid"] for r in found] == [inside.pid] and found[0]["count"] > 10
                assert other.pid not in [r["pid"] for r in found]
                assert records("-c", f"/crisis-test-{os.getpid()}/below", "1", "1")[0]["count"] > 10
        finally:
            remove_cgroup(directory + "/below")
            remove_cgroup(directory)


def test_by_cgroup_names_the_path():
    """In each hierarchy that is mounted, by its version; and by itself in the one where most
    processes are placed.
    """
    from crisis.kernel import cgroup

    mounts = {version: cgroup.task_hierarchy(version) for version in (1, 2)}
    if not any(mounts.values()):
        pytest.skip("no cgroup file system is mounted")
    for version, mount in mounts.items():
        if mount is None:
            result = run("runqlat", "--by", "cgroup", "--cgroup-version", str(version), ".1", "1")
            assert result.returncode == 69 and f"version {version}" in result.stderr
            continue
        directory = f"{mount[0]}/crisis-by-{os.getpid()}"
        os.mkdir(directory)
        try:
            with workload(HOG, cpu=0), workload(HOG, cpu=0) as inside:
                with open(directory + "/cgroup.procs", "w") as f:
                    f.write(str(inside.pid))
                chosen = ["--cgroup-version", str(version)]
                names = {
                    r["cgroup"]: r["count"] for r in records("--by", "cgroup", *chosen, "1", "1")
                }
            assert names[f"/crisis-by-{os.getpid()}"] > 10
        finally:
            remove_cgroup(directory)
    best = cgroup.task_hierarchy()
    assert f"by the cgroups of {best[0]}... " in run("runqlat", "--by", "cgroup", ".1", "1").stderr


@pytest.mark.guest
def test_pid_namespace_is_the_waiters():
    with (
        workload(HOG, cpu=0),
        workload(HOG, cpu=0, wrap=("unshare", "--pid", "--fork", "--kill-child")) as outer,
    ):
        child = int(
            until(
                lambda: (
                    subprocess.run(["pgrep", "-P", str(outer.pid)], stdout=subprocess.PIPE).stdout
                )
            )
        )
        until(lambda: cpu_time(child) > 3e8)
        namespace = int(os.readlink(f"/proc/{child}/ns/pid")[5:-1])
        found = {r["pidns"]: r["count"] for r in records("--pidnss", "1", "1")}
        one = records("--pidnss", "-p", str(child), "1", "1")
    assert found[namespace] > 10 and 0xEFFFFFFC in found
    assert [r["pidns"] for r in one] == [namespace]


def test_a_full_table_is_counted_and_said():
    if SLOW > 1:
        pytest.skip("5000 processes take too long under software emulation")
    code = (
        "import os\nfor _ in range(5000): os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"
    )
    child = attached("runqlat", "-P")
    with workload(code) as spawner:
        spawner.wait()
        child.send_signal(signal.SIGINT)
        text, errors = child.communicate()
    groups = len(re.findall(r"^pid = ", text, re.M))
    assert groups == 4096 and re.search(
        r"\d+ waits not counted: the table of histograms was full", errors
    )


@pytest.mark.guest
def test_hostile_comm():
    name = b'\x1b[31m\n"\\\xff'
    code = f"import ctypes,sys\nctypes.CDLL(None).prctl(15, {name!r})\n{SLEEPER}"
    with workload(code) as hostile:
        until(lambda: open(f"/proc/{hostile.pid}/comm", "rb").read() == name + b"\n")
        for mode in ["--by", "comm"], ["-P", "--top", "9"]:
            text = run("runqlat", *mode, ".5", "1").stdout
            assert "\x1b" not in text and r'\x1b[31m\x0a"\\\xff' in text
            assert any(r.get("comm") == '\x1b[31m\n"\\\\xff' for r in records(*mode, ".5", "1"))
        assert hostile.poll() is None


@pytest.mark.guest
def test_without_root():
    result = as_nobody("runqlat", "1", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_exits():
    begin = time.monotonic()
    assert run("runqlat", "1", "1").returncode == 0
    assert time.monotonic() - begin < 10 * SLOW
    fails_to_write("runqlat", ".1 1", "60", "head -0")  # ended long before its 60 s


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_print_what_was_collected(number):
    child = attached("runqlat")
    time.sleep(0.5)
    child.send_signal(number)
    text, _ = child.communicate(timeout=20 * SLOW)
    assert child.returncode == 0 and "count: " in text


def our_programs():
    return [
        p
        for p in json.loads(subprocess.check_output(["bpftool", "-j", "prog"]))
        if p.get("name") == "on_switch"
    ]


def test_sigkill_leaves_nothing():
    if not any(
        os.access(os.path.join(d, "bpftool"), os.X_OK) for d in ("/usr/sbin", "/usr/bin", "/sbin")
    ):
        pytest.skip("bpftool is not installed")
    child = attached("runqlat")
    assert our_programs()
    child.kill()
    child.wait()
    until(lambda: not our_programs())


@pytest.mark.parametrize("extra", [[], ["--no-cache"]])
def test_peak_memory_of_the_tool_itself(extra):
    run("runqlat", ".01", "1")
    child = attached("runqlat", "1", "1", *extra)
    peak = peak_memory(child.pid)
    child.communicate()
    assert peak <= 15 << 20


def test_warm():
    result = run("crisis-warm")
    assert result.returncode == 0 and "runqlat.raw" in result.stdout
    assert (
        subprocess.run(
            [os.path.join(ROOT, "bin/crisis-warm"), "-j", "runqlat"], stdout=subprocess.PIPE
        ).returncode
        == 0
    )


@pytest.mark.guest
def test_kernel_headers_serve_where_there_is_no_btf():
    from crisis import bpf
    from crisis.bpf import cache

    if not os.path.isdir(f"/lib/modules/{os.uname().release}/build"):
        pytest.skip(f"no headers of kernel {os.uname().release} are installed")
    runqlat = load("runqlat")
    source = runqlat.SOURCES["raw"]
    obj = cache.build(source, cache=False, headers="kernel")
    params = dict.fromkeys(source.params, 0)
    params.update(slots=100, cpus=bpf.possible_cpus(), cgroup_subsys=255)
    program = bpf.Program(
        obj,
        params,
        {"cpu_hists": {"max_entries": 2 * bpf.possible_cpus()}, "start": {"max_entries": 10000}},
    )
    program.attach()
    for _ in range(200):  # our own wakeups: an idle guest may have hardly any other
        time.sleep(0.001)
    count = sum(
        int.from_bytes(value[:8], "little") for _, value in program.maps["cpu_hists"].items()
    )
    program.close()
    assert count >= 100  # on a slow CPU a timer may fire before its sleeper slept
    assert cache.build(runqlat.SOURCES["hash"], cache=False, headers="kernel").unusable.startswith(
        "this kernel has no BTF in "
    )


def test_neither_btf_nor_headers_is_one_line():
    if os.path.isdir(f"/lib/modules/{os.uname().release}/build"):
        pytest.skip(f"headers of kernel {os.uname().release} are installed")
    from crisis import bpf
    from crisis.bpf import cache
    from crisis.errors import Unavailable

    with pytest.raises(Unavailable) as caught:
        cache.build(
            bpf.Source("test.none", text="int on_switch(void *ctx) { return 0; }"),
            cache=False,
            headers="kernel",
        )
    assert "CONFIG_DEBUG_INFO_BTF" in str(caught.value) and "headers package" in str(caught.value)
