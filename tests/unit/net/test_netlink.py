# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink's messages: attributes, and answers that are odd."""

import errno
import socket
import struct

import pytest

from crisis.net import netlink


def test_attributes_are_padded_and_nested():
    inner = netlink.attribute(1, b"abc")
    raw = netlink.attribute(2 | 0x8000, inner) + netlink.attribute(3, b"")
    assert len(inner) == 8 and netlink.attributes(raw) == {2: inner, 3: b""}
    assert netlink.attributes(netlink.attributes(raw)[2]) == {1: b"abc"}
    assert netlink.attributes(b"head" + inner, 4) == {1: b"abc"}


def test_errors_are_those_of_the_kernel():
    route = netlink.Netlink(netlink.ROUTE)
    with pytest.raises(OSError) as caught:
        list(route.get(18, struct.pack("=BxHiII", 0, 0, 1 << 30, 0, 0)))  # RTM_GETLINK
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(FileNotFoundError):
        netlink.Netlink(netlink.GENERIC).family("no such family")


def message(kind, sequence, payload):
    size = 16 + len(payload)
    return struct.pack("=IHHII", size, kind, 0, sequence, 0) + payload + bytes(-size % 4)


class Answers(netlink.Netlink):
    """What a kernel might send, in pieces."""

    def __init__(self, *pieces):
        super().__init__(netlink.ROUTE)
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for piece in pieces:
            other.send(piece)
        self._other = other


def test_answers_in_pieces_and_of_an_earlier_request():
    done = message(3, 1, struct.pack("=i", 0))
    pieces = message(16, 7, b"stale") + message(16, 1, b"one"), message(16, 1, b"two!") + done
    assert list(Answers(*pieces).dump(18, b"")) == [b"one", b"two!"]
    broken = message(3, 1, struct.pack("=i", -errno.EINVAL))
    with pytest.raises(OSError) as caught:
        list(Answers(broken).dump(18, b""))
    assert caught.value.errno == errno.EINVAL
    # A length of 0 neither ends the process nor makes it loop.
    assert list(Answers(bytes(16) + done).dump(18, b"")) == []
