# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files that somebody else wrote: read right, within the budget, and never with another error
than ValueError.

CRISIS_TRIES=20000 makes 20,000 mutations of them instead of 2,000.
"""

import bisect
import glob
import os
import random
import resource
import struct
import subprocess
import sys
import time

import pytest

from crisis.alloc import probes
from crisis.symbols import elf, returns
from crisis.symbols.elf import Elf, Functions, NotElf
from helpers import ROOT, SLOW

sys.path.insert(0, os.path.join(ROOT, "tests/cases"))
import hostile_elf  # noqa: E402

TRIES = int(os.environ.get("CRISIS_TRIES", "2000"))
NAMES = [b"malloc", b"free", b"_Znwm"]


def small(
    functions=((b"malloc", 0x1000, 16), (b"free", 0x1010, 16), (b"other", 0x1800, 0)),
    bits=64,
    debug=b"",
):
    """A small but whole ELF file: a segment, a build ID, .dynsym, .rela.plt, .eh_frame_hdr, and
    .gnu_debugdata.
    """
    strings, symbols = b"\0", [bytes(24 if bits == 64 else 16)]
    for name, value, size in functions:
        head = len(strings), 0x12
        strings += name + b"\0"
        symbols.append(
            struct.pack("<IBBHQQ", *head, 0, 1, value, size)
            if bits == 64
            else struct.pack("<IIIBBH", head[0], value, size, head[1], 0, 1)
        )
    code = b"\xf3\x0f\x1e\xfa\x48\x85\xff\x74\x01\x53\xc3" * 400
    note = struct.pack("<III4s20s", 4, 20, 3, b"GNU\0", bytes(range(20)))
    header = struct.pack("<BBBBiI4i", 1, 0x1B, 3, 0x3B, 0, 2, 0x1000, 0, 0x1010, 0)
    slots = struct.pack("<QQq", 0x3000, 1 << 32 | 7, 0)
    bodies = [
        (b".text", 1, code, 0),
        (b".dynsym", 11, b"".join(symbols), 3),
        (b".dynstr", 3, strings, 0),
        (b".note.gnu.build-id", 7, note, 0),
        (b".eh_frame_hdr", 1, header, 0),
        (b".rela.plt", 4, slots, 0),
        (b".gnu_debuglink", 1, b"a.debug\0\0\0\0\0", 0),
        (b".gnu_debugdata", 1, debug, 0),
    ]
    names = b"\0" + b"\0".join(body[0] for body in bodies) + b"\0.shstrtab\0"
    bodies.append((b".shstrtab", 3, names, 0))
    data, rows = bytes(0x400), [bytes(64 if bits == 64 else 40)]
    offsets = []
    for _, _, body, _ in bodies:
        data += bytes(-len(data) % 16)
        offsets.append(len(data))
        data += body
    for (name, kind, body, link), offset in zip(bodies, offsets):
        rows.append(
            struct.pack(
                "<IIQQQQIIQQ" if bits == 64 else "<IIIIIIIIII",
                names.find(name + b"\0"),
                kind,
                0,
                0,
                offset,
                len(body),
                link,
                0,
                8,
                24,
            )
        )
    at = len(data)
    if bits == 64:
        segments = struct.pack(
            "<IIQQQQQQ", 1, 5, offsets[0], 0x1000, 0x1000, len(code), len(code), 4096
        )
        segments += struct.pack("<IIQQQQQQ", 4, 4, offsets[3], 0, 0, len(note), len(note), 4)
        segments += struct.pack(
            "<IIQQQQQQ", 1, 4, offsets[4], 0x9000, 0x9000, len(header), len(header), 4096
        )
        head = (
            b"\x7fELF\x02\x01\x01"
            + bytes(9)
            + struct.pack(
                "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, at, 0, 64, 56, 3, 64, len(rows), len(rows) - 1
            )
        )
    else:
        segments = struct.pack(
            "<IIIIIIII", 1, offsets[0], 0x1000, 0x1000, len(code), len(code), 5, 4096
        )
        head = (
            b"\x7fELF\x01\x01\x01"
            + bytes(9)
            + struct.pack(
                "<HHIIIIIHHHHHH", 3, 3, 1, 0, 52, at, 0, 52, 32, 1, 40, len(rows), len(rows) - 1
            )
        )
    return head + segments + data[len(head + segments) :] + b"".join(rows)


needs_little = pytest.mark.skipif(
    sys.byteorder != "little", reason="the files made here are little-endian"
)


@needs_little
@pytest.mark.parametrize("bits", [64, 32])
def test_a_whole_file(bits):
    file = Elf(small(bits=bits))
    assert file.bits == bits and file.defined(NAMES) == {b"malloc": 0x1000, b"free": 0x1010}
    functions = Functions(file)
    assert len(functions) == 3
    assert [
        functions.find(at) for at in (0xFFF, 0x1000, 0x100F, 0x1010, 0x101F, 0x1020, 0x1800, 0x1900)
    ] == [
        None,
        ("malloc", 0),
        ("malloc", 15),
        ("free", 0),
        ("free", 15),
        None,
        ("other", 0),
        ("other", 0x100),
    ]
    assert (
        file.file_offset(0x1004) == file.segments[0][0] + 4
        and file.address(file.segments[0][0] + 4) == 0x1004
    )
    assert file.section(b".gnu_debuglink").startswith(b"a.debug\0") and not file.has_symtab()
    if bits == 64:
        assert file.build_id == bytes(range(20)).hex()
        assert list(returns.function_starts(file)) == [
            0xA000,
            0xA010,
        ] and 0xA010 in returns.function_starts(file)
        assert returns.jump_slots(file) == {0x3000: 0x1000}


def test_what_is_none():
    for data in b"", b"\x7fELF", b"#!/bin/sh\n" * 9, bytes(100):
        with pytest.raises(NotElf):
            Elf(data)
    for data in (
        b"\x7fELF\x02\x02\x01" + bytes(60),
        b"\x7fELF\x02\x01\x01" + b"\xff" * 90,
        b"\x7fELF" + bytes(60),
    ):
        with pytest.raises(ValueError):
            Elf(data)


def test_the_order_of_many_symbols():
    generator = random.Random(1)
    from array import array

    for spread in 1 << 40, 1 << 20, 1:
        values = [generator.randrange(spread) << 24 | i for i in range(600000)]
        assert elf.sorted_keys(array("Q", values)).tolist() == sorted(values)


@needs_little
def test_functions_against_a_plain_search():
    generator = random.Random(2)
    starts = sorted(generator.sample(range(0x1000, 0x1000 + 4400), 300))
    found = Functions(Elf(small([(b"f%d" % start, start, 0) for start in starts])))
    for address in range(0x1000, 0x1000 + 4400):
        i = bisect.bisect_right(starts, address) - 1
        assert found.find(address) == (None if i < 0 else (f"f{starts[i]}", address - starts[i]))


def exercise(source):
    """All that memleak reads of a traced process's file; the ValueErrors are counted."""
    faults = 0
    for read in read_places, read_functions:
        try:
            read(source)
        except ValueError:
            faults += 1
    return faults


