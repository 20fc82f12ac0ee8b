# SPDX-License-Identifier: GPL-2.0-or-later
"""memleak's own arithmetic, where its probes go, and what it prints of data that needs no kernel."""

import argparse
import errno
import json
import os
import types

import pytest
from crisis.alloc import probes
from crisis.alloc.sampling import Sampling
from crisis.symbols.stacks import Frame
from helpers import load

memleak = load("memleak")


@pytest.mark.parametrize("code, at", [
    ("4154 55 53", 0),                                  # push %r12
    ("4885ff 0f84bf000000", 3),                         # test %rdi,%rdi; je
    ("f30f1efa 53", 4),                                 # endbr64; push %rbx
    ("f30f1efa 4885ff b801000000 53", 12),              # ...; test; mov $1,%eax; push
    ("803d710e140000 740e", 7),                         # cmpb $0,x(%rip); je
    ("488b05f9320100 4989f8 4885c0 0f8591000000", 13),  # mov x(%rip),%rax; mov %rdi,%r8; test; jne
    ("4883ec58", 0),                                    # sub $0x58,%rsp: the stack moves
    ("4889f7 53", 0),                                   # mov %rsi,%rdi: an argument is gone
    ("48893d00000000 53", 0),                           # mov %rdi,x(%rip): a store
    ("0fae f8 53", 0),                                  # unknown
    ("4885ff", 0), ("", 0), ("41", 0), ("0f", 0),
    ("4885ff 4885f6 7510 90 ebf8", 0),                  # a loop back to the second instruction
])
def test_where_a_probe_goes(code, at):
    assert probes.place(bytes.fromhex(code), "x86_64") == at
    assert probes.place(bytes.fromhex(code), "aarch64") == 0


def test_functions_that_only_jump():
    assert probes.jumps(bytes.fromhex("e910000000"), "x86_64") == 0x15
    assert probes.jumps(bytes.fromhex("f30f1efae9fbffffff"), "x86_64") == 4
    assert probes.jumps(bytes.fromhex("53e910000000"), "x86_64") is None
    assert probes.jumps(bytes.fromhex("e910000000"), "aarch64") is None
    assert probes.jumps(bytes.fromhex("04000014"), "aarch64") == 16             # b +16
    assert probes.jumps(bytes.fromhex("5f2403d5 03cbff17"), "aarch64") == 4 - 0xd3f4     # bti c; b -0xd3f4
    assert probes.jumps(bytes.fromhex("5f2403d5 04000094"), "aarch64") is None  # bti c; bl
    assert probes.jumps(bytes.fromhex("04000014"), "x86_64") is None
    assert probes.jumps(b"", "aarch64") is None and probes.jumps(bytes.fromhex("5f2403d5"), "aarch64") is None


def test_sizes():
    assert [memleak.size(text) for text in ("0", "17", "2k", "3M", "1G")] == [0, 17, 2048, 3 << 20, 1 << 30]
    for text in "", "k", "-1", "1.5", "1T", "9" * 30, "\u0663":
        with pytest.raises(argparse.ArgumentTypeError):
            memleak.size(text)


def test_sampling():
    """-s N takes one in N, as bcc's; a suffix and -S make it bytes."""
    for text in "10", "1048576":
        one = memleak.sample_rate(text)
        assert one and (one.every, one.nbytes) == (int(text), 0)
        assert one.probability(0) == one.probability(99) == 1 / int(text)
    assert not memleak.sample_rate("1")
    for one in memleak.sample_rate("512K"), memleak.sample_bytes("512K"), memleak.sample_bytes("524288"):
        assert one and (one.every, one.nbytes) == (1, 524288)
        assert one.probability(0) == one.probability(1) == pytest.approx(1 / 524288, rel=1e-5)
        assert one.probability(524288) == pytest.approx(1 - 1 / 2.718281828) and one.probability(1 << 40) == 1
    for text in "0", "1048577", "-1", "", "1.5", "x", "9" * 5000, "0K", "5G", "\u0663":
        with pytest.raises(argparse.ArgumentTypeError):
            memleak.sample_rate(text)
    for text in "0", "5G":
        with pytest.raises(argparse.ArgumentTypeError):
            memleak.sample_bytes(text)
    with pytest.raises(argparse.ArgumentTypeError, match="--symbols-prefix"):
        memleak.sample_bytes("je_")             # what -S is in libbpf-tools


