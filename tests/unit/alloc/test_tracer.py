# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tracer makes of the tables of its program and of events, without a kernel."""

import errno
import os
import types

import pytest

from crisis import bpf
from crisis.alloc import tracer as module
from crisis.alloc.kinds import EXITED, MMAP, MPROTECT, RESERVED, UNMAPPED
from crisis.bpf import record
from seams import LAYOUTS

LAYOUT = record.Layouts(LAYOUTS["memleak"]["structs"])
PAGE = os.sysconf("SC_PAGE_SIZE")
MALLOC = 2


class FakeMap(bpf.Map):
    """A hash map that is a dict of bytes."""

    def __init__(self, name):
        self._key_type, self._value_type = LAYOUTS["memleak"]["maps"][name].split()
        self._layouts, self.data, self.on_lookup = LAYOUT, {}, lambda: None

    def lookup(self, key):
        self.on_lookup()
        return self.data.get(key)

    def update(self, key, value, flags=0):
        assert flags in (0, 1)
        if flags and key in self.data:
            raise OSError(errno.EEXIST, "")
        self.data[key] = value

    def delete(self, key):
        return self.data.pop(key, None) is not None

    def chunks(self, command=None):
        yield len(self.data), b"".join(self.data), b"".join(self.data.values())

    def items(self):
        return list(self.data.items())


class FakeRing:
    fd = -1

    def __init__(self):
        self.waiting = []

    def records(self):
        found, self.waiting = self.waiting, []
        return found


class FakeSymbols:
    CODE = range(0x400000, 0x500000)

    def __init__(self, note=None):
        self.forgotten, self.held = [], []

    def hold(self, pid):
        self.held.append(pid)

    def is_code(self, pid, address):
        return address in self.CODE

    def forget(self, pid):
        self.forgotten.append(pid)


@pytest.fixture
def tracer(monkeypatch):
    """A function that makes a Tracer of processes.

    blocks: {(address, tgid): (bytes, since when, stack)}; targets: {tgid: since when}.  A process
      that has blocks and is not in targets has ended.
    """

    def make(blocks, targets, **changes):
        options = {
            "combined_only": False,
            "older": 0,
            "trace": False,
            "obj": None,
            "symbols_prefix": None,
            "sample": None,
            "show_allocs": False,
            "min_size": 0,
            "max_size": 1 << 62,
        }
        maps = {name: FakeMap(name) for name in ("blocks", "targets", "stacks")}
        program = types.SimpleNamespace(
            name="memleak.session", maps=maps, counters=lambda: {"blocks_full": 2}
        )
        ring = FakeRing()
        one = module.Tracer(
            types.SimpleNamespace(**dict(options, **changes)), True, False, program, ring
        )
        one.maps, one.ring = maps, ring
        for key, (size, ns, stack) in blocks.items():
            maps["blocks"].write(key, *block(size, ns, stack))
        for pid in {**targets, **{tgid: None for _, tgid in blocks}}:
            one.add(pid, "x")
            if pid in targets:
                maps["targets"].write(pid, targets[pid])
            else:
                maps["targets"].remove(pid)
                send(one, 0, EXITED, pid=pid)
        return one

    monkeypatch.setattr(module, "Symbols", FakeSymbols)
    return make


def block(size, ns, stack, kind=MALLOC):
    return LAYOUT["block"].make(size=size, ns=ns, stack=stack, tid=0, kind=kind)


def send(one, ns, kind, start=0, nbytes=0, stack=0, pid=7):
    """Give an event to a tracer; returns those that --trace shows."""
    one.ring.waiting.append(
        LAYOUT["event"].make(
            ns=ns,
            address=start,
            size=nbytes,
            stack=stack,
            tgid=pid,
            tid=pid,
            kind=kind,
            freed=kind == UNMAPPED,
            comm=b"x",
        )
    )
    return one.handle()


