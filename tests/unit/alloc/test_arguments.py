# SPDX-License-Identifier: GPL-2.0-or-later
"""The types of memleak's options."""

import argparse

import pytest

from crisis.alloc import arguments


def test_sizes():
    assert [arguments.size(text) for text in ("0", "17", "2k", "3M", "1G")] == [
        0,
        17,
        2048,
        3 << 20,
        1 << 30,
    ]
    for text in "", "k", "-1", "1.5", "1T", "9" * 30, "\u0663":
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.size(text)


def test_sampling():
    """-s N takes one in N, as bcc's; a suffix and -S make it bytes."""
    for text in "10", "1048576":
        one = arguments.sample_rate(text)
        assert one and (one.every, one.nbytes) == (int(text), 0)
        assert one.probability(0) == one.probability(99) == 1 / int(text)
    assert not arguments.sample_rate("1")
    for one in (
        arguments.sample_rate("512K"),
        arguments.sample_bytes("512K"),
        arguments.sample_bytes("524288"),
    ):
        assert one and (one.every, one.nbytes) == (1, 524288)
        assert one.probability(0) == one.probability(1) == pytest.approx(1 / 524288, rel=1e-5)
        assert (
            one.probability(524288) == pytest.approx(1 - 1 / 2.718281828)
            and one.probability(1 << 40) == 1
        )
    for text in "0", "1048577", "-1", "", "1.5", "x", "9" * 5000, "0K", "5G", "\u0663":
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.sample_rate(text)
    for text in "0", "5G":
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.sample_bytes(text)
    with pytest.raises(argparse.ArgumentTypeError, match="--symbols-prefix"):
        arguments.sample_bytes("je_")  # what -S is in libbpf-tools


def test_entries():
    assert arguments.entries("134217728") == 1 << 27
    for text in "134217729", "2147483647", "4294967297", "9" * 5000:
        with pytest.raises(argparse.ArgumentTypeError, match="134217728 entries") as caught:
            arguments.entries(text)
        assert len(str(caught.value)) < 100
    for text in "0", "-1", "x", "1.5":
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.entries(text)