def read_places(source):
    file = Elf(source)
    found = file.defined(NAMES + [b"other", b"f1200"])
    starts, slots = returns.function_starts(file), returns.jump_slots(file)

    def read(address, size):
        offset = file.file_offset(address)
        return b"" if offset is None else file.read(size, offset)

    for address in found.values():
        offset = file.file_offset(address)
        if offset is not None:
            code = file.read(2048, offset)
            for machine in "x86_64", "aarch64":
                probes.place(code, machine)
                probes.jumps(code, machine)
                returns.returns(read, address, starts, slots, machine)


def read_functions(source):
    from crisis.symbols.module import Module

    module = Module(source, "/no/such/directory/file", os.getpid())
    module.load(0)
    for offset in 0, 0x400, 0x480, 1 << 62, 1 << 63, (1 << 64) - 1:
        module.find(offset)


def seeds():
    import lzma

    found = [
        small(),
        small(bits=32),
        small([(b"f%d" % i, 0x1000 + i, i % 40) for i in range(200)]),
        small(debug=lzma.compress(small())),
    ]
    for pattern in (
        "/bin/true",
        "/lib/*/ld-linux-*.so.2",
        "/lib/*/libtcmalloc_minimal.so.4",
        "/lib/*/libjemalloc.so.2",
        "/lib/*/libdl.so.2",
    ):
        for path in glob.glob(pattern)[:1]:
            with open(path, "rb") as f:
                found.append(f.read())
    return found


