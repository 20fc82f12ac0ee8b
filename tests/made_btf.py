# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, made by hand."""

import struct

from crisis.bpf import btf as types


def btf_of(*entries):
    """A Btf of (kind, name, vlen, size or type, what follows) with {string} for the offsets of
    strings.
    """
    strings, body = [""], b""

    def offset(name):
        if name not in strings:
            strings.append(name)
        return sum(len(s) + 1 for s in strings[: strings.index(name)])

    for kind, name, vlen, size, rest in entries:
        words = [offset(word) if isinstance(word, str) else word for word in rest]
        body += struct.pack(f"=III{len(words)}I", offset(name), kind << 24 | vlen, size, *words)
    text = "".join(s + "\0" for s in strings).encode()
    return types.Btf(
        struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(text)) + body + text
    )
