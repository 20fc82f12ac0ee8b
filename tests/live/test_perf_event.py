# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting with perf_event_open(2): software events have no hardware behind them and the same
kernel code in front.
"""

import os
import resource
import subprocess
import sys
import time

import pytest

from crisis.errors import Error, NotPermitted, Unavailable
from crisis.kernel import cgroup, rlimit, sysfs
from crisis.perf import event_source
from crisis.perf.event import FLAG_PID_CGROUP, INHERIT, TYPE_SOFTWARE, Event, open_member
from crisis.perf.group import GONE, Counters, Group, layout
from helpers import (
    HOG,
    NOBODY,
    ROOT,
    SLOW,
    enable_controllers,
    readable_root,
    remove_cgroup,
    workload,
)

CPU_CLOCK, TASK_CLOCK, FAULTS, SWITCHES, MIGRATIONS, MINOR, MAJOR, DUMMY = (
    Event(TYPE_SOFTWARE, number) for number in (0, 1, 2, 3, 4, 5, 6, 9)
)
CPUS = sysfs.online_cpus()


@pytest.mark.guest
def test_group_counts_one_instant_on_every_cpu():
    events = [CPU_CLOCK, SWITCHES, FAULTS]
    groups = {cpu: Group(events, -1, cpu) for cpu in CPUS}
    begin = time.monotonic_ns()
    for group in groups.values():
        group.enable()
    started = time.monotonic_ns()
    time.sleep(0.3)
    before = time.monotonic_ns()
    readings = {cpu: group.read() for cpu, group in groups.items()}
    end = time.monotonic_ns()
    for enabled, running, clock, _, _ in readings.values():
        assert enabled == running
        assert before - started <= enabled <= end - begin
        assert before - started - 1e6 * SLOW <= clock <= end - begin + 1e6 * SLOW
    for group in groups.values():
        group.close()


@pytest.mark.guest
def test_group_stops_when_disabled_and_its_descriptors_close():
    count = len(os.listdir("/proc/self/fd"))
    group = Group([CPU_CLOCK, FAULTS], 0)
    assert group.read() == (0, 0, 0, 0)
    group.enable()
    bytearray(1 << 20)
    group.disable()
    first = group.read()
    assert first[0] > 0 and first[3] >= 0
    bytearray(1 << 20)
    assert group.read() == first
    group.close()
    assert len(os.listdir("/proc/self/fd")) == count
    with pytest.raises(OSError):
        Group([CPU_CLOCK, Event(TYPE_SOFTWARE, 999)], 0)
    assert len(os.listdir("/proc/self/fd")) == count


def test_msr_group():
    try:
        event = event_source.named_event("msr", "tsc")
    except Unavailable as exc:
        pytest.skip(str(exc))
    group = Group([event, CPU_CLOCK], -1, CPUS[0])
    group.enable()
    time.sleep(0.2)
    enabled, running, ticks, clock = group.read()
    group.close()
    mhz = [
        float(line.split(":")[1]) for line in open("/proc/cpuinfo") if line.startswith("cpu MHz")
    ]
    assert enabled == running and ticks > 0
    if mhz:  # the TSC's rate is near the nominal one, whatever the clock is now
        assert 0.2 < ticks / enabled * 1e3 / mhz[0] < 5


@pytest.mark.guest
def test_layout_splits_what_is_too_big_for_one_group():
    # The kernel takes what one read of 16 KiB can return: some 2000 members
    # (perf_event_validate_size).
    many = [DUMMY] * 1990
    rlimit.raise_open_files(2 * 2200, "counters")
    groups, refused = layout([many[:5], many, [FAULTS] * 100])
    assert not refused
    assert len(groups) == 2 and groups[0][:5] == [0, 1, 2, 3, 4] and len(groups[1]) == 100
    with pytest.raises(OSError) as error:
        Group([DUMMY] * 2200, 0)
    assert error.value.errno == 7


@pytest.mark.guest
def test_layout_names_what_the_pmu_does_not_have():
    groups, refused = layout([[Event(TYPE_SOFTWARE, 999), CPU_CLOCK], [Event(4096, 0), FAULTS]])
    assert groups == [[1, 3]] and sorted(refused) == [0, 2]


@pytest.mark.guest
def test_counters_of_a_process_follow_its_children():
    code = "import os\nwhile True:\n    if not os.fork(): os._exit(0)\n    os.wait()"
    with workload(code) as child:
        time.sleep(0.2 * SLOW**0.5)
        counters = Counters([[TASK_CLOCK, FAULTS]], {child.pid: (child.pid, -1)}, INHERIT)
        own = Counters([[TASK_CLOCK, FAULTS]], {child.pid: (child.pid, -1)})
        counters.read(), own.read()
        readings = []
        end = time.monotonic() + 0.5
        while time.monotonic() < end:  # also while the kernel adds a child's counters
            readings.append(counters.read()[child.pid])
        (own_clock, _, _), (own_faults, _, _) = own.read()[child.pid]
        clock, faults = (sum(event[0] for event in events) for events in zip(*readings))
        assert all(enabled == running for events in readings for _, enabled, running in events)
        assert clock > own_clock > 0 and faults > own_faults > 0
        counters.close(), own.close()


@pytest.mark.guest
def test_counters_of_a_cgroup_count_its_tasks_only():
    mounts = cgroup.mounts()
    v1 = [point for point, _, controllers in mounts if controllers and "perf_event" in controllers]
    v2 = [point for point, _, controllers in mounts if controllers is None]
    if not v1 + v2:
        pytest.skip("no cgroup hierarchy with perf_event is mounted")
    enable_controllers((v1 + v2)[0])
    path = os.path.join((v1 + v2)[0], f"crisis-perf-{os.getpid()}")
    os.mkdir(path)
    try:
        fd = os.open(path, os.O_RDONLY)
        counters = _counters_or_skip(
            [[CPU_CLOCK, SWITCHES]],
            {cpu: (fd, cpu) for cpu in CPUS},
            flags=FLAG_PID_CGROUP,
            probe={"pid": -1, "cpu": CPUS[0]},
        )
        with workload(HOG) as outside, workload(HOG) as inside:
            assert outside.poll() is None
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write(str(inside.pid))
            time.sleep(0.2)
            counters.read()
            before = _cpu_ns(inside.pid)
            time.sleep(0.6)
            used = _cpu_ns(inside.pid) - before
            counted = sum(row[0][0] for row in counters.read().values())
        assert counted == pytest.approx(used, rel=0.25, abs=4e7)
        counters.close()
        os.close(fd)
    finally:
        remove_cgroup(path)


def _counters_or_skip(*args, **kwargs):
    try:
        return Counters(*args, **kwargs)
    except Unavailable as exc:
        pytest.skip(str(exc))


def _cpu_ns(pid):
    return int(open(f"/proc/{pid}/schedstat").read().split()[0])


def test_descriptor_limit_is_raised_or_named():
    code = (
        "import resource, sys\nsys.path.insert(0, sys.argv[1])\nfrom crisis.perf import event, "
        "group\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, int(sys.argv[2])))\n"
        "E = event.Event(1, 0)\n"
        "group.Counters([[E] * 4], {n: (0, -1) for n in range(20)}, event.EXCLUDE_KERNEL)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    raised = subprocess.run(
        [sys.executable, "-c", code, os.path.join(ROOT, "lib"), "4096"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert raised.returncode == 0 and 80 < int(raised.stdout) < 200
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = subprocess.run(
        [*NOBODY, sys.executable, "-c", code, os.path.join(readable_root(), "lib"), "64"],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == hard
    if "perf_event_paranoid at 3" in failed.stderr:  # Debian's
        pytest.skip("an unprivileged user may not count here at all")
    assert (
        failed.returncode
        and "the limit of open files is 64. Raise it with ulimit -Hn 1" in failed.stderr
    )


@pytest.mark.guest
def test_no_such_process():
    with pytest.raises(Error, match="no such process"):
        Counters([[FAULTS]], {1: (2**30, -1)})


@pytest.mark.guest
def test_a_thread_that_ends_while_its_group_is_opened():
    """Before and after its parent has waited for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time\ntime.sleep(100)"])
    event = Event(TYPE_SOFTWARE, 1)
    group = Group([event], child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        for leader in group.fds[0], -1:
            with pytest.raises(OSError) as caught:
                os.close(open_member(event, child.pid, -1, leader, 0, 0))
            assert caught.value.errno in GONE
        child.wait()
    group.close()


def test_refusals_name_the_remedy():
    if int(open("/proc/sys/kernel/perf_event_paranoid").read()) < 1:
        pytest.skip("perf_event_paranoid lets everybody count")
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom crisis.perf import event, group\n"
        "group.Counters([[event.Event(1, 0)]], {0: (-1, 0)})"
    )
    failed = subprocess.run(
        [*NOBODY, sys.executable, "-c", code, os.path.join(readable_root(), "lib")],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert "NotPermitted" in failed.stderr and "perf_event_paranoid" in failed.stderr
    assert "CAP_PERFMON" in failed.stderr
    assert NotPermitted.status == 77


@pytest.mark.guest
def test_cpu_that_goes_offline_and_comes_back():
    switch = f"/sys/devices/system/cpu/cpu{CPUS[-1]}/online"
    if len(CPUS) < 2 or not os.access(switch, os.W_OK):
        pytest.skip("there is no CPU that can be taken offline")
    cpu, other = CPUS[-1], CPUS[0]
    counters = Counters([[CPU_CLOCK, SWITCHES]], {cpu: (-1, cpu), other: (-1, other)})
    counters.read()
    try:
        open(switch, "w").write("0")
    except OSError as exc:
        counters.close()
        pytest.skip(f"CPU {cpu} cannot be taken offline: {exc.strerror}")
    try:
        readings = [counters.read()]
        # where the TSC is not trusted, the kernel's clock may stand still between ticks
        time.sleep(0.05)
        readings.append(counters.read())
    finally:
        open(switch, "w").write("1")
    assert readings[1][other][0][1] > 0
    assert readings[1][cpu] == [None, None] or readings[1][cpu][0][1] == 0
    time.sleep(0.05)
    again = counters.read()[cpu]  # the kernel does not take them up again
    assert again == [None, None] or again[0][1] == 0
    counters.drop(cpu)
    counters.add(cpu, -1, cpu)
    counters.enable([cpu])
    time.sleep(0.1)
    assert counters.read()[cpu][0][1] >= 1e8
    counters.close()
