# SPDX-License-Identifier: GPL-2.0-or-later
"""The PMC commands: without a PMU, and with software events in place of the CPU's."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from crisis.cpu import info
from crisis.kernel import cgroup, sysfs
from crisis.pmu.plan import core_pmus
from helpers import (
    HOG,
    NOBODY,
    ROOT,
    SLOW,
    as_nobody,
    enable_controllers,
    readable_root,
    remove_cgroup,
    run,
    workload,
)

COMMANDS = ("pmcarch", "cpucache", "icache", "tlbstat", "resstalls")
SOFT = [sys.executable, "-IS", os.path.join(ROOT, "tests/softpmu.py")]


def soft(name, *arguments, wrap=(), program=SOFT, **environment):
    return subprocess.run(
        [*wrap, *program, name, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60 * SLOW,
        env=dict(os.environ, **environment),
    )


def records(result):
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.guest
@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_pmu_one_line_names_what_is_missing(name):
    if core_pmus():
        pytest.skip("this machine has a PMU")
    for arguments in (
        ["1", "1"],
        ["-j"],
        ["-p", str(os.getpid())],
        ["-c", "true"],
        ["--per-cpu"],
        ["-G", "/"],
    ):
        result = run(name, *arguments)
        assert result.returncode == 69 and result.stdout == ""
        assert (
            result.stderr.count("\n") == 1
            and "no hardware PMU" in result.stderr
            and "bare metal" in result.stderr
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_with_a_pmu_it_counts(name):
    if not core_pmus():
        pytest.skip("this machine has no PMU")
    result = run(name, "-j", ".5", ".5")
    if result.returncode == 69:
        assert result.stdout == "" and result.stderr.count("\n") >= 1
        pytest.skip(result.stderr.strip())
    record = records(result)[0]
    assert any(
        value
        for key, value in record.items()
        if key not in ("time", "record", "seconds", "run_ratio")
    )


def test_the_message_without_a_pmu_is_the_same_for_an_unprivileged_user():
    if core_pmus():
        pytest.skip("this machine has a PMU")
    for arguments in ["1", "1"], ["-c", "true"]:
        result = as_nobody("pmcarch", *arguments)
        assert result.returncode == 69 and result.stdout == "" and result.stderr.count("\n") == 1


def test_whole_system_counts_wall_time_on_every_cpu():
    result = records(soft("pmcarch", "-j", "--per-cpu", ".4", ".8"))
    cpus = sysfs.online_cpus()
    assert [r["cpu"] for r in result] == cpus * 3
    assert [r["record"] for r in result] == ["interval"] * 2 * len(cpus) + ["total"] * len(cpus)
    for record in result:  # cpu-clock stands for cycles
        assert record["cycles"] == pytest.approx(
            record["seconds"] * 1e9, rel=0.02 * SLOW, abs=5e6 * SLOW
        )
        assert record["run_ratio"] == 1
    for total in result[-len(cpus) :]:
        parts = [r for r in result if r["cpu"] == total["cpu"] and r["record"] == "interval"]
        assert total["cycles"] == sum(r["cycles"] for r in parts)


def test_one_cpu_and_its_core():
    cpu = sysfs.online_cpus()[-1]
    (one,) = records(soft("cpucache", "-j", "-C", str(cpu), ".3", ".3"))
    assert one["cycles"] == pytest.approx(one["seconds"] * 1e9, rel=0.02 * SLOW, abs=5e6 * SLOW)
    (core,) = records(soft("cpucache", "-j", "-C", str(cpu), "--per-core", ".3", ".3"))
    assert (core["package"], core["die"], core["core"]) == info.topology()[cpu]
    missing = soft("cpucache", "-C", str(max(sysfs.online_cpus()) + 1000))
    assert missing.returncode == 1 and "not online" in missing.stderr


def test_a_process_its_threads_and_its_end():
    code = (
        "import threading\nfor _ in range(3): threading.Thread(target=lambda: exec('while "
        "True: pass')).start()"
    )
    with workload(code) as child:
        time.sleep(0.3 * SLOW**0.5)
        path = "/proc/%d/schedstat"
        threads = [int(t) for t in os.listdir(f"/proc/{child.pid}/task")]
        assert len(threads) == 4
        process = subprocess.Popen(
            [*SOFT, "pmcarch", "-j", "-p", str(child.pid), "60"],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        time.sleep(1 * SLOW**0.5)
        used = sum(int(open(path % t).read().split()[0]) for t in threads)
        child.kill()
        out = process.communicate(timeout=30 * SLOW)[0]
    assert process.returncode == 0
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert 0 < record["seconds"] < 30 * SLOW
    # task-clock stands for instructions; three threads share one interpreter.
    assert 0 < record["instr"] <= used + 1e9 and record["instr"] > 0.2 * 1e9 * min(
        1, record["seconds"]
    )


def test_a_command_is_counted_from_its_exec_to_its_end():
    begin = time.monotonic()
    result = soft(
        "pmcarch", "-j", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done", "100"
    )
    (record,) = records(result)
    assert record["seconds"] < time.monotonic() - begin
    assert 0 < record["instr"] <= record["seconds"] * 1.05e9 + 5e6  # one thread
    failed = soft("pmcarch", "-c", "exit 3", "100")
    assert (
        failed.returncode == 1
        and "status 3" in failed.stderr
        and len(failed.stdout.splitlines()) == 2
    )
    missing = soft("pmcarch", "-c", "/nonexistent/command", "100")
    assert missing.returncode == 1 and "status 127" in missing.stderr


def test_a_command_that_outlives_the_duration_is_terminated(tmp_path):
    marker = tmp_path / "pid"
    result = soft("pmcarch", "-j", "-c", f"echo $$ > {marker}; exec sleep 100", ".2", ".4")
    assert len(records(result)) == 3
    deadline = time.monotonic() + 10 * SLOW
    while os.path.exists(f"/proc/{marker.read_text().strip()}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_unprivileged_user_counts_user_mode_of_its_own_and_nothing_else():
    if int(open("/proc/sys/kernel/perf_event_paranoid").read()) != 2:
        pytest.skip("perf_event_paranoid is not 2")
    as_other = {
        "wrap": NOBODY,
        "program": SOFT[:-1] + [os.path.join(readable_root(), "tests/softpmu.py")],
    }
    result = soft("pmcarch", "-j", "-c", "true", "100", **as_other)
    assert records(result) and "user mode only" in result.stderr
    for arguments in ["1", "1"], ["--per-cpu"], ["-p", "1"]:
        refused = soft("pmcarch", *arguments, **as_other)
        assert refused.returncode == 77 and refused.stdout == "" and refused.stderr.count("\n") == 1
        assert "perf_event_paranoid at 2" in refused.stderr and "CAP_PERFMON" in refused.stderr


@pytest.mark.parametrize("options", [[], ["--total"]], ids=["rows", "total"])
def test_ctrl_c_prints_the_interval_and_a_total_that_is_asked_for(options):
    process = subprocess.Popen(
        [*SOFT, "pmcarch", *options, "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert process.stdout.readline().startswith("K_CYCLES") and process.stdout.readline()
    time.sleep(0.3)  # into the second interval
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20 * SLOW)
    assert process.returncode == 0 and err == ""
    lines = out.splitlines()
    if options:
        assert lines[1] == "" and lines[2].startswith("Total of ") and len(lines) == 5
    else:
        assert len(lines) == 1 and len(lines[0].split()) == 9


def test_lines_before_the_first_row_are_those_of_the_classic():
    """tail -n +2 of pmcarch, tail -n +3 of the commands with a title: the rows and nothing else."""
    for name, skipped in ("pmcarch", 2), ("tlbstat", 2), ("cpucache", 3), ("icache", 3):
        result = soft(name, ".1", ".2", wrap=("sh", "-c", f'"$@" | tail -n +{skipped}', "sh"))
        rows = result.stdout.splitlines()
        assert result.returncode == 0 and result.stderr == "" and len(rows) == 2, name
        assert all(row.split()[0].isdigit() for row in rows)


def test_pipes():
    result = subprocess.run(
        " ".join(SOFT) + " pmcarch .1 | head -2; exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=30 * SLOW,
    )
    assert result.returncode in (0, 141, -signal.SIGPIPE) and result.stdout.count(b"\n") == 2
    full = subprocess.run(
        [*SOFT, "pmcarch", ".1", ".3"], stdout=open("/dev/full", "w"), stderr=subprocess.PIPE
    )
    assert full.returncode == 1 and full.stderr.count(b"\n") == 1 and b"write error" in full.stderr


def test_what_could_not_be_counted():
    """No stand-in for these counters, as on a CPU that lacks them."""
    result = soft("tlbstat", ".2", ".2")
    assert result.stdout.splitlines()[1].split()[3:] == ["-"] * 6
    unknown = soft("pmcarch", ".2", ".2", SOFTPMU_UNKNOWN="1")
    assert unknown.returncode == 0 and len(unknown.stdout.splitlines()) == 2
    assert unknown.stderr == (
        "pmcarch: no event codes are known for this CPU: only cycles, instructions, branches and "
        "branch misses are counted\n"
    )
    none = soft("resstalls", ".2", ".2")
    assert none.returncode == 69 and none.stdout == "" and none.stderr.count("\n") == 1
    missing = soft("pmcarch", "-p", str(2**22 + 1))
    assert (
        missing.returncode == 1
        and "no such process" in missing.stderr
        and missing.stderr.count("\n") == 1
    )


@pytest.mark.guest
def test_cgroup_of_a_hog():

    v1 = [
        point
        for point, _, controllers in cgroup.mounts()
        if controllers and "perf_event" in controllers
    ]
    v2 = [point for point, _, controllers in cgroup.mounts() if controllers is None]
    if not v1 + v2:
        pytest.skip("no cgroup hierarchy is mounted")
    enable_controllers((v1 + v2)[0])
    path = os.path.join((v1 + v2)[0], f"crisis-pmc-{os.getpid()}")
    os.mkdir(path)
    try:
        with workload(HOG) as child:
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write(str(child.pid))
            time.sleep(0.2)
            before = int(open(f"/proc/{child.pid}/schedstat").read().split()[0])
            # cpu-clock, which stands for cycles, runs while the cgroup does
            result = soft("pmcarch", "-j", "-G", "/" + os.path.basename(path), ".8", ".8")
            if "do not follow its hierarchy" in result.stderr:
                pytest.skip(result.stderr.strip())
            (record,) = records(result)
            used = int(open(f"/proc/{child.pid}/schedstat").read().split()[0]) - before
        assert 0.3 * used < record["cycles"] <= 1.1 * used
        empty = records(soft("pmcarch", "-j", "-G", path, ".2", ".2"))
        assert empty[0]["cycles"] == 0 and empty[0]["ipc"] is None
    finally:
        remove_cgroup(path)
    missing = soft("pmcarch", "-G", "/no/such/cgroup")
    assert missing.returncode == 1 and "no such cgroup" in missing.stderr


def test_cpu_hot_plug(tmp_path):
    """A file stands for the list of online CPUs; test_perf_event.py takes a real CPU offline."""
    cpus = sysfs.online_cpus()
    if len(cpus) < 2:
        pytest.skip("there is one CPU only")
    online = tmp_path / "online"

    def say(numbers):
        (tmp_path / "new").write_text(",".join(map(str, numbers)) + "\n")
        os.rename(str(tmp_path / "new"), str(online))

    say(cpus)
    process = subprocess.Popen(
        [*SOFT, "pmcarch", "-j", "--per-cpu", ".2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, SOFTPMU_ONLINE=str(online)),
    )

    def records_until(done):
        deadline, seen = time.monotonic() + 20 * SLOW, []
        while not done(seen):
            assert time.monotonic() < deadline
            seen.append(json.loads(process.stdout.readline()))
        return seen

    assert [r["cpu"] for r in records_until(lambda seen: len(seen) == len(cpus))] == cpus
    say(cpus[:-1])
    few = 2 * (len(cpus) - 1)
    records_until(lambda seen: len(seen) >= few and cpus[-1] not in [r["cpu"] for r in seen[-few:]])
    say(cpus)
    records_until(lambda seen: seen and seen[-1]["cpu"] == cpus[-1] and seen[-1]["cycles"] > 1e8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20 * SLOW)
    assert process.returncode == 0
    assert err == f"pmcarch: CPU {cpus[-1]} went offline: its last counts are missing\n"