def add_stack(one, key, addresses=(), checked=1, count=0, total=0, pid=7):
    at = (*addresses, *[0] * (127 - len(addresses)))
    layout = LAYOUT["stack"]
    made = layout.make(
        count=count, bytes=total, tgid=pid, frames=len(addresses), checked=checked, at=b""
    )
    one.maps["stacks"].data[LAYOUT["Q"].pack(key)] = layout.pack(
        *made[:-1], b"".join(LAYOUT["Q"].pack(address) for address in at)
    )


def sums(groups):
    return {key: (group.bytes, group.count) for key, group in groups.items()}


def addresses(one):
    return {key.address for key, _ in one.maps["blocks"].records()}


def test_blocks_belong_to_a_process_and_not_to_a_pid(tracer):
    """7: it has lived since 100; 8: it has taken over the PID at 500; 9: it has ended."""
    one = tracer(
        {
            (1, 7): (10, 150, 1),
            (2, 7): (10, 90, 1),
            (3, 8): (20, 400, 1),
            (4, 8): (30, 600, 1),
            (5, 9): (40, 300, 2),
        },
        {7: 100, 8: 500},
    )
    assert sums(one.outstanding()) == {(7, 1): (10, 1), (8, 1): (30, 1), (9, 2): (40, 1)}
    assert addresses(one) == {1, 4}
    assert one.comm(9) == "x" and one.symbols.forgotten == []  # 9 is in this report
    assert set(one.outstanding()) == {(7, 1), (8, 1)}
    assert one.comm(9) is None and one.comm(7) == "x" and one.symbols.forgotten == [9]


def test_younger_blocks_are_left_out(tracer, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: 5_000_000)
    one = tracer(
        {(1, 7): (10, 2_000_000, 1), (2, 7): (10, 2_000_001, 1), (3, 9): (10, 4_000_000, 1)},
        {7: 100},
        older=3,
    )
    assert sums(one.outstanding()) == {(7, 1): (10, 1), (9, 1): (10, 1)}
    assert addresses(one) == {1, 2}


def test_addresses_and_sizes(tracer):
    one = tracer({(1, 7): (10, 150, 1), (2, 7): (20, 150, 1)}, {7: 100}, show_allocs=True)
    assert one.outstanding()[7, 1].blocks == [(1, 10), (2, 20)]


def test_a_process_that_begins_while_its_blocks_are_read(tracer):
    one = tracer({(1, 7): (10, 150, 1)}, {7: 100})
    one.maps["targets"].items = lambda: []
    assert sums(one.outstanding()) == {(7, 1): (10, 1)} and addresses(one) == {1}


def test_an_address_that_is_allocated_again_while_the_stale_are_removed(tracer):
    one = tracer({(1, 7): (10, 50, 1)}, {7: 100})
    blocks = one.maps["blocks"]
    blocks.on_lookup = lambda: blocks.write((1, 7), *block(20, 200, 1))
    assert one.outstanding() == {} and addresses(one) == {1}


def test_totals_of_combined_only(tracer):
    one = tracer({(1, 9): (40, 300, 2)}, {7: 100}, combined_only=True)
    # In 4, more was freed than is known to have been allocated.
    for key, count, total, pid in (1, 3, 300, 7), (2, 1, 40, 9), (3, 0, 0, 7), (4, -1, -10, 7):
        add_stack(one, key, count=count, total=total, pid=pid)
    assert sums(one.outstanding()) == {(7, 1): (300, 3), (9, 2): (40, 1)}
    assert addresses(one) == set()
    assert set(one.outstanding()) == {(7, 1)} and one.comm(9) is None
    assert {key for key, _ in one.maps["stacks"].records()} == {1, 3, 4}