def mutated(data, generator):
    """A copy with some bytes or words changed, most of them in its headers and tables; or cut."""
    data, size = bytearray(data), len(data)
    places = [(0, 64), (64, 1024), (max(size - 4096, 0), size), (0, size), (0, size)]
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        low, high = generator.choice(places)
        at = generator.randrange(low, min(high, size))
        width = generator.choice((1, 2, 4, 8))
        value = generator.choice(
            (
                0,
                1,
                0xFF,
                1 << 31,
                (1 << 32) - 1,
                1 << 62,
                1 << 63,
                (1 << 64) - 1,
                size,
                generator.getrandbits(64),
                generator.randrange(size),
            )
        )
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    if not generator.randrange(10):
        del data[generator.randrange(size) :]
    return bytes(data)


@needs_little
def test_mutated_files_raise_nothing_but_value_errors(tmp_path):
    generator, files, faults = random.Random(20250401), seeds(), 0
    # Little is allowed here, so that a large request raises MemoryError.
    limit, old = (
        (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]),
        resource.getrlimit(resource.RLIMIT_AS),
    )
    path = str(tmp_path / "file")
    resource.setrlimit(resource.RLIMIT_AS, limit)
    try:
        for number in range(TRIES):
            data = mutated(files[number % len(files)], generator)
            begin = time.monotonic()
            if number % 4:
                faults += exercise(data)
            else:
                with open(path, "wb") as f:
                    f.write(data)
                with open(path, "rb") as f:
                    faults += exercise(f.fileno())
            assert time.monotonic() - begin < 5 * SLOW, number
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    # the mutations reach what is checked, and what is behind
    assert TRIES / 20 < faults < 2 * TRIES


CODE = """
import os, resource, sys, time
sys.path[:0] = %r
from test_elf import exercise
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
faults = exercise(os.open(sys.argv[1], os.O_RDONLY))
print(faults, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - begin)
"""


def cost(path):
    """(number of faults, KB, seconds) of what memleak reads of a file."""
    code = CODE % [os.path.join(ROOT, part) for part in ("lib", "tests", "tests/unit/symbols")]
    text = subprocess.run(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    faults, size, seconds = text.split()
    return int(faults), int(size), float(seconds)


@needs_little
@pytest.mark.parametrize("kind", ["symtabs", "names", "offset", "headers", "huge"])
def test_files_that_ask_for_gigabytes(tmp_path, kind):
    """By sections that overlap, by names without an end, by offsets behind all, by headers, by one
    hole.
    """
    path = tmp_path / kind
    with open(path, "wb") as f:
        getattr(hostile_elf, kind)(f)
    faults, size, seconds = cost(path)
    assert size < 256 << 10
    assert seconds < (1 if kind != "huge" else 25) * SLOW
    if kind in ("symtabs", "headers"):
        assert faults == 2


@needs_little
def test_a_large_symbol_table_is_read(tmp_path):
    """2,000,000 functions, 48 MB of .symtab: within some 16 bytes of memory for each."""
    count, path = 2000000, tmp_path / "large"
    with open(path, "wb") as f:
        hostile_elf.many(f, count)
    faults, size, seconds = cost(path)
    assert faults == 0 and size < 80 << 10 and seconds < 15 * SLOW
    with open(path, "rb") as f:
        functions = Functions(Elf(f.fileno()))
        assert len(functions) == count
        for number in 0, 1, count // 2, count - 1:
            assert functions.find(0x1000 + 16 * number + 3) == (f"name{number % 1000}", 3)
