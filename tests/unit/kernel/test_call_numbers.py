# SPDX-License-Identifier: GPL-2.0-or-later
"""crisis.kernel.call_numbers against the headers of the C library."""

import os
import re

import pytest

from crisis.kernel import call_numbers

HEADERS = {
    ("x86_64", 0): "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    ("x86_64", call_numbers.COMPAT): "/usr/include/x86_64-linux-gnu/asm/unistd_32.h",
    ("aarch64", 0): "/usr/include/asm-generic/unistd.h",
}


def numbers_in(path):
    """{name: number} of a header; of the generic one, those of 64-bit machines."""
    with open(path) as f:
        text = f.read()
    found = {}
    for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.M):
        found.setdefault(name, int(number))
    return found


@pytest.mark.parametrize("machine, offset", HEADERS)
def test_numbers_are_those_of_the_headers(machine, offset):
    path = HEADERS[machine, offset]
    if not os.path.exists(path):
        pytest.skip(f"{path} is not installed")
    header = numbers_in(path)
    checked = 0
    for name, numbers in call_numbers.numbers(machine).items():
        for number in numbers:
            if (number >= call_numbers.COMPAT) == bool(offset) and name in header:
                assert number - offset == header[name], name
                checked += 1
    assert checked > 55


def test_names_and_numbers_are_one_to_one():
    for machine in "x86_64", "aarch64":
        names = call_numbers.names(machine)
        assert len(names) == sum(map(len, call_numbers.numbers(machine).values()))
        assert all(0 <= number < 2 * call_numbers.COMPAT for number in names)
    assert call_numbers.names("s390x") == {}


def test_arm_programs():
    """Those of arch/arm/tools/syscall.tbl, which no header here has."""
    numbers = call_numbers.numbers("aarch64")
    assert numbers["futex"] == [98, 240 + call_numbers.COMPAT]
    assert numbers["epoll_wait"] == [252 + call_numbers.COMPAT]
    assert numbers["nanosleep"] == [101, 162 + call_numbers.COMPAT]