def test_stacks_that_differ_only_behind_code_are_one(tracer):
    """What the kernel has not checked; the caller, which comes first, is right in any case."""
    site, outer, text = 0x400010, 0x400020, 0x656D6F74737563
    one = tracer({(n, 7): (10, 150, n) for n in (1, 2, 3, 4, 5)}, {7: 100})
    add_stack(one, 1, [site, outer, text], 0)
    add_stack(one, 2, [site, outer, text + 1, outer], 0)
    add_stack(one, 3, [site, text], 0)
    add_stack(one, 4, [text, outer], 0)
    add_stack(one, 5, [site, text])  # the kernel knew better
    groups = one.outstanding()
    found = {one.stacks.addresses[key]: (group.bytes, group.count) for key, group in groups.items()}
    assert found == {
        (site, outer): (20, 2),
        (site,): (10, 1),
        (text, outer): (10, 1),
        (site, text): (10, 1),
    }
    assert one.symbols.held == [7]
    # A group keeps its key when the stack that it came from has gone.
    merged = next(key for key in groups if one.stacks.addresses[key] == (site, outer))
    one.maps["blocks"].remove((merged[1], 7))
    assert sums(one.outstanding())[merged] == (10, 1) and one.stacks.addresses[merged] == (
        site,
        outer,
    )


def test_a_dead_process_may_have_had_code_that_is_not_known(tracer):
    site, outer, text = 0x400010, 0x400020, 0x656D6F74737563
    one = tracer({(1, 9): (10, 150, 1)}, {})
    add_stack(one, 1, [site, text, outer, text], 0, pid=9)
    assert list(one.outstanding()) == [(9, 1)]
    assert one.stacks.addresses[9, 1] == (site, text, outer) and one.symbols.held == []


def test_memory_is_what_mprotect_makes_of_a_reservation(tracer):
    one = tracer({(0x10000, 7): (0x8000, 150, 1)}, {7: 100})
    assert send(one, 200, RESERVED, 0x100000, 64 * PAGE) == []
    (made,) = send(one, 300, MPROTECT, 0x100000 + 8 * PAGE, 2 * PAGE - 5, 2)
    assert (
        made[:4] == (300, 0x100000 + 8 * PAGE, 2 * PAGE, 2)
        and made.kind == MPROTECT
        and not made.freed
    )
    assert send(one, 310, MPROTECT, 0x100000 + 8 * PAGE, PAGE, 3) == []  # it was already
    assert send(one, 320, MPROTECT, 0x900000, PAGE, 3) == []  # no reservation
    one.args.min_size = PAGE + 1
    assert send(one, 330, MPROTECT, 0x100000 + 63 * PAGE, PAGE, 3) == []
    assert sums(one.outstanding()) == {(7, 1): (0x8000, 1), (7, 2): (2 * PAGE, 1)}
    (unmap,) = send(one, 400, UNMAPPED, 0x100000 + 9 * PAGE, 100 * PAGE)
    assert unmap.address == 0x100000 + 9 * PAGE and unmap.freed
    send(one, 410, RESERVED, 0x10000, PAGE)  # a page of an allocation is made inaccessible
    assert sums(one.outstanding()) == {(7, 1): (0x8000, 1), (7, 2): (PAGE, 1)}
    assert one.mappings.reserved(7) == [(0x10000, 0x10000 + PAGE), (0x100000, 0x100000 + 8 * PAGE)]
    assert one.mappings.holes == {}


def test_totals_of_combined_only_after_holes(tracer):
    """The kernel goes on to subtract what is left of a block when that is unmapped."""
    one = tracer({}, {7: 100}, combined_only=True)
    one.maps["blocks"].write((0x10000, 7), *block(0x8000, 150, 1, MMAP))
    add_stack(one, 1, count=1, total=0x8000)
    send(one, 200, UNMAPPED, 0x12000, 0x1000)
    assert sums(one.outstanding()) == {(7, 1): (0x7000, 2)}
    assert addresses(one) == {0x10000, 0x13000}
    # Both parts are unmapped.
    add_stack(one, 1, count=-1, total=0x1000)
    assert one.outstanding() == {}


def test_a_full_table_is_counted(tracer):
    one = tracer({}, {7: 100})

    def full(*ignored):
        raise OSError(errno.E2BIG, "")

    one.maps["blocks"].update = full
    send(one, 200, RESERVED, 0x100000, 4096)
    send(one, 300, MPROTECT, 0x100000, 4096)
    assert one.lost() == {"blocks_full": 3}
