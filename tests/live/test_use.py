# SPDX-License-Identifier: GPL-2.0-or-later
"""use on the running kernel: each resource in need alone marks its row, and figures of sysstat."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from crisis.kernel import cgroup as cgroups
from helpers import (
    HOG,
    ROOT,
    SLOW,
    as_nobody,
    fails_to_write,
    memory_cgroup,
    needs_quiet_machine,
    remove_cgroup,
    run,
    tool,
    until,
    workload,
)

CPUS = os.cpu_count()
MANY = f"""
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-IS", "-c", "while True: pass"])
            for _ in range({3 * CPUS})]
print(flush=True)
sys.stdin.read()
for child in children:
    child.kill()
"""


def parsed(text):
    return [json.loads(line) for line in text.splitlines()]


def records(*args, enter=()):
    result = subprocess.run(
        [*enter, tool("use"), "-j", *map(str, args)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return parsed(result.stdout)


def marks(found):
    """{(record, name): its marks} of the rows that are marked."""
    return {(r["record"], r["name"]): r["marks"] for r in found if r["marks"]}


def only(found, record, name=None):
    """The one record of a resource."""
    (one,) = [r for r in found if (r["record"], r["name"]) == (record, name)]
    return one


def alone(workload, record, name=None, seconds=1.0, enter=()):
    """The record of the resource that a workload (a context manager) needs.

    No other is marked, except for those that the machine marks without the workload.
    """
    seconds *= min(SLOW, 3)
    allowed = set(marks(records(0.5, 1, enter=enter)))
    with workload:
        found = records(seconds, 1, enter=enter)
    allowed |= set(marks(records(0.5, 1, enter=enter))) | {(record, name)}
    assert set(marks(found)) <= allowed
    return only(found, record, name)


@contextlib.contextmanager
def started(code, *args, wrap=()):
    """A Python child that has printed an empty line; it ends when its input does."""
    child = subprocess.Popen(
        [*wrap, sys.executable, "-IS", "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"\n"
        yield child
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(timeout=20 * SLOW)


@contextlib.contextmanager
def limited(controller, v1, v2):
    """A new cgroup with limits: (directory, path below the mount point).

    v1, v2: {file: value}.
    """
    mount = cgroups.controller_mount(controller)
    if mount is None:
        pytest.skip(f"no cgroup hierarchy with {controller} is mounted")
    point, controllers = mount
    if controllers is None:
        if controller not in open(point + "/cgroup.controllers").read().split():
            pytest.skip(f"cgroup v2 has no controller {controller} here")
        with open(point + "/cgroup.subtree_control", "w") as f:
            f.write("+" + controller)
    directory = f"{point}/crisis-use-{controller}-{os.getpid()}"
    os.mkdir(directory)
    try:
        for file, value in (v2 if controllers is None else v1).items():
            with open(f"{directory}/{file}", "w") as f:
                f.write(str(value))
        yield directory, "/" + os.path.basename(directory)
    finally:
        remove_cgroup(directory)


def joining(directory):
    """The words in front of a command that runs in a cgroup."""
    return ["sh", "-c", f'echo $$ > {directory}/cgroup.procs && exec "$@"', "sh"]


@pytest.mark.guest
@needs_quiet_machine
def test_more_tasks_than_cpus():
    row = alone(started(MANY), "cpu", seconds=2)
    assert {"saturation", "utilization"} <= set(row["marks"])
    assert row["util_ratio"] > 0.95 and row["busiest_util_ratio"] > 0.95
    assert row["saturation"] >= CPUS  # three tasks for each CPU
    assert row["psi_some_ratio"] is None or row["psi_some_ratio"] > 0.8


@pytest.mark.guest
@needs_quiet_machine
def test_an_idle_machine_marks_nothing():
    row = only(records(1, 1), "cpu")
    if row["util_ratio"] > 0.5:
        pytest.skip(f"the machine is not idle: CPUs {100 * row['util_ratio']:.0f}%")
    assert "saturation" not in row["marks"] and "utilization" not in row["marks"]


@pytest.mark.guest
@needs_quiet_machine
def test_a_cgroup_at_its_cpu_limit():
    # With a large weight it gets its share beside other load.
    v1 = {"cpu.cfs_period_us": 100000, "cpu.cfs_quota_us": 20000, "cpu.shares": 262144}
    v2 = {"cpu.max": "20000 100000", "cpu.weight": 10000}
    with limited("cpu", v1, v2) as (directory, path):
        row = alone(workload(HOG, wrap=joining(directory)), "cgroup_cpu", path, seconds=2)
        idle = only(records(0.5, 1), "cgroup_cpu", path)
    assert row["limit_cpus"] == 0.2 and "saturation" in row["marks"]
    assert row["throttled_periods"] >= 0.8 * row["periods"] > 10
    assert row["saturation"] == pytest.approx(100 * row["throttled_periods"] / row["periods"])
    if row["util_ratio"] is not None:  # v1 counts it in another hierarchy
        assert row["util_ratio"] == pytest.approx(1, abs=0.2)
    assert idle["marks"] == []


FILE_READER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
os.set_blocking(0, False)
while True:
    for at in range(0, 64 << 20, 1 << 20):
        os.pread(fd, 1 << 20, at)
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
"""


