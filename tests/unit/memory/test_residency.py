# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of pages."""

from crisis.memory.residency import runs


def test_runs_of_pages():
    vector = bytearray(b"\1\1\0\1\0\0")
    assert list(runs(vector, 1)) == [(0, 2), (3, 1)]
    assert list(runs(vector, 0)) == [(2, 1), (4, 2)]
    assert list(runs(bytearray(), 1)) == []
