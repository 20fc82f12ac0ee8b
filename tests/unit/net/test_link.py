# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces, namespaces and softnet."""

import os
import socket

from crisis.net import link as links


def test_softnet(tmp_path):
    path = tmp_path / "proc/net/softnet_stat"
    path.parent.mkdir(parents=True)
    path.write_text("0000acb8 00000002 0000000a 00000000\n000000ff 00000010 00000001 00000000\n")
    assert links.softnet(str(tmp_path)) == (18, 11)


def test_namespaces_by_name_and_by_process(tmp_path):
    for path in "proc/self/ns", "proc/9/ns", "proc/12/ns", "proc/40/ns", "run/netns", "proc/sys":
        (tmp_path / path).mkdir(parents=True)
    own, blue, container = (tmp_path / name for name in ("own", "blue", "container"))
    for file in own, blue, container:
        file.write_text("")
    for path, file in (
        ("proc/self", own),
        ("proc/9", own),
        ("proc/12", container),
        ("proc/40", container),
    ):
        (tmp_path / path / "ns/net").symlink_to(file)
    (tmp_path / "run/netns/blue").symlink_to(blue)
    assert links.namespaces(str(tmp_path)) == ["blue", str(tmp_path / "proc/12/ns/net")]


def test_the_interfaces_of_this_machine():
    """Against getifaddrs(3)'s names and the kernel's own text."""
    found = links.Links().read()
    names = {sample.link.name: index for index, sample in found.items()}
    assert names == {os.fsdecode(name): index for index, name in socket.if_nameindex()}
    assert [name for name in names if found[names[name]].link.loopback] == ["lo"]
    counted = found[names["lo"]].counters
    assert 23 <= len(counted) <= 40
    with open("/proc/net/dev") as f:
        (line,) = [line for line in f if line.strip().startswith("lo:")]
    values = [int(word) for word in line.partition(":")[2].split()]
    assert 0 <= values[1] - counted[0] < 10**6 and 0 <= values[0] - counted[2] < 10**12


def test_a_speed_that_is_given_wins():
    found = links.Links(speeds={"lo": (54, False)}).links()
    (lo,) = [link for link in found.values() if link.name == "lo"]
    assert (lo.speed, lo.duplex) == (54, "half")
    assert lo.record()["speed_mbps"] == 54
