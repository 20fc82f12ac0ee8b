# SPDX-License-Identifier: GPL-2.0-or-later
"""Write ELF files that a traced process may map executable.

hostile_elf.py symtabs PATH   1,000 symbol tables over one hole of 200 MB (64 KB on disk)
hostile_elf.py names PATH     20,000 sections whose names lie in a table of 1 MB without a NUL
hostile_elf.py offset PATH    a PT_LOAD at offset 2^63 and a symbol `malloc`
hostile_elf.py headers PATH   65,535 program and section headers of 65,535 bytes each, over a hole
of 8 GB hostile_elf.py huge PATH      one symbol table over a hole of 200 MB hostile_elf.py many
PATH      2,000,000 functions: not hostile, only large
Right, for each but the last: that file is skipped with one note, or has no functions, within 256
  MB.
"""

import struct
import sys


def header(phoff, phnum, shoff, shnum, shstrndx, phsize=56, shsize=64):
    return (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH",
            3,
            62,
            1,
            0,
            phoff,
            shoff,
            0,
            64,
            phsize,
            phnum,
            shsize,
            shnum,
            shstrndx,
        )
    )


def section(name, kind, offset, size, link=0, info=0, entry=0):
    return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, info, 8, entry)


def load(offset, address, size):
    return struct.pack("<IIQQQQQQ", 1, 5, offset, address, address, size, size, 4096)


def symtabs(f, count=1000, size=200 << 20):
    start = 64 + 64 * count
    f.write(header(64, 0, 64, count, 0))
    f.writelines(section(0, 2, start, size, i, 0, 0) for i in range(count))
    f.truncate(start + size)


def names(f, count=20000, size=1 << 20):
    start = 64 + 64 * count
    f.write(header(64, 0, 64, count, 0))
    f.writelines(section(i, 3 if i == 0 else 1, start, size) for i in range(count))
    f.write(b"A" * size)


def offset(f):
    strings = b"\0malloc\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 0x1000, 16)
    segment = load(1 << 63, 0x1000, 0x1000)
    at = 64 + len(segment)
    f.write(header(64, 1, at + len(symbols) + len(strings), 3, 0) + segment + symbols + strings)
    f.write(
        bytes(64)
        + section(0, 2, at, len(symbols), 2, 0, 24)
        + section(0, 3, at + len(symbols), len(strings))
    )


def headers(f):
    f.write(header(64, 65535, 64, 65535, 0, 65535, 65535))
    f.truncate(8 << 30)


def huge(f, size=200 << 20):
    f.write(header(64, 1, 64 + 56, 2, 0) + load(0, 0, 1 << 20))
    f.write(section(0, 2, 4096, size, 1) + section(0, 3, 4096, size))
    f.truncate(4096 + size)


def many(f, count=2000000):
    """Function N, of 16 bytes at 0x1000 + 16 N, is called name(N % 1000)."""
    strings, places = b"\0", []
    for i in range(1000):
        places.append(len(strings))
        strings += b"name%d\0" % i
    at = 4096 + len(strings)
    f.write(
        header(64, 1, 64 + 56, 2, 0)
        + load(0, 0x1000, 16 * count)
        + section(0, 2, at, 24 * count, 1)
        + section(0, 3, 4096, len(strings))
    )
    f.write(bytes(4096 - f.tell()) + strings)
    for first in range(0, count, 10000):
        f.write(
            b"".join(
                struct.pack("<IBBHQQ", places[i % 1000], 0x12, 0, 1, 0x1000 + 16 * i, 16)
                for i in range(first, min(first + 10000, count))
            )
        )


if __name__ == "__main__":
    with open(sys.argv[2], "wb") as out:
        globals()[sys.argv[1]](out)
