# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of each resource, by counters at two instants.  Whole screens are in tests/expected."""

import os
from argparse import Namespace

import pytest

from crisis.use import cgroups, cpu, disk, memory, network, tables
from helpers import load

use = load("use")


def cpu_reading(busy=(0, 0), total=100, **counters):
    """A reading of two CPUs with these busy ticks, of `total` each."""
    reading = cpu.Reading()
    for number, ticks in enumerate(busy):
        reading.busy[number] = {"busy": ticks, "total": total}
    reading.counters = dict.fromkeys(cpu._TICKS, 0)
    reading.counters.update(user=sum(busy), idle=2 * total - sum(busy), **counters)
    return reading


def cpu_row(after, **before):
    (row,) = cpu.Cpus().rows(cpu_reading((0, 0), 0, **before), after, 1.0)
    return row


def test_cpu_saturation_needs_a_cpu_without_time_left():
    """The tasks of a throttled cgroup wait beside idle CPUs."""
    throttled = cpu_row(cpu_reading((20, 5), psi_some_us=600000), psi_some_us=0)
    assert throttled.marks == () and throttled.values["psi_some_ratio"] == 0.6
    pinned = cpu_row(cpu_reading((100, 5), psi_some_us=600000), psi_some_us=0)
    assert pinned.marks == ("saturation",) and "CPU 0 100%" in pinned.notes
    one = cpu_row(cpu_reading((100, 5), psi_some_us=20000), psi_some_us=0)
    assert one.marks == ()


def test_cpu_without_pressure_and_schedstat():
    row = cpu_row(cpu_reading((100, 100), running=6))
    assert row.saturation == 3  # of six runnable tasks one is use, and two have the CPUs
    assert row.marks == ("saturation", "utilization")
    assert cpu_row(cpu_reading((100, 100), running=3)).marks == ("utilization",)
    assert cpu_row(cpu_reading((10, 10), running=1)).saturation == 0


def test_steal_is_saturation():
    row = cpu_row(cpu_reading((10, 10), steal=50))
    assert row.marks == ("saturation",) and row.values["steal_ratio"] == pytest.approx(0.2)
    assert "steal 20%" in row.notes


def test_throttling_is_not_added_up_over_cpus():
    before, after = cpu_reading(total=0), cpu_reading()
    before.throttled, after.throttled = {0: 3, 1: 3}, {0: 8, 1: 7}
    (row,) = cpu.Cpus().rows(before, after, 1.0)
    assert (row.errors, row.marks) == (5, ("errors",))
    after.throttled, after.slowed = {0: 3, 1: 3}, 1
    (row,) = cpu.Cpus().rows(before, after, 1.0)
    assert (row.errors, row.marks) == (0, ("errors",))


BASE = {"MemTotal": 1000, "MemAvailable": 500, "pgscan_kswapd": 0, "pgscan_direct": 0}


def memory_rows(before=None, **after):
    return memory.Memory().rows({**BASE, **(before or {})}, {**BASE, **after}, 2.0)


def test_kswapd_alone_is_no_saturation():
    (row,) = memory_rows(pgscan_kswapd=500)
    assert (row.saturation, row.marks) == (250, ())
    (row,) = memory_rows(pgscan_kswapd=500, pgscan_direct=1)
    assert row.marks == ("saturation",)


def test_reclaim_of_cgroups_is_not_the_systems():
    """Where the kernel counts for each node, it counts the cgroups' reclaim, too."""
    cgroups = {**BASE, "reclaims": 7, "pgscan_kswapd": 10, "pgscan_direct": 100}
    for by_node, own, saturation, marks in (
        (True, 7, 5, ()),
        (True, 8, 55, ("saturation",)),
        (False, 7, 55, ("saturation",)),
    ):
        resource = memory.Memory()
        resource.by_node = by_node
        (row,) = resource.rows({**BASE, "reclaims": 7}, {**cgroups, "reclaims": own}, 2.0)
        assert (row.saturation, row.marks) == (saturation, marks)


def test_errors_of_memory():
    (row,) = memory_rows({"oom_kill": 3}, oom_kill=3)
    assert (row.errors, row.marks) == (0, ()) and "OOM kills since boot: 3" in row.notes
    (row,) = memory_rows({"oom_kill": 3}, oom_kill=5)
    assert (row.errors, row.marks) == (2, ("errors",))
    (row,) = memory_rows({"ecc_uncorrected": 1}, ecc_uncorrected=1)  # of today, or of last week
    assert (row.errors, row.marks) == (0, ("errors",))


