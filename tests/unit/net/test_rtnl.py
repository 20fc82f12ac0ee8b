# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of rtnetlink, made up; tests/live/test_use.py compares the kernel's with pyroute2."""

import socket
import struct

import pytest

from crisis.net import rtnl
from crisis.net.link import COUNTERS

ALL = range(len(COUNTERS))
DONE = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)


def message(kind, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body + bytes(-len(body) & 3)


def attribute(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) & 3)


def interface(index, name, flags=1, kind=1, state=6, counters=ALL):
    counters = struct.pack(f"={len(counters)}Q", *counters)
    return message(
        16,
        struct.pack("=BxHiII", 0, kind, index, flags, 0)
        + attribute(3, name + b"\0")
        + attribute(16, bytes([state]))
        + attribute(23, counters),
    )


def queue(index, parent, drops):
    statistics = attribute(3, struct.pack("=IIII", 5, 5000, drops, 7))
    body = struct.pack("=BxxxiIII", 0, index, 0x10000, parent, 0)
    return message(36, body + attribute(7, statistics))


@pytest.fixture
def kernel(monkeypatch):
    """{type of request: [datagram, …]} of the kernel's answers, to be filled."""
    answers = {}

    class Socket:
        def __init__(self, *kind):
            assert kind[0] == socket.AF_NETLINK

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def send(self, request):
            length, kind, flags, _, _ = struct.unpack_from("=IHHII", request)
            assert length == len(request) and flags == 0x301
            self.left = list(answers[kind])

        def recv(self, size):
            return self.left.pop(0)

    monkeypatch.setattr(socket, "socket", Socket)
    return answers


def test_samples(kernel):
    # In two datagrams and in one, the end in one of its own and behind others.
    kernel[38] = [queue(2, 0xFFFFFFFF, 40) + queue(2, 0x10000, 41) + DONE]
    kernel[18] = [
        interface(1, b"lo", flags=9, kind=772, state=0),
        interface(2, b"eth\xff", flags=0, state=2, counters=range(23)) + interface(7, b"x"),
        DONE,
    ]
    found = rtnl.samples()
    assert sorted(found) == [1, 2, 7]
    lo, eth = found[1].link, found[2].link
    assert (lo.name, lo.loopback, lo.up, lo.ethernet, lo.state) == ("lo", 1, 1, 0, "unknown")
    assert (eth.name, eth.loopback, eth.up, eth.ethernet) == ("eth\udcff", 0, 0, 1)
    assert (eth.state, eth.speed, eth.full, eth.netns, eth.index) == ("down", None, None, None, 2)
    assert found[1].counters == tuple(ALL)
    assert found[2].counters == tuple(range(23))  # an older kernel's
    one = found[2].queue
    assert (one.packets, one.bytes, one.drops, one.requeues) == (5, 5000, 40, 7)
    assert found[1].queue is None


def test_an_error(kernel):
    kernel[38] = [message(2, struct.pack("=i", -1))]
    with pytest.raises(PermissionError):
        rtnl.samples()
