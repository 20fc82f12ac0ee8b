# SPDX-License-Identifier: GPL-2.0-or-later
"""The unwinder: stacks by hand, and of mutated files."""

import os
import random
import struct
import time

import pytest

from crisis.kernel.maps import Mapping
from crisis.symbols import unwind
from crisis.symbols.elf import Elf
from crisis.symbols.machine import AARCH64, MACHINE, X86_64
from crisis.symbols.unwind import AddressSpace, End
from elf_image import CODE, FRAME, FRAMES, HEADER, JIT, LOADED, PROGRAMS, SIZE, Image, table_of
from helpers import SLOW

TRIES = int(os.environ.get("CRISIS_TRIES", "2000"))

# Stacks made by hand

SP = 0x7FFD00001000


def stack(words, size=4096):
    """A copy of a stack: {offset from the stack pointer: word}."""
    data = bytearray(size)
    for at, word in words.items():
        struct.pack_into("=Q", data, at, word)
    return bytes(data)


def at(offset):
    return LOADED + CODE + offset


FUNCTIONS = [
    (0, 0x20, FRAME),
    (0x20, 0x20, b"\x0c\x03\x10"),
    (0x40, 0x20, b"\x0c\x06\x10\x86\x02"),
    (0x60, 0x20, b"\x07\x10"),
]


def walk(space, ip, words, saved=(0,) * 6, **options):
    return unwind.unwind(space, ip, SP, saved, stack(words), machine=X86_64, **options)


def test_walk():
    """A frame by the stack pointer, by a register that the one before has saved, by the frame
    pointer; the last.
    """
    words = {24: at(0x25), 16: SP + 48, 8: SP + 256, 48 + 8: at(0x45), 256: 1, 264: at(0x65)}
    found = walk(Image(FUNCTIONS).space(), at(5), words)
    assert found == ((at(5), at(0x25), at(0x45), at(0x65)), End.OUTERMOST)


def test_walk_through_code_without_information():
    """Code compiled at run time keeps frame pointers: frames of it are between those of a file."""
    words = {
        24: JIT + 0x10,
        8: SP + 64,
        64: SP + 128,
        72: JIT + 0x20,
        128: SP + 512,
        136: at(0x45),
        512: 1,
        520: at(0x65),
    }
    found = walk(Image(FUNCTIONS).space(), at(5), words)
    assert found == ((at(5), JIT + 0x10, JIT + 0x20, at(0x45), at(0x65)), End.OUTERMOST)
    words[72] = 0
    assert walk(Image(FUNCTIONS).space(), at(5), words) == ((at(5), JIT + 0x10), End.OUTERMOST)
    # What such code has done to other registers is not known.
    words[72] = at(0x25)
    assert walk(Image(FUNCTIONS).space(), at(5), words) == (
        (at(5), JIT + 0x10, at(0x25)),
        End.NO_REGISTER,
    )


def test_first_address():
    """The instruction pointer at a probe is exact, a return address is that of the instruction
    behind the call.
    """
    functions = [(0, 0x20, FRAME), (0x20, 0x20, b""), (0x60, 0x20, b"\x07\x10")]
    words = {24: at(0x65), 0: at(0x61)}
    assert walk(Image(functions).space(), at(0x20), words).addresses == (at(0x20), at(0x65))
    assert walk(Image(functions).space(), at(0x20), words, call=False).addresses == (
        at(0x20),
        at(0x61),
    )


def test_signal_frame():
    """The interrupted instruction may be the first of its function; registers come from the
    signal's frame.
    """
    functions = Image(
        [(0, 0x20, b"\x0e\x10"), (0x80, 0x40, FRAME), (0xC0, 0x20, b""), (0x60, 0x20, b"\x07\x10")]
    ).table()
    # The stack pointer is 160 bytes above, the instruction pointer 40, rbx 32.
    signal = Image(
        [
            (
                0x20,
                0x20,
                b"\x0f\x04\x77\xa0\x01\x06"
                b"\x10\x07\x03\x77\xa0\x01"
                b"\x10\x10\x02\x77\x28"
                b"\x10\x03\x02\x77\x20",
            )
        ],
        augmentation=b"zRS",
    ).table()
    space = AddressSpace(lambda identity: {"id": functions, "other": signal}[identity])
    other = LOADED + (1 << 20)
    space.update(
        [
            Mapping(LOADED, LOADED + SIZE, True, 0, "id", "/file"),
            Mapping(other, other + SIZE, True, 0, "other", "/other"),
        ]
    )
    words = {
        8: other + CODE + 0x25,
        16 + 160: SP + 512,
        16 + 40: at(0xC0),
        16 + 32: 7,
        512: at(0x65),
    }
    assert walk(space, at(5), words) == (
        (at(5), other + CODE + 0x25, at(0xC0), at(0x65)),
        End.OUTERMOST,
    )
    words[16 + 160] = SP + (1 << 30)  # a signal stack: what it has interrupted is on another
    assert walk(space, at(5), words) == ((at(5), other + CODE + 0x25, at(0xC0)), End.SHORT)


