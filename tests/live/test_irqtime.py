# SPDX-License-Identifier: GPL-2.0-or-later
"""irqtime on the running kernel, against the kernel's own counts and times.  Needs root."""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from crisis import bpf
from crisis.bpf import cache
from crisis.cpu import irqs
from crisis.kernel import cgroup, interrupts, sysfs
from helpers import (
    SLOW,
    as_nobody,
    attached,
    cpu_time,
    enable_controllers,
    load,
    needs_quiet_machine,
    remove_cgroup,
    run,
    stop,
    tool,
    until,
    usable,
    workload,
)

# A datagram to oneself: each send runs NET_RX in the sender's context.
FLOOD = """import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
s.connect(s.getsockname())
data = bytes(60000)
while True:
    s.send(data)
    s.recv(65536)
"""

# A broadcast to 500 sockets: each softirq takes some 30 us, so that its entry and exit, which the
# kernel's account includes and the time between the tracepoints does not, hardly matter.
BROADCAST = """import socket

def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return s

first, *others = [udp() for _ in range(500)]
first.bind(("127.255.255.255", 0))
address = first.getsockname()
for s in others:
    s.bind(address)
sender = udp()
while True:
    sender.sendto(b"x", address)
"""


@contextlib.contextmanager
def task_cgroup(name):
    """A new cgroup of the hierarchy that tasks are placed in: its directory."""
    found = cgroup.task_hierarchy()
    if found is None:
        pytest.skip("no cgroup hierarchy is mounted")
    enable_controllers(found[0])
    directory = f"{found[0]}/crisis-{name}-{os.getpid()}"
    os.mkdir(directory)
    try:
        yield directory
    finally:
        remove_cgroup(directory)


@pytest.fixture(scope="module", autouse=True)
def one_cpu_under_emulation():
    """QEMU before 8.1 crashes a guest that patches code while another CPU runs it (Red Hat bug
    2216496).

    Softirqs run all the time, so that attaching to them meets it soon.
    """
    switch = "/sys/devices/system/cpu/cpu1/online"
    alone = SLOW != 1 and os.path.exists(switch)
    if alone:
        with open(switch, "w") as f:
            f.write("0")
    yield
    if alone:
        with open(switch, "w") as f:
            f.write("1")


def table(path):
    """{first word: sum of the CPUs' numbers} of /proc/softirqs or /proc/interrupts."""
    lines = open(path).read().splitlines()
    cpus, found = len(lines[0].split()), {}
    for line in lines[1:]:
        name, _, rest = line.partition(":")
        found[name.strip()] = sum(int(word) for word in rest.split()[:cpus] if word.isdigit())
    return found


def kernel_counts():
    return dict(table("/proc/interrupts"), **table("/proc/softirqs"))


@pytest.mark.guest
@pytest.mark.parametrize("source", ["vectors", "lines"])
@needs_quiet_machine
def test_counts_are_the_kernels(source, tmp_path):
    """Between the counts of a moment inside the trace and those of one around it."""
    usable("irqtime", source, "0.01", "1")
    outer = kernel_counts()
    child = attached("irqtime", "-j", "--source", source)
    with workload(FLOOD):
        inner = kernel_counts()
        (tmp_path / "x").write_bytes(os.urandom(1 << 20))
        subprocess.call(["sync", str(tmp_path / "x")])
        time.sleep(2)
        inner_end = kernel_counts()
    text = stop(child)
    outer_end = kernel_counts()
    records = [json.loads(line) for line in text.splitlines()]
    ours = {}
    for r in records:
        if r["record"] == "irq":
            key = r["name"] if r["irq"] is None else str(r["irq"])
            ours[key] = ours.get(key, 0) + r["count"]
    if "CAL" in ours:  # /proc/interrupts has TLB shootdowns by themselves
        for counts in outer, inner, inner_end, outer_end:
            counts["CAL"] += counts["TLB"]
    names = set(table("/proc/softirqs")) | {name for name in inner if name.isdigit()}
    if source == "vectors":
        names |= {"LOC", "RES", "CAL", "IWI"}
    assert ours["NET_RX"] > 100 and (source == "lines" or ours["LOC"] > 50)
    assert not set(ours) - names
    cpus = os.cpu_count()  # each may be in the middle of one
    for name in names:
        low, high = inner_end[name] - inner[name], outer_end[name] - outer[name] + cpus
        # A row that no program has ever seen is not reported.
        assert low - 2 * cpus <= ours.get(name, 0) <= high or not ours.get(name) and low < 20, (
            name,
            low,
            ours.get(name),
            high,
        )
    assert records[-1]["lost"]["unseen"] == sum(
        r["unseen"] for r in records if r["record"] == "irq" and r["type"] == "soft"
    )
    for kind in "hard", "soft":
        mine = [r for r in records if r["type"] == kind]
        total = mine.pop()
        assert total["record"] == "total" and total["lost"]["full"] == 0
        for key in "count", "total_ns", "unseen":
            assert total[key] == sum(r[key] or 0 for r in mine)
        assert total["max_ns"] == max((r["max_ns"] for r in mine if r["max_ns"]), default=None)


