# SPDX-License-Identifier: GPL-2.0-or-later
"""The heads and attributes of netlink messages (include/uapi/linux/netlink.h)."""

from __future__ import annotations

import struct

__all__ = ["HEADER", "attributes"]

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port


def attributes(raw: bytes, at: int = 0) -> dict[int, bytes]:
    """{type: payload} of the attributes from offset `at` on; the last one of a type counts."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[at + 4 : at + length]
        at += length + 3 & ~3
    return found