UPROBES = LOADED + (1 << 30)


@pytest.mark.parametrize(
    "words,why,count",
    [
        ({24: 0x1234}, End.NO_CODE, 1),
        ({24: LOADED + (1 << 28)}, End.NO_CODE, 1),  # mapped, but not executable
        ({24: at(0x85)}, End.NO_TABLE, 2),  # no function, and rbp is 0
        ({24: at(0x85), 8: SP + 33}, End.NO_TABLE, 2),
        ({24: at(0x85), 8: SP + 24}, End.NO_TABLE, 2),  # a frame pointer below its frame
        ({24: at(0x85), 8: SP + 4088}, End.NO_TABLE, 2),
        ({24: at(0x45), 8: SP + 4088}, End.SHORT, 2),
        ({24: at(0x45), 8: SP + (1 << 40)}, End.SHORT, 2),
        ({24: at(0x45), 8: (1 << 64) - 8}, End.SHORT, 2),
        ({24: at(0x45), 8: SP + 65}, End.BAD_TABLE, 2),  # a CFA that is not aligned
        ({24: at(0x45), 8: SP}, End.BAD_TABLE, 2),  # one below the frame
        ({24: UPROBES}, End.RETURN_PROBE, 1),
        ({24: 0}, End.OUTERMOST, 1),
    ],
)
def test_ends(words, why, count):
    space = Image(FUNCTIONS).space(
        extra=[Mapping(UPROBES, UPROBES + 4096, True, 0, ("00:00", 0), "[uprobes]")]
    )
    found = walk(space, at(5), words)
    assert (found.end, len(found.addresses), found.addresses[0]) == (why, count, at(5))


def test_return_address():
    """It has a rule, in the column that the CIE has chosen."""
    assert walk(Image([(0, 0x20, b"")], cie=b"\x0c\x07\x08").space(), at(5), {0: at(5)}) == (
        (at(5),),
        End.BAD_TABLE,
    )
    space = Image([(0, 0x20, b"\x0e\x10\x83\x02")], link=3).space()
    assert walk(space, at(5), {0: at(6), 8: at(7), 16: 0}) == ((at(5), at(6)), End.OUTERMOST)


def test_where_the_copy_ends():
    space = Image(FUNCTIONS).space()
    for size in range(0, 40):
        found = unwind.unwind(
            space, at(5), SP, (0,) * 6, stack({24: at(0x65)})[:size], machine=X86_64
        )
        assert found == ((at(5), at(0x65)), End.OUTERMOST) if size >= 32 else ((at(5),), End.SHORT)
    # Registers below the copy: nothing writes there that lasts.
    space = Image([(0, 0x20, b"\x0e\x08\x83\x03"), (0x60, 0x20, b"\x07\x10")]).space()
    assert walk(space, at(5), {0: at(0x65)}) == ((at(5),), End.SHORT)


def test_depth():
    space = Image([(0, 0x20, b"\x0e\x08"), (0x60, 0x20, b"\x07\x10")]).space()
    words = {8 * i: at(5) for i in range(512)}
    assert walk(space, at(5), words) == ((at(5),) * 127, End.DEPTH)
    assert walk(space, at(5), words, limit=3) == ((at(5),) * 3, End.DEPTH)
    words[8] = at(0x65)
    assert walk(space, at(5), words, limit=3) == ((at(5), at(5), at(0x65)), End.OUTERMOST)


def test_mappings_change():
    """What is known of an address is forgotten with its mapping."""
    first, second = (
        Image(FUNCTIONS).table(),
        Image([(0, 0x20, b"\x0e\x10"), (0x60, 0x20, b"\x07\x10")]).table(),
    )
    space = AddressSpace({"a": first, "b": second}.get)
    words, rows = {24: at(0x65), 8: at(0x65)}, [LOADED, LOADED + SIZE, True, 0]
    space.update([Mapping(*rows, "a", "/a")])
    assert walk(space, at(5), words) == ((at(5), at(0x65)), End.OUTERMOST)
    words[24] = 5
    space.update([Mapping(*rows, "b", "/b")])
    assert walk(space, at(5), words) == ((at(5), at(0x65)), End.OUTERMOST)
    space.update([])
    assert walk(space, at(5), words) == ((at(5),), End.NO_CODE)
    space.update(
        [Mapping(*rows, "b", "/b")]
    )  # one that comes in addition makes code of what was none
    assert walk(space, at(5), words) == ((at(5), at(0x65)), End.OUTERMOST)
    words[8] = JIT + 5
    assert walk(space, at(5), words) == ((at(5),), End.NO_CODE)
    space.update([Mapping(*rows, "b", "/b"), Mapping(JIT, JIT + 4096, True, 0, "", "")])
    assert walk(space, at(5), words) == ((at(5), JIT + 5), End.NO_TABLE)
    words[8] = at(0x65)
    space.update([Mapping(*rows, "c", "/c")])
    assert walk(space, at(5), words) == ((at(5),), End.NO_TABLE)