def test_entries():
    assert memleak.entries("134217728") == 1 << 27
    for text in "134217729", "2147483647", "4294967297", "9" * 5000:
        with pytest.raises(argparse.ArgumentTypeError, match="134217728 entries") as caught:
            memleak.entries(text)
        assert len(str(caught.value)) < 100
    for text in "0", "-1", "x", "1.5":
        with pytest.raises(argparse.ArgumentTypeError):
            memleak.entries(text)


class FakeMap(dict):
    """A BPF hash map of bytes."""

    lookup = dict.get

    def update(self, key, value, flags=0):
        assert flags in (0, 1)
        if flags and key in self:
            raise OSError(errno.EEXIST, "")
        self[key] = value

    def delete(self, key):
        return self.pop(key, None) is not None

    def items(self):
        return list(dict.items(self))

    def chunks(self):
        yield len(self), b"".join(self), b"".join(self.values())


class FakeSymbols:
    CODE = range(0x400000, 0x500000)

    def __init__(self):
        self.forgotten, self.held = [], []

    def hold(self, pid):
        self.held.append(pid)

    def is_code(self, pid, address):
        return address in self.CODE

    def forget(self, pid):
        self.forgotten.append(pid)


def tracer(blocks, targets, **changes):
    """A Tracer of processes.  blocks: {(address, tgid): (bytes, since when, stack)}; targets: {tgid: since when}."""
    one = memleak.Tracer.__new__(memleak.Tracer)
    one.args = arguments(**{"combined_only": False, "older": 0, "trace": False, **changes})
    one.user, one.changed, one.ended, one.attached, one._symbols = True, False, set(), set(), FakeSymbols()
    one.sampled = one._spaces = None
    one.live, one.comms = dict.fromkeys(targets, "x"), {tgid: "x" for _, tgid in blocks}
    one.stacks, one.keys, one.reserved, one.holes, one.adjusted, one.unplaced = {}, {}, {}, {}, {}, 0
    maps = {"blocks": FakeMap((memleak.KEY.pack(*key), memleak.BLOCK.pack(*values, 0, 2))
                              for key, values in blocks.items()),
            "targets": FakeMap((memleak.PID.pack(tgid), memleak.SINCE.pack(ns)) for tgid, ns in targets.items()),
            "stacks": FakeMap()}
    one.program = types.SimpleNamespace(maps=maps)
    return one


def test_blocks_belong_to_a_process_and_not_to_a_pid():
    """7: it has lived since 100; 8: it has taken over the PID at 500; 9: it has ended."""
    one = tracer({(1, 7): (10, 150, 1), (2, 7): (10, 90, 1), (3, 8): (20, 400, 1), (4, 8): (30, 600, 1),
                  (5, 9): (40, 300, 2)}, {7: 100, 8: 500})
    assert {key: group[:2] for key, group in one.outstanding().items()} == {
        (7, 1): [10, 1], (8, 1): [30, 1], (9, 2): [40, 1]}
    assert {memleak.KEY.unpack(key)[0] for key in one.program.maps["blocks"]} == {1, 4}
    assert set(one.comms) == {7, 8, 9} and one._symbols.forgotten == []         # 9 is in this report
    assert set(one.outstanding()) == {(7, 1), (8, 1)}
    assert set(one.comms) == {7, 8} and one._symbols.forgotten == [9]


def test_a_process_that_begins_while_its_blocks_are_read():
    one = tracer({(1, 7): (10, 150, 1)}, {})
    one.program.maps["targets"].items = lambda: []
    one.program.maps["targets"][memleak.PID.pack(7)] = memleak.SINCE.pack(100)
    assert one.outstanding()[7, 1][:2] == [10, 1] and len(one.program.maps["blocks"]) == 1