@pytest.mark.guest
@needs_quiet_machine
def test_a_cgroup_at_its_memory_limit(tmp_path):
    """Page cache of a file that is one hole: no disk is needed."""
    path = tmp_path / "hole"
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    with memory_cgroup(16 << 20, "use") as directory:
        name = "/" + os.path.basename(directory)
        reader = started(FILE_READER, str(path), wrap=joining(directory))
        row = alone(reader, "cgroup_memory", name)
    assert "saturation" in row["marks"] and row["max_events"] > 0
    assert row["limit_bytes"] == 16 << 20 and row["usage_bytes"] <= 16 << 20
    assert row["working_set_bytes"] < 16 << 20


SLEEPERS = """
import os, sys, time
children = []
refused = 0
print(flush=True)
os.set_blocking(0, False)
while True:
    try:
        pid = os.fork()
        if not pid:
            time.sleep(1000)
            os._exit(0)
        children.append(pid)
    except BlockingIOError:  # EAGAIN of the limit
        time.sleep(0.05)
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


@pytest.mark.guest
@needs_quiet_machine
def test_a_cgroup_at_its_limit_of_tasks():
    with limited("pids", {"pids.max": 20}, {"pids.max": 20}) as (directory, path):
        row = alone(started(SLEEPERS, wrap=joining(directory)), "cgroup_pids", path)
    assert row["marks"] == ["errors", "utilization"]
    assert (row["current"], row["limit"], row["util_ratio"]) == (20, 20, 1)
    assert row["refused"] == row["errors"] > 1


OPENER = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(290)]
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.guest
@needs_quiet_machine
def test_a_process_near_its_limit_of_files():
    allowed = set(marks(records(0.2, 1)))
    with started(OPENER) as child:
        found = records(0.5, 1)
        name = str(child.pid)
        open_files = len(os.listdir(f"/proc/{child.pid}/fd"))
        nobody = parsed(as_nobody("use", "-j", ".1", "1").stdout) if os.getuid() == 0 else found
    nearest = [r for r in found if r["record"] == "process_files"]
    if [r["name"] for r in nearest] != [name]:
        pytest.skip(f"another process is nearer to its limit: {nearest}")
    row = only(found, "process_files", name)
    assert row["marks"] == ["utilization"] and row["limit"] == 300
    assert row["open"] == open_files and row["util_ratio"] == pytest.approx(
        open_files / 300, abs=1e-6
    )
    assert row["comm"].startswith("python")
    assert set(marks(found)) - {("process_files", name), ("cpu", None)} <= allowed
    if os.stat("/proc/self/fd").st_size:  # Linux 6.2
        assert only(nobody, "process_files", name)["open"] == open_files


NETWORK = """
ip link set lo up
ip link add va type veth peer name vb && ip link set va up && ip link set vb up &&
tc qdisc add dev va root tbf rate 8kbit burst 4096 limit 20480 || exit
echo && exec sleep 1000
"""
FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0x88b5))
print(flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for _ in range(50):
        try:
            s.send(b"\\xff" * 12 + b"\\x88\\xb5" + bytes(500))
        except OSError:  # ENOBUFS
            pass
    time.sleep(.02)
"""
LISTENER = """
import socket, sys
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(0)
print(flush=True)
clients = []
import time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    clients.append(socket.socket()); clients[-1].setblocking(False)
    clients[-1].connect_ex(listener.getsockname())
    time.sleep(.02)
"""