@pytest.mark.guest
@needs_quiet_machine
def test_what_the_programs_do_not_see_is_counted_and_its_time_estimated(tmp_path):
    """Programs that leave out one interrupt in eight at random, beside others that do not."""
    usable("irqtime", "vectors", "0.01", "1")
    command = load("irqtime")
    whole = command.SOURCES["vectors"]
    text = whole.text.replace(
        "\thard_begins();", "\tif (bpf_get_prandom_u32() & 7)\n\t\thard_begins();"
    )
    text = text.replace(
        "\tif (s) {\n\t\ts->stolen = 0;",
        "\tif (s && (bpf_get_prandom_u32() & 7)) {\n\t\ts->stolen = 0;",
    )
    assert text.count("bpf_get_prandom_u32") == 3  # lines, vectors and softirqs
    args = command.get_parser().parse_args(["-j", "--source", "vectors", "--no-cache"])
    command.SOURCES["lossy"] = bpf.Source(
        "irqtime.lossy",
        None,
        whole.points,
        whole.params,
        whole.counters,
        whole.defines,
        whole.has,
        constants=whole.constants,
        text=text,
    )
    lossy, exact = (
        irqs.Tracer(argparse.Namespace(**dict(vars(args), source="lossy")), command.SOURCES),
        irqs.Tracer(args, command.SOURCES),
    )
    with workload(FLOOD):
        lossy.read(False)  # what ran between the two attachments
        exact.read(False)
        for _ in range(5):
            (tmp_path / "x").write_bytes(os.urandom(1 << 20))
            subprocess.call(["sync", str(tmp_path / "x")])
            time.sleep(0.2 * SLOW)
        ours, _ = lossy.read(True)
        truth, _ = exact.read(True)
    found, wanted = [
        {(s.kind, s.name if s.irq is None else s.irq): s for s in irqs.grouped(found)}
        for found in (ours, truth)
    ]
    busy = {row: s for row, s in wanted.items() if s.number() > 1000}
    assert ("soft", "NET_RX") in busy
    for row, s in busy.items():
        mine = found[row]
        assert mine.unseen / mine.number() == pytest.approx(
            1 / 8 + s.unseen / s.number(), abs=0.04
        ), row
        # The two read at different moments, some milliseconds apart.
        assert mine.number() == pytest.approx(s.number(), rel=0.05), row
    assert found["soft", "NET_RX"].time == pytest.approx(wanted["soft", "NET_RX"].time, rel=0.1)


def softirq_seconds(cpu):
    """Seconds that a CPU has spent in softirqs, by /proc/stat."""
    words = next(line for line in open("/proc/stat") if line.startswith(f"cpu{cpu} ")).split()
    return int(words[7]) / os.sysconf("SC_CLK_TCK")


def test_time_of_softirqs_against_the_kernels_account():
    """The kernel samples at each tick what the CPU is in, here mostly a softirq."""
    if SLOW != 1:
        pytest.skip("emulation spends its time elsewhere than the ticks see")
    usable("irqtime", "vectors", "0.01", "1")
    with workload(BROADCAST, cpu=1, nice=-20) as child:
        until(lambda: cpu_time(child.pid) > 1e8)
        tracer = attached("irqtime", "-j", "-P")
        begin, before = time.monotonic(), softirq_seconds(1)
        time.sleep(6)
        after, seconds = softirq_seconds(1), time.monotonic() - begin
        records = [json.loads(line) for line in stop(tracer).splitlines()]
    ours = sum(
        r["cpu_ratio"]
        for r in records
        if r["record"] == "irq" and r["type"] == "soft" and r["cpu"] == 1
    )
    truth = (after - before) / seconds
    assert truth > 0.2 and ours == pytest.approx(truth, rel=0.1)