def test_swap():
    before = {"pswpin": 0, "pswpout": 0}
    _, row = memory_rows(before, pswpin=10, pswpout=9, SwapTotal=100, SwapFree=50)
    assert (row.util, row.saturation, row.marks) == (0.5, 9.5, ())
    _, row = memory_rows(before, pswpin=10, pswpout=10, SwapTotal=100, SwapFree=50)
    assert row.marks == ("saturation",)
    assert len(memory_rows(SwapTotal=0, SwapFree=0)) == 1


def disk_reading(rotational=False, **counters):
    reading = disk.Reading({**dict.fromkeys(disk._FIELDS, 0), **counters})
    reading.rotational = rotational
    return reading


def disk_row(after, before=None):
    before = before or disk_reading()
    (row,) = disk.Disks().rows({"sda": before}, {"sda": after}, 1.0)
    return row


def test_a_parallel_disk_is_utilized_but_not_saturated():
    row = disk_row(disk_reading(read_ios=10000, read_ms=8000, busy_ms=1000, queued_ms=8000))
    assert (row.util, row.saturation, row.marks) == (1.0, 8.0, ("utilization",))


@pytest.mark.parametrize(
    "rotational, wait, queue, saturated",
    [
        (False, 10, 2000, True),
        (False, 9, 2000, False),
        (False, 10, 1999, False),
        (True, 29, 2000, False),
        (True, 30, 2000, True),
        (None, 10, 2000, True),
    ],
)
def test_saturation_of_disks(rotational, wait, queue, saturated):
    row = disk_row(disk_reading(rotational, write_ios=10, write_ms=10 * wait, queued_ms=queue))
    assert ("saturation" in row.marks) == saturated


def test_a_disk_that_completes_nothing():
    row = disk_row(disk_reading(in_flight=5), disk_reading(in_flight=3))
    assert row.marks == ("saturation",) and "none of 3 requests completed" in row.notes
    assert disk_row(disk_reading(in_flight=5)).marks == ()  # all of them are new
    done = disk_row(disk_reading(in_flight=5, write_ios=1), disk_reading(in_flight=3))
    assert done.marks == ()


def test_counters_of_disks_that_wrap_or_begin_again():
    before = disk_reading(busy_ms=(1 << 32) - 100, read_ios=5)
    assert disk_row(disk_reading(busy_ms=400, read_ios=6), before).util == 0.5
    row = disk_row(disk_reading(busy_ms=400, read_ios=1), before)  # another disk of that name
    assert (row.util, row.saturation, row.marks) == (None, None, ())
    assert disk.Disks().rows({}, {"sda": disk_reading()}, 1.0) == []


@pytest.mark.parametrize(
    "entry, name", [("sda1", "sda"), ("nvme0n1p2", "nvme0n1"), ("dm-0", "dm-0"), ("md0", "md0")]
)
def test_ext4_errors_belong_to_the_disk(entry, name, tmp_path, monkeypatch):
    files = {f"/sys/fs/ext4/{entry}/errors_count": "2", "/sys/fs/ext4/features/x": "supported"}
    monkeypatch.setattr(disk, "contents", files.get)
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/sys/fs/ext4")
    monkeypatch.setattr(os, "listdir", lambda path: [entry, "features"])
    disks = {disk_name: disk_reading() for disk_name in ("sda", "nvme0n1", "dm-0", "md0")}
    disk._count_ext4(disks)
    counted = {n for n, reading in disks.items() if "ext4_errors" in reading.counters}
    assert counted == {name} and disks[name].counters["ext4_errors"] == 2


def tcp(sent, again, drops=0):
    names = ("Tcp.OutSegs", "Tcp.RetransSegs", "TcpExt.ListenDrops")
    after = dict(zip(names, (sent, again, drops)))
    rows = network.Stack().rows(dict.fromkeys(names, 0), after, 1.0)
    (row,) = [row for row in rows if row.kind == "tcp"]
    return row


@pytest.mark.parametrize(
    "sent, again, erroneous",
    [(500, 5, True), (501, 5, False), (100, 4, False), (10, 1, False), (0, 0, False)],
)
def test_retransmissions(sent, again, erroneous):
    row = tcp(sent, again)
    assert row.errors == again and ("errors" in row.marks) == erroneous


