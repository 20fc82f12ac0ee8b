# SPDX-License-Identifier: GPL-2.0-or-later
"""Where functions return: instruction lengths against objdump's, and made-up functions of both
architectures.
"""

import glob
import os
import re
import shutil
import struct
import subprocess

import pytest

from crisis.symbols import returns
from crisis.symbols.elf import Elf


def library(name):
    found = glob.glob("/lib/*/" + name) + glob.glob("/usr/lib/*/" + name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return os.path.realpath(found[0])


def disassembled(path):
    """[(address, bytes, text)] of all instructions of a file."""
    if os.uname().machine != "x86_64" or not shutil.which("objdump"):
        pytest.skip("there is no x86-64 code and objdump here")
    text = subprocess.run(
        ["objdump", "-d", "-z", "--insn-width=16", path],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    found = [
        (int(address, 16), bytes.fromhex(code), what.strip())
        for address, code, what in re.findall(
            r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t(.*)$", text, re.M
        )
    ]
    assert found
    return found


# of many vector instructions, of many others
@pytest.mark.parametrize("name", ["libm.so.6", "libstdc++.so.6"])
def test_lengths_are_those_of_objdump(name):
    wrong, count = [], 0
    for _, code, text in disassembled(library(name)):
        if "(bad)" in text or code[0] == 0x9B:  # fwait, which objdump takes together with the next
            continue
        count += 1
        if returns.length(code + bytes(15)) != len(code):
            wrong.append((code.hex(), text))
    assert not wrong and count > 20000


@pytest.mark.parametrize(
    "code, size",
    [
        ("90", 1),
        ("f3c3", 2),
        ("c21000", 3),
        ("48b80102030405060708", 10),
        ("66b80102", 4),
        ("b801020304", 5),
        ("f30f1efa", 4),
        ("66662e0f1f840000000000", 11),
        ("6690", 2),
        ("f7c701000000", 6),
        ("f7df", 2),
        ("f6c701", 3),
        ("66f7c70100", 5),
        ("c5f877", 3),
        ("c4e37d0ac101", 6),
        ("62f1fe486f4701", 7),
        ("0f3a0fc105", 5),
        ("c8100001", 4),
        ("a10102030405060708", 9),
        ("67a101020304", 6),
        ("ff2505000000", 6),
        ("6648e801000000", 7),
        ("488d3c2500000000", 8),
    ],
)
def test_lengths(code, size):
    raw = bytes.fromhex(code)
    assert returns.length(raw + b"\xcc" * 15) == size == len(raw)
    with pytest.raises(IndexError):
        returns.length(raw[:-1])


@pytest.mark.parametrize(
    "code", ["06", "d6", "ea", "66" * 15 + "90", "c4000000000000", "62f8000000000000"]
)
def test_no_instruction(code):
    with pytest.raises(ValueError):
        returns.length(bytes.fromhex(code) + bytes(20))


def follow(code, machine="x86_64", **more):
    raw = bytes.fromhex(code.replace(" ", ""))
    return returns.returns(lambda at, size: raw[at : at + size], 0, machine=machine, **more)


def test_every_branch_is_followed():
    # 0: test; je 6; 4: nop; ret; 6: nop; ret; 8: not reached
    assert follow("4885ff 7402 c3 90 c3 c3", starts=()) == [5, 7]
    assert follow("4885ff 0f8401000000 c3 c3") == [9, 10]
    assert follow("eb02 c3 c3 c3") == [4] and follow("e902000000 c3 c3 c3") == [7]
    assert follow("4885ff 75fb c3") == [5]  # a loop
    assert follow("90 0f0b c3") == [] == follow("90 f4 c3")  # ud2, hlt: no return


def test_a_call_that_does_not_return_ends_at_the_next_function():
    assert follow("e800000000 c3") == [5]
    assert follow("4885ff 7401 c3 e800000000 c3", starts={0, 11}) == [5]
    assert follow("4885ff 7401 c3 e800000000 6690 c3", starts={0, 13}) == [5]


def test_jumps_out_of_sight():
    assert follow("ff2503000000 90 c3 90 c3 90", slots={9: 7}) == [7]
    assert follow("ff2503000000 90 c3", slots={8: 7}) == [] == follow("ffe0 c3")
    assert follow("e9ff000000 c3") is None and follow("06") is None and follow("") is None
    assert follow("c3", "s390x") is None


def arm(*words):
    return struct.pack(f"<{len(words)}I", *words).hex()


def test_arm64():
    ret, nop, call = 0xD65F03C0, 0xD503201F, 0x94000004
    assert follow(arm(nop, ret), "aarch64") == [4]
    assert follow(arm(0x54000040, ret, ret, ret), "aarch64") == [4, 8]  # b.eq +8
    assert follow(arm(0xB4000060, ret, ret, ret), "aarch64") == [4, 12]  # cbz x0, +12
    assert follow(arm(0x36000060, ret, ret, ret), "aarch64") == [4, 12]  # tbz w0, #0, +12
    assert follow(arm(0x14000002, ret, ret), "aarch64") == [8]  # b +8
    # b.eq +8; retaa, which cannot be probed
    assert follow(arm(0x54000040, ret, 0xD65F0BFF), "aarch64") is None
    assert follow(arm(nop, 0xD65F0FFF), "aarch64") is None  # retab
    assert follow(arm(nop, 0xB5FFFFE0, ret), "aarch64") == [8]  # cbnz x0, -4
    # runs into the next function
    assert follow(arm(call, nop, ret), "aarch64", starts={0, 8}) == []
    assert follow(arm(0xD63F0100, ret), "aarch64") == [4]  # blr x8
    assert follow(arm(0xD61F0100, ret), "aarch64") == []  # br x8
    # brk, udf
    assert follow(arm(0xD4200000, ret), "aarch64") == [] == follow(arm(0, ret), "aarch64")
    # adrp x16, 4096; ldr x17, [x16, 16]
    stub = arm(nop, 0xB0000010, 0xF9400A11, 0x91004210, 0xD61F0220, nop, ret)
    assert follow(stub, "aarch64", slots={4096 + 16: 24}) == [24] and follow(stub, "aarch64") == []


def test_operator_new_of_allocators():
    """Every return that is found is one, and all those of the function's own text are."""
    for name in "libjemalloc.so.2", "libtcmalloc_minimal.so.4":
        path = library(name)
        listing = {address: text for address, _, text in disassembled(path)}
        with open(path, "rb") as f:
            elf = Elf(f.fileno())
            starts, slots = returns.function_starts(elf), returns.jump_slots(elf)
            assert len(starts) > 100 and len(slots) > 5
            symbols = elf.defined([b"_Znwm", b"_Znam", b"_ZnwmSt11align_val_t"])
            # That of Debian 11 was built without aligned allocation.
            assert {b"_Znwm", b"_Znam"} <= set(symbols)
            for entry in symbols.values():
                found = returns.returns(
                    lambda at, size: os.pread(f.fileno(), size, elf.file_offset(at)),
                    entry,
                    starts,
                    slots,
                )
                assert found and all(re.match(r"(repz )?ret", listing[at]) for at in found)
                assert entry in starts
                end = min(start for start in starts if start > entry)
                own = [
                    at
                    for at, text in listing.items()
                    if entry <= at < end and re.match("(repz )?ret", text)
                ]
                assert set(own) <= set(found)
