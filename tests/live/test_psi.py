# SPDX-License-Identifier: GPL-2.0-or-later
"""psi on the running kernel, against the waits that the scheduler counts by itself."""

import contextlib
import json
import os
import re
import subprocess
import time

import pytest

from crisis.kernel import cgroup as cgroups
from helpers import (
    HOG,
    SLOW,
    as_nobody,
    needs_quiet_machine,
    remove_cgroup,
    run,
    run_delay,
    tool,
    workload,
)


def records(*args):
    result = run("psi", "-j", "--no-averages", *map(str, args))
    if result.returncode == 69:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@contextlib.contextmanager
def cgroup(name):
    """A new v2 cgroup with pressure files; its directory."""
    mounts = [point for point, _, controllers in cgroups.mounts() if controllers is None]
    if not mounts:
        pytest.skip("no cgroup v2 file system is mounted")
    directory = f"{mounts[0]}/{name}"
    try:
        os.mkdir(directory)
    except OSError as exc:
        pytest.skip(f"cannot make a cgroup: {exc}")
    try:
        if not os.path.exists(directory + "/cpu.pressure"):
            pytest.skip("cgroups keep no pressure on this kernel")
        yield directory
    finally:
        remove_cgroup(directory)


def join(directory, *children):
    for child in children:
        with open(directory + "/cgroup.procs", "w") as f:
            f.write(str(child.pid))


def total(path, kind):
    return int(re.search(rf"^{kind} .*total=(\d+)", open(path).read(), re.M).group(1))