def test_an_address_that_is_allocated_again_while_the_stale_are_removed():
    one = tracer({(1, 7): (10, 50, 1)}, {7: 100})
    blocks = one.program.maps["blocks"]
    now = {key: memleak.BLOCK.pack(20, 200, 1, 0, 2) for key in blocks}
    blocks.lookup = now.get
    assert one.outstanding() == {} and len(blocks) == 1


def test_totals_of_combined_only():
    one = tracer({(1, 9): (40, 300, 2)}, {7: 100}, combined_only=True)
    one.comms, one.changed = {7: "x", 9: "x"}, True
    less = (1 << 64) - 1                        # more was freed than is known to have been allocated
    for key, count, total, tgid in (1, 3, 300, 7), (2, 1, 40, 9), (3, 0, 0, 7), (4, less, less - 9, 7):
        one.program.maps["stacks"][memleak.SINCE.pack(key)] = memleak.STACK.pack(count, total, tgid, 0, 1, *[0] * 127)
    assert {key: group[:2] for key, group in one.outstanding().items()} == {(7, 1): [300, 3], (9, 2): [40, 1]}
    assert not one.program.maps["blocks"]
    assert list(one.outstanding()) == [(7, 1)] and one.comms == {7: "x"}
    one._forget_totals(7)
    assert not one.program.maps["stacks"]


def add_stack(one, key, addresses, checked):
    one.program.maps["stacks"][memleak.SINCE.pack(key)] = memleak.STACK.pack(
        0, 0, 7, len(addresses), checked, *addresses, *[0] * (127 - len(addresses)))


def test_stacks_that_differ_only_behind_code_are_one():
    """What the kernel has not checked; the caller, which comes first, is right in any case."""
    site, outer, text = 0x400010, 0x400020, 0x656d6f74737563
    one = tracer({(n, 7): (10, 150, n) for n in (1, 2, 3, 4, 5)}, {7: 100})
    add_stack(one, 1, [site, outer, text], 0)
    add_stack(one, 2, [site, outer, text + 1, outer], 0)
    add_stack(one, 3, [site, text], 0)
    add_stack(one, 4, [text, outer], 0)
    add_stack(one, 5, [site, text], 1)          # the kernel knew better
    groups = one.outstanding()
    found = {one.stacks[key]: group[:2] for key, group in groups.items()}
    assert found == {(site, outer): [20, 2], (site,): [10, 1], (text, outer): [10, 1], (site, text): [10, 1]}
    assert one._symbols.held == [7]
    # A group keeps its key when the stack that it came from has gone.
    merged = next(key for key in groups if one.stacks[key] == (site, outer))
    del one.program.maps["blocks"][memleak.KEY.pack(merged[1], 7)]
    assert one.outstanding()[merged][:2] == [10, 1] and one.stacks[merged] == (site, outer)


def test_a_dead_process_may_have_had_code_that_is_not_known():
    site, outer, text = 0x400010, 0x400020, 0x656d6f74737563
    one = tracer({(1, 9): (10, 150, 1)}, {})
    add_stack(one, 1, [site, text, outer, text], 0)
    assert list(one.outstanding()) == [(9, 1)]
    assert one.stacks[9, 1] == (site, text, outer) and one._symbols.held == []


def event(ns, kind, start, nbytes, stack=0):
    return ns, start, nbytes, stack, 7, 7, kind, 0, b"x"


def test_memory_is_what_mprotect_makes_of_a_reservation():
    one = tracer({(0x10000, 7): (0x8000, 150, 1)}, {7: 100})
    page = os.sysconf("SC_PAGE_SIZE")
    assert one._map(event(200, memleak.RESERVED, 0x100000, 64 * page)) == []
    made = one._map(event(300, memleak.MPROTECT, 0x100000 + 8 * page, 2 * page - 5, 2))
    assert [(e[1], e[2], e[3], memleak.CALLS[e[6]]) for e in made] == [(0x100000 + 8 * page, 2 * page, 2, "mprotect")]
    assert one._map(event(310, memleak.MPROTECT, 0x100000 + 8 * page, page, 3)) == []           # it was already
    assert one._map(event(320, memleak.MPROTECT, 0x900000, page, 3)) == []                      # no reservation
    one.args.min_size = page + 1
    assert one._map(event(330, memleak.MPROTECT, 0x100000 + 63 * page, page, 3)) == []
    assert {key: group[:2] for key, group in one.outstanding().items()} == {(7, 1): [0x8000, 1], (7, 2): [2 * page, 1]}
    unmap = event(400, memleak.UNMAPPED, 0x100000 + 9 * page, 100 * page)
    assert one._map(unmap) == [unmap]
    one._map(event(410, memleak.RESERVED, 0x10000, page))       # a page of an allocation is made inaccessible
    assert {key: group[:2] for key, group in one.outstanding().items()} == {(7, 1): [0x8000, 1], (7, 2): [page, 1]}
    assert list(one.reserved[7]) == [(0x10000, 0x10000 + page), (0x100000, 0x100000 + 8 * page)] and one.holes == {}


