# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat in a network namespace of its own, against frames whose number is known, pyroute2's
decoder, /proc/net and nicstat 1.95.

Needs root for most.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from helpers import SLOW, as_nobody, fails_to_write, run, tool, until

CLASSIC = "/usr/bin/nicstat"
TC_H_ROOT = 0xFFFFFFFF

SEND = r"""
import socket, sys
name, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((name, 0))
frame = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5"  # a protocol for experiments (IEEE 802)
sent = 0
for _ in range(count):
    try:
        sent += s.send(frame.ljust(size, b"x")) == size
    except OSError as exc:                                      # ENOBUFS: the queue has dropped it
        assert exc.errno == 105
print(sent)
"""


def wait_until_it_sleeps(*children):
    """Return when the commands have read the counters for the first time, and wait in poll(2) for
    their interval to end.
    """
    deadline, seen = time.monotonic() + 20 * SLOW, 0
    while seen < 3:  # not only for a moment, as for an answer of the kernel's
        assert time.monotonic() < deadline
        asleep = []
        for child in children:
            assert child.poll() is None
            with open(f"/proc/{child.pid}/wchan") as f:
                asleep.append("poll" in f.read())
        seen = seen + 1 if all(asleep) else 0
        time.sleep(0.02)


class Namespace:
    """A network namespace with a pair of virtual interfaces, va and vb; route is its pyroute2."""

    def __init__(self):
        from pyroute2 import NetNS

        self.holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if not self.holder.stdout.readline():
            reason = self.holder.stderr.read().decode().strip()
            self.holder.communicate()
            pytest.skip(f"no network namespace: {reason}")
        self.enter = ["nsenter", "-n", "-t", str(self.holder.pid)]
        self.path = f"/proc/{self.holder.pid}/ns/net"
        self.route = NetNS(self.path, flags=0)

    def close(self):
        self.route.close()
        self.holder.kill()
        self.holder.communicate()

    def run(self, *command):
        return subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=60 * SLOW
        )

    def index(self, name):
        (found,) = self.route.link_lookup(ifname=name)
        return found

    def set(self, name, **what):
        self.route.link("set", index=self.index(name), **what)

    def pair(self, one, other):
        """Add a pair of virtual interfaces, up, on which the kernel itself sends nothing."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            self.route.link("add", ifname=one, kind="veth", peer=other)
        except NetlinkError as exc:
            pytest.skip(f"no pair of virtual interfaces: {exc}")
        for name in one, other:
            self.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
            self.set(name, state="up")

    def remove(self, name):
        """Delete an interface: by ip, since pyroute2 0.5 cannot on Linux 5.18 and newer."""
        result = self.run("ip", "link", "del", name)
        assert result.returncode == 0, result.stderr

    def shape(self, name, rate="8kbit"):
        """Let a token bucket filter drop most of what is sent at once on an interface."""
        from pyroute2.netlink.exceptions import NetlinkError

        options = {"rate": rate, "burst": 4096, "limit": 20480}
        try:
            self.route.tc("add", "tbf", index=self.index(name), handle=0x10000, **options)
        except NetlinkError as exc:
            pytest.skip(f"no token bucket filter: {exc}")

    def queue(self, name):
        """The statistics of the root queueing discipline, as pyroute2 decodes them."""
        index = self.index(name)
        (found,) = [
            message.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")
            for message in self.route.get_qdiscs()
            if message["index"] == index and message["parent"] == TC_H_ROOT
        ]
        return found

    def send(self, name, count, size):
        result = self.run("/usr/bin/python3", "-IS", "-c", SEND, name, str(count), str(size))
        assert result.returncode == 0, result.stderr
        return int(result.stdout)

    def start(self, *words, command=None):
        return subprocess.Popen(
            [*self.enter, command or tool("nicstat"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def during(self, action, *words):
        """The records of one interval in which the action was taken: ({name: record of an
        interface}, [other record])."""
        child = self.start("-jy", *words, "100")
        wait_until_it_sleeps(child)
        action()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60 * SLOW)
        assert child.returncode == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        others = [r for r in found if r["record"] != "interface"]
        return {r["interface"]: r for r in found if r["record"] == "interface"}, others


@pytest.fixture
def namespace():
    if os.getuid():
        pytest.skip("needs root")
    made = Namespace()
    try:
        made.pair("va", "vb")
        time.sleep(0.1)
        yield made
    finally:
        made.close()


@pytest.mark.guest
def test_frames_and_bytes_are_those_that_were_sent(namespace):
    found, (soft,) = namespace.during(
        lambda: [namespace.send("va", 1000, 500), namespace.send("vb", 300, 60)]
    )
    va, vb = found["va"], found["vb"]
    assert (va["tx_packets"], va["tx_bytes"], va["rx_packets"], va["rx_bytes"]) == (
        1000,
        500000,
        300,
        18000,
    )
    assert (vb["rx_packets"], vb["rx_bytes"], vb["tx_packets"], vb["tx_bytes"]) == (
        1000,
        500000,
        300,
        18000,
    )
    # Nobody wants these frames.
    assert vb["rx_dropped"] == vb["saturation_packets"] == vb["sat_packets"] == 1000
    assert vb["rx_errors"] == 0
    assert (va["state"], va["up"], va["lost"], found["lo"]["up"]) == (
        "up",
        True,
        {"removed": 0},
        False,
    )
    assert soft["dropped_packets"] == 0
    if va["speed_mbps"] is not None:  # of veth: 10 Gbit/s, full duplex
        assert (va["speed_mbps"], va["duplex"]) == (10000, "full")
        # A record has six decimals.
        assert va["util_ratio"] == pytest.approx(
            (500000 + 24 * 1000) * 8 / 1e10 / va["seconds"], rel=0.01, abs=1e-6
        )


@pytest.mark.guest
def test_drops_of_a_queue_are_those_that_pyroute2_decodes(namespace):
    namespace.shape("va")
    taken = []
    found, _ = namespace.during(lambda: taken.append(namespace.send("va", 200, 1000)), "-i", "va")
    queue = namespace.queue("va")
    va = found["va"]
    assert list(found) == ["va"]
    assert va["queue_drops"] == queue["drops"] == 200 - taken[0] > 100
    assert va["saturation_packets"] == queue["drops"] and va["sat_packets"] == 0
    assert va["queue_bytes"] >= 1000 * va["queue_packets"] > 0
    assert va["tx_packets"] + va["queue_packets"] + queue["drops"] == 200
    again, _ = namespace.during(lambda: None, "-i", "va")
    assert again["va"]["queue_drops"] == 0
    # Sat leaves them out, as the classic's: a note says so.
    child = namespace.start("-y", "100")
    wait_until_it_sleeps(child)
    namespace.send("va", 200, 1000)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60 * SLOW)
    (row,) = [line.split() for line in out.splitlines() if " va " in line]
    assert row[-1] == "0.00" and err.count("\n") == 1 and "--losses" in err


def test_intervals_add_up_to_proc_net_dev(namespace):
    child = namespace.start("-jy", "-i", "vb", str(0.2 * min(SLOW, 4)), "4")
    for _ in range(4):
        namespace.send("va", 100, 100)
    out, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 0, err
    found = [r for r in map(json.loads, out.splitlines()) if r["record"] == "interface"]
    lines = namespace.run("cat", "/proc/net/dev").stdout.splitlines()
    (line,) = [line for line in lines if line.strip().startswith("vb:")]
    nbytes, packets = map(int, line.partition(":")[2].split()[:2])
    assert len(found) == 4 and packets == 400 and nbytes == 40000
    assert sum(r["rx_packets"] for r in found) <= 400
    for r in found:
        assert r["rx_bytes"] == 100 * r["rx_packets"]


def test_rates_in_text(namespace):
    child = namespace.start("-y", "100")
    wait_until_it_sleeps(child)
    namespace.send("va", 1000, 1000)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 0 and err == "", err
    header, *rows = out.splitlines()
    titles = "Time Int rKB/s wKB/s rPk/s wPk/s rAvs wAvs %Util Sat"
    assert header.split() == titles.split()
    rows = {row.split()[1]: row.split()[2:] for row in rows}
    assert sorted(rows) == ["va", "vb"]  # lo never had a packet
    assert rows["va"][5] == rows["vb"][4] == "1000.0" and rows["va"][4] == "0.00"
    assert float(rows["va"][1]) == pytest.approx(float(rows["va"][3]) * 1000 / 1024, rel=0.01)
    # all of them dropped
    assert float(rows["vb"][7]) == pytest.approx(float(rows["vb"][2]), rel=0.01)
    lost = namespace.run(tool("nicstat"), "--losses", "-i", "vb").stdout.splitlines()
    assert lost[0].split()[1:4] == ["rErr", "rMiss", "rDrop"]
    assert lost[1].split()[:4] == ["vb", "0", "0", "1000"]  # since boot


def test_the_first_report_is_since_boot(namespace):
    namespace.send("va", 1000, 1000)
    record = json.loads(namespace.run(tool("nicstat"), "-j", "-i", "va").stdout.splitlines()[0])
    assert record["since_boot"] and record["tx_packets"] == 1000
    assert record["seconds"] == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=60)
    began = time.monotonic()
    many = namespace.run(tool("nicstat"), "-p", "-i", "va", "0.2", "3").stdout.splitlines()
    assert len(many) == 3 and 0.35 < time.monotonic() - began < 20 * SLOW
    assert float(many[0].split(":")[5]) > 0 == float(many[1].split(":")[5])


FIELDS = {  # options: titles of the fields in which 1.95 prints 0 for what Linux does not report
    "": (),
    "-n": (),
    "-z": (),
    "-s": (),
    "-M": (),
    "-U": (),
    "-x": ("NoCP", "Defer"),
    "-xU": ("NoCP", "Defer"),
    "-xM": ("NoCP", "Defer"),
    # Not -t alone: there 1.95 reads stdio's buffer again, and prints 0 after the first report.
    "-tu": ("InKB", "OutKB", "%ReTX", "Drops"),
    "-u": (),
    "-a": ("NoCP", "Defer", "InKB", "OutKB", "%ReTX", "Drops"),
    "-S lo:1h": (),  # 1.95 prefers what a driver reports
    "-i vb,t0": (),
    "-p": (),
    "-px": (),
    "-pa": (),
}
TITLES = {"rKB/s", "rMbps", "RdKB", "RdMbps", "InSeg", "InDG"}
TAP = r"""
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"t0", 0x1002))  # TUNSETIFF: IFF_TAP, IFF_NO_PI
print(flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        os.write(fd, (b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5").ljust(700, b"x"))
    print(flush=True)
"""


def ordered(lines):
    """The lines of interfaces between two lines of titles, sorted by name."""
    found, block = [], []
    for line in lines:
        if TITLES & set(line):
            found += [*sorted(block), line]
            block = []
        else:
            block.append(line)
    return found + sorted(block)


def reports(out, parseable):
    """The lines of both reports, [[field, ...]]: a time becomes "T", and is checked elsewhere."""
    found = []
    for line in out.splitlines():
        fields = line.split(":") if parseable else line.split()
        clock = fields[0].isdigit() if parseable else fields[0].count(":") == 2
        found.append(["T", *fields[1:]] if clock else fields)
    return found


@pytest.mark.skipif(
    not os.path.exists(CLASSIC), reason="nicstat 1.95 is not installed (Debian: nicstat)"
)
def test_fields_are_those_of_nicstat_1_95(namespace):
    """All command lines of both at the same time, on veth, tbf and tap, and TCP and UDP on lo."""
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")
    namespace.pair("vc", "vd")
    namespace.shape("vc", "800kbit")  # what it takes is sent within the interval
    tap = subprocess.Popen(
        [*namespace.enter, "/usr/bin/python3", "-IS", "-c", TAP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    assert tap.stdout.readline()
    namespace.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/t0/disable_ipv6")
    for name in "t0", "lo":
        namespace.set(name, state="up")

    def traffic():
        namespace.send("va", 5000, 900)
        namespace.send("vb", 300, 60)
        namespace.send("vc", 200, 1000)
        tap.stdin.write("2000\n")
        tap.stdin.flush()
        assert tap.stdout.readline()
        result = namespace.run("/usr/bin/python3", "-IS", "-c", TALK)
        assert result.returncode == 0, result.stderr

    try:
        traffic()  # so that both have something to show since boot
        until(lambda: not namespace.queue("vc")["qlen"])
        compare_all(namespace, traffic)
    finally:
        tap.kill()
        tap.communicate()


TALK = r"""
import socket
listener = socket.create_server(("127.0.0.1", 0))
for _ in range(50):
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    one.sendall(b"x" * 1000); assert len(other.recv(1000, socket.MSG_WAITALL)) == 1000
    one.close(); other.close()
free = socket.socket(); free.bind(("127.0.0.1", 0))
for _ in range(20):                                    # refused: AttF, Reset
    assert socket.socket().connect_ex(free.getsockname())
inbox = socket.socket(type=socket.SOCK_DGRAM); inbox.bind(("127.0.0.1", 0))
for _ in range(40):
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", inbox.getsockname())
"""


def compare_all(namespace, traffic):
    children, began = [], time.monotonic()
    try:
        for options in FIELDS:
            words = [*options.split(), "15", "2"]
            children.append((options, namespace.start(*words)))
            children.append((options, namespace.start(*words, command=CLASSIC)))
        wait_until_it_sleeps(*(child for _, child in children))
        traffic()
        assert time.monotonic() - began < 14, "the machine is too slow for one interval"
        outputs = [(options, *child.communicate(timeout=60)) for options, child in children]
    finally:
        for _, child in children:
            child.kill()
    for (options, ours, note), (_, theirs, err) in zip(outputs[::2], outputs[1::2]):
        assert err == "" and (note == "" or note.count("\n") == 1 and "--losses" in note), note
        differences = list(compared(options, ours, theirs))
        assert not differences, (options, differences, ours, theirs)


def compared(options, ours, theirs):
    """Yield what differs beyond what two processes that read one after the other may."""
    ours, theirs = reports(ours, "p" in options), reports(theirs, "p" in options)
    if len(ours) != len(theirs):
        yield f"{len(ours)} and {len(theirs)} lines"
    titles = ()
    # Each has its own order of the interfaces.
    for mine, other in zip(ordered(ours), ordered(theirs)):
        if len(mine) != len(other):
            yield mine, other
        elif TITLES & set(mine):
            titles = mine
            if mine != other:
                yield mine, other
        else:
            for at, (field, value) in enumerate(zip(mine, other)):
                title = titles[at] if at < len(titles) else ""
                if field == "-" or title in FIELDS[options]:
                    if float(value):  # 1.95 knows something
                        yield title, mine, other
                elif field != value and not near(field, value):
                    yield title, mine, other


def near(field, value):
    try:
        return float(field) == pytest.approx(float(value), rel=0.1, abs=0.02)
    except ValueError:
        return False


@pytest.mark.guest
def test_interfaces_that_come_go_and_are_renamed(namespace):
    def change():
        namespace.set("va", state="down")
        namespace.set("va", ifname="\x1b[31mva")
        namespace.set("\x1b[31mva", state="up")
        namespace.pair("vc", "vd")
        namespace.send("vd", 50, 100)

    found, _ = namespace.during(change)
    assert found["\x1b[31mva"]["up"] and "va" not in found
    assert found["vc"]["rx_packets"] >= 50 and found["vd"]["tx_bytes"] >= 5000
    text = namespace.run(tool("nicstat"), "--idle", ".1", "1")
    assert "\x1b" not in text.stdout and "\\x1b[31mva" in text.stdout
    gone, _ = namespace.during(lambda: namespace.remove("vc"))
    assert "vd" not in gone and gone["lo"]["lost"] == {"removed": 2}
    child = namespace.start("-i", "vb", ".1")
    assert child.stdout.readline() and child.stdout.readline()
    namespace.remove("vb")
    _, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 1 and err.splitlines()[-1] == "nicstat: the interface has gone"


def test_speed_duplex_and_state(namespace):
    namespace.set("va", state="down")
    listed = namespace.run(tool("nicstat"), "-l").stdout.splitlines()
    assert listed[0].split() == ["Int", "Loopback", "Mbit/s", "Duplex", "State"]
    rows = {line.split()[0]: line.split()[1:] for line in listed[1:]}
    assert rows["lo"] == ["Yes", "-", "unkn", "down"] and set(rows) == {"lo", "va", "vb"}
    assert rows["va"][0] == "No" and rows["va"][3] == rows["vb"][3] == "down"
    given = namespace.run(tool("nicstat"), "-lj", "-S", "va:54h").stdout.splitlines()
    record = next(r for r in map(json.loads, given) if r["interface"] == "va")
    assert (record["speed_mbps"], record["duplex"], record["up"]) == (54, "half", False)
    if shutil.which("ethtool"):
        text = namespace.run("ethtool", "vb").stdout
        assert (f"Speed: {rows['vb'][1]}Mb/s" in text) == (rows["vb"][1] != "-")


def proc_counters(namespace):
    """{"Protocol.Name": value} of the namespace's /proc/net/snmp and /proc/net/netstat."""
    found = {}
    lines = namespace.run("cat", "/proc/net/snmp", "/proc/net/netstat").stdout.splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        words = zip(names.split()[1:], values.split()[1:])
        found.update({f"{names.split()[0]}{name}": int(value) for name, value in words})
    return found


LOSE = r"""
import socket, time
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(0)
clients = []
def connect(address):
    clients.append(socket.socket()); clients[-1].setblocking(False); clients[-1].connect_ex(address)
for _ in range(20):
    connect(listener.getsockname())                    # the queue takes two
for _ in range(30):
    connect(("10.9.0.2", 9))                           # nobody there: the SYN comes again
time.sleep(1.6)
"""


@pytest.mark.guest
def test_tcp_is_that_of_proc_net(namespace):
    namespace.set("lo", state="up")
    index = namespace.index("va")
    namespace.route.addr("add", index=index, address="10.9.0.1", prefixlen=24)
    namespace.route.neigh(
        "add", dst="10.9.0.2", lladdr="02:00:00:00:00:02", ifindex=index, state=0x80
    )
    before = proc_counters(namespace)
    text = namespace.start("-ty", "100")
    wait_until_it_sleeps(text)

    def lose():
        result = namespace.run("/usr/bin/python3", "-IS", "-c", LOSE)
        assert result.returncode == 0, result.stderr

    interfaces, (tcp, udp, soft) = namespace.during(lose, "-tu")
    text.send_signal(signal.SIGINT)
    header, row = text.communicate(timeout=60 * SLOW)[0].splitlines()
    after = proc_counters(namespace)
    assert interfaces == {} and (tcp["record"], udp["record"]) == ("tcp", "udp")
    for key, name in (
        ("out_segs", "Tcp:OutSegs"),
        ("in_segs", "Tcp:InSegs"),
        ("retrans_segs", "Tcp:RetransSegs"),
        ("active_opens", "Tcp:ActiveOpens"),
        ("passive_opens", "Tcp:PassiveOpens"),
        ("attempt_fails", "Tcp:AttemptFails"),
        ("out_rsts", "Tcp:OutRsts"),
        ("listen_drops", "TcpExt:ListenDrops"),
        ("listen_overflows", "TcpExt:ListenOverflows"),
    ):
        assert tcp[key] == after[name] - before[name], key
    assert tcp["retrans_segs"] >= 30 and tcp["listen_drops"] > 10
    fields = dict(zip(header.split()[1:], row.split()[1:]))
    assert float(fields["%ReTX"]) == pytest.approx(
        100 * tcp["retrans_segs"] / tcp["out_segs"], rel=0.01
    )
    assert float(fields["Drops"]) / float(fields["OutCon"]) == pytest.approx(
        tcp["listen_drops"] / tcp["active_opens"], rel=0.05
    )
    # Of another namespace, entered from here.
    other = subprocess.run(
        [tool("nicstat"), "-j", "-t", "--netns", namespace.path], capture_output=True, text=True
    )
    record = json.loads(other.stdout.splitlines()[0])
    assert record["netns"] == namespace.path
    assert record["active_opens"] == after["Tcp:ActiveOpens"] == 50


def test_nothing_is_up(namespace):
    for name in "va", "vb":
        namespace.set(name, state="down")
    idle = namespace.run(tool("nicstat"), ".05", "1")
    assert (idle.returncode, idle.stdout) == (1, "")
    assert idle.stderr.count("\n") == 1 and "--idle" in idle.stderr
    assert len(namespace.run(tool("nicstat"), "--idle", ".05", "1").stdout.splitlines()) == 4


def test_other_namespaces(namespace):
    path = namespace.path
    child = subprocess.Popen(
        [tool("nicstat"), "-jy", "--netns", "all", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    one = subprocess.Popen(
        [tool("nicstat"), "-y", "--netns", path, "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    for process in child, one:
        wait_until_it_sleeps(process)
    namespace.send("va", 1000, 500)
    for process in child, one:
        process.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 0, err
    found = {
        (r["netns"], r["interface"]): r
        for r in map(json.loads, out.splitlines())
        if r["record"] == "interface"
    }
    assert (found[path, "va"]["tx_packets"], found[path, "va"]["tx_bytes"]) == (1000, 500000)
    own = {name for netns, name in found if netns is None}
    assert own == set(os.listdir("/sys/class/net")) - {"bonding_masters"}
    out, err = one.communicate(timeout=60 * SLOW)
    assert (one.returncode, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == ["Int", path + "/vb", path + "/va"]
    missing = run("nicstat", "--netns", "no\x1bne", ".1", "1")
    assert (missing.returncode, missing.stderr) == (
        1,
        "nicstat: no such network namespace: no\\x1bne\n",
    )
    user = as_nobody("nicstat", "--netns", path, ".1", "1")
    assert user.returncode == 77 and user.stdout == "" and user.stderr.count("\n") == 1, user.stderr


@pytest.mark.guest
def test_a_name_that_is_not_utf_8(namespace):
    index = namespace.index("va")
    namespace.set("va", state="down")
    # By ip, since pyroute2 0.8 takes no bytes.
    renamed = namespace.run("ip", "link", "set", "va", "name", b"v\xff")
    assert renamed.returncode == 0, renamed.stderr
    namespace.route.link("set", index=index, state="up")
    found, _ = namespace.during(lambda: namespace.send("vb", 10, 100))
    (record,) = [
        r for r in found.values() if r["index"] != found["vb"]["index"] and r["rx_packets"]
    ]
    assert record["rx_packets"] == 10 and record["interface"] == r"v\xff"
    text = namespace.run(tool("nicstat"), "--idle", ".1", "1")
    assert (text.returncode, text.stderr) == (0, "") and "v\\xff" in text.stdout


@pytest.mark.guest
def test_errors_exits_and_no_privilege():
    missing = run("nicstat", "-i", "no\x1bne", ".1", "1")
    assert missing.returncode == 1
    assert missing.stderr == "nicstat: no such interface in this network namespace: no\\x1bne\n"
    found = run("nicstat", "-i", "lo,no\x1bne", ".05", "2")
    assert found.stderr == missing.stderr and found.returncode == 0
    assert [line.split()[1] for line in found.stdout.splitlines()] == ["Int", "lo", "lo"]
    fails_to_write("nicstat", "--idle .05 1", "--idle .05")
    if os.getuid() == 0:
        user = as_nobody("nicstat", "--idle", "-a", ".05", "1")
        assert user.returncode == 0 and user.stdout.splitlines()[5].startswith("lo ")


def test_without_pyroute2():
    """-S finds no packages.  TCP and UDP come from /proc/net."""
    hidden = ["env", "PYTHONPATH=", "/usr/bin/python3", "-IS", tool("nicstat")]
    found = subprocess.run([*hidden, "-t"], capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr == "", found.stderr
    for words in ["--idle"], ["-l"], ["-t", "--netns", "/proc/self/ns/net"]:
        other = subprocess.run([*hidden, *words], capture_output=True, text=True)
        assert other.returncode == 69 and other.stderr.count("\n") == 1
        assert "Install the package python3-pyroute2" in other.stderr