# Debian 13 renames it.
PEER = shutil.which("softirqs-libbpf", path="/usr/sbin") or shutil.which(
    "softirqs", path="/usr/sbin"
)


def side_by_side():
    """NET_RX's share of a CPU by irqtime and by libbpf-tools' softirqs, in overlapping seconds."""
    tracer = attached("irqtime", "-j")
    # Not in microseconds, to which it truncates each one.
    other = subprocess.run([PEER, "-N", "2", "1"], capture_output=True, text=True)
    records = [json.loads(line) for line in stop(tracer).splitlines()]
    if other.returncode:
        pytest.skip(f"softirqs does not run here: {other.stderr.strip()}")
    (ours,) = [r["cpu_ratio"] for r in records if r.get("name") == "NET_RX"]
    return ours, int(re.search(r"^net_rx\s+(\d+)", other.stdout, re.M).group(1)) / 2e9


def test_time_against_another_tool():
    """Its window is shorter than ours, so that the load must be steady: once in five is enough."""
    if len(sysfs.online_cpus()) < 2:
        pytest.skip("the load wants a CPU to itself")
    usable("irqtime", "vectors", "0.01", "1")
    if not PEER:
        pytest.skip("libbpf-tools' softirqs is not installed")
    seen = []
    with workload(FLOOD, cpu=1, nice=-20) as child:
        until(lambda: cpu_time(child.pid) > 1e8)
        while len(seen) < 5 and not any(
            ours == pytest.approx(theirs, rel=0.15) for ours, theirs in seen
        ):
            seen.append(side_by_side())
    assert any(ours == pytest.approx(theirs, rel=0.15) for ours, theirs in seen), seen


@pytest.mark.guest
def test_interrupts_of_the_tasks_of_a_cgroup(tmp_path):
    """A load in one cgroup: nearly all NET_RX come in its tasks, and none in an empty one."""
    usable("irqtime", "lines", "0.01", "1")
    with contextlib.ExitStack() as stack:
        busy, idle = (stack.enter_context(task_cgroup(name)) for name in ("irq-busy", "irq-idle"))
        child = stack.enter_context(workload(FLOOD))
        with open(busy + "/cgroup.procs", "w") as f:
            f.write(str(child.pid))
        tracers = [attached("irqtime", "-j", *more) for more in ((), ("-c", busy), ("-c", idle))]
        time.sleep(2 * SLOW)
        texts = [stop(tracer) for tracer in reversed(tracers)][::-1]
        child.kill()
        child.wait()
    everything, inside, outside = ([json.loads(line) for line in t.splitlines()] for t in texts)
    whole, part = (
        next(r for r in records if r.get("name") == "NET_RX") for records in (everything, inside)
    )
    # The first tracer starts before the second and ends after it.
    assert 0.5 * whole["count"] < part["count"] <= whole["count"]
    assert part["avg_us"] == pytest.approx(whole["avg_us"], rel=0.3)
    assert part["unseen"] is inside[-1]["lost"]["unseen"] is None and whole["unseen"] is not None
    assert [r["count"] for r in outside] == [0, 0]  # the totals


@pytest.mark.guest
def test_no_cpu_has_more_time_than_there_is():
    usable("irqtime", "lines", "0.01", "1")
    with workload(FLOOD):
        result = run("irqtime", "-j", "-P", "1", "3")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    cpus = sysfs.online_cpus()
    assert {r["cpu"] for r in records if r["record"] == "irq"} <= set(cpus)
    records = [r for r in records if r["total_ns"] is not None]  # of the others none was seen
    for cpu in cpus:
        assert sum(r["total_ns"] for r in records if r.get("cpu") == cpu) < 1e9 * sum(
            {r["time"]: r["seconds"] for r in records}.values()
        )
    assert all(
        0 < r["max_ns"] <= r["total_ns"] and r["avg_us"] > 0
        for r in records
        if r["record"] == "irq"
    )


