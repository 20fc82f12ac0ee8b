# SPDX-License-Identifier: GPL-2.0-or-later
"""A netlink socket: questions to the kernel and its answers.  Follows include/uapi/linux/netlink.h."""

import os
import socket
import struct

__all__ = ["Socket", "attributes", "attribute", "ROUTE", "GENERIC"]

ROUTE, GENERIC = 0, 16
_REQUEST, _DUMP, _DUMP_INTERRUPTED = 1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")       # length, type, flags, sequence, port
_ROOM = 1 << 17


class Socket:
    """protocol: ROUTE or GENERIC.  Raises OSError."""

    def __init__(self, protocol):
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._sequence = 0

    def ask(self, kind, payload):
        """The payload of the one message that answers.  Raises OSError with the kernel's errno."""
        self._send(kind, _REQUEST, payload)
        for _, _, answer in self._messages():
            return answer

    def dump(self, kind, payload):
        """The payloads of all messages that answer; asked again when what they tell of changed meanwhile."""
        for _ in range(5):
            self._send(kind, _REQUEST | _DUMP, payload)
            found, whole = [], True
            for kind_, flags, answer in self._messages():
                whole = whole and not flags & _DUMP_INTERRUPTED
                if kind_ == _DONE:
                    break
                found.append(answer)
            if whole:
                break
        return found

    def _send(self, kind, flags, payload):
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload)

    def _messages(self):
        while True:
            raw, at = self._socket.recv(_ROOM), 0
            while at + _HEADER.size <= len(raw):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(raw, at)
                payload = raw[at + _HEADER.size:at + length]
                at += max(_HEADER.size, length + 3 & ~3)
                if sequence != self._sequence:
                    continue                    # of an answer that was not read to its end
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, os.strerror(code))
                yield kind, flags, payload


def attributes(raw):
    """{type: payload} of a run of attributes; the last one of a type counts."""
    found, at = {}, 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4:
            break
        found[kind & 0x3fff] = raw[at + 4:at + length]
        at += length + 3 & ~3
    return found


def attribute(kind, payload):
    """An attribute as the kernel reads it."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