def test_parts_of_a_file():
    """A mapping need not begin at the file's start."""
    table = Image(FUNCTIONS).table()
    space = AddressSpace({"id": table}.get)
    space.update([Mapping(LOADED + 4096, LOADED + SIZE, True, 4096, "id", "/file")])
    assert walk(space, at(5), {24: at(0x65)}) == ((at(5), at(0x65)), End.OUTERMOST)


# arm64, by hand

ARM = [(0, 0x20, b"\x2d"), (0x20, 0x20, b"\x2d\x0e\x20\x9d\x04\x9e\x03"), (0x60, 0x20, b"\x07\x1e")]
MASK = unwind.address_mask(0xFFFFE8A21000)
CODED = 0x2A << 48  # a pointer authentication code

ARM_IP, ARM_RETURN = at(4), at(0x28)


def arm_walk(words, x29=0, x30=ARM_RETURN, ip=ARM_IP, **options):
    saved = (0,) * 10 + (x29, x30)
    return unwind.unwind(
        Image(ARM, machine=AARCH64).space(AARCH64),
        ip,
        SP,
        saved,
        stack(words),
        machine=AARCH64,
        mask=MASK,
        **options,
    )


def test_arm64():
    """A leaf has its return address in the link register; signed ones are cut."""
    words = {0: SP + 64, 8: at(0x68) | CODED}
    assert arm_walk(words, x30=at(0x28) | CODED, call=False) == (
        (at(4), at(0x28), at(0x68)),
        End.OUTERMOST,
    )
    words[8] = at(8)  # only the innermost frame can be a leaf
    assert arm_walk(words, call=False) == ((at(4), at(0x28), at(8)), End.BAD_TABLE)
    words[8] = at(0x28)
    words.update({32 + 8: at(0x68)})
    assert arm_walk(words, call=False) == ((at(4), at(0x28), at(0x28), at(0x68)), End.OUTERMOST)


def test_arm64_frame_records():
    """Behind a frame record the stack pointer is not known: the walk goes on by frame records."""
    words = {256: SP + 512, 264: at(0x28) | CODED, 512: SP + 1024, 520: at(0x68)}
    found = arm_walk(words, x29=SP + 256, ip=JIT + 8)
    assert found == ((JIT + 8, at(0x28), at(0x68)), End.OUTERMOST)
    words[512] = words[520] = 0
    assert arm_walk(words, x29=SP + 256, ip=JIT + 8) == ((JIT + 8, at(0x28)), End.OUTERMOST)


def test_address_mask():
    assert (
        unwind.address_mask(0xFFFFE8A21000) == (1 << 48) - 1
        and unwind.address_mask(0x7FE8A21000) == (1 << 39) - 1
    )
    assert unwind.address_mask(0x1000) == (1 << 36) - 1


# Hostile processes


def test_time(monkeypatch):
    """Frame information that takes long ends the walk; a process's time is charged, and that of
    others is not.
    """
    slow = (
        b"".join(b"\x05" + bytes([i]) + b"\x02" for i in range(17, 64))
        + b"\x0a\x0b" * 8000
        + b"\x0e\x08"
    )
    image = Image([(i * 16, 16, slow) for i in range(40)], size=1 << 20)
    words = {8 * i - 8: at(i * 16 + 5) for i in range(1, 40)}
    space = image.space()
    begin = time.thread_time()
    assert len(walk(space, at(5), words).addresses) >= 3 and time.thread_time() - begin < 1 * SLOW
    monkeypatch.setattr(unwind, "_STACK_SECONDS", 0.01)
    space = image.space()
    assert walk(space, at(5), words).end is End.TIME
    assert space.rows  # and the next walk begins with what this one has read
    monkeypatch.setattr(unwind, "_PROCESS_SECONDS", 0.01)
    space = image.space()
    assert walk(space, at(5), words).end is End.TIME
    begin = time.thread_time()
    assert (
        walk(space, at(0x105), words) == ((at(0x105),), End.TIME)
        and time.thread_time() - begin < 0.01 * SLOW
    )