def test_totals_of_combined_only_after_holes():
    """The kernel goes on to subtract what is left of a block when that is unmapped."""
    one = tracer({(0x10000, 7): (0x8000, 150, 1)}, {7: 100}, combined_only=True)
    add = memleak.SINCE.pack(1)
    one.program.maps["blocks"][memleak.KEY.pack(0x10000, 7)] = memleak.BLOCK.pack(0x8000, 150, 1, 0, 8)
    one.program.maps["stacks"][add] = memleak.STACK.pack(1, 0x8000, 7, 0, 1, *[0] * 127)
    one._map(event(200, memleak.UNMAPPED, 0x12000, 0x1000))
    assert one.outstanding()[7, 1][:2] == [0x7000, 2]
    # Both parts are unmapped.
    one.program.maps["stacks"][add] = memleak.STACK.pack((1 << 64) - 1, 0x1000, 7, 0, 1, *[0] * 127)
    assert one.outstanding() == {}


def test_a_full_table_is_counted():
    one = tracer({}, {7: 100})
    one.program.counters = lambda: {"blocks_full": 2}

    def full(*ignored):
        raise OSError(errno.E2BIG, "")
    one.program.maps["blocks"].update = full
    one._map(event(200, memleak.RESERVED, 0x100000, 4096))
    one._map(event(300, memleak.MPROTECT, 0x100000, 4096))
    assert one.lost() == {"blocks_full": 3}


def test_growth_is_of_stacks_that_never_shrank():
    growth = memleak.Growth()
    reports = [{"up": [10], "flat": [5], "saw": [1]}, {"up": [20], "flat": [5], "saw": [9]},
               {"up": [20], "flat": [5], "saw": [3], "late": [1]}, {"up": [30], "flat": [5], "saw": [4], "late": [2]},
               {"up": [31], "flat": [5], "saw": [5], "late": [3]}]
    assert [growth.note(report) for report in reports] == [
        {}, {}, {"up": 10}, {"up": 20}, {"up": 21, "saw": 2, "late": 2}]
    assert growth.note({}) == {} and growth.history == {}


LIBC, OLD_LIBC, JEMALLOC = "/usr/lib/x86_64-linux-gnu/libc.so.6", "/lib/libc-2.31.so", "/usr/lib/libjemalloc.so.2"


@pytest.mark.parametrize("wanted, right, wrong", [
    ("c", [LIBC, OLD_LIBC], ["/lib/libcap.so.2", "/lib/libc-client.so.2007", "/lib/libstdc++.so.6"]),
    ("libc", [LIBC, OLD_LIBC], ["/lib/libcap.so.2", "/lib/libcrypt.so.1"]),
    ("libc.so", [LIBC, OLD_LIBC], ["/lib/libc_malloc_debug.so.0", "/lib/libc-client.so.2007"]),
    ("libc.so.6", [LIBC, OLD_LIBC], ["/lib/libc-client.so.2007", "/lib/libc.so.61", JEMALLOC]),
    ("libc-2.31.so", [OLD_LIBC], [LIBC]),
    ("jemalloc", [JEMALLOC], [LIBC]),
    ("libjemalloc", [JEMALLOC], [LIBC]),
    ("libjemalloc.so.2", [JEMALLOC], ["/lib/libjemalloc.so.1"]),
    ("libstdc++.so.6", ["/lib/libstdc++.so.6.0.30"], [LIBC]),
    (JEMALLOC, [JEMALLOC], ["/opt/libjemalloc.so.2"]),
    ("server", ["/opt/server"], ["/opt/servers", LIBC]),
    ("/opt/server", ["/opt/server"], ["/usr/bin/server"]),
])
def test_objects(wanted, right, wrong):
    assert [path for path in right + wrong if memleak._is_object(wanted, path)] == right


