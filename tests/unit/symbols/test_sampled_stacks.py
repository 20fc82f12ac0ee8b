# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of stacks: how they become keys, and when a map is read again.

The walks themselves: test_unwind.py.
"""

import pytest

from crisis.bpf import record
from crisis.kernel.maps import Mapping
from crisis.symbols import sampled_stacks
from crisis.symbols.elf import Elf
from crisis.symbols.frame import Frame
from crisis.symbols.machine import MACHINE
from crisis.symbols.sampled_stacks import SampledStacks, Spaces
from crisis.symbols.unwind import End, Walk
from elf_image import CODE, LOADED, SIZE, Image, reader
from seams import LAYOUTS

NOWHERE = 0xDEAD
SAMPLE = record.Layouts(LAYOUTS["memleak"]["structs"])["sample"]


class FakeSymbols:
    """Process 7 has no map until it is read.  Each reading takes 10 ms."""

    def __init__(self, clock):
        self.clock, self.read, self.ended = clock, 0, False
        self.maps = {}

    def mapped(self, pid):
        return self.maps.get(pid, ())

    def hold(self, pid):
        if self.ended:
            raise OSError("no such process")
        self.read += 1
        self.clock.now += 0.01
        self.maps[pid] = [Mapping(0x1000, 0x2000, True, 0, (b"8:1", self.read), "/x")]

    def file(self, identity):
        raise ValueError("malformed")


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def stacks(monkeypatch):
    """SampledStacks whose walks are (ip, sp).  They end at NO_CODE where sp is NOWHERE, or is 0 and
    the map is not read yet.
    """
    clock = Clock()
    symbols = FakeSymbols(clock)

    def walk(space, ip, sp, saved, copy, mask, limit):
        assert len(bytes(copy)) == 16 and limit == 127
        lost = sp == NOWHERE or not (sp or symbols.read)
        return Walk((ip, sp), End.NO_CODE if lost else End.OUTERMOST)

    monkeypatch.setattr(sampled_stacks, "unwind", walk)
    monkeypatch.setattr(sampled_stacks.time, "monotonic", clock.monotonic)
    one = SampledStacks(None, symbols, 127)
    one.symbols, one.clock = symbols, clock
    return one


def sample(number, ip, sp=1, pid=7):
    return SAMPLE.make(
        number=number, ip=ip, sp=sp, registers=tuple(range(12)), tgid=pid, size=16, copy=bytes(40)
    )


def test_equal_stacks_of_a_process_have_one_key(stacks):
    stacks.add([sample(100, 1), sample(101, 2), sample(102, 1), sample(103, 1, pid=8)])
    keys = [stacks.key(number) for number in (100, 101, 102, 103, 104)]
    assert keys == [100, 101, 100, 103, None]
    assert (
        stacks.addresses == {100: (1, 1), 101: (2, 1), 103: (1, 1)}
        and stacks.ends[101] is End.OUTERMOST
    )


def test_what_no_sample_stands_for_is_dropped(stacks):
    """A number is ktime << 8 | CPU.  The key outlives the sample that it was of."""
    stacks.add([sample(at << 8, ip) for at, ip in ((10, 1), (11, 2), (12, 1), (30, 3))])
    stacks.keep({12 << 8}, 20)
    assert [stacks.key(at << 8) for at in (10, 11, 12, 30)] == [None, None, 10 << 8, 30 << 8]
    assert stacks.addresses == {10 << 8: (1, 1), 30 << 8: (3, 1)} and set(stacks.ends) == set(
        stacks.addresses
    )
    stacks.add([sample(13 << 8, 1), sample(14 << 8, 2)])
    assert [stacks.key(at << 8) for at in (13, 14)] == [10 << 8, 14 << 8]


def test_after_2_years_and_3_months(stacks):
    """ktime no longer fits: sample 5 ns behind the overflow, reports around it."""
    late = (1 << 56) + 5
    number = (late << 8) % (1 << 64)
    stacks.add([sample(number, 1)])
    stacks.keep(set(), late - 10)
    assert stacks.key(number) == number
    stacks.keep(set(), late + 10)
    assert stacks.key(number) is None


def test_a_map_is_read_again_for_code_that_it_lacks(stacks):
    """At most 1/20 of the time: not within 0.2 s of a reading that took 10 ms."""
    stacks.add([sample(1, 1)])
    assert stacks.symbols.read == 0
    stacks.add([sample(2, 1, sp=0)])
    assert stacks.symbols.read == 1 and stacks.ends[2] is End.OUTERMOST

    def readings(pid=7):
        before = stacks.symbols.read
        stacks.add([sample(9, 1, NOWHERE, pid)])
        assert stacks.ends[9] is End.NO_CODE
        return stacks.symbols.read - before

    assert readings(7) == 0 and readings(8) == 1
    stacks.clock.now += 0.18
    assert readings() == 0
    stacks.clock.now += 0.02
    assert readings() == 1 and readings() == 0
    stacks.forget(7)  # another program
    assert readings() == 1
    stacks.symbols.ended = True
    stacks.clock.now += 1
    assert readings() == 0


def test_a_malformed_file_has_no_table():
    symbols = FakeSymbols(Clock())
    symbols.hold(7)
    spaces = Spaces(symbols)
    space = spaces.space(7)
    space.begin()
    assert space.row(0x1500) is End.NO_TABLE and spaces.space(7) is space
    symbols.hold(7)  # the same process, with another map
    assert spaces.space(7) is space
    spaces.forget(7)
    assert spaces.space(7) is not space
    assert not spaces.ends_without_frame_pointer(7, [Frame(0x1500, "f", 0, "/x")])
    assert not spaces.ends_without_frame_pointer(7, [])


class WithoutFramePointer(FakeSymbols):
    """A process with a file whose code never saves the frame pointer."""

    def __init__(self):
        self.data = Image([(0x10, 0x100, b"")], machine=MACHINE).data

    def mapped(self, pid):
        return [Mapping(LOADED, LOADED + SIZE, True, 0, (b"8:1", 1), "/bin/x")]

    def file(self, identity):
        return Elf(bytes(self.data)), reader(self.data)


@pytest.mark.parametrize(
    "frames, starts",
    [
        ([("f", "/bin/x"), ("_start", "/bin/x")], True),
        ([("f", "/bin/x"), ("main", "/bin/x")], True),
        ([("f", "/bin/x"), (None, "/lib/libc.so.6")], True),
        ([("f", "/bin/x"), (None, "/lib/libc-2.31.so")], True),
        ([("f", "/bin/x"), (None, "/lib/ld-musl-x86_64.so.1")], True),
        ([("strdup", "/lib/libc.so.6")], False),
        ([("f", "/bin/x"), ("maintain", "/bin/x")], False),
        ([("f", "/bin/x"), (None, "/lib/libcap.so.2")], False),
        ([("f", "/bin/x"), ("g", None)], False),
    ],
)
def test_where_programs_and_threads_start(frames, starts):
    """The walk ends in code without a frame pointer, which matters unless the stack ends there."""
    spaces, at = Spaces(WithoutFramePointer()), LOADED + CODE + 0x20
    stack = [Frame(at, name, 0, module) for name, module in frames]
    assert spaces.ends_without_frame_pointer(7, stack) is not starts
    stack[-1].address = LOADED + CODE + 0x800  # nothing is known of this code
    assert not spaces.ends_without_frame_pointer(7, stack)
