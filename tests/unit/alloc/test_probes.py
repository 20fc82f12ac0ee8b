# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in a function a probe goes."""

import pytest

from crisis.alloc import probes


@pytest.mark.parametrize(
    "code, at",
    [
        ("4154 55 53", 0),  # push %r12
        ("4885ff 0f84bf000000", 3),  # test %rdi,%rdi; je
        ("f30f1efa 53", 4),  # endbr64; push %rbx
        ("f30f1efa 4885ff b801000000 53", 12),  # ...; test; mov $1,%eax; push
        ("803d710e140000 740e", 7),  # cmpb $0,x(%rip); je
        # mov x(%rip),%rax; mov %rdi,%r8; test; jne
        ("488b05f9320100 4989f8 4885c0 0f8591000000", 13),
        ("4883ec58", 0),  # sub $0x58,%rsp: the stack moves
        ("4889f7 53", 0),  # mov %rsi,%rdi: an argument is gone
        ("48893d00000000 53", 0),  # mov %rdi,x(%rip): a store
        ("0fae f8 53", 0),  # unknown
        ("4885ff", 0),
        ("", 0),
        ("41", 0),
        ("0f", 0),
        ("4885ff 4885f6 7510 90 ebf8", 0),  # a loop back to the second instruction
    ],
)
def test_where_a_probe_goes(code, at):
    assert probes.place(bytes.fromhex(code), "x86_64") == at
    assert probes.place(bytes.fromhex(code), "aarch64") == 0


def test_functions_that_only_jump():
    assert probes.jumps(bytes.fromhex("e910000000"), "x86_64") == 0x15
    assert probes.jumps(bytes.fromhex("f30f1efae9fbffffff"), "x86_64") == 4
    assert probes.jumps(bytes.fromhex("53e910000000"), "x86_64") is None
    assert probes.jumps(bytes.fromhex("e910000000"), "aarch64") is None
    assert probes.jumps(bytes.fromhex("04000014"), "aarch64") == 16  # b +16
    # bti c; b -0xd3f4
    assert probes.jumps(bytes.fromhex("5f2403d5 03cbff17"), "aarch64") == 4 - 0xD3F4
    assert probes.jumps(bytes.fromhex("5f2403d5 04000094"), "aarch64") is None  # bti c; bl
    assert probes.jumps(bytes.fromhex("04000014"), "x86_64") is None
    assert (
        probes.jumps(b"", "aarch64") is None
        and probes.jumps(bytes.fromhex("5f2403d5"), "aarch64") is None
    )