def test_memory(monkeypatch):
    """Addresses without end do not fill the memory."""
    monkeypatch.setattr(unwind, "_MOST_ROWS", 100)
    space = Image(FUNCTIONS).space()
    for i in range(1000):
        walk(space, at(i), {})
        assert len(space.rows) <= 100


KINDS = [
    lambda r, data, at: bytes([r.randrange(256)]),
    lambda r, data, at: bytes([data[at] ^ 1 << r.randrange(8)]),
    lambda r, data, at: struct.pack(
        "=I", r.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, r.getrandbits(32)))
    ),
    lambda r, data, at: r.choice((b"\x80", b"\xff")) * 8,
    lambda r, data, at: bytes(
        r.choice(b"\x0a\x0b\x0f\x10\x16\x2e\x01") for _ in range(r.randrange(1, 8))
    ),
]


def mutated(r, data, places):
    """Change some bytes of some of these places: [(first, behind)]; returns what undoes it."""
    undo = []
    for _ in range(r.choice((1, 1, 2, 5, 20))):
        first, behind = r.choice(places)
        place = r.randrange(first, behind - 8)
        new = r.choice(KINDS)(r, data, place)
        undo.append((place, bytes(data[place : place + len(new)])))
        data[place : place + len(new)] = new
    return undo


def targets():
    """[(a file's data, offsets of code, what to change, machine)]"""
    programs = [row[1] for row in PROGRAMS] + [FRAME, b"\x07\x10", b"\x0c\x06\x10\x86\x02"]
    functions = [(i * 32, 32, text) for i, text in enumerate(programs)]
    code = [CODE + i * 32 + k for i in range(len(programs)) for k in (0, 9, 30)]
    found = []
    for header in True, False:
        image = Image(functions, augmentation=b"zPLRS" if header else b"zR", header=header)
        found.append(
            (image.data, code, [(FRAMES, image.at), (HEADER, HEADER + 256), (64, 176)], X86_64)
        )
    arm = Image(ARM, machine=AARCH64)
    code = [CODE + place for place in (0, 5, 0x25, 0x65)]
    found.append((arm.data, code, [(FRAMES, arm.at), (HEADER, HEADER + 40)], AARCH64))
    if MACHINE is X86_64:
        with open("/bin/sh", "rb") as f:
            data = bytearray(f.read())
        table, elf = table_of(data), Elf(data)
        starts = [
            elf.file_offset(table.entry(table.index.place(i))[1])
            for i in range(0, len(table.index), 7)
        ]
        first = elf.file_offset(table.index.address)
        code = [start + k for start in starts for k in (0, 5, 20)]
        found.append((data, code, [(first, first + 8 * len(table.index) + 6000)], X86_64))
    return found


def walks(r, data, code, machine):
    """Four walks of random stacks."""

    def word():
        return r.choice((LOADED + r.choice(code), SP + 8 * r.randrange(512), r.getrandbits(64)))

    try:
        table = table_of(data, machine)
    except ValueError:
        table = None
    space = AddressSpace(lambda identity: table)
    space.update([Mapping(LOADED, LOADED + len(data), True, 0, "id", "/file")])
    copy = struct.pack("=512Q", *[word() for _ in range(512)])
    for _ in range(4):
        saved = [word() for _ in machine.saved]
        yield unwind.unwind(space, LOADED + r.choice(code), SP, saved, copy, machine=machine)


def test_fuzz():
    """Mutated tables: a walk returns, soon, whatever they say.  CRISIS_TRIES: how many times."""
    seed, ends, slowest = int(os.environ.get("CRISIS_SEED", "11")), {}, 0
    r, files = random.Random(seed), targets()
    for number in range(TRIES):
        data, code, places, machine = r.choice(files)
        undo = mutated(r, data, places)
        try:
            begin = time.thread_time()
            for found in walks(r, data, code, machine):
                slowest = max(slowest, time.thread_time() - begin)
                assert isinstance(found.end, End) and 1 <= len(found.addresses) <= 127
                ends[found.end] = ends.get(found.end, 0) + 1
                begin = time.thread_time()
        except Exception as exc:
            raise AssertionError(f"try {number} of CRISIS_SEED={seed}: {exc!r}") from exc
        finally:
            for place, old in reversed(undo):
                data[place : place + len(old)] = old
    counts = {end.name: n for end, n in ends.items()}
    print(f"{TRIES} tries, the slowest walk {slowest * 1e3:.1f} ms: {counts}")
    assert slowest < 1 * SLOW
    # The mutations reach what they are for.
    assert {End.BAD_TABLE, End.NO_CODE, End.SHORT, End.NO_TABLE, End.OUTERMOST} <= set(ends), ends