def test_listen_drops():
    assert tcp(100, 0, 1).marks == ("saturation",)


def process(limit):
    return tables.Reading({}, tables.Process(7, "nginx", 100, limit))


def test_only_a_process_near_its_limit_has_a_row():
    assert len(tables.Files().rows(None, process(201), 1.0)) == 1
    _, row = tables.Files().rows(None, process(200), 1.0)
    assert (row.name, row.util, row.marks) == ("7", 0.5, ())
    _, row = tables.Files().rows(None, process(111), 1.0)
    assert row.marks == ("utilization",)


def test_pids_are_of_the_smaller_limit():
    after = {"threads": 90, "threads-max": 1000, "pid_max": 100}
    (row,) = tables.Tasks().rows({}, after, 1.0)
    assert (row.util, row.marks) == (0.9, ("utilization",))


def test_descriptors_of_this_process(monkeypatch):
    number = len(os.listdir("/proc/self/fd"))  # one more while it is listed
    assert tables.descriptors(os.getpid()) in (number - 1, number, 0)
    assert tables.descriptors(1 << 30) == 0
    # Before Linux 6.2 the size is 0: the table's size, then the list.
    monkeypatch.setattr(os, "stat", lambda path: Namespace(st_size=0))
    status = {"/proc/5/status": "Name:\tx\nFDSize:\t128", "/proc/6/status": "Name:\tx\nFDSize:\t64"}
    monkeypatch.setattr(tables, "contents", status.get)
    monkeypatch.setattr(os, "listdir", lambda path: {"/proc/5/fd": ["0"] * 70}[path])
    assert tables.descriptors(5) == 70 and tables.descriptors(6) == 0

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    assert tables.descriptors(5) is None


def cgroup_row(kind, before, after):
    (row,) = cgroups.Cgroups().rows({(kind, "/a"): before}, {(kind, "/a"): after}, 1.0)
    return row


def test_throttled_periods():
    limit = {"quota_us": 50000, "period_us": 100000, "usage_usec": 0}
    before = {**limit, "nr_periods": 0, "nr_throttled": 0}
    row = cgroup_row("cpu", before, {**limit, "nr_periods": 10, "nr_throttled": 1})
    assert (row.saturation, row.marks) == (10, ("saturation",))
    row = cgroup_row("cpu", before, {**limit, "nr_periods": 11, "nr_throttled": 1})
    assert row.marks == ()
    row = cgroup_row("cpu", before, before)
    assert (row.saturation, row.util, row.marks) == (0, 0, ())


def test_page_cache_does_not_fill_a_cgroup():
    before = {"limit": 100, "usage": 100, "inactive_file": 60, "max": 0}
    row = cgroup_row("memory", before, before)
    assert (row.util, row.marks) == (0.4, ())
    row = cgroup_row("memory", before, {**before, "max": 1, "inactive_file": 5})
    assert (row.util, row.marks) == (0.95, ("saturation", "utilization"))


def test_the_line_of_the_rest():
    rows = [disk_row(disk_reading(read_ios=n, busy_ms=n)) for n in (0, 3, 50)]
    one = use.summary(rows)
    assert (one.util, one.marks) == (0.05, ()) and one.notes[0].startswith("3 more, 2 of them idle")


def test_names_are_escaped_and_lines_fit():
    row = disk_row(disk_reading())
    row.name = "a\x1b[1m\n"
    long = cgroup_row("cpu", {"quota_us": 1, "period_us": 1}, {"quota_us": 1, "period_us": 1})
    long.name = "/" + 200 * "x" + "\n"
    text = use.render_text(Namespace(all=False), [row, long], 80)
    assert len(text.splitlines()) == 3 and "\x1b" not in text and r"disk:a\x1b[1m\x0a" in text
    assert max(map(len, text.splitlines())) <= 80 and r"x\x0a: of 1.00 CPUs" in text


def test_a_mark_does_not_depend_on_what_is_shown():
    rows = [disk_row(disk_reading(read_ios=1, busy_ms=999 - n)) for n in range(9)]
    text = use.render_text(Namespace(all=False), rows, 80)
    assert text.count("..U") == 9 and "more" not in text