@pytest.mark.guest
@needs_quiet_machine
def test_cpu_pressure_is_the_delay_that_the_scheduler_counts():
    # One of the two always waits (some), and both when another task has the CPU (full): the sum of
    # their waits is the sum of the two.
    records(0.01, 1)
    with (
        cgroup(f"crisis-psi-{os.getpid()}") as directory,
        workload(HOG, cpu=0) as one,
        workload(HOG, cpu=0) as two,
    ):
        join(directory, one, two)
        time.sleep(0.5 * min(SLOW, 4))
        child = subprocess.Popen(
            [tool("psi"), "-j", "--no-averages", "-c", directory, str(2 * min(SLOW, 3)), "2"],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        first = json.loads(child.stdout.readline())  # what comes now is the second interval
        before = run_delay(one.pid) + run_delay(two.pid)
        second = json.loads(child.stdout.readline())
        waited = run_delay(one.pid) + run_delay(two.pid) - before
        assert child.wait() == 0
    assert first["cgroup"] == second["cgroup"] == "/" + os.path.basename(directory)
    assert second["cpu_some_ratio"] > 0.9
    assert (second["cpu_some_us"] + second["cpu_full_us"]) * 1000 == pytest.approx(waited, rel=0.05)
    assert second["memory_some_us"] is not None and second["cpu_some_ratio"] == pytest.approx(
        second["cpu_some_us"] / second["seconds"] / 1e6, rel=0.02
    )


@needs_quiet_machine
def test_intervals_add_up_to_the_totals():
    records(0.01, 1)
    with workload(HOG, cpu=0), workload(HOG, cpu=0):
        child = subprocess.Popen(
            [tool("psi"), "-j", "--no-averages", ".2", "6"],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        found = [json.loads(child.stdout.readline())]
        low = total("/proc/pressure/cpu", "some")
        found += [json.loads(child.stdout.readline()) for _ in range(5)]
        high = total("/proc/pressure/cpu", "some")
        child.wait()
    # The readings here are a little later than its own.
    assert sum(r["cpu_some_us"] for r in found[1:]) == pytest.approx(high - low, rel=0.1, abs=50000)
    assert all(r["cpu_full_us"] is None and r["record"] == "system" for r in found)


@pytest.mark.guest
def test_an_idle_cgroup_loses_nothing_and_ranks_below_a_busy_one():
    records(0.01, 1)
    with (
        cgroup(f"crisis-psi-a-{os.getpid()}") as idle,
        cgroup(f"crisis-psi-b-{os.getpid()}") as busy,
        workload(HOG, cpu=0) as one,
        workload(HOG, cpu=0) as two,
        workload("import time; time.sleep(1000)") as three,
    ):
        join(busy, one, two)
        join(idle, three)
        time.sleep(0.3 * SLOW)
        (alone,) = records("-c", idle, 0.5 * min(SLOW, 4), 1)
        assert alone["cpu_some_us"] == alone["cpu_full_us"] == alone["io_some_us"] == 0
        found = records("--by-cgroup", "--top", 50, 0.5 * min(SLOW, 4), 1)
        assert found[0]["record"] == "system"
        order = [r.get("cgroup") for r in found]
        assert order.index("/" + os.path.basename(busy)) < order.index("/" + os.path.basename(idle))


def test_the_root_of_a_cgroup_namespace_is_a_cgroup(tmp_path):
    # As a container sees itself: it has lost time, while another CPU is idle.
    records(0.01, 1)
    code = (
        "echo $$ > %s/cgroup.procs && exec unshare -Cm sh -c 'mount -t cgroup2 none %s && exec "
        "%s -j --no-averages -c %s .5 1'"
    )
    with (
        cgroup(f"crisis-psi-ns-{os.getpid()}") as directory,
        workload(HOG, cpu=0) as one,
        workload(HOG, cpu=0) as two,
    ):
        join(directory, one, two)
        result = subprocess.run(
            ["sh", "-c", code % (directory, tmp_path, tool("psi"), tmp_path)],
            capture_output=True,
            text=True,
        )
        if "unshare" in result.stderr or "mount" in result.stderr:
            pytest.skip(f"no cgroup namespace with a mount of its own: {result.stderr.strip()}")
        assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["record"], found["cgroup"]) == ("cgroup", "/")
    assert found["cpu_some_ratio"] > 0.9 and found["cpu_full_us"] is not None


def files(pattern):
    """{(resource, kind): {member: text}} of pressure files; pattern: their path, with a %s."""
    found = {}
    for resource in "cpu", "memory", "io", "irq":
        if os.path.exists(pattern % resource):
            for row in open(pattern % resource):
                kind, *fields = row.split()
                found[resource, kind] = dict(field.split("=") for field in fields)
    return found


def same_averages(before, found, after):
    """found: {key: [texts of avg10, avg60, avg300, total]}, read between the other two.

    The kernel computes the averages anew every two seconds: each is the one before or after.
    """
    assert set(found) == set(before)
    for key, (*averages, number) in found.items():
        for name, text in zip(("avg10", "avg60", "avg300"), averages):
            assert text in (before[key][name], after[key][name]), (key, name)
        assert int(before[key]["total"]) <= int(number) <= int(after[key]["total"])


@pytest.mark.guest
def test_averages_are_those_of_the_kernel():
    records(0.01, 1)
    with workload(HOG, cpu=0), workload(HOG, cpu=0):
        time.sleep(2.5)
        before = files("/proc/pressure/%s")
        result = run("psi", ".01", "1")
        after = files("/proc/pressure/%s")
        raw = json.loads(run("psi", "-j", ".01", "1").stdout.splitlines()[0])
        later = files("/proc/pressure/%s")
    for readings in before, after, later:
        readings.pop(("cpu", "full"), None)  # not defined for the system
    head, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert head.split() == ["RESOURCE", "KIND", "AVG10%", "AVG60%", "AVG300%", "TOTAL(us)"]
    found = {tuple(row.split()[:2]): row.split()[2:] for row in rows}
    assert float(found["cpu", "some"][0]) > 0
    same_averages(before, found, after)
    members = "avg10", "avg60", "avg300", "total_us"
    found = {}
    for key in before:
        values = [raw["_".join((*key, member))] for member in members]
        found[key] = [f"{value:.2f}" for value in values[:3]] + [str(values[3])]
    same_averages(after, found, later)


def test_the_first_table_is_there_at_once():
    records(0.01, 1)
    begin = time.monotonic()
    child = subprocess.Popen([tool("psi"), "100"], stdout=subprocess.PIPE, text=True)
    lines = [child.stdout.readline() for _ in range(4)]
    seconds = time.monotonic() - begin
    child.terminate()
    child.communicate()
    assert lines[0].startswith("RESOURCE") and seconds < 1 * SLOW


def test_averages_of_cgroups_are_those_of_the_kernel():
    records(0.01, 1)
    with (
        cgroup(f"crisis-psi-avg-{os.getpid()}") as directory,
        workload(HOG, cpu=0) as one,
        workload(HOG, cpu=0) as two,
    ):
        join(directory, one, two)
        time.sleep(4.5)
        before = files(directory + "/%s.pressure")
        lines = run("psi", "--by-cgroup", ".01", "1").stdout.split("\n\n")[0].splitlines()
        after = files(directory + "/%s.pressure")
    found = {}
    for line in lines[1:]:
        *words, path = line.split()
        if path == "/" + os.path.basename(directory):
            found[tuple(words[:2])] = words[2:]
    assert float(found["cpu", "some"][0]) > 10 and ("memory", "some") not in found
    same_averages({key: before[key] for key in found}, found, after)


def test_a_removed_cgroup():
    records(0.01, 1)
    with cgroup(f"crisis-psi-c-{os.getpid()}") as directory:
        child = subprocess.Popen(
            [tool("psi"), "--no-averages", "-c", directory, ".1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        assert child.stdout.readline() and child.stdout.readline()
        os.rmdir(directory)
        _, errors = child.communicate(timeout=20 * SLOW)
        assert (
            child.returncode in (1, 69)
            and errors.count("\n") == 1
            and os.path.basename(directory) in errors
        )


@pytest.mark.guest
def test_errors_and_exits():
    records(0.01, 1)
    missing = run("psi", "-c", "/no/such/cgroup", ".1", "1")
    assert missing.returncode == 1 and missing.stderr == "psi: no such cgroup: /no/such/cgroup\n"
    for point, _, controllers in cgroups.mounts():
        if controllers:
            v1 = run("psi", "-c", point, ".1", "1")
            assert v1.returncode == 1 and "v1 hierarchy" in v1.stderr and v1.stderr.count("\n") == 1
    shell = f"{tool('psi')} %s; echo status ${{PIPESTATUS[0]}}"
    head = subprocess.run(
        ["bash", "-c", shell % ".1 | head -2 2>&1"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert head.stdout.split()[-1] in (b"0", b"141")
    full = subprocess.run(
        ["bash", "-c", shell % ".1 1 2>&1 >/dev/full"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert b"write error: No space left on device\nstatus 1" in full.stdout
    if os.getuid() == 0:
        user = as_nobody("psi", ".1", "1")
        assert user.returncode == 0
