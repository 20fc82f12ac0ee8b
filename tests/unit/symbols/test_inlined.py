# SPDX-License-Identifier: GPL-2.0-or-later
"""Inlined functions, by made-up output of addr2line."""

import os

import pytest

from crisis import child
from crisis.errors import Unavailable
from crisis.symbols import inlined
from crisis.symbols.frame import Frame


class File:
    """A Module whose file offsets are addresses - 0x400000."""

    def __init__(self, path="/bin/x", build_id="ab"):
        self.fd = os.open("/dev/null", os.O_RDONLY)
        self.path, self.elf, self._build_id = path, self, build_id

    def address(self, offset):
        return None if offset == 0x999 else offset + 0x400000

    def build_id(self):
        return self._build_id


def frame(offset, name="outer", path="/bin/x", build_id="ab"):
    return Frame(0x7F0000000000 + offset, name, 4, path, offset, build_id)


@pytest.fixture
def addr2line(monkeypatch):
    """A list of what addr2line was given; its answers are those of {address: text}."""
    calls, answers = [], {}

    def run(argv, data, seconds, most, memory, keep=(), owner=None):
        calls.append((argv, data, owner))
        return "".join(answers[row] for row in data.decode().splitlines()).encode()

    monkeypatch.setattr(child, "run", run)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    return calls, answers


def shown(stacks):
    return [[(f.name, f.inlined) for f in frames] for frames in stacks]


def test_frames_are_put_in_front_of_the_function_that_contains_them(addr2line):
    calls, answers = addr2line
    answers["0x40000f"] = "0x000000000040000f\ninner\na.c:1\nmiddle\na.c:2\nouter\na.c:9\n"
    answers["0x400020"] = "0x0000000000400020\nouter\na.c:7\n"  # nothing is inlined there
    notes = []
    # The innermost address is no return address; of the others the call is looked up.
    stacks = [[frame(0x20), frame(0x10)], [frame(0x10, path="/bin/y")]]
    found = inlined.expanded(stacks, [File()], False, notes.append)
    assert shown(found) == [
        [("outer", False), ("inner", True), ("middle", True), ("outer", False)],
        [("outer", False)],
    ]
    inner = found[0][1]
    assert (inner.address, inner.offset, inner.module) == (0x7F0000000010, None, "/bin/x")
    ((argv, data, owner),) = calls
    assert argv[0] == "/usr/bin/addr2line" and argv[1:5] == ["-a", "-f", "-i", "-e"]
    assert sorted(data.split()) == [b"0x40000f", b"0x400020"] and not notes
    info = os.stat("/dev/null")
    assert owner == (info.st_uid, info.st_gid)


def test_a_return_address_may_be_the_innermost(addr2line):
    calls, answers = addr2line
    answers["0x40000f"] = "0x40000f\ninner\n?\nouter\n?\n"
    found = inlined.expanded([[frame(0x10)]], [File()], True, None)
    assert shown(found) == [[("inner", True), ("outer", False)]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no address\n",
        "0x40000f\n",
        "0x40000f\ninner\na.c:1\n",
        "0x" + "f" * 40 + "\ninner\na.c:1\nouter\na.c:2\n",
        "0x123\ninner\na.c:1\nouter\na.c:2\n",
    ],
)
def test_other_output_names_nothing(addr2line, text):
    _, answers = addr2line
    answers["0x40000f"] = text
    assert shown(inlined.expanded([[frame(0x10)]], [File()], True, None)) == [[("outer", False)]]


def test_a_name_is_bounded_and_malformed_output_is_noted(addr2line):
    _, answers = addr2line
    answers["0x40000f"] = f"0x40000f\n{'x' * 99999}\na.c:1\nouter\na.c:2\n"
    ((inner, _),) = inlined.expanded([[frame(0x10)]], [File()], True, None)
    assert len(inner.name) == 4096
    answers["0x40000f"] = "0xzz\n"
    notes = []
    assert len(inlined.expanded([[frame(0x10)]], [File()], True, notes.append)[0]) == 1
    assert len(notes) == 1 and notes[0].startswith("cannot name the inlined functions of /bin/x: ")


def test_addresses_outside_of_the_file_are_not_asked_for(addr2line):
    calls, _ = addr2line
    assert shown(inlined.expanded([[frame(0x999)]], [File()], False, None)) == [[("outer", False)]]
    other = frame(0x10, build_id="cd")  # another file of that name
    assert len(inlined.expanded([[other]], [File()], False, None)[0]) == 1
    assert not calls


def test_without_addr2line(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Unavailable) as caught:
        inlined.expanded([[frame(0x10)]], [File()], False, None)
    assert "Install binutils" in str(caught.value)