def arguments(**changes):
    values = {"top": None, "sort": "size", "growth": False, "folded": False, "sample": None, "show_allocs": False,
              "inlines": False, "unwind": False, "min_size": 0, "max_size": 1 << 62}
    return types.SimpleNamespace(**dict(values, **changes))


class FakeTracer:
    user = True

    def learn(self, keys):
        self.keys = keys

    def comm(self, pid):
        return "a\x1bb"

    def frames(self, keys):
        return {key: None if key[1] == 3 else [Frame(0x1234, "in\nner", 4, "/x/lib\x1b.so"), Frame(0x99)]
                for key in keys}

    def ends(self, stacks):
        return {key: ("short", "at the end") if key[1] == 2 else None for key in stacks}


GROUPS = {(7, 1): [300, 3, 0, 0, [(0x1000, 100)]], (7, 2): [100, 9, 0, 0, []], (8, 3): [200, 1, 0, 0, []]}


def test_text():
    args = arguments(show_allocs=True)
    text = memleak.render_text(args, memleak.report(args, FakeTracer(), GROUPS, {}), True)
    lines = text.splitlines()
    assert "with outstanding allocations" in lines[0]
    assert lines[1] == "\taddr = 1000 size = 100"
    assert [row for row in lines if "bytes in" in row] == [
        r"	100 bytes in 9 allocations from stack of 7 a\x1bb", r"	200 bytes in 1 allocations from stack of 8 a\x1bb",
        r"	300 bytes in 3 allocations from stack of 7 a\x1bb"]
    assert lines[-2:] == ["\t\t0x0000000000001234\tin\\x0aner+0x4 [lib\\x1b.so]", "\t\t0x0000000000000099\t[unknown]"]
    assert "\t\t[stack information lost]" in lines and "\x1b" not in text
    assert lines.count("\t\t[the walk ended at the end]") == 1


def test_top_sort_and_errors():
    args = arguments(top=1, sort="count", sample=Sampling(nbytes=1000))
    rows = memleak.report(args, FakeTracer(), {(7, 1): [300, 3, 10000, 4, []], (7, 2): [100.4, 9.2, 0, 0, []]}, {})
    assert [(r["bytes"], r["count"], r["bytes_error"]) for r in rows] == [(100, 9, 0)]
    args = arguments(sample=Sampling(nbytes=1000))
    text = memleak.render_text(args, memleak.report(args, FakeTracer(), {(7, 1): [300, 3, 10000, 4, []]}, {}), False)
    assert "\t300 bytes (+-196) in 3 allocations (+-4) from stack\n" in text


def test_folded():
    args = arguments(folded=True)
    text = memleak.render_folded(args, memleak.report(args, FakeTracer(), GROUPS, {}, True), True)
    assert text.splitlines() == [r"a\x1bb;[unknown];in\x0aner 100", r"a\x1bb;[stack information lost] 200",
                                 r"a\x1bb;[unknown];in\x0aner 300"]


def test_json():
    args = arguments(show_allocs=True)
    rows = memleak.report(args, FakeTracer(), GROUPS, {})
    text = memleak.render_json(args, rows, 1.5, {"bytes": 600, "allocations": 13}, {"blocks_full": 0})
    records = [json.loads(line) for line in text.splitlines()]
    assert [r["record"] for r in records] == ["stack"] * 3 + ["total"]
    assert records[1]["stack"] is None and records[2]["stack"][0]["name"] == "in\nner"
    assert records[2]["allocs"] == [{"address": "0x1000", "bytes": 100}]
    assert [r["stack_end"] for r in records[:3]] == ["short", None, None]
    assert records[3]["bytes"] == 600 and records[3]["lost"] == {"blocks_full": 0}
    assert all(r["bytes_error"] is None for r in records[:3])
