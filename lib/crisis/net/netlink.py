# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink requests whose answers are read every interval.

Only for those: a dump of 300 interfaces by pyroute2, which decodes every attribute into objects,
takes 30 times as long, and its import 120 ms.

Follows include/uapi/linux/netlink.h, net/netlink/af_netlink.c and net/netlink/genetlink.c.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GENERIC", "ROUTE", "Netlink", "attribute", "attributes"]

ROUTE, GENERIC = 0, 16  # NETLINK_ROUTE, NETLINK_GENERIC

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_MAX_ANSWER = 1 << 16  # the kernel fills at most 32 KiB of it (netlink_dump())
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_GENERIC_HEADER = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved


def _align(length: int) -> int:
    """NLMSG_ALIGN() and NLA_ALIGN()."""
    return (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded."""
    padding = bytes(_align(len(payload)) - len(payload))
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def attributes(raw: bytes, at: int = 0) -> dict[int, bytes]:
    """{type: payload} of the attributes from offset `at` on; the last one of a type counts."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[at + 4 : at + length]
        at += _align(length)
    return found


class Netlink:
    """A netlink socket, in the network namespace in which it is made.

    protocol: ROUTE or GENERIC.  Raises OSError.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.bind((0, 0))
        self._sequence = 0

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The payload of each message of a dump.  Raises OSError with the kernel's errno."""
        return self._answers(kind, body, _NLM_F_DUMP)

    def get(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The payloads of the answer to a request.  Raises OSError with the kernel's errno."""
        return self._answers(kind, body, _NLM_F_ACK)

    def generic(self, family: int, command: int, body: bytes) -> Iterator[bytes]:
        """get() of generic netlink; the payloads begin behind struct genlmsghdr."""
        for payload in self.get(family, _GENERIC_HEADER.pack(command, 1, 0) + body):
            yield payload[_GENERIC_HEADER.size :]

    def family(self, name: str) -> int:
        """The number of a family of generic netlink.  Raises OSError (ENOENT: not there)."""
        body = attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
        (payload,) = self.generic(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, body)
        (number,) = struct.unpack("=H", attributes(payload)[_CTRL_ATTR_FAMILY_ID])
        return int(number)

    def _answers(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(
            _HEADER.pack(length, kind, _NLM_F_REQUEST | flags, self._sequence, 0) + body
        )
        while True:
            data = self._socket.recv(_MAX_ANSWER)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                payload = data[at + _HEADER.size : at + length]
                at += _align(max(length, _HEADER.size))
                if sequence != self._sequence:  # of an answer that was not read to its end
                    continue
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield payload