@pytest.fixture
def network():
    """The words in front of a command that runs in a network namespace with veth and tbf."""
    if os.getuid():
        pytest.skip("needs root")
    holder = subprocess.Popen(
        ["unshare", "-nm", "sh", "-c", "mount -t sysfs none /sys || exit\n" + NETWORK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if not holder.stdout.readline():
            pytest.skip(f"no veth with a token bucket filter: {holder.stderr.read().decode()}")
        yield ["nsenter", "-n", "-m", "-t", str(holder.pid)]
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.guest
@needs_quiet_machine
def test_an_interface_whose_queue_drops(network):
    allowed = set(marks(records(0.2, 1, enter=network)))
    with started(FLOOD, "va", str(4 * min(SLOW, 4)), wrap=network):
        found = records(1, 1, enter=network)
    row = only(found, "interface", "va")
    assert row["marks"] == ["saturation"] and row["queue_drops"] > 0
    assert row["saturation"] == pytest.approx(
        (row["queue_drops"] + row["tx_dropped"]) / row["seconds"], rel=0.2
    )
    assert row["util_ratio"] is None  # 10 Gbit/s is made up
    assert only(found, "interface", "lo")["marks"] == []
    # No protocol is there for these packets: vb drops what arrives.
    assert set(marks(found)) <= allowed | {("interface", "va"), ("interface", "vb"), ("cpu", None)}


@pytest.mark.guest
@needs_quiet_machine
def test_a_full_listen_queue(network):
    allowed = set(marks(records(0.2, 1, enter=network)))
    with started(LISTENER, str(4 * min(SLOW, 4)), wrap=network):
        found = records(1, 1, enter=network)
    row = only(found, "tcp")
    assert "saturation" in row["marks"] and row["listen_drops"] >= 10
    assert set(marks(found)) <= allowed | {("tcp", None), ("cpu", None)}


READER = """
import mmap, os, sys, threading
buffer = [mmap.mmap(-1, 1 << 20) for _ in range(4)]
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
go = True
def read(which):
    while go:
        for at in range(0, 32 << 20, 1 << 20):
            os.preadv(fd, [buffer[which]], at)
threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
[t.start() for t in threads]
print(flush=True)
sys.stdin.read()
go = False
"""


@pytest.fixture
def loop_device(tmp_path):
    """A loop device on a file of 32 MB."""
    with open(tmp_path / "disk", "wb") as f:
        f.write(bytes(32 << 20))
    made = subprocess.run(
        ["losetup", "-f", "--show", str(tmp_path / "disk")], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        until(lambda: not subprocess.run(["losetup", "-d", device]).returncode)


@pytest.mark.guest
@needs_quiet_machine
def test_a_busy_disk(loop_device):
    name = os.path.basename(loop_device)
    with open(loop_device, "rb") as f:
        f.read(4096)  # a device without I/O has no row
    before = set(marks(records(0.2, 1)))
    with started(READER, loop_device, wrap=("nice", "-n", "-15")):
        found = records(1, 1)
    row = only(found, "disk", name)
    assert row["marks"] == ["utilization"] and row["util_ratio"] > 0.9
    assert row["saturation"] > 0.9 and row["read_sectors"] > 0 and row["write_ios"] == 0
    # Four threads copy pages, too.
    assert set(marks(found)) <= before | {("disk", name), ("cpu", None)}


@pytest.mark.guest
def test_interfaces_are_those_of_pyroute2(network):
    """Names, states, counters and queues, while nothing is sent."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from crisis.net import link, rtnl
links = link.Links()
for samples in rtnl.samples(), links.read():
    print([(index, one.link.name, one.link.up, one.link.state, one.link.loopback,
            one.link.ethernet, one.counters,
            one.queue and (one.queue.packets, one.queue.bytes, one.queue.drops))
           for index, one in sorted(samples.items())])
"""
    with started(FLOOD, "va", ".1", wrap=network):
        time.sleep(0.2)
    result = subprocess.run(
        [*network, "/usr/bin/python3", "-c", code, os.path.join(ROOT, "lib")],
        capture_output=True,
        text=True,
    )
    if "No module named" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    ours, theirs = result.stdout.splitlines()
    assert ours == theirs and "'va', True, 'up', False, True" in ours


def sysstat(*words):
    """A command of sysstat that reports on five seconds."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    environment = {**os.environ, "LC_ALL": "C", "S_TIME_FORMAT": "ISO"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


@needs_quiet_machine
def test_figures_of_sar_vmstat_and_iostat(loop_device):
    name = os.path.basename(loop_device)
    with open(loop_device, "rb") as f:
        f.read(4096)
    with started(READER, loop_device), workload(HOG, cpu=0):
        time.sleep(0.3)
        ours = subprocess.Popen([tool("use"), "-j", "5", "1"], stdout=subprocess.PIPE, text=True)
        # Its first reading is over when it waits for the interval to end.
        until(lambda: "poll" in open(f"/proc/{ours.pid}/wchan").read())
        sar = sysstat("sar", "-u", "5", "1")
        memory = sysstat("sar", "-r", "5", "1")
        iostat = sysstat("iostat", "-o", "JSON", "-xy", name, "5", "1")
        vmstat = sysstat("vmstat", "5", "2")
        found = parsed(ours.communicate()[0])
        texts = [child.communicate()[0] for child in (sar, memory, iostat, vmstat)]
    cpu, disk = only(found, "cpu"), only(found, "disk", name)
    average = texts[0].splitlines()[-1].split()
    idle, iowait = float(average[-1]), float(average[-3])
    assert 100 * cpu["util_ratio"] == pytest.approx(100 - idle - iowait, abs=8)
    head, last = texts[3].splitlines()[1].split(), texts[3].splitlines()[-1].split()
    columns = dict(zip(head, map(int, last)))
    assert 100 * cpu["util_ratio"] == pytest.approx(100 - columns["id"] - columns["wa"], abs=8)
    (theirs,) = json.loads(texts[2])["sysstat"]["hosts"][0]["statistics"][0]["disk"]
    assert 100 * disk["util_ratio"] == pytest.approx(theirs["util"], abs=5)
    assert disk["saturation"] == pytest.approx(theirs["aqu-sz"], rel=0.2, abs=0.2)
    assert disk["read_ios"] / disk["seconds"] == pytest.approx(theirs["r/s"], rel=0.2)
    assert disk["read_await_ms"] == pytest.approx(theirs["r_await"], rel=0.2, abs=0.05)
    titles = [line for line in texts[1].splitlines() if "kbavail" in line][0].split()
    values = texts[1].splitlines()[-1].split()
    available = int(values[titles.index("kbavail") - len(titles)]) * 1024
    row = only(found, "memory")
    assert row["available_bytes"] == pytest.approx(available, rel=0.05)


@pytest.mark.guest
def test_in_a_container(tmp_path):
    """In namespaces of its own, without privileges over the machine, it shows what there is."""
    script = (
        "ip link set lo up; mount -t proc proc /proc; mount -t tmpfs none /sys/fs/cgroup; "
        'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
    )
    enter = ["unshare", "-mCpnif", "sh", "-c", script, "sh"]
    result = subprocess.run([*enter, tool("use"), "-v", ".2", "1"], capture_output=True, text=True)
    if "unshare:" in result.stderr:
        pytest.skip(f"no namespaces: {result.stderr.strip()}")
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    names = [line.split()[1] for line in result.stdout.splitlines()]
    assert {"cpu", "memory", "net:lo", "tcp", "files", "pids"} <= set(names)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.guest
def test_without_privileges_the_same_rows():
    if os.getuid():
        pytest.skip("needs root")
    mine = run("use", "-j", ".1", "1")
    theirs = as_nobody("use", "-j", "-v", ".1", "1")
    assert theirs.returncode == 0, theirs.stderr

    def kinds(result):
        return {r["record"] for r in parsed(result.stdout)} - {"process_files"}

    assert kinds(theirs) == kinds(mine)


@pytest.mark.guest
def test_reports_and_exits():
    begin = time.monotonic()
    once = run("use")
    assert once.returncode == 0 and once.stdout.count("ESU RESOURCE") == 1
    assert time.monotonic() - begin >= 1
    assert run("use", ".1", "3").stdout.count("ESU RESOURCE") == 3
    head = fails_to_write("use", ".1 1", ".1")
    assert head.startswith(b"ESU RESOURCE")
    child = subprocess.Popen(
        [tool("use"), "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(0.7 * SLOW)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20 * SLOW)
    assert (child.returncode, err) == (0, "") and out.startswith("ESU RESOURCE")
