# SPDX-License-Identifier: GPL-2.0-or-later
"""The identity of a kernel build."""

import builtins
import io
import os
import struct

import pytest

from crisis.kernel import build

ID = bytes(range(20))


def note(owner, kind, content):
    padded = [part + bytes(-len(part) % 4) for part in (owner, content)]
    return struct.pack("=III", len(owner), len(content), kind) + b"".join(padded)


GNU = note(b"GNU\0", 3, ID)
OTHERS = note(b"Linux\0", 0, b"6.1.0") + note(b"Xen\0", 18, bytes(8)) + note(b"", 3, b"abc")


@pytest.mark.parametrize("notes", [GNU, OTHERS + GNU, GNU + OTHERS])
def test_build_id(notes):
    assert build.build_id(notes) == ID.hex()


@pytest.mark.parametrize(
    "notes",
    [b"", OTHERS, GNU[:-1], GNU[:11], note(b"GNU\0", 1, ID), note(b"XNU\0", 3, ID)]
    + [note(b"GNU\0", 3, b""), struct.pack("=III", 1 << 31, 1 << 31, 3), b"\xff" * 64],
)
def test_no_build_id(notes):
    assert build.build_id(notes) is None


def with_notes(monkeypatch, notes):
    def opened(path, *arguments):
        assert path == "/sys/kernel/notes"
        if notes is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return io.BytesIO(notes)

    monkeypatch.setattr(builtins, "open", opened)
    return build.running()


def test_the_running_kernel(monkeypatch):
    assert os.uname().release == with_notes(monkeypatch, GNU)[0]
    assert dict(zip(build.FIELDS, with_notes(monkeypatch, GNU)))["build_id"] == ID.hex()
    assert with_notes(monkeypatch, None)[3] == with_notes(monkeypatch, OTHERS)[3] == ""


def test_what_differs_at_each_boot_does_not_count(monkeypatch):
    """The address of Xen's entry, which moves with the kernel (KASLR)."""
    boots = [GNU + note(b"Xen\0", 1, struct.pack("=Q", address)) for address in (1 << 40, 1 << 41)]
    assert with_notes(monkeypatch, boots[0]) == with_notes(monkeypatch, boots[1])
