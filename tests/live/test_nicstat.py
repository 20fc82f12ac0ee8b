# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat in a network namespace of its own, against frames whose number is known, ip and tc.

Needs root for most.
"""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from helpers import SLOW, as_nobody, fails_to_write, run, tool

SEND = r"""
import socket, sys
name, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((name, 0))
frame = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5"                 # a protocol for experiments (IEEE 802)
sent = 0
for _ in range(count):
    try:
        sent += s.send(frame.ljust(size, b"x")) == size
    except OSError as exc:                                      # ENOBUFS: the queue has dropped it
        assert exc.errno == 105
print(sent)
"""


def wait_until_it_sleeps(child):
    """Return when the command has read the counters for the first time, and waits in poll(2) for
    its interval to end.
    """
    deadline, seen = time.monotonic() + 20 * SLOW, 0
    while seen < 3:  # not only for a moment, as for an answer of the kernel's
        assert time.monotonic() < deadline and child.poll() is None
        with open(f"/proc/{child.pid}/wchan") as f:
            seen = seen + 1 if "poll" in f.read() else 0
        time.sleep(0.02)


class Namespace:
    """A network namespace with a pair of virtual interfaces, va and vb."""

    def __init__(self):
        self.holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.enter = ["nsenter", "-n", "-t", str(self.holder.pid)]
        if not self.holder.stdout.readline():
            pytest.skip("no network namespace: %s" % self.holder.stderr.read().decode().strip())

    def run(self, *command):
        return subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=60 * SLOW
        )

    def ip(self, *words):
        result = self.run("ip", *words)
        assert result.returncode == 0, result.stderr

    def send(self, name, count, size):
        result = self.run("/usr/bin/python3", "-IS", "-c", SEND, name, str(count), str(size))
        assert result.returncode == 0, result.stderr
        return int(result.stdout)

    def start(self, *words):
        return subprocess.Popen(
            [*self.enter, tool("nicstat"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def during(self, action, *words):
        """({name: record}, softnet record) of one interval in which the action was taken."""
        child = self.start("-j", *words)
        wait_until_it_sleeps(child)
        action()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60 * SLOW)
        assert child.returncode == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        assert [r["record"] for r in found] == ["interface"] * (len(found) - 1) + ["softnet"]
        return {r["interface"]: r for r in found[:-1]}, found[-1]


@pytest.fixture
def namespace():
    if os.getuid():
        pytest.skip("needs root")
    made = Namespace()
    try:
        pair = made.run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
        if pair.returncode:
            pytest.skip(f"no pair of virtual interfaces: {pair.stderr.strip()}")
        for name in "va", "vb":
            # Without IPv6 the kernel itself sends nothing.
            made.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
            made.ip("link", "set", name, "up")
        time.sleep(0.1)
        yield made
    finally:
        made.holder.kill()
        made.holder.communicate()


@pytest.mark.guest
def test_frames_and_bytes_are_those_that_were_sent(namespace):
    found, soft = namespace.during(
        lambda: [namespace.send("va", 1000, 500), namespace.send("vb", 300, 60)], "100"
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
    assert vb["rx_dropped"] == vb["saturation_packets"] == 1000 and vb["rx_errors"] == 0
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
def test_drops_of_a_queue_are_those_that_tc_counts(namespace):
    added = namespace.run(
        "tc",
        "qdisc",
        "add",
        "dev",
        "va",
        "root",
        "tbf",
        "rate",
        "8kbit",
        "burst",
        "4k",
        "limit",
        "20k",
    )
    if added.returncode:
        pytest.skip(f"no token bucket filter: {added.stderr.strip()}")
    taken = []
    found, _ = namespace.during(
        lambda: taken.append(namespace.send("va", 200, 1000)), "-i", "va", "100"
    )
    shown = namespace.run("tc", "-s", "qdisc", "show", "dev", "va").stdout
    dropped = int(re.search(r"\(dropped (\d+)", shown).group(1))
    va = found["va"]
    assert list(found) == ["va"] and va["queue_drops"] == dropped == 200 - taken[0] > 100
    assert (
        va["saturation_packets"] == dropped and va["queue_bytes"] >= 1000 * va["queue_packets"] > 0
    )
    assert va["tx_packets"] + va["queue_packets"] + dropped == 200
    again, _ = namespace.during(lambda: None, "-i", "va", "100")
    assert again["va"]["queue_drops"] == 0
    namespace.run("tc", "qdisc", "del", "dev", "va", "root")


def test_intervals_add_up_to_proc_net_dev(namespace):
    child = namespace.start("-j", "-i", "vb", str(0.2 * min(SLOW, 4)), "4")
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
    child = namespace.start("-T", "100")
    wait_until_it_sleeps(child)
    namespace.send("va", 1000, 1000)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 0 and err == "", err
    header, *rows = out.splitlines()
    assert header.split() == [
        "TIME",
        "NIC",
        "rKB/s",
        "wKB/s",
        "rPk/s",
        "wPk/s",
        "rAvs",
        "wAvs",
        "%Util",
        "Sat/s",
    ]
    rows = {row.split()[1]: row.split()[2:] for row in rows}
    assert sorted(rows) == ["va", "vb"]  # lo had no traffic
    assert rows["va"][4] == "-" and rows["va"][5] == rows["vb"][4] == "1000.0"
    assert float(rows["va"][1]) == pytest.approx(float(rows["va"][3]) * 1000 / 1024, rel=0.01)
    # all of them dropped
    assert float(rows["vb"][7]) == pytest.approx(float(rows["vb"][2]), rel=0.01)
    lost = namespace.run(tool("nicstat"), "-x", "-i", "vb", ".1", "1").stdout.splitlines()
    assert lost[0].split()[:6] == ["NIC", "STATE", "Mbit/s", "rErr", "rMiss", "rDrop"]
    assert lost[1].split()[:2] == ["vb", "up"]


@pytest.mark.guest
def test_interfaces_that_come_go_and_are_renamed(namespace):
    def change():
        namespace.ip("link", "set", "va", "down")
        namespace.ip("link", "set", "va", "name", "\x1b[31mva")
        namespace.ip("link", "set", "\x1b[31mva", "up")
        namespace.ip("link", "add", "vc", "type", "veth", "peer", "name", "vd")
        namespace.ip("link", "set", "vc", "up")
        namespace.ip("link", "set", "vd", "up")
        namespace.run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv6/conf/v[cd]/disable_ipv6")
        namespace.send("vd", 50, 100)

    found, _ = namespace.during(change, "100")
    assert found["\x1b[31mva"]["up"] and "va" not in found
    assert found["vc"]["rx_packets"] >= 50 and found["vd"]["tx_bytes"] >= 5000
    text = namespace.run(tool("nicstat"), "-a", ".1", "1")
    assert "\x1b" not in text.stdout and "\\x1b[31mva" in text.stdout
    gone, _ = namespace.during(lambda: namespace.ip("link", "del", "vc"), "100")
    assert "vd" not in gone and gone["lo"]["lost"] == {"removed": 2}
    child = namespace.start("-i", "vb", ".1")
    assert child.stdout.readline() and child.stdout.readline()
    namespace.ip("link", "del", "vb")
    _, err = child.communicate(timeout=60 * SLOW)
    assert child.returncode == 1 and err.splitlines()[-1] == "nicstat: the interface has gone"


def test_nothing_is_up(namespace):
    for name in "va", "vb":
        namespace.ip("link", "set", name, "down")
    idle = namespace.run(tool("nicstat"), ".05", "1")
    assert (
        idle.returncode == 1
        and idle.stdout == ""
        and idle.stderr.count("\n") == 1
        and "-a" in idle.stderr
    )
    assert len(namespace.run(tool("nicstat"), "-a", ".05", "1").stdout.splitlines()) == 4


def test_other_namespaces(namespace):
    path = f"/proc/{namespace.holder.pid}/ns/net"
    child = subprocess.Popen(
        [tool("nicstat"), "-j", "--netns", "all", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    one = subprocess.Popen(
        [tool("nicstat"), "--netns", path, "100"],
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
    assert [line.split()[0] for line in out.splitlines()] == ["NIC", path + "/vb", path + "/va"]
    missing = run("nicstat", "--netns", "no\x1bne", ".1", "1")
    assert (missing.returncode, missing.stderr) == (
        1,
        "nicstat: no such network namespace: no\\x1bne\n",
    )
    user = as_nobody("nicstat", "--netns", path, ".1", "1")
    assert user.returncode == 77 and user.stdout == "" and user.stderr.count("\n") == 1, user.stderr


@pytest.mark.guest
def test_a_name_that_is_not_utf_8(namespace):
    namespace.ip("link", "set", "va", "down")
    renamed = namespace.run("ip", "link", "set", "va", "name", b"v\xff")
    assert renamed.returncode == 0, renamed.stderr
    namespace.ip("link", "set", b"v\xff", "up")
    found, _ = namespace.during(lambda: namespace.send("vb", 10, 100), "100")
    (record,) = [
        r for r in found.values() if r["index"] != found["vb"]["index"] and r["rx_packets"]
    ]
    assert record["rx_packets"] == 10 and record["interface"] == r"v\xff"
    text = namespace.run(tool("nicstat"), "-a", ".1", "1")
    assert (text.returncode, text.stderr) == (0, "") and "v\\xff" in text.stdout


@pytest.mark.guest
def test_errors_exits_and_no_privilege():
    missing = run("nicstat", "-i", "lo,no\x1bne", ".1", "1")
    assert missing.returncode == 1
    assert missing.stderr == "nicstat: no such interface in this network namespace: no\\x1bne\n"
    assert run("nicstat", "-i", "lo", ".05", "2").stdout.count("NIC") == 2
    fails_to_write("nicstat", "-a .05 1", "-a .05")
    if os.getuid() == 0:
        user = as_nobody("nicstat", "-a", ".05", "1")
        assert user.returncode == 0 and user.stdout.splitlines()[1].startswith("lo ")