@pytest.mark.guest
def test_histogram_holds_each_one():
    usable("irqtime", "lines", "0.01", "1")
    with workload(FLOOD):
        result = run("irqtime", "-d", "-j", ".5", "2")
        text = run("irqtime", "-d", ".5", "1").stdout
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert any(r.get("name") == "NET_RX" for r in records)
    for r in records:
        measured = sum(b["count"] for b in r["buckets"])
        assert measured == r["count"] - r["unseen"]
        if measured:
            assert r["buckets"][-1]["lo_ns"] <= r["max_ns"] <= r["buckets"][-1]["hi_ns"]
            low = sum(b["lo_ns"] * b["count"] for b in r["buckets"])
            # of the total, the rows are scaled each by itself
            total = r["total_ns"] * measured / r["count"]
            if r["record"] == "irq" or not r["unseen"]:
                assert low <= total + 1 <= 2 + sum(b["hi_ns"] * b["count"] for b in r["buckets"])
    assert "softirq = NET_RX\n     usecs               : count     distribution\n" in text


def test_text():
    usable("irqtime", "vectors", "0.01", "1")
    result = run("irqtime", "-T", "-P", ".5", "2")
    title, *notes = result.stderr.splitlines()
    assert (
        result.returncode == 0 and title == "Tracing hard and soft interrupts... Hit Ctrl-C to end."
    )
    assert not notes or len(notes) == 1 and "UNSEEN" in notes[0]  # where a kernel leaves a task out
    assert len(re.findall(r"^\d\d:\d\d:\d\d$", result.stdout, re.M)) == 2
    heads = [line.split() for line in result.stdout.splitlines() if "TYPE" in line]
    assert (
        heads
        == [
            [
                "CPU",
                "TYPE",
                "IRQ",
                "NAME",
                "COUNT",
                "TIME(us)",
                "AVG(us)",
                "MAX(us)",
                "%CPU",
                "UNSEEN",
            ]
        ]
        * 2
    )
    assert len(re.findall(r"^ +- (hard|soft) +- total ", result.stdout, re.M)) == 4
    rows = [
        line.split() for line in result.stdout.splitlines() if re.match(r" *\d+ (hard|soft)", line)
    ]
    assert any(row[3] == "local_timer" and row[2] == "LOC" for row in rows)


def test_lines_have_the_names_of_their_handlers(tmp_path):
    """As /sys has them, which shows those of a shared line separated by commas."""
    usable("irqtime", "lines", "0.01", "1")
    child = attached("irqtime", "-j", "--source", "lines")
    for _ in range(20):
        (tmp_path / "x").write_bytes(os.urandom(1 << 20))
        subprocess.call(["sync", str(tmp_path / "x")])
    records = [
        r for r in map(json.loads, stop(child).splitlines()) if isinstance(r.get("irq"), int)
    ]
    if not records:
        pytest.skip("no interrupt line of this machine is in use")
    for r in records:
        with open(f"/sys/kernel/irq/{r['irq']}/actions") as f:
            assert r["name"] in f.read().strip().split(",")
    assert interrupts.name(10**6) == "irq1000000"


def test_a_full_table_is_reported():
    """The table with room for two of them, on a kernel that has a dozen."""
    command = load("irqtime")
    source = command.SOURCES["lines"]
    obj = cache.build(source)
    if obj.unusable:
        pytest.skip(obj.unusable)
    program = bpf.Program(
        obj,
        dict(dict.fromkeys(source.params, 0), kinds=irqs.HARD | irqs.SOFT),
        {
            "states": {"max_entries": bpf.possible_cpus()},
            "empty": {"elements": 0},
            "sources": {"max_entries": 2, "elements": 0},
        },
    )
    try:
        program.attach()
        with workload(FLOOD):
            until(lambda: program.counters()["full"])
        assert len(list(program.maps["sources"].items())) == 2
    finally:
        program.close()


def test_nobody():
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    result = as_nobody("irqtime", "1", "1")
    assert result.returncode == 77 and result.stdout == "" and result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["abc"], ["0"], ["1", "0"], ["--source", "x"], ["-x"]])
def test_usage(arguments):
    result = run("irqtime", *arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1


def test_closed_reader_and_full_disk():
    usable("irqtime", "lines", "0.01", "1")
    result = subprocess.run(
        f"timeout 30 {tool('irqtime')} .1 | head -2 >/dev/null; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() in ("0", "141") and "rror" not in result.stderr
    result = subprocess.run(
        f"{tool('irqtime')} .1 1 >/dev/full", shell=True, stderr=subprocess.PIPE, text=True
    )
    assert result.returncode == 1 and "No space left" in result.stderr
