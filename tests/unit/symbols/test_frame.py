# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks as text."""

from crisis.symbols.frame import Frame, folded


def test_folded_is_one_line():
    frames = [
        Frame(3, "in;ner\n"),
        Frame(2, "\x1b[31m"),
        Frame(1, None, module="/bin/x y"),
        Frame(0),
    ]
    assert folded(frames) == r"[unknown];[x y];\x1b[31m;in:ner\x0a"
    assert folded(frames[:1], "a;b") == r"a:b;in:ner\x0a"
